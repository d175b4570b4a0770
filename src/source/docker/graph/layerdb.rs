//! Where a docker engine with the driver overlay2 keeps its images and layers (moby, `image/fs.go`,
//! `layer/filestore.go`).

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;

use super::confined_directory::ConfinedDirectory;
use super::{UnreadableReason, tarsplit};
use crate::oci::Digest;
use crate::source::docker::DOCUMENT_LIMIT;

/// Of a file that names something, in bytes.
const NAME_LIMIT: u64 = 256;

/// The chain ID of each layer: the digest of it and all that lie below it, lowest first.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        });
    }
    chain
}

/// A layer that was found, and whose tar has a known length.
#[derive(Debug)]
pub(super) struct Layer {
    pub diff_id: Digest,
    /// Of the tar, in bytes.
    pub length: u64,
    chain_id: Digest,
    cache_id: String,
}

/// The root of an engine, opened. Every call waits for the disk.
#[derive(Debug)]
pub(super) struct LayerDb {
    root: ConfinedDirectory,
}

impl LayerDb {
    pub fn at(root: &Path) -> Result<Self, UnreadableReason> {
        Ok(Self {
            root: ConfinedDirectory::at(root)?,
        })
    }

    /// The configuration of an image, which is what its ID is the digest of.
    pub fn config(&self, image_id: &Digest) -> Result<Bytes, UnreadableReason> {
        let folder = format!("image/overlay2/imagedb/content/{}", image_id.algorithm());
        let content = whole(&mut self.root.folder(&folder)?, image_id.hex(), DOCUMENT_LIMIT)?;
        if Digest::of(&content) != *image_id {
            return Err(UnreadableReason::new(format!(
                "the configuration in {folder} is not that of the image"
            )));
        }
        Ok(content)
    }

    /// The layer that has this chain ID.
    pub fn layer(&self, diff_id: &Digest, chain_id: &Digest) -> Result<Layer, UnreadableReason> {
        let mut entry = self.entry(chain_id)?;
        if whole(&mut entry, "diff", NAME_LIMIT)? != diff_id.as_str() {
            return Err(UnreadableReason::new("layerdb says that it is another layer"));
        }
        let cache_id = whole(&mut entry, "cache-id", NAME_LIMIT)?;
        let plain = !cache_id.is_empty()
            && cache_id
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        let cache_id = match String::from_utf8(cache_id.into()) {
            Ok(cache_id) if plain => cache_id,
            _ => return Err(UnreadableReason::new("layerdb gives its folder a name that cannot be")),
        };
        let (gzip, _) = entry.file(b"tar-split.json.gz")?;
        Ok(Layer {
            length: tarsplit::length(gzip)?,
            diff_id: diff_id.clone(),
            chain_id: chain_id.clone(),
            cache_id,
        })
    }

    /// What the tar of a layer is made of: its tar-split and the folder with its files.
    pub fn parts(&self, layer: &Layer) -> Result<(std::fs::File, ConfinedDirectory), UnreadableReason> {
        let (gzip, _) = self.entry(&layer.chain_id)?.file(b"tar-split.json.gz")?;
        Ok((gzip, self.root.folder(&format!("overlay2/{}/diff", layer.cache_id))?))
    }

    fn entry(&self, chain_id: &Digest) -> Result<ConfinedDirectory, UnreadableReason> {
        let (algorithm, hex) = (chain_id.algorithm(), chain_id.hex());
        self.root.folder(&format!("image/overlay2/layerdb/{algorithm}/{hex}"))
    }
}

fn whole(folder: &mut ConfinedDirectory, name: &str, limit: u64) -> Result<Bytes, UnreadableReason> {
    let (file, _) = folder.file(name.as_bytes())?;
    let mut content = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut content);
    read.map_err(|error| UnreadableReason::new(format!("{name} cannot be read: {error}")))?;
    if content.len() as u64 > limit {
        return Err(UnreadableReason::new(format!("{name} is longer than {limit} bytes")));
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As docker 20.10 named the layers of an image.
    #[test]
    fn chains_are_named_as_docker_does() {
        let one = Digest::of(b"one");
        let two = Digest::of(b"two");
        let chain = chain_ids(&[one.clone(), two.clone(), one.clone()]);
        assert_eq!(chain[0], one);
        assert_eq!(chain[1], Digest::of(format!("{one} {two}").as_bytes()));
        assert_eq!(chain[2], Digest::of(format!("{} {one}", chain[1]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }
}
