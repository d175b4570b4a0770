//! An index of what the tags of a repository name, made before anything in it is deleted: registries delete by digest, which
//! removes all tags of the digest.

use std::collections::HashSet;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::api::v1alpha1::RetainedReason;
use crate::oci::{Digest, Document, media_type};
use crate::registry::{Error, Repository};

/// The most tags of a repository that are read. Where there are more, nothing is deleted.
const TAGS: usize = 1000;
/// Tags that are read at once.
const CONCURRENCY: usize = 8;

/// What every tag of a repository names.
#[derive(Debug)]
pub(super) struct TagIndex {
    /// None when there are too many tags.
    tags: Option<Vec<TaggedManifest>>,
}

/// A tag, and what it names.
#[derive(Debug)]
struct TaggedManifest {
    tag: String,
    digest: Digest,
    /// Those of the digests to be deleted that it lists, where it is an index.
    lists: Vec<Digest>,
    /// The number of its entries, where it is an index.
    entries: usize,
}

impl TaggedManifest {
    fn manifest(tag: String, digest: Digest) -> Self {
        Self {
            tag,
            digest,
            lists: Vec::new(),
            entries: 0,
        }
    }

    fn of(tag: String, document: &Document, wanted: &[Digest]) -> Self {
        let entries = document.index().map_or(&[] as &[_], |index| index.manifests.as_slice());
        let listed: HashSet<&Digest> = entries.iter().map(|entry| &entry.digest).collect();
        Self {
            tag,
            digest: document.digest().clone(),
            lists: wanted
                .iter()
                .filter(|digest| listed.contains(digest))
                .cloned()
                .collect(),
            entries: entries.len(),
        }
    }

    fn names(&self, digest: &Digest) -> bool {
        self.digest == *digest || self.lists(digest)
    }

    fn lists(&self, digest: &Digest) -> bool {
        self.lists.contains(digest)
    }
}

/// Whether a manifest can be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ManifestDeletion {
    /// It is retained, and why.
    Retain(RetainedReason),
    /// It is deleted, after the content of its own tag.
    Delete(TaggedContent),
}

/// The content of the tag that a manifest was written under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TaggedContent {
    /// Something else, or nothing. It is not changed.
    Other,
    /// The index of this digest, which lists this manifest only. It is deleted.
    OwnIndex(Digest),
    /// The index of this digest, which lists other manifests too. The entry of this one is removed.
    SharedIndex(Digest),
}

impl TagIndex {
    /// Reads every tag of `repository`, to delete the manifests of the digests `wanted`. Nothing else is kept of the indexes, as
    /// there may be as many as tags.
    pub async fn of(repository: &Repository, wanted: &[Digest]) -> Result<Self, Error> {
        let Some(tags) = repository.tags(TAGS).await? else {
            return Ok(Self { tags: None });
        };
        let reads = tags.into_iter().map(|tag| async move {
            let Some(head) = repository.head_manifest(&tag).await? else {
                return Ok(None);
            };
            if !media_type::is_index(&head.media_type) {
                return Ok(Some(TaggedManifest::manifest(tag, head.digest)));
            }
            // The document counts: the tag may have changed since HEAD, or the registry may have named another digest.
            let read = repository.manifest(&tag).await?;
            Ok(Some(match read {
                Some(document) => TaggedManifest::of(tag, &document, wanted),
                None => TaggedManifest::manifest(tag, head.digest),
            }))
        });
        let tagged: Vec<Option<TaggedManifest>> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        Ok(Self {
            tags: Some(tagged.into_iter().flatten().collect()),
        })
    }

