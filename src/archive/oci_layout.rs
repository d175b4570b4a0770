//! OCI archives and layouts (OCI image specification, "Image Layout"), as skopeo, podman, BuildKit, docker 25 and later and hauler
//! write them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::attachment::name_attachments;
use super::contents::{Archive, Contents};
use super::docker_save::add_unlisted;
use super::image_list::NamedImage;
use super::members::{Extent, Member, file, read_document, shown};
use super::read::invalid;
use super::tar_content::TarContent;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, Reference};
use crate::package::REF_NAME;

/// The list of images.
pub const INDEX: &str = "index.json";
/// The folder of the blobs, which are in folders by their algorithms.
pub const BLOBS: &str = "blobs/";
/// The annotation in which containerd, BuildKit, docker and hauler store the full name of an image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation in which hauler says what an entry is.
const KIND: &str = "kind";
/// What hauler writes before the kind; version 1 wrote the second.
const KIND_PREFIXES: [&str; 2] = ["dev.hauler/", "dev.cosignproject.cosign/"];

/// The contents of the layout with `members`.
///
/// # Errors
/// A fault that names the file or the image.
pub(super) async fn layout_contents(
    tar: Arc<dyn TarContent>,
    members: &HashMap<String, Member>,
) -> Result<Contents, Fault> {
    let raw = read_document(&*tar, members, INDEX).await?;
    let index = Document::parse(None, raw).map_err(|error| invalid(&format!("its {INDEX} cannot be read: {error}")))?;
    let entries = index.index().map(|index| index.manifests.as_slice());
    let entries = entries.ok_or_else(|| invalid(&format!("its {INDEX} lists no images")))?;
    let contents = Contents {
        tar,
        packages: Vec::new(),
        blobs: blobs(members)?,
        inline: HashMap::new(),
        images: images(entries)?,
    };
    let mut archive = Archive::new(contents).await?;
    let manifests = archive.documents().filter_map(Document::manifest);
    let configs: HashSet<Digest> = manifests.map(|manifest| manifest.config.digest.clone()).collect();
    name_attachments(&mut archive);
    let mut contents = without_absent(archive)?;
    add_unlisted(&mut contents, members, &configs).await?;
    Ok(contents)
}

/// Where the blob with each digest is.
fn blobs(members: &HashMap<String, Member>) -> Result<HashMap<Digest, Extent>, Fault> {
    let mut blobs = HashMap::with_capacity(members.len());
    for path in members.keys() {
        let digest = path.strip_prefix(BLOBS).map(|name| name.replacen('/', ":", 1));
        // Files of other names are no blobs.
        let digest: Option<Digest> = digest.and_then(|text| text.parse().ok());
        if let Some((digest, member)) = digest.zip(file(members, path)?) {
            blobs.insert(digest, member.extent);
        }
    }
    Ok(blobs)
}

/// The images that `entries` list. Those without a full name have none.
fn images(entries: &[Descriptor]) -> Result<Vec<NamedImage>, Fault> {
    let subjects = subjects(entries);
    let mut images: Vec<NamedImage> = Vec::with_capacity(entries.len());
    let mut known: HashMap<String, Digest> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry.is_manifest_or_untyped()) {
        let Some(name) = name_of(entry, &subjects)? else {
            continue;
        };
        match name
            .as_ref()
            .and_then(|name| known.insert(name.to_string(), entry.digest.clone()))
        {
            None => images.push(NamedImage {
                name,
                root: entry.clone(),
            }),
            Some(other) if other == entry.digest => {}
            Some(other) => {
                return Err(invalid(&format!(
                    "it has two images of the name {}: {other} and {}",
                    name.map(|name| name.to_string()).unwrap_or_default(),
                    entry.digest
                )));
            }
        }
    }
    // containerd also names an image by its digests alone.
    let named: HashSet<Digest> = known.into_values().collect();
    images.retain(|image| image.name.is_some() || !named.contains(&image.root.digest));
    Ok(images)
}

/// The image that each name has, for the entries of hauler that belong to one.
fn subjects(entries: &[Descriptor]) -> BTreeMap<&str, &Digest> {
    let named = entries.iter().filter(|entry| {
        let kind = kind_of(entry);
        kind.is_empty() || kind.starts_with("image")
    });
    named
        .filter_map(|entry| Some((entry.annotations.get(REF_NAME)?.as_str(), &entry.digest)))
        .collect()
}

pub(super) fn kind_of(entry: &Descriptor) -> &str {
    let kind = entry.annotations.get(KIND).map(String::as_str).unwrap_or_default();
    let mut prefixes = KIND_PREFIXES.iter();
    prefixes
        .find_map(|prefix| kind.strip_prefix(prefix))
        .unwrap_or_default()
}

