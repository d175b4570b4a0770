//! Which images of an archive are unpacked, and which of their platforms.

use std::collections::HashSet;

use crate::archive::NamedImage;
use crate::archive::contents::Archive;
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Platform, Reference, media_type};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The names of images; empty means all images.
    pub names: &'a [Reference],
    /// The platform; without one an image is taken with all of its platforms.
    pub platform: Option<&'a Platform>,
    /// Whether an image of one manifest that says no platform counts as one for any.
    pub unspecified_fits: bool,
    /// Whether only images of containers are taken. Other artifacts are left out unless they are named.
    pub containers_only: bool,
}

/// An image that is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its names in the archive. Empty where the archive has it without a name.
    pub names: Vec<Reference>,
    /// The digest of its root in the archive.
    pub listed: Digest,
    /// Its manifests, children before the index that lists them, the root last; never empty.
    pub documents: Vec<Document>,
}

impl Chosen {
    /// Its name for messages.
    pub fn shown(&self) -> String {
        match self.names.first() {
            Some(name) => name.to_string(),
            None => self.listed.to_string(),
        }
    }

    /// The manifest or index that the image is.
    pub(super) fn root(&self) -> Option<&Document> {
        self.documents.last()
    }

    /// The names for an OCI layout: the tag, and the digest where a name has one, since a reference with a digest is looked up
    /// by it alone. The digest is that of what is unpacked.
    pub fn layout_names(&self) -> Vec<String> {
        let Some(root) = self.root() else { return Vec::new() };
        let mut names: Vec<String> = Vec::new();
        for name in &self.names {
            let tagged = name.tag().map(|tag| format!("{}:{tag}", name.name()));
            let is_listed = name.digest().is_some();
            let digested = is_listed.then(|| format!("{}@{}", name.name(), root.digest()));
            for name in tagged.into_iter().chain(digested) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The tags as `docker save` writes them; a name without a tag has none.
    pub(super) fn docker_tags(&self) -> Vec<String> {
        let tagged = self.names.iter().filter(|name| name.tag().is_some());
        let mut tags: Vec<String> = Vec::new();
        for tag in tagged.map(|name| name.without_digest().familiar()) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags
    }
}

/// Chooses images of `archive` in its order, each content once with all of its names. Returns also the names of the artifacts that
/// were left out.
///
/// # Errors
/// A stalled fault that names an image which the archive does not have, or not for the platform.
pub async fn choose(archive: &Archive, wanted: &Wanted<'_>) -> Result<(Vec<Chosen>, Vec<String>), Fault> {
    let (mut images, mut left_out) = (Vec::new(), Vec::new());
    for (listed, names) in grouped(archive.images(), wanted.names)? {
        let documents = archive.manifests(&listed);
        let image = Chosen {
            names,
            listed,
            documents,
        };
        if image.root().map(Document::digest) != Some(&image.listed) {
            return Err(Fault::stalled(
                Reason::SourceNotFound,
                format!(
                    "the archive lacks manifests of {}; copy or write it again",
                    image.shown()
                ),
            ));
        }
        if wanted.containers_only && !is_container(&image.documents) {
            if !wanted.names.is_empty() {
                return Err(Fault::stalled(
                    Reason::SourceFailed,
                    format!(
                        "{} is not an image of a container; unpack it with --format oci or oci-archive",
                        image.shown()
                    ),
                ));
            }
            left_out.push(image.shown());
            continue;
        }
        images.push(match wanted.platform {
            Some(platform) => for_platform(archive, image, platform, wanted.unspecified_fits).await?,
            None => image,
        });
    }
    Ok((images, left_out))
}

/// The roots of `images` with their names; those with one of `wanted`, or all where that is empty.
fn grouped(images: &[NamedImage], wanted: &[Reference]) -> Result<Vec<(Digest, Vec<Reference>)>, Fault> {
    let absent = wanted
        .iter()
        .find(|name| images.iter().all(|image| image.name.as_ref() != Some(name)));
    if let Some(name) = absent {
        return Err(Fault::stalled(
            Reason::SourceNotFound,
            format!("the archive has no image {name}; `inspect` lists its images"),
        ));
    }
    let mut roots: Vec<(Digest, Vec<Reference>)> = Vec::new();
    for image in images {
        let name = image.name.as_ref();
        if !wanted.is_empty() && !name.is_some_and(|name| wanted.contains(name)) {
            continue;
        }
        let at = roots.iter().position(|(digest, _)| *digest == image.root.digest);
        match at.and_then(|at| roots.get_mut(at)) {
            Some((_, names)) => names.extend(name.cloned()),
            None => roots.push((image.root.digest.clone(), name.cloned().into_iter().collect())),
        }
    }
    Ok(roots)
}

/// Whether the documents have the manifest of an image that an engine runs.
fn is_container(documents: &[Document]) -> bool {
    let mut manifests = documents.iter().filter_map(Document::manifest);
    // cosign and BuildKit give signatures and attestations the configuration of a container.
    let is_layer = |layer: &Descriptor| layer.media_type.is_empty() || media_type::is_blob(&layer.media_type);
    manifests.any(|manifest| {
        is_container_config(&manifest.config.media_type)
            && manifest.artifact_type.is_none()
            && manifest.layers.iter().all(is_layer)
    })
}

/// Whether a configuration of that type is one of a container.
fn is_container_config(kind: &str) -> bool {
    [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(kind))
}

/// The manifest of `image` that fits `platform` best.
async fn for_platform(
    archive: &Archive,
    image: Chosen,
    platform: &Platform,
    unspecified_fits: bool,
) -> Result<Chosen, Fault> {
    let variants = platforms_of(archive, &image.listed).await?;
    if unspecified_fits && matches!(variants.as_slice(), [(None, only)] if *only == image.listed) {
        return Ok(image);
    }
    let fitting = variants.iter().enumerate().filter_map(|(at, (offered, digest))| {
        let suitability = platform.suitability(offered.as_ref()?)?;
        Some(((suitability, at), digest))
    });
    let best = fitting.min_by(|(one, _), (other, _)| one.cmp(other));
    let document = best.and_then(|(_, digest)| archive.document(digest));
    let Some(document) = document else {
        let mut offered: Vec<String> = variants
            .iter()
            .filter_map(|(platform, _)| platform.as_ref())
            .map(Platform::to_string)
            .collect();
        offered.dedup();
        let offered = match offered.as_slice() {
            [] => "no platform".to_owned(),
            some => some.join(", "),
        };
        return Err(Fault::stalled(
            Reason::SourceNotFound,
            format!(
                "the archive has {} for {offered}, not for {platform}; choose one with --platform, or other images with --image",
                image.shown()
            ),
        ));
    };
    Ok(Chosen {
        documents: vec![document.clone()],
        ..image
    })
}

/// The manifests of the image `root` that the archive has, with their platforms, in the order of the index: as the index says, else
/// as their configurations do. Attestations and other artifacts have none.
///
/// # Errors
/// A fault, where a configuration is damaged.
pub async fn platforms_of(archive: &Archive, root: &Digest) -> Result<Vec<(Option<Platform>, Digest)>, Fault> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    // The next one is last.
    let mut open = vec![Descriptor::new("", root.clone(), 0)];
    while let Some(entry) = open.pop() {
        let Some(document) = archive
            .document(&entry.digest)
            .filter(|_| seen.insert(entry.digest.clone()))
        else {
            continue;
        };
        match &document.content {
            Content::Index(index) => {
                let images = index.manifests.iter().filter(|entry| entry.may_be_image());
                open.extend(images.rev().cloned());
            }
            Content::Manifest(manifest) => {
                let specified = entry.platform.filter(Platform::is_specified);
                let platform = match specified {
                    Some(platform) => Some(platform),
                    None if is_container_config(&manifest.config.media_type) => {
                        let config = archive.blob(&manifest.config.digest).await?;
                        config.and_then(|config| Platform::of_config(&config))
                    }
                    None => None,
                };
                found.push((platform, document.digest().clone()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Manifest;

    #[test]
    fn signatures_and_artifacts_are_not_containers() {
        let blob = |kind: &str| Descriptor::new(kind, Digest::of(kind.as_bytes()), 1);
        let of = |config: &str, layers: &[&str]| {
            let layers = layers.iter().map(|kind| blob(kind)).collect();
            Document::of_manifest(Manifest::new(blob(config), layers)).unwrap()
        };
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let estargz = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (document, expected) in [
            (of(media_type::OCI_CONFIG, &[]), true),
            (of(media_type::OCI_CONFIG, &[estargz, media_type::OCI_LAYER_ZSTD]), true),
            (of(media_type::DOCKER_CONFIG, &[docker, ""]), true),
            (
                of(
                    media_type::OCI_CONFIG,
                    &["application/vnd.dev.cosign.simplesigning.v1+json"],
                ),
                false,
            ),
            (of(media_type::OCI_CONFIG, &["application/vnd.in-toto+json"]), false),
            (of(media_type::OCI_EMPTY, &[estargz]), false),
            (of("application/vnd.cncf.helm.config.v1+json", &[]), false),
        ] {
            assert_eq!(is_container(std::slice::from_ref(&document)), expected, "{document:?}");
        }
    }
}
