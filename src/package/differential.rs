//! Differential packages: the artifact omits images that an earlier version of the package contains, as
//! `zarf package create --differential` does.

use std::collections::{BTreeMap, BTreeSet};

use super::Definition;
use super::artifact::{BASE_NAME, LAYOUT_INDEX, REF_NAME, TITLE};
use super::existing_index::ExistingIndex;
use super::publish::TransferredImage;
use crate::api::v1alpha1::{Differential, JackalPackageSpec};
use crate::decode::{self, DecodeError};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, MANIFEST_LIMIT, Reference};
use crate::transfer::Destination;

/// Tags that move by convention: Zarf always includes their images.
const MOVING_TAGS: [&str; 3] = ["latest", "stable", "nightly"];

/// The images of an earlier version of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierVersion {
    /// Its version.
    pub version: String,
    /// The digest of its artifact's manifest.
    pub digest: Digest,
    /// The digests of its images by the names under which it lists them.
    images: BTreeMap<String, BTreeSet<Digest>>,
}

impl EarlierVersion {
    /// Reads which images `version` for `architecture` in `repository` contains. It is a fault if that version does not
    /// exist or is not a package: a package that omits images which no version contains could not be deployed.
    pub async fn read(repository: &dyn Destination, version: &str, architecture: &str) -> Result<Self, Fault> {
        let name = format!("{}:{version}", repository.name());
        let missing = |what: &str| {
            Fault::retryable(
                Reason::SourceNotFound,
                format!("differentialFrom: {what}; build that version first, or name an existing one"),
            )
        };
        let index = ExistingIndex::read(repository, version)
            .await
            .map_err(|fault| match fault.disposition {
                Disposition::Blocked => missing(&format!("{name} is not a package")),
                _ => fault,
            })?;
        let digest = index.as_ref().and_then(|index| index.manifest_for(architecture));
        let digest = digest.ok_or_else(|| missing(&format!("the package {name} does not exist for {architecture}")))?;
        let document = repository.document(digest.as_str()).await?;
        let manifest = document.as_ref().and_then(Document::manifest);
        let manifest =
            manifest.ok_or_else(|| missing(&format!("the manifest of the package {name} does not exist")))?;
        let titled = |layer: &&Descriptor| layer.annotations.get(TITLE).is_some_and(|path| path == LAYOUT_INDEX);
        let layer = manifest.layers.iter().find(titled);
        let images = match layer {
            // A package without any image.
            None => BTreeMap::new(),
            Some(layer) => {
                let content = repository.blob(&layer.digest, MANIFEST_LIMIT).await?;
                let content = content.ok_or_else(|| missing(&format!("the package {name} is incomplete")))?;
                read_layout_index(&content)
                    .map_err(|error| missing(&format!("the list of images in {name} is invalid: {error}")))?
            }
        };
        Ok(Self {
            version: version.to_owned(),
            digest: digest.clone(),
            images,
        })
    }

    /// Whether it contains the image `reference` with this content. The name alone is not enough: an image that was pushed
    /// again under its tag is another image, which the earlier version does not contain.
    pub fn contains(&self, reference: &Reference, digest: &Digest) -> bool {
        let moves = reference.digest().is_none() && reference.tag().is_some_and(|tag| MOVING_TAGS.contains(&tag));
        let known = self.images.get(&reference.to_string());
        !moves && known.is_some_and(|known| known.contains(digest))
    }
}

/// A package split into the images that it contains and those that an earlier version contains.
#[derive(Clone)]
pub struct DifferentialSplit {
    /// The definition without the omitted images.
    pub definition: Definition,
    /// The images that the package contains.
    pub images: Vec<TransferredImage>,
    /// The images that it omits.
    pub omitted: Vec<TransferredImage>,
    /// The version that contains the omitted images, if `differentialFrom` is set.
    pub earlier: Option<EarlierVersion>,
}

impl DifferentialSplit {
    /// Splits a package by its `differentialFrom`; without that, nothing is omitted. `repository` is the package's own.
    pub async fn of(
        definition: Definition,
        spec: &JackalPackageSpec,
        images: &[TransferredImage],
        repository: &dyn Destination,
    ) -> Result<Self, Fault> {
        let Some(from) = &spec.differential_from else {
            return Ok(Self {
                definition,
                images: images.to_vec(),
                omitted: Vec::new(),
                earlier: None,
            });
        };
        if from.version == definition.version() {
            return Err(Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "differentialFrom names the package's own version {}: name an earlier one, or give the package a new version",
                    from.version
                ),
            ));
        }
        let earlier = EarlierVersion::read(repository, &from.version, definition.architecture()).await?;
        let is_held = |image: &TransferredImage| earlier.contains(&image.reference, &image.digest);
        let (omitted, images): (Vec<_>, Vec<_>) = images.iter().cloned().partition(is_held);
        let names = omitted.iter().map(|image| image.reference.to_string()).collect();
        Ok(Self {
            definition: definition.differential(&earlier.version, &names),
            images,
            omitted,
            earlier: Some(earlier),
        })
    }

    /// The field of the package's status, if `saved_bytes` bytes were saved.
    pub fn status(&self, saved_bytes: u64) -> Option<Differential> {
        self.earlier.as_ref().map(|earlier| Differential {
            version: earlier.version.clone(),
            digest: earlier.digest.to_string(),
            omitted_images: i32::try_from(self.omitted.len()).unwrap_or(i32::MAX),
            saved_bytes: i64::try_from(saved_bytes).unwrap_or(i64::MAX),
        })
    }
}

/// The digests of images by name, from `images/index.json`.
fn read_layout_index(content: &[u8]) -> Result<BTreeMap<String, BTreeSet<Digest>>, DecodeError> {
    let index: Index = decode::json(content)?;
    let mut images = BTreeMap::<String, BTreeSet<Digest>>::new();
    for entry in index.manifests {
        for name in [REF_NAME, BASE_NAME]
            .iter()
            .filter_map(|key| entry.annotations.get(*key))
        {
            images.entry(name.clone()).or_default().insert(entry.digest.clone());
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier_version(entries: &[(&str, &str)]) -> EarlierVersion {
        let manifests: Vec<_> = entries
            .iter()
            .map(|(name, content)| {
                let digest = Digest::of(content.as_bytes());
                serde_json::json!({
                    "mediaType": crate::oci::media_type::OCI_MANIFEST, "digest": digest, "size": 1,
                    "annotations": {REF_NAME: name, BASE_NAME: name},
                })
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        EarlierVersion {
            version: "1".to_owned(),
            digest: Digest::of(b"package"),
            images: read_layout_index(index.to_string().as_bytes()).unwrap(),
        }
    }

    #[test]
    fn an_image_is_held_if_name_and_content_are_equal() {
        let earlier = earlier_version(&[
            ("docker.io/library/nginx:1", "one"),
            ("docker.io/library/app:latest", "app"),
        ]);
        let holds =
            |name: &str, content: &str| earlier.contains(&name.parse().unwrap(), &Digest::of(content.as_bytes()));
        assert!(holds("nginx:1", "one"));
        assert!(!holds("nginx:1", "pushed again"), "another image under the same tag");
        assert!(
            !holds("nginx:2", "one"),
            "another name, which would not be in the cluster"
        );
        assert!(!holds("app", "app"), "Zarf always includes `latest`");
    }

    #[test]
    fn an_invalid_list_of_images_is_an_error() {
        assert!(read_layout_index(b"[]").is_err());
        assert!(read_layout_index(br#"{"schemaVersion":2,"manifests":[{"digest":"../x"}]}"#).is_err());
    }
}
