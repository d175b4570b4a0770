//! Referrers: manifests with a `subject`, such as signatures, attestations and SBOMs, and the index that lists them in
//! a registry without the referrers API (OCI distribution specification 1.1, "Referrers Tag Schema").

use serde::{Deserialize, Serialize};

use super::{Content, Descriptor, Digest, Document, DocumentError, Index, media_type};

/// Whether referrers of an image are copied from its source: signatures, attestations and SBOMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ReferrersPolicy {
    /// They are copied with the image. Images of engines have no referrers.
    #[default]
    Copy,
    /// They are not copied.
    Ignore,
}

/// Maximum length of the hash in a referrers tag.
const MAX_HASH_LENGTH: usize = 64;

/// The tag that lists the referrers of `subject` in a registry without the referrers API: the digest with `-` in place
/// of `:`, its hash truncated to 64 digits.
pub fn referrers_tag(subject: &Digest) -> String {
    let hash = subject.hex();
    let hash = hash.get(..MAX_HASH_LENGTH).unwrap_or(hash);
    format!("{}-{hash}", subject.algorithm())
}

impl Document {
    /// The subject of this document.
    pub fn subject(&self) -> Option<&Descriptor> {
        match &self.content {
            Content::Manifest(manifest) => manifest.subject.as_ref(),
            Content::Index(index) => index.subject.as_ref(),
        }
    }

    /// The entry of this document in a list of referrers: with its annotations and its artifact type, which for a
    /// manifest without `artifactType` is the media type of its config (distribution specification, "Listing
    /// Referrers"). `None` for a document without a subject.
    pub fn as_referrer(&self) -> Option<Descriptor> {
        self.subject()?;
        let (artifact_type, annotations) = match &self.content {
            Content::Manifest(manifest) => {
                let own = manifest.artifact_type.as_ref().filter(|own| !own.is_empty());
                let artifact_type = own.unwrap_or(&manifest.config.media_type);
                (Some(artifact_type.clone()), &manifest.annotations)
            }
            Content::Index(index) => (index.artifact_type.clone(), &index.annotations),
        };
        Some(Descriptor {
            artifact_type,
            annotations: annotations.clone(),
            ..self.descriptor.clone()
        })
    }
}

/// Adds `referrer` to the list `existing`, which is stored under [`referrers_tag`]; `None` if it is already listed.
/// Other entries and unknown fields are preserved.
pub fn add_referrer(existing: Option<&Document>, referrer: &Descriptor) -> Result<Option<Document>, DocumentError> {
    let mut listing = match existing.map(Document::index) {
        None => Index::new(Vec::new()),
        Some(Some(index)) if index.manifests.iter().any(|known| known.digest == referrer.digest) => return Ok(None),
        Some(Some(index)) => index.clone(),
        Some(None) => {
            return Err(DocumentError::Malformed {
                media_type: media_type::OCI_INDEX.to_owned(),
                reason: "it is a single manifest instead of an index".to_owned(),
            });
        }
    };
    listing.manifests.push(referrer.clone());
    Document::of_index(listing).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::Manifest;

    fn signature(artifact_type: Option<&str>) -> Document {
        let mut manifest = Manifest::new(
            Descriptor::new("application/vnd.example.config", Digest::of(b"{}"), 2),
            Vec::new(),
        );
        manifest.artifact_type = artifact_type.map(str::to_owned);
        manifest.subject = Some(Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"subject"), 7));
        manifest.annotations.insert("a".to_owned(), "b".to_owned());
        Document::of_manifest(manifest).unwrap()
    }

    #[test]
    fn the_referrers_tag_contains_the_truncated_digest() {
        let digest = Digest::of(b"x");
        assert_eq!(referrers_tag(&digest), format!("sha256-{}", digest.hex()));
        let long: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        assert_eq!(referrers_tag(&long), format!("sha512-{}", "ab".repeat(32)));
    }

    #[test]
    fn the_artifact_type_defaults_to_the_config_type() {
        let described = signature(Some("application/x")).as_referrer().unwrap();
        assert_eq!(described.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(described.annotations["a"], "b");
        let described = signature(None).as_referrer().unwrap();
        assert_eq!(
            described.artifact_type.as_deref(),
            Some("application/vnd.example.config")
        );
        let other = Document::of_index(Index::new(Vec::new())).unwrap();
        assert_eq!(other.as_referrer(), None);
    }

    #[test]
    fn other_entries_are_preserved() {
        let entry = signature(None).as_referrer().unwrap();
        let first = add_referrer(None, &entry).unwrap().unwrap();
        assert_eq!(first.index().unwrap().manifests, std::slice::from_ref(&entry));
        assert_eq!(add_referrer(Some(&first), &entry).unwrap(), None);
        let foreign = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{}","size":1,"data":"e30="}}],"x":[1]}}"#,
            Digest::of(b"foreign")
        );
        let foreign = Document::parse(None, foreign.into()).unwrap();
        let both = add_referrer(Some(&foreign), &entry).unwrap().unwrap();
        let entries = &both.index().unwrap().manifests;
        assert_eq!((entries.len(), &entries[1]), (2, &entry));
        let value: Value = serde_json::from_slice(&both.raw).unwrap();
        assert_eq!(
            (&value["manifests"][0]["data"], &value["x"]),
            (&json!("e30="), &json!([1]))
        );
        assert!(add_referrer(Some(&signature(None)), &entry).is_err());
    }
}
