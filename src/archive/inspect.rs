//! What an archive has: packages, images, and the content that they share. Layers are not read.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::contents::Archive;
use super::header::Packed;
use super::order::files_of;
use super::sboms::{sbom_files, sbom_of};
use super::unpack::platforms_of;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, distinct_blobs, distinct_foreign_layers};
use crate::signing::{Bundle, DEFINITION_SIGNATURE};

/// The end of the names of signatures that cosign 2 made of definitions, such as `zarf.yaml.sig`.
const OLD_SIGNATURE: &str = ".yaml.sig";

/// What an archive has.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Its packages.
    pub packages: Vec<PackageSummary>,
    /// Its images, each content once, in the order of the archive.
    pub images: Vec<ImageSummary>,
    /// All content: files of packages, manifests, configurations and layers, each once.
    pub content: Amount,
    /// The content of images that more than one image uses.
    pub shared: Shared,
    /// The documents in `sboms.tar`.
    pub sboms: Amount,
}

/// A number of things and their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many they are.
    pub count: usize,
    /// Bytes of them together.
    pub size: u64,
}

impl Amount {
    pub(super) fn add(&mut self, size: u64) {
        self.count += 1;
        self.size = self.size.saturating_add(size);
    }

    pub(super) fn of(sizes: impl IntoIterator<Item = u64>) -> Self {
        let mut amount = Self::default();
        sizes.into_iter().for_each(|size| amount.add(size));
        amount
    }
}

/// Content that several images use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shared {
    /// The blobs and manifests.
    #[serde(flatten)]
    pub amount: Amount,
    /// Bytes that the images would take in addition if each had its own.
    pub saved: u64,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageSummary {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its components.
    pub components: Vec<ComponentSummary>,
    /// Whether its definition is signed. The signature is not verified.
    pub signature: SignatureState,
    /// Its files.
    pub files: Amount,
}

/// A component of a package.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentSummary {
    /// Its name.
    pub name: String,
    /// Whether it is always deployed.
    pub required: bool,
    /// The images that it lists.
    pub images: Vec<String>,
    /// All that the definition says of it.
    #[serde(skip)]
    pub definition: serde_json::Value,
}

/// What signs a package's definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SignatureState {
    /// Nothing.
    Unsigned,
    /// A key.
    Key,
    /// The identity in a certificate.
    Keyless,
    /// A signature that cannot be read.
    Unreadable,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// Its names.
    pub names: Vec<String>,
    /// The digest of its manifest or index.
    pub digest: Digest,
    /// Its platforms that the archive has.
    pub platforms: Vec<String>,
    /// Bytes of its manifests, configurations and layers that the archive has, each once.
    pub size: u64,
    /// Bytes of these that no other image uses.
    pub unique_size: u64,
    /// The SBOMs of its platforms, by their paths in `sboms.tar`.
    pub sboms: Vec<String>,
}

/// The definition of a package, as its config has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Definition {
    metadata: Metadata,
    components: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    version: String,
    architecture: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Component {
    name: String,
    required: bool,
    images: Vec<String>,
}

/// Says what `archive` has.
///
/// # Errors
/// A fault that names the package or image whose description cannot be read.
pub async fn inspect(archive: &Archive) -> Result<Inspection, Fault> {
    let mut packages = Vec::with_capacity(archive.packages().len());
    for package in archive.packages() {
        packages.push(package_summary(archive, package).await?);
    }
    let documents = sbom_files(archive).await?;
    let mut images: Vec<ImageSummary> = Vec::new();
    let mut contents: Vec<HashMap<Digest, u64>> = Vec::new();
    for image in archive.images() {
        let digest = &image.root.digest;
        let at = match images.iter().position(|known| known.digest == *digest) {
            Some(at) => at,
            None => {
                let content = content_of(archive, digest);
                images.push(ImageSummary {
                    names: Vec::new(),
                    digest: digest.clone(),
                    platforms: Vec::new(),
                    size: Amount::of(content.values().copied()).size,
                    unique_size: 0,
                    sboms: Vec::new(),
                });
                contents.push(content);
                images.len() - 1
            }
        };
        let Some(summary) = images.get_mut(at) else { continue };
        let variants = platforms_of(archive, digest).await?;
        if summary.names.is_empty() {
            let platforms = variants.iter().filter_map(|(platform, _)| platform.as_ref());
            summary.platforms = platforms.map(Platform::to_string).collect();
        }
        if let Some(name) = &image.name {
            summary.names.push(name.to_string());
            for (platform, manifest) in &variants {
                let file = sbom_of(&documents, name, platform.as_ref(), manifest);
                let path = file.map(|file| file.path.clone());
                summary.sboms.extend(path.filter(|path| !summary.sboms.contains(path)));
            }
        }
    }
    let (unique, shared) = shares(&contents);
    for (image, unique) in images.iter_mut().zip(unique) {
        image.unique_size = unique;
    }
    let all: HashMap<&Digest, u64> = archive.blobs().collect();
    Ok(Inspection {
        packages,
        images,
        content: Amount::of(all.into_values()),
        shared,
        sboms: Amount::of(documents.values().map(super::sboms::SbomFile::size)),
    })
}

