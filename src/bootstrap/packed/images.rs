//! Finds the images of the operator and of the registry in an archive.

use serde::Deserialize;
use std::collections::BTreeMap;

use crate::archive::unpack::platforms_of;
use crate::archive::{Archive, NamedImage};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document, Manifest, Platform, Reference};

/// The label of the operator's image that says which files it has for an installation.
const FORMAT: &str = "dev.jackal.install";
/// The only value of [`FORMAT`] that this program reads.
const KNOWN_FORMAT: &str = "1";
/// The label of the operator's image with the name of the registry's image that it was tested with.
const REGISTRY: &str = "dev.jackal.registry";
/// The end of the repository of the operator's image.
const OPERATOR_NAME: &str = "jackal-operator";
/// The ends of repositories of the registry's image.
const REGISTRY_NAMES: [&str; 2] = ["registry", "distribution"];

/// An image of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedImage {
    /// Its name in the archive.
    pub name: Reference,
    /// The digest of its root manifest.
    pub root: Digest,
    /// Its manifests by their platforms.
    platforms: Vec<(Option<Platform>, Digest)>,
}

impl PackedImage {
    async fn of(archive: &Archive, name: &Reference, root: &Digest) -> Result<Self, Fault> {
        let platforms = platforms_of(archive, root).await;
        Ok(Self {
            name: name.clone(),
            root: root.clone(),
            platforms: platforms.map_err(|fault| fault.with_context(format_args!("image `{name}`")))?,
        })
    }

    /// The manifest for Linux on `architecture`, as Kubernetes names it.
    ///
    /// # Errors
    /// A stalled fault that says what to pack, where the archive does not have it.
    pub fn manifest<'a>(&self, archive: &'a Archive, architecture: &str) -> Result<&'a Document, Fault> {
        let wanted = Platform::new("linux", architecture);
        let fitting = self.platforms.iter().enumerate().filter_map(|(at, (offered, digest))| {
            let suitability = wanted.suitability(offered.as_ref()?)?;
            Some(((suitability, at), digest))
        });
        let best = fitting.min_by(|(one, _), (other, _)| one.cmp(other));
        let document = best.and_then(|(_, digest)| archive.document(digest));
        document.ok_or_else(|| {
            let message = format!(
                "the archive has the image {} not for {wanted}, which nodes of the cluster have; pack it for that platform too",
                self.name
            );
            Fault::stalled(Reason::SourceNotFound, message)
        })
    }

    /// Any of its manifests.
    fn any_manifest<'a>(&self, archive: &'a Archive) -> Option<&'a Manifest> {
        let mut documents = self.platforms.iter().filter_map(|(_, digest)| archive.document(digest));
        documents.find_map(Document::manifest)
    }
}

/// The images of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedImages {
    /// The operator's.
    pub operator: PackedImage,
    /// The version of the operator, as its image says; may be empty.
    pub version: String,
    /// The registry's.
    pub registry: PackedImage,
}

/// The labels of an image.
type Labels = BTreeMap<String, String>;

/// Finds the images. `operator` and `registry` name them where they are not to be chosen by their names.
///
/// # Errors
/// A stalled fault that says which image is missing and how to pack it.
pub async fn find(
    archive: &Archive,
    operator: Option<&Reference>,
    registry: Option<&Reference>,
) -> Result<PackedImages, Fault> {
    let (operator, labels) = find_operator(archive, operator).await?;
    let registry = find_registry(archive, registry, labels.get(REGISTRY))?;
    let (name, root) = registry;
    Ok(PackedImages {
        operator,
        version: labels
            .get("org.opencontainers.image.version")
            .cloned()
            .unwrap_or_default(),
        registry: PackedImage::of(archive, name, root).await?,
    })
}