/// The name of an entry: `Some(None)` where it has none, `None` where it belongs to an image that is not there.
fn name_of(entry: &Descriptor, subjects: &BTreeMap<&str, &Digest>) -> Result<Option<Option<Reference>>, Fault> {
    let annotated = |key: &str| entry.annotations.get(key).map(String::as_str);
    // Some write the tag alone, and Kubernetes' runtime interface names an image by its ID too.
    let full = annotated(REF_NAME).filter(|name| name.contains(['/', ':']));
    let text = annotated(CONTAINERD_NAME).or(full);
    let Some(text) = text.filter(|text| text.parse::<Digest>().is_err()) else {
        return Ok(Some(None));
    };
    let invalid_name = |error: &dyn std::fmt::Display| {
        let message = format!("it lists the image {:?}: {error}", shown(text));
        Fault::stalled(Reason::InvalidReference, message)
    };
    let name: Reference = text.parse().map_err(|error| invalid_name(&error))?;
    // Signatures and the like have the name of the image that they belong to (hauler, `store copy`).
    let suffix = match kind_of(entry) {
        "sigs" => ".sig",
        "atts" => ".att",
        "sboms" => ".sbom",
        kind if kind.starts_with("referrers") => {
            let name = format!("{}@{}", name.name(), entry.digest);
            return Ok(Some(Some(name.parse().map_err(|error| invalid_name(&error))?)));
        }
        _ => return Ok(Some(Some(name))),
    };
    let Some(subject) = annotated(REF_NAME).and_then(|name| subjects.get(name)) else {
        return Ok(None);
    };
    let name = format!("{}:{}-{}{suffix}", name.name(), subject.algorithm(), subject.hex());
    Ok(Some(Some(name.parse().map_err(|error| invalid_name(&error))?)))
}

/// The same with indexes that list only what the archive has: an engine that holds one platform of an image saves the index of all
/// of them.
fn without_absent(mut archive: Archive) -> Result<Contents, Fault> {
    let mut made: HashMap<Digest, (Descriptor, Bytes)> = HashMap::new();
    for image in archive.images() {
        let root = &image.root.digest;
        let name = || {
            image
                .name
                .as_ref()
                .map_or_else(|| root.to_string(), ToString::to_string)
        };
        let Some(document) = archive.document(root) else {
            return Err(invalid(&format!(
                "it lacks the manifest {root} of the image {}",
                name()
            )));
        };
        let Some(index) = document.index() else { continue };
        let kept = present(&archive, index);
        if kept.len() == index.manifests.len() {
            continue;
        }
        if kept.is_empty() {
            return Err(invalid(&format!("it has no platform of the image {}", name())));
        }
        let mut narrowed = index.clone();
        narrowed.manifests = kept;
        let narrowed = Document::of_index(narrowed).map_err(|error| invalid(&error.to_string()))?;
        let annotations = image.root.annotations.clone();
        let descriptor = Descriptor {
            annotations,
            ..narrowed.descriptor
        };
        made.insert(root.clone(), (descriptor, narrowed.raw));
    }
    let contents = archive.contents_mut();
    let by_tag = |image: &&NamedImage| image.name.as_ref().is_some_and(|name| name.digest().is_none());
    let tagged: HashSet<Digest> = contents
        .images
        .iter()
        .filter(by_tag)
        .map(|image| image.root.digest.clone())
        .collect();
    // A name with the digest of the whole index is not one of the reduced index.
    let names_reduced = |image: &NamedImage| !by_tag(&image) && made.contains_key(&image.root.digest);
    contents
        .images
        .retain(|image| !(names_reduced(image) && tagged.contains(&image.root.digest)));
    for image in &mut contents.images {
        if let Some((root, _)) = made.get(&image.root.digest) {
            image.root = root.clone();
        }
    }
    let made = made.into_values().map(|(root, raw)| (root.digest, raw));
    contents.inline.extend(made);
    Ok(archive.into_contents())
}

/// The entries of `index` whose content the archive has, and what attests them.
fn present(archive: &Archive, index: &Index) -> Vec<Descriptor> {
    let is_present = |entry: &Descriptor| {
        if !entry.is_manifest_or_untyped() {
            return archive.size(&entry.digest).is_some();
        }
        let documents = archive.manifests(&entry.digest);
        let mut blobs = documents
            .iter()
            .filter_map(Document::manifest)
            .flat_map(|manifest| manifest.blobs());
        !documents.is_empty()
            && blobs.all(|blob| archive.size(&blob.digest).is_some() || blob.inline_content().is_some())
    };
    let mut kept: Vec<Descriptor> = index
        .manifests
        .iter()
        .filter(|entry| is_present(entry))
        .cloned()
        .collect();
    let images: HashSet<Digest> = kept.iter().map(|entry| entry.digest.clone()).collect();
    kept.retain(|entry| match entry.attested_digest() {
        Some(attested) if entry.is_attestation() => images.contains(&attested),
        _ => true,
    });
    match kept.iter().any(Descriptor::may_be_image) {
        true => kept,
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
