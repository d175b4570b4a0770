//! Archives of `docker save` before version 25 and of what writes the same form: a `manifest.json`, and layers that are not named by
//! their digests. The manifests of the images are made here, as those of a docker engine's images are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt as _;
use serde::Deserialize;

use super::contents::Contents;
use super::image_list::NamedImage;
use super::members::{Extent, Member, file, read_document, shown};
use super::read::invalid;
use super::tar_content::TarContent;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Compression, Descriptor, Digest, Document, Manifest, Reference};

/// The list of images.
pub const MANIFEST: &str = "manifest.json";
/// The most images of an archive, and layers of an image.
const LIMIT: usize = 10_000;

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Vec<String>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The part of an image's configuration that is read.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// The contents of the archive with `members`.
///
/// # Errors
/// A fault that names the file or the image.
pub(super) async fn save_contents(
    tar: Arc<dyn TarContent>,
    members: &HashMap<String, Member>,
) -> Result<Contents, Fault> {
    let raw = read_document(&*tar, members, MANIFEST).await?;
    let saved: Vec<Saved> =
        decode::json(&raw).map_err(|error| invalid(&format!("its {MANIFEST} cannot be read: {error}")))?;
    let mut contents = Contents {
        tar,
        packages: Vec::new(),
        blobs: HashMap::new(),
        inline: HashMap::new(),
        images: Vec::new(),
    };
    add_all(&mut contents, members, &saved).await?;
    Ok(contents)
}

/// Adds to the contents of an OCI layout the images that only its `manifest.json` lists. `listed` are the configurations of the
/// others. Docker 25 and later leaves images out of `index.json` that are saved by a digest or an ID (moby#47210, moby#51389).
///
/// # Errors
/// A fault that names the file or the image.
pub(super) async fn add_unlisted(
    contents: &mut Contents,
    members: &HashMap<String, Member>,
    listed: &HashSet<Digest>,
) -> Result<(), Fault> {
    if !members.contains_key(MANIFEST) {
        return Ok(());
    }
    let raw = read_document(&*contents.tar, members, MANIFEST).await?;
    // A layout may have a file of this name for another purpose.
    let Ok(saved) = decode::json::<Vec<Saved>>(&raw) else {
        return Ok(());
    };
    let mut unlisted = Vec::new();
    for image in saved {
        let path = &image.config;
        let is_listed = |digest: Digest| listed.contains(&digest);
        // One whose configuration is absent is of a platform that is not there.
        if digest_in(path).is_some_and(is_listed) || file(members, path)?.is_none() {
            continue;
        }
        let config = read_document(&*contents.tar, members, path).await?;
        if !is_listed(Digest::of(&config)) {
            unlisted.push(image);
        }
    }
    add_all(contents, members, &unlisted).await
}

/// Adds the images `saved`.
async fn add_all(contents: &mut Contents, members: &HashMap<String, Member>, saved: &[Saved]) -> Result<(), Fault> {
    if saved.len() > LIMIT || saved.iter().any(|image| image.layers.len() > LIMIT) {
        return Err(invalid(&format!(
            "its {MANIFEST} lists more than {LIMIT} images or layers"
        )));
    }
    let layers: BTreeSet<&String> = saved.iter().flat_map(|image| &image.layers).collect();
    let tar = Arc::clone(&contents.tar);
    let compressed = compressed_layers(&*tar, members, layers).await?;
    let known = contents.images.iter();
    let known = known.filter_map(|image| Some((image.name.as_ref()?.to_string(), image.root.digest.clone())));
    let mut known: HashMap<String, Digest> = known.collect();
    for image in saved {
        let shown = image.repo_tags.first().unwrap_or(&image.config);
        let shown: String = shown.chars().take(200).collect();
        let within = |fault: Fault| fault.with_context(format_args!("image {shown:?}"));
        let root = add(contents, members, image, &compressed).await.map_err(within)?;
        for name in names(&image.repo_tags).map_err(within)? {
            let other = name
                .as_ref()
                .and_then(|name| known.insert(name.to_string(), root.digest.clone()));
            match other {
                Some(other) if other != root.digest => {
                    return Err(within(invalid("another image has the same name")));
                }
                Some(_) => {}
                None => contents.images.push(NamedImage {
                    name,
                    root: root.clone(),
                }),
            }
        }
    }
    Ok(())
}