/// The manifests and blobs of the image `root` that the archive has, with their lengths.
pub(super) fn content_of(archive: &Archive, root: &Digest) -> HashMap<Digest, u64> {
    let documents = archive.manifests(root);
    let blobs = distinct_blobs(&documents)
        .into_iter()
        .chain(distinct_foreign_layers(&documents));
    let held = blobs.filter_map(|blob| Some((blob.digest.clone(), archive.size(&blob.digest)?)));
    let manifests = documents
        .iter()
        .map(|document| (document.digest().clone(), document.raw.len() as u64));
    held.chain(manifests).collect()
}

/// Of images with these contents, bytes that each alone has; and what several have.
fn shares(contents: &[HashMap<Digest, u64>]) -> (Vec<u64>, Shared) {
    let mut uses: HashMap<&Digest, u64> = HashMap::new();
    for digest in contents.iter().flat_map(HashMap::keys) {
        *uses.entry(digest).or_default() += 1;
    }
    let mut shared = Shared::default();
    let mut counted = BTreeSet::new();
    let mut unique = Vec::with_capacity(contents.len());
    for content in contents {
        let mut own = 0_u64;
        for (digest, size) in content {
            match uses.get(digest) {
                Some(uses) if *uses > 1 => {
                    if counted.insert(digest) {
                        shared.amount.add(*size);
                        shared.saved = shared.saved.saturating_add(size.saturating_mul(uses - 1));
                    }
                }
                _ => own = own.saturating_add(*size),
            }
        }
        unique.push(own);
    }
    (unique, shared)
}

async fn package_summary(archive: &Archive, package: &Packed) -> Result<PackageSummary, Fault> {
    let invalid = |error: String| {
        Fault::stalled(
            Reason::SourceFailed,
            format!(
                "the definition of the package {} cannot be read: {error}",
                package.manifest.digest()
            ),
        )
    };
    let definition: Definition = decode::json(&package.config).map_err(|error| invalid(error.to_string()))?;
    let mut components = Vec::with_capacity(definition.components.len());
    for value in definition.components {
        let component = Component::deserialize(&value).map_err(|error| invalid(error.to_string()))?;
        components.push(ComponentSummary {
            name: component.name,
            required: component.required,
            images: component.images,
            definition: value,
        });
    }
    let files = package.manifest.manifest().map(files_of).transpose()?;
    let files = files.unwrap_or_default();
    let mut signature = SignatureState::Unsigned;
    for file in &files {
        if file.path == DEFINITION_SIGNATURE {
            let bundle = archive.blob(&file.digest).await?;
            signature = match bundle.map(|bundle| Bundle::parse(&bundle)) {
                Some(Ok(bundle)) if bundle.is_keyless() => SignatureState::Keyless,
                Some(Ok(_)) => SignatureState::Key,
                _ => SignatureState::Unreadable,
            };
        } else if file.path.ends_with(OLD_SIGNATURE)
            && !file.path.contains('/')
            && signature == SignatureState::Unsigned
        {
            signature = SignatureState::Key;
        }
    }
    Ok(PackageSummary {
        name: definition.metadata.name,
        version: definition.metadata.version,
        architecture: definition.metadata.architecture,
        digest: package.manifest.digest().clone(),
        components,
        signature,
        files: Amount::of(files.iter().map(|file| file.size)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(blobs: &[(&str, u64)]) -> HashMap<Digest, u64> {
        let blobs = blobs.iter();
        blobs.map(|(text, size)| (Digest::of(text.as_bytes()), *size)).collect()
    }

    #[test]
    fn content_of_several_images_is_counted_once() {
        let contents = [
            content(&[("base", 100), ("a", 1)]),
            content(&[("base", 100), ("b", 2), ("runtime", 10)]),
            content(&[("base", 100), ("runtime", 10)]),
        ];
        let (unique, shared) = shares(&contents);
        assert_eq!(unique, [1, 2, 0]);
        assert_eq!(shared.amount, Amount { count: 2, size: 110 });
        assert_eq!(shared.saved, 210);
        assert_eq!(shares(&[]), (Vec::new(), Shared::default()));
    }
}
