//! Referrers: manifests that name another as their `subject`, such as signatures, attestations and SBOMs, and the
//! listing of them where a registry keeps none by itself (OCI distribution specification 1.1, "Referrers Tag Schema").

use serde::{Deserialize, Serialize};

use super::{Content, Descriptor, Digest, Document, DocumentError, Index, media_type};

/// What becomes of what refers to an image at its source: signatures, attestations and SBOMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ReferrersPolicy {
    /// It travels along with the image. That of an engine's image lies in no engine, so there is none.
    #[default]
    Copy,
    /// It stays where it is.
    Ignore,
}

/// The longest tag part that the specification takes of a digest's hash.
const HASH_LENGTH: usize = 64;

/// The tag under which a registry without the referrers API lists the referrers of `subject`: the digest with `-` in
/// place of `:`, its hash cut to 64 digits.
pub fn referrers_tag(subject: &Digest) -> String {
    let hash = subject.hex();
    let hash = hash.get(..HASH_LENGTH).unwrap_or(hash);
    format!("{}-{hash}", subject.algorithm())
}

impl Document {
    /// The manifest that this document refers to.
    pub fn subject(&self) -> Option<&Descriptor> {
        match &self.content {
            Content::Manifest(manifest) => manifest.subject.as_ref(),
            Content::Index(index) => index.subject.as_ref(),
        }
    }

    /// How a listing of its subject's referrers describes this document: with its annotations and the type of the
    /// artifact, which for a manifest without `artifactType` is that of its config (distribution specification,
    /// "Listing Referrers"). `None` for a document without a subject.
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

/// The listing with `referrer` in it, to be put under [`referrers_tag`] in place of `standing`; `None` when `standing`
/// lists it already. What `standing` says of others is kept, fields that we do not know included.
pub fn listing_with(standing: Option<&Document>, referrer: &Descriptor) -> Result<Option<Document>, DocumentError> {
    let mut listing = match standing.map(Document::index) {
        None => Index::new(Vec::new()),
        Some(Some(index)) if index.manifests.iter().any(|known| known.digest == referrer.digest) => return Ok(None),
        Some(Some(index)) => index.clone(),
        Some(None) => {
            return Err(DocumentError::Malformed {
                media_type: media_type::OCI_INDEX.to_owned(),
                reason: "it is one manifest, and a list of them is expected".to_owned(),
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
    fn the_tag_is_the_digest_cut_to_what_a_tag_holds() {
        let digest = Digest::of(b"x");
        assert_eq!(referrers_tag(&digest), format!("sha256-{}", digest.hex()));
        let long: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        assert_eq!(referrers_tag(&long), format!("sha512-{}", "ab".repeat(32)));
    }

    #[test]
    fn a_referrer_is_described_by_its_type_or_its_configs() {
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
    fn a_listing_grows_and_loses_nothing() {
        let entry = signature(None).as_referrer().unwrap();
        let first = listing_with(None, &entry).unwrap().unwrap();
        assert_eq!(first.index().unwrap().manifests, std::slice::from_ref(&entry));
        assert_eq!(listing_with(Some(&first), &entry).unwrap(), None);
        let foreign = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{}","size":1,"data":"e30="}}],"x":[1]}}"#,
            Digest::of(b"foreign")
        );
        let foreign = Document::parse(None, foreign.into()).unwrap();
        let both = listing_with(Some(&foreign), &entry).unwrap().unwrap();
        let entries = &both.index().unwrap().manifests;
        assert_eq!((entries.len(), &entries[1]), (2, &entry));
        let value: Value = serde_json::from_slice(&both.raw).unwrap();
        assert_eq!(
            (&value["manifests"][0]["data"], &value["x"]),
            (&json!("e30="), &json!([1]))
        );
        assert!(listing_with(Some(&signature(None)), &entry).is_err());
    }
}
