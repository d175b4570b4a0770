//! Differential packages: images that an earlier version of the package holds are left out of its artifact, as
//! `zarf package create --differential` leaves them out.

use std::collections::{BTreeMap, BTreeSet};

use super::Definition;
use super::artifact::{BASE_NAME, LAYOUT_INDEX, REF_NAME, TITLE};
use super::publish::{TransferredImage, standing};
use crate::api::v1alpha1::{Differential, JackalPackageSpec};
use crate::decode::{self, DecodeError};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, MANIFEST_LIMIT, Reference};
use crate::transfer::Destination;

/// Tags that move by their meaning: Zarf always packs these anew.
const MOVING: [&str; 3] = ["latest", "stable", "nightly"];

/// What an earlier version of a package holds.
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
    /// Reads which images the version of that architecture in `repository` holds. That it is not there, or is no package,
    /// is a fault: a package that leaves out what nobody has could not be deployed.
    pub async fn read(repository: &dyn Destination, version: &str, architecture: &str) -> Result<Self, Fault> {
        let name = format!("{}:{version}", repository.name());
        let missing = |what: &str| {
            Fault::retryable(
                Reason::SourceNotFound,
                format!("differentialFrom: {what}; build that version first, or name one that is there"),
            )
        };
        let index = standing(repository, version)
            .await
            .map_err(|fault| match fault.disposition {
                Disposition::Blocked => missing(&format!("{name} is no package")),
                _ => fault,
            })?;
        let digest = index.as_ref().and_then(|index| index.of(architecture));
        let digest = digest.ok_or_else(|| missing(&format!("there is no package {name} for {architecture}")))?;
        let document = repository.document(digest.as_str()).await?;
        let manifest = document.as_ref().and_then(Document::manifest);
        let manifest = manifest.ok_or_else(|| missing(&format!("the manifest of the package {name} is gone")))?;
        let titled = |layer: &&Descriptor| layer.annotations.get(TITLE).is_some_and(|path| path == LAYOUT_INDEX);
        let layer = manifest.layers.iter().find(titled);
        let images = match layer {
            // A package without any image.
            None => BTreeMap::new(),
            Some(layer) => {
                let content = repository.blob(&layer.digest, MANIFEST_LIMIT).await?;
                let content = content.ok_or_else(|| missing(&format!("the package {name} is not whole")))?;
                listed(&content)
                    .map_err(|error| missing(&format!("the list of images in {name} is unusable: {error}")))?
            }
        };
        Ok(Self {
            version: version.to_owned(),
            digest: digest.clone(),
            images,
        })
    }

    /// Whether it holds the image of that name, with the same content. A name alone does not do: an image that was
    /// pushed again under its tag is another one, and the earlier version has not got it.
    pub fn holds(&self, reference: &Reference, digest: &Digest) -> bool {
        let moves = reference.digest().is_none() && reference.tag().is_some_and(|tag| MOVING.contains(&tag));
        let known = self.images.get(&reference.to_string());
        !moves && known.is_some_and(|known| known.contains(digest))
    }
}

/// A package divided by what an earlier version holds.
#[derive(Clone)]
pub struct DifferentialSplit {
    /// The definition of what is left.
    pub definition: Definition,
    /// The images that the package needs itself.
    pub images: Vec<TransferredImage>,
    /// Those that it leaves out.
    pub omitted: Vec<TransferredImage>,
    /// The version that holds them, if one was asked for.
    pub earlier: Option<EarlierVersion>,
}

impl DifferentialSplit {
    /// Divides a package as its `differentialFrom` asks; without it, it is whole. `repository` is the package's own.
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
                    "differentialFrom names the version {} itself: name an earlier one, or give the package a new version",
                    from.version
                ),
            ));
        }
        let earlier = EarlierVersion::read(repository, &from.version, definition.architecture()).await?;
        let held = |image: &TransferredImage| earlier.holds(&image.reference, &image.digest);
        let (omitted, images): (Vec<_>, Vec<_>) = images.iter().cloned().partition(held);
        let names = omitted.iter().map(|image| image.reference.to_string()).collect();
        Ok(Self {
            definition: definition.differential(&earlier.version, &names),
            images,
            omitted,
            earlier: Some(earlier),
        })
    }

    /// What the status says of it, when `saved_bytes` were saved.
    pub fn status(&self, saved_bytes: u64) -> Option<Differential> {
        self.earlier.as_ref().map(|earlier| Differential {
            version: earlier.version.clone(),
            digest: earlier.digest.to_string(),
            omitted_images: i32::try_from(self.omitted.len()).unwrap_or(i32::MAX),
            saved_bytes: i64::try_from(saved_bytes).unwrap_or(i64::MAX),
        })
    }
}

/// The digests of images by their names, out of `images/index.json`.
fn listed(content: &[u8]) -> Result<BTreeMap<String, BTreeSet<Digest>>, DecodeError> {
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

    fn held(entries: &[(&str, &str)]) -> EarlierVersion {
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
            images: listed(index.to_string().as_bytes()).unwrap(),
        }
    }

    #[test]
    fn the_same_content_under_the_same_name_is_held() {
        let earlier = held(&[
            ("docker.io/library/nginx:1", "one"),
            ("docker.io/library/app:latest", "app"),
        ]);
        let holds = |name: &str, content: &str| earlier.holds(&name.parse().unwrap(), &Digest::of(content.as_bytes()));
        assert!(holds("nginx:1", "one"));
        assert!(!holds("nginx:1", "pushed again"), "another image under the same tag");
        assert!(
            !holds("nginx:2", "one"),
            "another name, which would not be in the cluster"
        );
        assert!(!holds("app", "app"), "Zarf packs what is called latest anew");
    }

    #[test]
    fn a_list_that_is_none_is_an_error() {
        assert!(listed(b"[]").is_err());
        assert!(listed(br#"{"schemaVersion":2,"manifests":[{"digest":"../x"}]}"#).is_err());
    }
}