    /// Whether `digest` can be deleted, which was written under the tags `own`, the first of which may be that of an index
    /// that lists it.
    pub fn deletion_of(&self, digest: &Digest, own: &[&str]) -> ManifestDeletion {
        let Some(tags) = &self.tags else {
            return ManifestDeletion::Retain(RetainedReason::new(
                "TooManyTags",
                format!("its repository has more than {TAGS} tags, and one of them may name it"),
            ));
        };
        let other_tags: Vec<&str> = tags
            .iter()
            .filter(|tagged| tagged.names(digest) && !own.contains(&tagged.tag.as_str()))
            .map(|tagged| tagged.tag.as_str())
            .take(4)
            .collect();
        if !other_tags.is_empty() {
            return ManifestDeletion::Retain(RetainedReason::new(
                "SharedManifest",
                format!("the tag {} names it too", other_tags.join(", ")),
            ));
        }
        let index = own
            .first()
            .and_then(|own| tags.iter().find(|tagged| tagged.tag == *own && tagged.lists(digest)));
        ManifestDeletion::Delete(match index {
            None => TaggedContent::Other,
            Some(index) if index.entries == 1 => TaggedContent::OwnIndex(index.digest.clone()),
            Some(index) => TaggedContent::SharedIndex(index.digest.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Index};

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn index(entries: &[&str]) -> Document {
        let entries = entries
            .iter()
            .map(|entry| Descriptor::new(media_type::OCI_MANIFEST, digest(entry), 1));
        Document::of_index(Index::new(entries.collect())).unwrap()
    }

    fn tag_index(tags: &[(&str, &[&str])]) -> TagIndex {
        let wanted = ["a", "b", "c", "d", "old"].map(digest);
        let tagged = tags.iter().map(|(tag, entries)| match entries {
            [one] if one.starts_with('=') => TaggedManifest::manifest((*tag).to_owned(), digest(&one[1..])),
            entries => TaggedManifest::of((*tag).to_owned(), &index(entries), &wanted),
        });
        TagIndex {
            tags: Some(tagged.collect()),
        }
    }

    #[test]
    fn an_artifact_with_other_tags_is_retained() {
        let tags = tag_index(&[
            ("1", &["a"]),
            ("2", &["b", "other"]),
            ("3", &["c"]),
            ("mine", &["c"]),
            ("4", &["=d"]),
        ]);
        let whole = TaggedContent::OwnIndex(index(&["a"]).digest().clone());
        assert_eq!(tags.deletion_of(&digest("a"), &["1"]), ManifestDeletion::Delete(whole));
        let shared = TaggedContent::SharedIndex(index(&["b", "other"]).digest().clone());
        assert_eq!(tags.deletion_of(&digest("b"), &["2"]), ManifestDeletion::Delete(shared));
        assert_eq!(
            tags.deletion_of(&digest("c"), &["3"]),
            ManifestDeletion::Retain(RetainedReason::new("SharedManifest", "the tag mine names it too"))
        );
        // The tag was pushed again since then: its content is not changed.
        assert_eq!(
            tags.deletion_of(&digest("old"), &["1"]),
            ManifestDeletion::Delete(TaggedContent::Other)
        );
        assert_eq!(
            tags.deletion_of(&digest("d"), &["x"]),
            ManifestDeletion::Retain(RetainedReason::new("SharedManifest", "the tag 4 names it too"))
        );
    }

    #[test]
    fn an_image_is_deleted_with_all_of_its_own_tags() {
        let tags = tag_index(&[("1-x", &["=a"]), ("1", &["=a"]), ("list", &["b"])]);
        assert_eq!(
            tags.deletion_of(&digest("a"), &["1-x", "1"]),
            ManifestDeletion::Delete(TaggedContent::Other)
        );
        assert_eq!(
            tags.deletion_of(&digest("a"), &["1-x"]),
            ManifestDeletion::Retain(RetainedReason::new("SharedManifest", "the tag 1 names it too"))
        );
        assert_eq!(
            tags.deletion_of(&digest("b"), &["1"]),
            ManifestDeletion::Retain(RetainedReason::new("SharedManifest", "the tag list names it too"))
        );
        let many = TagIndex { tags: None };
        assert!(matches!(
            many.deletion_of(&digest("a"), &["1"]),
            ManifestDeletion::Retain(_)
        ));
    }
}
