//! What the tags of a repository name, looked at before anything in it is deleted: a registry deletes by digest,
//! and with a digest go all of its tags.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::api::v1alpha1::Kept;
use crate::oci::{Content, Digest, Document, media_type};
use crate::registry::{Error, Repository};

/// The most tags of a repository that are looked at; where there are more, nothing is deleted.
const TAGS: usize = 1000;
/// Tags that are looked at at once.
const AT_ONCE: usize = 8;

/// What every tag of a repository names.
#[derive(Debug)]
pub(super) struct Survey {
    /// None when there are too many tags.
    tags: Option<Vec<Tagged>>,
}

/// A tag, and what it names.
#[derive(Debug)]
struct Tagged {
    tag: String,
    digest: Digest,
    /// The index, where it is one.
    index: Option<Document>,
}

impl Tagged {
    fn names(&self, digest: &Digest) -> bool {
        self.digest == *digest || self.lists(digest)
    }

    fn lists(&self, digest: &Digest) -> bool {
        match self.index.as_ref().map(|index| &index.content) {
            Some(Content::Index(index)) => index.manifests.iter().any(|entry| entry.digest == *digest),
            _ => false,
        }
    }
}

/// What is to be done about a manifest that was written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It stays, and why.
    Keep(Kept),
    /// It goes, after what stands under its own tag was seen to.
    Delete(Tag),
}

/// What stands under the tag that a manifest was written under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Something else, or nothing: it stays as it is.
    Other,
    /// An index with this manifest only: it goes.
    Index(Digest),
    /// An index with others besides: it loses this entry.
    Shared(Box<Document>),
}

impl Survey {
    /// Looks at every tag of `repository`.
    pub async fn of(repository: &Repository) -> Result<Self, Error> {
        let Some(tags) = repository.tags(TAGS).await? else {
            return Ok(Self { tags: None });
        };
        let looks = tags.into_iter().map(|tag| async move {
            let Some(head) = repository.head_manifest(&tag).await? else {
                return Ok(None);
            };
            let index = match media_type::is_index(&head.media_type) {
                true => repository.manifest(&tag).await?,
                false => None,
            };
            // What was read counts: the tag may have moved, or the registry have named another digest.
            let digest = index.as_ref().map_or(head.digest, |index| index.digest().clone());
            Ok(Some(Tagged { tag, digest, index }))
        });
        let tagged: Vec<Option<Tagged>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(Self {
            tags: Some(tagged.into_iter().flatten().collect()),
        })
    }

    /// What is to be done about `digest`, which was written under the tags `own`, the first of which may be that
    /// of an index that lists it.
    pub fn find(&self, digest: &Digest, own: &[&str]) -> Finding {
        let Some(tags) = &self.tags else {
            return Finding::Keep(Kept::new(
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
            return Finding::Keep(Kept::new(
                "SharedManifest",
                format!("the tag {} names it too", foreign.join(", ")),
            ));
        }
        let standing = own
            .first()
            .and_then(|own| tags.iter().find(|tagged| tagged.tag == *own && tagged.lists(digest)));
        Finding::Delete(match standing.and_then(|standing| standing.index.as_ref()) {
            None => Tag::Other,
            Some(index) if index.index().is_some_and(|index| index.manifests.len() == 1) => {
                Tag::Index(index.digest().clone())
            }
            Some(index) => Tag::Shared(Box::new(index.clone())),
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

    fn survey(tags: &[(&str, &[&str])]) -> Survey {
        let tagged = tags.iter().map(|(tag, entries)| match entries {
            [one] if one.starts_with('=') => Tagged {
                tag: (*tag).to_owned(),
                digest: digest(&one[1..]),
                index: None,
            },
            entries => Tagged {
                tag: (*tag).to_owned(),
                digest: index(entries).digest().clone(),
                index: Some(index(entries)),
            },
        });
        Survey {
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
        let shared = Tag::Shared(Box::new(index(&["b", "other"])));
        assert_eq!(tags.find(&digest("b"), &["2"]), Finding::Delete(shared));
        assert_eq!(
            tags.find(&digest("c"), &["3"]),
            Finding::Keep(Kept::new("SharedManifest", "the tag mine names it too"))
        );
        // Pushed anew since: what stands there now is not touched.
        assert_eq!(tags.find(&digest("old"), &["1"]), Finding::Delete(Tag::Other));
        assert_eq!(
            tags.find(&digest("d"), &["x"]),
            Finding::Keep(Kept::new("SharedManifest", "the tag 4 names it too"))
        );
    }

    #[test]
    fn an_image_goes_with_all_of_its_own_tags() {
        let tags = survey(&[("1-x", &["=a"]), ("1", &["=a"]), ("list", &["b"])]);
        assert_eq!(tags.find(&digest("a"), &["1-x", "1"]), Finding::Delete(Tag::Other));
        assert_eq!(
            tags.find(&digest("a"), &["1-x"]),
            Finding::Keep(Kept::new("SharedManifest", "the tag 1 names it too"))
        );
        assert_eq!(
            tags.find(&digest("b"), &["1"]),
            Finding::Keep(Kept::new("SharedManifest", "the tag list names it too"))
        );
        let many = Survey { tags: None };
        assert!(matches!(many.find(&digest("a"), &["1"]), Finding::Keep(_)));
    }
}