/// The names of an image, or that it has none.
fn names(tags: &[String]) -> Result<Vec<Option<Reference>>, Fault> {
    if tags.is_empty() {
        return Ok(vec![None]);
    }
    let parsed = tags.iter().map(|tag| {
        let name = tag.parse();
        name.map(Some)
            .map_err(|error| Fault::stalled(Reason::InvalidReference, format!("{error}")))
    });
    parsed.collect()
}

/// Adds configuration, layers and manifest of an image. Returns the descriptor of the manifest.
async fn add(
    contents: &mut Contents,
    members: &HashMap<String, Member>,
    image: &Saved,
    compressed: &HashMap<&String, Descriptor>,
) -> Result<Descriptor, Fault> {
    let raw = read_document(&*contents.tar, members, &image.config).await?;
    let config: Config =
        decode::json(&raw).map_err(|error| invalid(&format!("its configuration cannot be read: {error}")))?;
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        return Err(invalid(&format!(
            "its configuration lists {} layers, and {MANIFEST} {}",
            diff_ids.len(),
            image.layers.len()
        )));
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (diff_id, path) in diff_ids.into_iter().zip(&image.layers) {
        let extent = found(members, path)?;
        let layer = match compressed.get(path) {
            Some(layer) => layer.clone(),
            None => Compression::None.layer(diff_id, extent.size),
        };
        if contents
            .blobs
            .get(&layer.digest)
            .is_none_or(|known| known.size == extent.size)
        {
            contents.blobs.insert(layer.digest.clone(), extent);
        } else {
            return Err(invalid(&format!(
                "the layer {} is there with two lengths",
                layer.digest
            )));
        }
        layers.push(layer);
    }
    let id = Digest::of(&raw);
    let manifest = Manifest::for_image(id.clone(), raw.len() as u64, layers);
    let manifest = Document::of_manifest(manifest).map_err(|error| invalid(&error.to_string()))?;
    contents.inline.insert(id, raw);
    contents.inline.insert(manifest.digest().clone(), manifest.raw);
    Ok(manifest.descriptor)
}

fn found(members: &HashMap<String, Member>, path: &str) -> Result<Extent, Fault> {
    let member = file(members, path)?;
    let member = member.ok_or_else(|| invalid(&format!("it lacks the layer {:?}", shown(path))))?;
    Ok(member.extent)
}

/// The layers that are compressed, as go-containerregistry and kaniko write them. A configuration has the digests of
/// uncompressed layers alone. The content of those whose names are not their digests is read.
async fn compressed_layers<'l>(
    tar: &dyn TarContent,
    members: &HashMap<String, Member>,
    layers: BTreeSet<&'l String>,
) -> Result<HashMap<&'l String, Descriptor>, Fault> {
    let mut in_order = Vec::with_capacity(layers.len());
    for path in layers {
        in_order.push((found(members, path)?, path));
    }
    in_order.sort_by_key(|(extent, _)| extent.offset);
    let mut compressed = HashMap::new();
    for (extent, path) in in_order {
        let start = tar.read(extent.offset, extent.size.min(4)).next().await.transpose()?;
        let compression = match start.as_deref().unwrap_or_default() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => continue,
        };
        let digest = match digest_in(path) {
            Some(digest) => digest,
            None => digest_of(tar, extent).await?,
        };
        let layer = Descriptor::new(compression.layer_type(), digest, extent.size);
        compressed.insert(path, layer);
    }
    Ok(compressed)
}

/// The digest in the name of a file: `<hex>`, also with an extension, or `sha256:<hex>`.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?.split('.').next()?;
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    format!("sha256:{hex}").parse().ok()
}

async fn digest_of(tar: &dyn TarContent, extent: Extent) -> Result<Digest, Fault> {
    let mut content = tar.read(extent.offset, extent.size);
    let mut hasher = BackgroundHasher::new(None);
    while let Some(chunk) = content.next().await.transpose()? {
        hasher.update(&chunk).await;
    }
    hasher.finish().await.map_err(|error| invalid(&error.to_string()))
}

#[cfg(test)]
mod tests;
