//! Differential packages: images that an earlier version of the package holds are left out of its artifact, as
//! `zarf package create --differential` leaves them out.

use std::collections::{BTreeMap, BTreeSet};

use super::artifact::{Artifact, BASE_NAME, LAYOUT_INDEX, REF_NAME, TITLE};
use super::publish::{BroughtImage, standing};
use crate::fault::{Fault, Reason};
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
        let index = standing(repository, version).await?;
        let platform = Artifact::platform(architecture);
        let entry = index.iter().flat_map(|index| &index.entries);
        let entry = entry
            .into_iter()
            .find(|entry| entry.platform.as_ref() == Some(&platform));
        let entry = entry.ok_or_else(|| missing(&format!("there is no package {name} for {architecture}")))?;
        let document = repository.document(entry.digest.as_str()).await?;
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
            digest: entry.digest.clone(),
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

    /// `images` as those that the package needs itself, and those that are left out.
    pub fn divide(&self, images: Vec<BroughtImage>) -> (Vec<BroughtImage>, Vec<BroughtImage>) {
        images
            .into_iter()
            .partition(|image| !self.holds(&image.reference, &image.digest))
    }
}

/// The digests of images by their names, out of `images/index.json`.
fn listed(content: &[u8]) -> Result<BTreeMap<String, BTreeSet<Digest>>, serde_json::Error> {
    let index: Index = serde_json::from_slice(content)?;
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
