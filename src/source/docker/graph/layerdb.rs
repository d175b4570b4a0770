//! The files in which a docker engine with the driver overlay2 keeps its images and layers (moby, `image/fs.go`,
//! `layer/filestore.go`).

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;

use super::tarsplit;
use crate::oci::Digest;
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::docker::document::DOCUMENT_LIMIT;
use crate::source::unreadable::UnreadableReason;

/// The longest file that holds a digest or a name, in bytes.
const NAME_LIMIT: u64 = 256;

/// The chain ID of each layer, a digest of it and of the layers below it; lowest first.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            Some(chain) => Digest::of(format!("{chain} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        });
    }
    chain
}

/// A layer of which the files were found.
#[derive(Debug)]
pub(super) struct Layer {
    pub diff_id: Digest,
    /// The length of its tar in bytes.
    pub length: u64,
    chain_id: Digest,
    cache_id: String,
}

/// The opened root directory of an engine. Every call blocks on the disk.
#[derive(Debug)]
pub(super) struct LayerDb {
    root: ConfinedDirectory,
}

impl LayerDb {
    pub fn open(root: &Path) -> Result<Self, UnreadableReason> {
        Ok(Self {
            root: ConfinedDirectory::open(root)?,
        })
    }

    /// The configuration of an image. Its digest is the image ID.
    pub fn config(&self, image_id: &Digest) -> Result<Bytes, UnreadableReason> {
        let path = format!("image/overlay2/imagedb/content/{}", image_id.algorithm());
        let content = read_file(&mut self.root.directory(&path)?, image_id.hex(), DOCUMENT_LIMIT)?;
        if Digest::of(&content) != *image_id {
            return Err(UnreadableReason::new(format!(
                "the configuration in {path} is not that of the image"
            )));
        }
        Ok(content)
    }

    /// The layer with this chain ID.
    pub fn layer(&self, diff_id: &Digest, chain_id: &Digest) -> Result<Layer, UnreadableReason> {
        let mut entry = self.entry(chain_id)?;
        if read_file(&mut entry, "diff", NAME_LIMIT)? != diff_id.as_str() {
            return Err(UnreadableReason::new("layerdb says that it is another layer"));
        }
        let cache_id = read_file(&mut entry, "cache-id", NAME_LIMIT)?;
        let valid = !cache_id.is_empty()
            && cache_id
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        let cache_id = match String::from_utf8(cache_id.into()) {
            Ok(cache_id) if valid => cache_id,
            _ => return Err(UnreadableReason::new("layerdb gives its directory an invalid name")),
        };
        let (gzip, _) = entry.file(b"tar-split.json.gz")?;
        Ok(Layer {
            length: tarsplit::length(gzip)?,
            diff_id: diff_id.clone(),
            chain_id: chain_id.clone(),
            cache_id,
        })
    }

    /// The sources of the tar of a layer: its tar-split and the directory with its files.
    pub fn open_layer(&self, layer: &Layer) -> Result<(std::fs::File, ConfinedDirectory), UnreadableReason> {
        let (gzip, _) = self.entry(&layer.chain_id)?.file(b"tar-split.json.gz")?;
        Ok((gzip, self.root.directory(&format!("overlay2/{}/diff", layer.cache_id))?))
    }

    fn entry(&self, chain_id: &Digest) -> Result<ConfinedDirectory, UnreadableReason> {
        let (algorithm, hex) = (chain_id.algorithm(), chain_id.hex());
        self.root
            .directory(&format!("image/overlay2/layerdb/{algorithm}/{hex}"))
    }
}

fn read_file(directory: &mut ConfinedDirectory, name: &str, limit: u64) -> Result<Bytes, UnreadableReason> {
    let (file, _) = directory.file(name.as_bytes())?;
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
    fn chain_ids_are_those_of_docker() {
        let one = Digest::of(b"one");
        let two = Digest::of(b"two");
        let chain = chain_ids(&[one.clone(), two.clone(), one.clone()]);
        assert_eq!(chain[0], one);
        assert_eq!(chain[1], Digest::of(format!("{one} {two}").as_bytes()));
        assert_eq!(chain[2], Digest::of(format!("{} {one}", chain[1]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }
}
