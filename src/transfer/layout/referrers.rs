//! Referrers in a layout. They are entries of `index.json` without a name, where other tools find them. regctl lists them, as
//! in a registry without the referrers API, in an index with a name derived from the subject.

use std::collections::HashSet;
use std::io;

use bytes::Bytes;

use super::{LayoutDestination, REF_NAME, read_within};
use crate::oci::{Descriptor, Digest, Document, Hasher, MANIFEST_LIMIT, media_type, referrers_tag};

/// The annotation of an entry in `index.json` with the digest of its subject, which saves reading the manifest.
const SUBJECT: &str = "dev.jackal.subject";
/// The most referrers of one subject.
const REFERRERS: usize = 1024;

/// Adds the subject and the artifact type of `document` to its entry in `index.json`, so that it is not mistaken for an image.
pub(super) fn add_subject(entry: &mut Descriptor, document: &Document) {
    if let Some(subject) = document.subject() {
        entry.artifact_type = document.as_referrer().and_then(|referrer| referrer.artifact_type);
        entry.annotations.insert(SUBJECT.to_owned(), subject.digest.to_string());
    }
}

impl LayoutDestination {
    /// Implements [`crate::source::RepositoryReader::referrers`].
    pub(super) fn referrers_of(&self, subject: &Digest) -> io::Result<Vec<Descriptor>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for digest in self.candidates(subject)? {
            if !seen.insert(digest.clone()) {
                continue;
            }
            let Some(document) = self.manifest_of(&digest)? else {
                continue;
            };
            let refers = document.subject().is_some_and(|known| known.digest == *subject);
            found.extend(document.as_referrer().filter(|_| refers));
            if found.len() > REFERRERS {
                let what = format!("{subject} has more than {REFERRERS} referrers");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(found)
    }

    /// The manifests that may refer to `subject`. An entry with a name and without a subject is an image.
    fn candidates(&self, subject: &Digest) -> io::Result<Vec<Digest>> {
        let tag = referrers_tag(subject);
        let named = self.qualified_name(&tag);
        let mut candidates = Vec::new();
        for entry in self.read_index()?.manifests {
            match (entry.annotations.get(SUBJECT), entry.annotations.get(REF_NAME)) {
                (Some(of), _) if of == subject.as_str() => candidates.push(entry.digest),
                (Some(_), _) => {}
                (None, Some(name)) if *name == tag || *name == named => {
                    let listing = self.manifest_of(&entry.digest)?;
                    let listed = listing.as_ref().and_then(Document::index).map(|index| &index.manifests);
                    candidates.extend(listed.into_iter().flatten().map(|entry| entry.digest.clone()));
                }
                (None, None) if media_type::is_manifest(&entry.media_type) => candidates.push(entry.digest),
                (None, _) => {}
            }
        }
        Ok(candidates)
    }

    /// A manifest, if the layout contains it and it is valid.
    fn manifest_of(&self, digest: &Digest) -> io::Result<Option<Document>> {
        let Some(raw): Option<Bytes> = read_within(&self.path(digest), MANIFEST_LIMIT)? else {
            return Ok(None);
        };
        let mut hasher = Hasher::like(digest);
        hasher.update(&raw);
        Ok(match hasher.finish() == *digest {
            true => Document::parse(None, raw).ok(),
            false => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Index, Manifest};
    use crate::source::RepositoryReader as _;
    use crate::transfer::Destination as _;

    fn referrer(to: &Digest, kind: &str) -> Document {
        let mut manifest = Manifest::new(Descriptor::new("application/x", Digest::of(b"{}"), 2), Vec::new());
        manifest.artifact_type = Some(kind.to_owned());
        manifest.subject = Some(Descriptor::new(media_type::OCI_MANIFEST, to.clone(), 1));
        Document::of_manifest(manifest).unwrap()
    }

    #[tokio::test]
    async fn an_attached_referrer_is_listed_and_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = LayoutDestination::new(directory.path(), "a/b");
        let image = Digest::of(b"image");
        assert_eq!(layout.referrers(&image).await.unwrap(), []);
        let (one, other) = (referrer(&image, "x/one"), referrer(&Digest::of(b"other"), "x/other"));
        layout.attach(&one).await.unwrap();
        layout.attach(&other).await.unwrap();
        let found = layout.referrers(&image).await.unwrap();
        assert_eq!(found, [one.as_referrer().unwrap()]);
        let listed = layout.read_index().unwrap().manifests;
        assert_eq!(listed[0].artifact_type.as_deref(), Some("x/one"));
        let index = directory.path().join("index.json");
        let before = std::fs::metadata(&index).unwrap().modified().unwrap();
        layout.attach(&one).await.unwrap();
        assert_eq!(std::fs::metadata(&index).unwrap().modified().unwrap(), before);
        let unrelated = Document::of_index(Index::new(Vec::new())).unwrap();
        assert!(layout.attach(&unrelated).await.is_err());
    }

    #[tokio::test]
    async fn referrers_by_other_tools_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = LayoutDestination::new(directory.path(), "a/b");
        let image = Digest::of(b"image");
        // As oras writes it: without a name, and without the subject in the entry.
        let orass = referrer(&image, "x/oras");
        layout.publish(&orass, None).await.unwrap();
        let mut entries = layout.read_index().unwrap();
        entries.manifests[0].annotations.clear();
        std::fs::write(
            directory.path().join("index.json"),
            serde_json::to_vec(&entries).unwrap(),
        )
        .unwrap();
        // As regctl writes it: in an index under the tag.
        let regctls = referrer(&image, "x/regctl");
        let listing = Document::of_index(Index::new(vec![regctls.descriptor.clone()])).unwrap();
        layout.publish(&regctls, None).await.unwrap();
        layout.publish(&listing, Some(&referrers_tag(&image))).await.unwrap();
        let mut types: Vec<_> = layout.referrers(&image).await.unwrap();
        types.sort_by(|one, other| one.artifact_type.cmp(&other.artifact_type));
        assert_eq!(types, [orass.as_referrer().unwrap(), regctls.as_referrer().unwrap()]);
    }
}
