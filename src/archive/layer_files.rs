//! Files in the layers of an image of an archive, without unpacking it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures::stream::{once, try_unfold};
use futures::{StreamExt as _, TryStreamExt as _};

use super::contents::Archive;
use super::unpack::decompressed;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Hasher, Manifest};
use crate::source::ByteStream;
use crate::source::docker::{TarEntryKind, TarReader};

/// Compressed bytes that are decompressed at once. They give at most a thousand times as many.
const PIECE: usize = 16 << 10;
/// The most bytes of content of a layer: 64 GiB. More is taken for a decompression bomb.
const CONTENT_LIMIT: u64 = 64 << 30;
/// Files up to this length in bytes are kept in memory when they are found.
const KEPT: u64 = 4 << 20;
/// What the name of a file begins with that deletes one of a lower layer (OCI image specification, "Whiteouts").
const WHITEOUT: &str = ".wh.";

/// A file in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFile {
    /// Its path, without a leading slash.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// Its content, where that has at most 4 MiB.
    pub content: Option<Bytes>,
    layer: Digest,
}

/// Finds the files `wanted` of the image `manifest`: their paths without a leading slash, and the most bytes that each may have. Those
/// that the image does not have are left out. Every layer that is read is verified, from the top one to the one that has the last
/// file.
///
/// # Errors
/// A fault that names the layer or the file.
pub async fn layer_files(
    archive: &Archive,
    manifest: &Manifest,
    wanted: &[(&str, u64)],
) -> Result<BTreeMap<String, LayerFile>, Fault> {
    // `None` where a layer deletes the file.
    let mut found: BTreeMap<String, Option<LayerFile>> = BTreeMap::new();
    for layer in manifest.layers.iter().rev() {
        if found.len() == wanted.len() {
            break;
        }
        let mut open: Vec<(&str, u64)> = wanted.to_vec();
        open.retain(|(path, _)| !found.contains_key(*path));
        let within = |fault: Fault| fault.with_context(format_args!("layer {}", layer.digest));
        found.extend(of_layer(archive, &layer.digest, &open).await.map_err(within)?);
    }
    Ok(found
        .into_iter()
        .filter_map(|(path, file)| Some((path, file?)))
        .collect())
}

/// The files of `wanted` in a layer.
async fn of_layer(
    archive: &Archive,
    layer: &Digest,
    wanted: &[(&str, u64)],
) -> Result<BTreeMap<String, Option<LayerFile>>, Fault> {
    let mut found = BTreeMap::new();
    let mut tar = tar_of(archive, layer)?;
    while let Some(entry) = tar.next().await? {
        let path = entry.path.trim_start_matches('/').to_owned();
        if let Some((deleted, _)) = wanted.iter().find(|(wanted, _)| deletes(&path, wanted)) {
            found.entry((*deleted).to_owned()).or_insert(None);
        }
        let Some((_, limit)) = wanted.iter().find(|(wanted, _)| *wanted == path) else {
            continue;
        };
        if entry.kind != TarEntryKind::File {
            return Err(Fault::stalled(
                Reason::SourceFailed,
                format!("/{path} is not a file; build the image again"),
            ));
        }
        if entry.size > *limit {
            return Err(Fault::stalled(
                Reason::SourceFailed,
                format!("/{path} has {} bytes; at most {limit} are read", entry.size),
            ));
        }
        let file = read_file(&mut tar, entry.size, path.clone(), layer).await?;
        found.insert(path, Some(file));
    }
    Ok(found)
}

/// Whether an entry `path` deletes the file `wanted` of a lower layer.
fn deletes(path: &str, wanted: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let Some(deleted) = name.strip_prefix(WHITEOUT) else {
        return false;
    };
    let within = |directory: &str| match directory {
        "" => Some(wanted),
        directory => wanted.strip_prefix(directory)?.strip_prefix('/'),
    };
    let Some(rest) = within(directory) else { return false };
    // An opaque directory hides all of its content.
    deleted == ".wh..opq" || rest == deleted || rest.strip_prefix(deleted).is_some_and(|rest| rest.starts_with('/'))
}

async fn read_file(tar: &mut TarReader, size: u64, path: String, layer: &Digest) -> Result<LayerFile, Fault> {
    let mut hasher = Hasher::sha256();
    let mut kept = (size <= KEPT).then(BytesMut::new);
    while let Some(chunk) = tar.chunk().await? {
        hasher.update(&chunk);
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&chunk);
        }
    }
    Ok(LayerFile {
        path,
        size,
        digest: hasher.finish(),
        content: kept.map(BytesMut::freeze),
        layer: layer.clone(),
    })
}