async fn find_operator(archive: &Archive, name: Option<&Reference>) -> Result<(PackedImage, Labels), Fault> {
    let candidates = match name {
        Some(name) => vec![named(archive, name, "--operator-image")?],
        None => distinct(archive, |repository| ends_in(repository, OPERATOR_NAME)),
    };
    let (mut usable, mut other) = (Vec::new(), Vec::new());
    for (name, root) in candidates {
        let image = PackedImage::of(archive, name, root).await?;
        let labels = labels_of(archive, &image).await?;
        match labels.get(FORMAT).map(String::as_str) {
            Some(KNOWN_FORMAT) => usable.push((image, labels)),
            Some(_) => {
                let message = format!(
                    "the image {name} is newer than this program: use the jackal-operator of that version for bootstrap"
                );
                return Err(Fault::stalled(Reason::InvalidSpec, message));
            }
            None => other.push(image.name.to_string()),
        }
    }
    if usable.len() > 1 {
        let names: Vec<String> = usable.iter().map(|(image, _)| image.name.to_string()).collect();
        let message = format!(
            "the archive has several images of the operator: {}; choose one with --operator-image",
            names.join(", ")
        );
        return Err(Fault::stalled(Reason::InvalidSpec, message));
    }
    usable.pop().ok_or_else(|| {
        let why = match other.as_slice() {
            [] => format!("no image whose repository ends in {OPERATOR_NAME}"),
            names => format!("{} has no files for bootstrap (label {FORMAT})", names.join(", ")),
        };
        let message = format!(
            "the archive has no operator's image: {why}; add ghcr.io/jackal-dev/jackal-operator:VERSION to the images of the \
             package, and build and pack it again, or name the image with --operator-image"
        );
        Fault::stalled(Reason::SourceNotFound, message)
    })
}

fn find_registry<'a>(
    archive: &'a Archive,
    name: Option<&Reference>,
    default: Option<&String>,
) -> Result<(&'a Reference, &'a Digest), Fault> {
    if let Some(name) = name {
        return named(archive, name, "--registry-image");
    }
    let default: Option<Reference> = default.and_then(|default| default.parse().ok());
    if let Some(default) = &default
        && let Some(found) = archive
            .images()
            .iter()
            .find(|image| image.name.as_ref() == Some(default))
        && let Some(name) = &found.name
    {
        return Ok((name, &found.root.digest));
    }
    let is_registry = |repository: &str| REGISTRY_NAMES.iter().any(|end| ends_in(repository, end));
    let candidates = distinct(archive, is_registry);
    match candidates.as_slice() {
        [only] => Ok(*only),
        [] => {
            let default = default.map_or_else(|| "docker.io/library/registry:3".to_owned(), |name| name.to_string());
            let message = format!(
                "the archive has no image of a registry: add {default} to the images of the package, and build and pack it \
                 again, or name the image with --registry-image"
            );
            Err(Fault::stalled(Reason::SourceNotFound, message))
        }
        several => {
            let names: Vec<String> = several.iter().map(|(name, _)| name.to_string()).collect();
            let message = format!(
                "the archive has several images of registries: {}; choose one with --registry-image",
                names.join(", ")
            );
            Err(Fault::stalled(Reason::InvalidSpec, message))
        }
    }
}

/// Whether the last segment of `repository` is `name`.
fn ends_in(repository: &str, name: &str) -> bool {
    repository.rsplit('/').next() == Some(name)
}

/// The image that `flag` names.
fn named<'a>(archive: &'a Archive, name: &Reference, flag: &str) -> Result<(&'a Reference, &'a Digest), Fault> {
    let mut images = archive.images().iter();
    let found = images.find_map(|image| {
        image
            .name
            .as_ref()
            .filter(|own| *own == name)
            .zip(Some(&image.root.digest))
    });
    found.ok_or_else(|| {
        let message =
            format!("the archive has no image {name}, which {flag} names; `inspect --images` lists its images");
        Fault::stalled(Reason::SourceNotFound, message)
    })
}

/// The images whose repository is one of `wanted`, each content once.
fn distinct(archive: &Archive, wanted: impl Fn(&str) -> bool) -> Vec<(&Reference, &Digest)> {
    let mut found: Vec<(&Reference, &Digest)> = Vec::new();
    for NamedImage { name, root } in archive.images() {
        let Some(name) = name.as_ref().filter(|name| wanted(name.repository())) else {
            continue;
        };
        if !found.iter().any(|(_, known)| **known == root.digest) {
            found.push((name, &root.digest));
        }
    }
    found
}

/// The labels in the configuration of `image`.
async fn labels_of(archive: &Archive, image: &PackedImage) -> Result<Labels, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        config: Config,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Config {
        #[serde(rename = "Labels")]
        labels: Labels,
    }
    let Some(manifest) = image.any_manifest(archive) else {
        return Ok(Labels::new());
    };
    let raw = archive.blob(&manifest.config.digest).await?.unwrap_or_default();
    let read: Result<Configuration, _> = decode::json(&raw);
    Ok(read
        .map(|configuration| configuration.config.labels)
        .unwrap_or_default())
}
