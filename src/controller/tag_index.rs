//! What the tags of a repository name, looked at before anything in it is deleted: a registry deletes by digest,
//! and with a digest go all of its tags.

use std::collections::HashSet;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::api::v1alpha1::RetainedReason;
use crate::oci::{Digest, Document, media_type};
use crate::registry::{Error, Repository};

/// The most tags of a repository that are looked at; where there are more, nothing is deleted.
const TAGS: usize = 1000;
/// Tags that are looked at at once.
const AT_ONCE: usize = 8;

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
    /// Those of the digests that are looked for that it lists, where it is an index.
    lists: Vec<Digest>,
    /// How many entries it has, where it is one.
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

/// What is to be done about a manifest that was written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It stays, and why.
    Keep(RetainedReason),
    /// It goes, after what stands under its own tag was seen to.
    Delete(Tag),
}

/// What stands under the tag that a manifest was written under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Something else, or nothing: it stays as it is.
    Other,
    /// The index of this digest, with this manifest only: it goes.
    Index(Digest),
    /// The index of this digest, with others besides: it loses this entry.
    Shared(Digest),
}

impl TagIndex {
    /// Looks at every tag of `repository` for what is to be deleted: the manifests of the digests `wanted`. Of the indexes
    /// nothing else is kept, for there may be as many as there are tags.
    pub async fn of(repository: &Repository, wanted: &[Digest]) -> Result<Self, Error> {
        let Some(tags) = repository.tags(TAGS).await? else {
            return Ok(Self { tags: None });
        };
        let looks = tags.into_iter().map(|tag| async move {
            let Some(head) = repository.head_manifest(&tag).await? else {
                return Ok(None);
            };
            if !media_type::is_index(&head.media_type) {
                return Ok(Some(TaggedManifest::manifest(tag, head.digest)));
            }
            // What was read counts: the tag may have moved, or the registry have named another digest.
            let read = repository.manifest(&tag).await?;
            Ok(Some(match read {
                Some(document) => TaggedManifest::of(tag, &document, wanted),
                None => TaggedManifest::manifest(tag, head.digest),
            }))
        });
        let tagged: Vec<Option<TaggedManifest>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(Self {
            tags: Some(tagged.into_iter().flatten().collect()),
        })
    }

    /// What is to be done about `digest`, which was written under the tags `own`, the first of which may be that
    /// of an index that lists it.
    pub fn find(&self, digest: &Digest, own: &[&str]) -> Finding {
        let Some(tags) = &self.tags else {
            return Finding::Keep(RetainedReason::new(
                "TooManyTags",
                format!("its repository has more than {TAGS} tags, and one of them may name it"),
            ));
        };
        let foreign: Vec<&str> = tags
            .iter()
            .filter(|tagged| tagged.names(digest) && !own.contains(&tagged.tag.as_str()))
            .map(|tagged| tagged.tag.as_str())
            .take(4)
            .collect();
        if !foreign.is_empty() {
            return Finding::Keep(RetainedReason::new(
                "SharedManifest",
                format!("the tag {} names it too", foreign.join(", ")),
            ));
        }
        let standing = own
            .first()
            .and_then(|own| tags.iter().find(|tagged| tagged.tag == *own && tagged.lists(digest)));
        Finding::Delete(match standing {
            None => Tag::Other,
            Some(index) if index.entries == 1 => Tag::Index(index.digest.clone()),
            Some(index) => Tag::Shared(index.digest.clone()),
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

    fn survey(tags: &[(&str, &[&str])]) -> TagIndex {
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
    fn an_artifact_goes_with_its_own_tag_and_no_others() {
        let tags = survey(&[
            ("1", &["a"]),
            ("2", &["b", "other"]),
            ("3", &["c"]),
            ("mine", &["c"]),
            ("4", &["=d"]),
        ]);
        let whole = Tag::Index(index(&["a"]).digest().clone());
        assert_eq!(tags.find(&digest("a"), &["1"]), Finding::Delete(whole));
        let shared = Tag::Shared(index(&["b", "other"]).digest().clone());
        assert_eq!(tags.find(&digest("b"), &["2"]), Finding::Delete(shared));
        assert_eq!(
            tags.find(&digest("c"), &["3"]),
            Finding::Keep(RetainedReason::new("SharedManifest", "the tag mine names it too"))
        );
        // Pushed anew since: what stands there now is not touched.
        assert_eq!(tags.find(&digest("old"), &["1"]), Finding::Delete(Tag::Other));
        assert_eq!(
            tags.find(&digest("d"), &["x"]),
            Finding::Keep(RetainedReason::new("SharedManifest", "the tag 4 names it too"))
        );
    }

    #[test]
    fn an_image_goes_with_all_of_its_own_tags() {
        let tags = survey(&[("1-x", &["=a"]), ("1", &["=a"]), ("list", &["b"])]);
        assert_eq!(tags.find(&digest("a"), &["1-x", "1"]), Finding::Delete(Tag::Other));
        assert_eq!(
            tags.find(&digest("a"), &["1-x"]),
            Finding::Keep(RetainedReason::new("SharedManifest", "the tag 1 names it too"))
        );
        assert_eq!(
            tags.find(&digest("b"), &["1"]),
            Finding::Keep(RetainedReason::new("SharedManifest", "the tag list names it too"))
        );
        let many = TagIndex { tags: None };
        assert!(matches!(many.find(&digest("a"), &["1"]), Finding::Keep(_)));
    }
}