impl LayerFile {
    /// The content from `offset`. It is not verified; the layer is read from its beginning.
    pub fn read(&self, archive: &Archive, offset: u64) -> ByteStream<'static> {
        if let Some(content) = &self.content {
            let begin = usize::try_from(offset).map_or(content.len(), |offset| offset.min(content.len()));
            let rest = content.slice(begin..);
            return once(async move { Ok(rest) }).boxed();
        }
        let tar = match tar_of(archive, &self.layer) {
            Ok(tar) => tar,
            Err(fault) => return once(async move { Err(fault) }).boxed(),
        };
        let path = self.path.clone();
        try_unfold((tar, Some(path), offset), |(mut tar, mut path, mut skip)| async move {
            if let Some(path) = path.take() {
                seek(&mut tar, &path).await?;
            }
            while let Some(mut chunk) = tar.chunk().await? {
                let skipped = usize::try_from(skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
                skip -= skipped as u64;
                let rest = chunk.split_off(skipped);
                if !rest.is_empty() {
                    return Ok(Some((rest, (tar, None, skip))));
                }
            }
            Ok(None)
        })
        .boxed()
    }
}

/// Reads up to the content of the file `path`.
async fn seek(tar: &mut TarReader, path: &str) -> Result<(), Fault> {
    while let Some(entry) = tar.next().await? {
        if entry.path.trim_start_matches('/') == path {
            return Ok(());
        }
    }
    Err(Fault::stalled(
        Reason::SourceFailed,
        format!("/{path} is no longer in its layer: the archive was changed"),
    ))
}

/// The tar of the layer `layer`.
fn tar_of(archive: &Archive, layer: &Digest) -> Result<TarReader, Fault> {
    let stored = archive.read(layer).ok_or_else(|| {
        Fault::stalled(
            Reason::SourceNotFound,
            format!("the archive lacks the layer {layer}; pack it again with all layers"),
        )
    })?;
    Ok(TarReader::named("the layer", content_of(stored, layer)))
}

/// The content of the layer that `stored` is: in gzip, in Zstandard or as it is.
fn content_of(stored: ByteStream<'static>, layer: &Digest) -> ByteStream<'static> {
    let layer = layer.clone();
    let mut stored = stored;
    let opening = async move {
        let mut start = BytesMut::new();
        while start.len() < 4 {
            match stored.next().await.transpose()? {
                Some(chunk) => start.extend_from_slice(&chunk),
                None => break,
            }
        }
        let start = start.freeze();
        let all = once({
            let start = start.clone();
            async move { Ok(start) }
        });
        let all = all.chain(stored).boxed();
        Ok::<ByteStream<'static>, Fault>(match start.as_ref() {
            [0x1f, 0x8b, ..] => gunzipped(all, layer),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => decompressed(all, &layer),
            _ => all,
        })
    };
    once(opening).try_flatten().boxed()
}

struct Gunzip {
    stored: ByteStream<'static>,
    input: Bytes,
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
    length: u64,
    layer: Digest,
}

/// The content of the gzip `stored` (RFC 1952).
fn gunzipped(stored: ByteStream<'static>, layer: Digest) -> ByteStream<'static> {
    let state = Gunzip {
        stored,
        input: Bytes::new(),
        decoder: Some(MultiGzDecoder::new(Vec::new())),
        length: 0,
        layer,
    };
    try_unfold(state, |mut state| async move {
        let content = state.next().await?;
        Ok(content.map(|content| (content, state)))
    })
    .boxed()
}

impl Gunzip {
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let Some(mut decoder) = self.decoder.take() else {
                return Ok(None);
            };
            let mut at_end = false;
            while self.input.is_empty() && !at_end {
                match self.stored.next().await.transpose()? {
                    Some(chunk) => self.input = chunk,
                    None => at_end = true,
                }
            }
            let piece = self.input.split_to(PIECE.min(self.input.len()));
            let done = tokio::task::spawn_blocking(move || {
                match at_end {
                    true => decoder.try_finish()?,
                    false => std::io::Write::write_all(&mut decoder, &piece)?,
                }
                let content = std::mem::take(decoder.get_mut());
                Ok::<_, std::io::Error>((decoder, content))
            });
            let done = done.await.map_err(|error| self.damaged(&error))?;
            let (decoder, content) = done.map_err(|error| self.damaged(&error))?;
            if !at_end {
                self.decoder = Some(decoder);
            }
            self.length = self.length.saturating_add(content.len() as u64);
            if self.length > CONTENT_LIMIT {
                return Err(self.damaged(&"it has more than 64 GiB of content"));
            }
            if !content.is_empty() {
                return Ok(Some(content.into()));
            }
        }
    }

    fn damaged(&self, why: &dyn std::fmt::Display) -> Fault {
        Fault::stalled(
            Reason::SourceFailed,
            format!("{} cannot be decompressed: {why}; build the image again", self.layer),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::archive::contents::Contents;
    use crate::archive::members::Extent;
    use crate::archive::tar_content::PlainTar;
    use crate::archive::testing::{Memory, Tar, gzip};
    use crate::oci::{Descriptor, Manifest, media_type};

    /// An archive with the blobs `layers`, and a manifest that lists them, the lowest first.
    async fn archive(layers: &[Vec<u8>]) -> (Archive, Manifest) {
        let (mut content, mut blobs, mut listed) = (Vec::new(), HashMap::new(), Vec::new());
        for layer in layers {
            let (digest, size) = (Digest::of(layer), layer.len() as u64);
            let offset = content.len() as u64;
            blobs.insert(digest.clone(), Extent { offset, size });
            listed.push(Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size));
            content.extend_from_slice(layer);
        }
        let contents = Contents {
            tar: Arc::new(PlainTar::new(Arc::new(Memory(content)))),
            packages: Vec::new(),
            blobs,
            inline: HashMap::new(),
            images: Vec::new(),
        };
        let manifest = Manifest::new(Descriptor::empty(), listed);
        (Archive::new(contents).await.unwrap(), manifest)
    }

    async fn all(mut content: ByteStream<'static>) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(chunk) = content.next().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        bytes
    }

    #[tokio::test]
    async fn files_of_all_compressions_are_read_at_any_offset() {
        let large: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
        let tar = Tar::default()
            .file("usr/a", b"first")
            .file("program", &large)
            .file("b", b"last")
            .end();
        for layer in [tar.clone(), gzip(&tar), zstd::bulk::compress(&tar, 1).unwrap()] {
            let (archive, manifest) = archive(&[layer]).await;
            let wanted = [("program", 1 << 30), ("b", 100), ("absent", 1)];
            let files = layer_files(&archive, &manifest, &wanted).await.unwrap();
            assert_eq!(files.len(), 2);
            let program = &files["program"];
            assert_eq!(
                (program.size, &program.digest),
                (large.len() as u64, &Digest::of(&large))
            );
            assert!(program.content.is_none());
            for offset in [0, 1, 4_000_001, large.len() as u64, large.len() as u64 + 5] {
                let from = usize::try_from(offset).unwrap().min(large.len());
                assert!(all(program.read(&archive, offset)).await == large[from..], "{offset}");
            }
            assert_eq!(files["b"].content.as_deref(), Some(&b"last"[..]));
            assert_eq!(all(files["b"].read(&archive, 2)).await, b"st");
        }
    }

    #[tokio::test]
    async fn the_top_layer_counts_and_may_delete() {
        let low = Tar::default()
            .file("a", b"old")
            .file("d/b", b"b")
            .file("e/c", b"c")
            .end();
        let top = Tar::default()
            .file("./a", b"new")
            .file("d/.wh.b", b"")
            .file("e/.wh..wh..opq", b"")
            .end();
        let (archive, manifest) = archive(&[gzip(&low), gzip(&top)]).await;
        let wanted = [("a", 9), ("d/b", 9), ("e/c", 9)];
        let files = layer_files(&archive, &manifest, &wanted).await.unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(files["a"].content.as_deref(), Some(&b"new"[..]));
        let fault = layer_files(&archive, &manifest, &[("a", 2)]).await.unwrap_err();
        assert!(fault.message.contains("/a has 3 bytes; at most 2"), "{fault}");
    }

    #[tokio::test]
    async fn damaged_layers_are_refused() {
        let tar = Tar::default().file("a", &[7; 5000]).end();
        let whole = gzip(&tar);
        for layer in [
            whole[..whole.len() - 9].to_vec(),
            gzip(&tar[..3000]),
            b"text".to_vec(),
            Vec::new(),
        ] {
            let (archive, manifest) = archive(&[layer]).await;
            let fault = layer_files(&archive, &manifest, &[("a", 9000)]).await.unwrap_err();
            assert!(fault.message.starts_with("layer sha256:"), "{fault}");
        }
        let linked = Tar::default().link("a", "b").end();
        let (archive, manifest) = archive(&[linked]).await;
        let fault = layer_files(&archive, &manifest, &[("a", 9)]).await.unwrap_err();
        assert!(fault.message.contains("/a is not a file"), "{fault}");
    }
}
