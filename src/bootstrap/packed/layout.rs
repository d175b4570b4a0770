//! The files that a seed receives: the program of the operator, and an OCI layout with the two images. Content is read directly from
//! the archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{NodeFiles, PackedImage};
use crate::archive::{Archive, LayerFile};
use crate::bootstrap::install::InstalledImage;
use crate::bootstrap::seed::{ArchiveBlob, FileContent, SeedFile};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, distinct_blobs};
use crate::package::REF_NAME;
use crate::source::ByteStream;

/// The program of the operator, below the directory of the seed.
pub const PROGRAM: &str = "jackal-operator";
/// The folder of the OCI layout, below the directory of the seed.
pub const LAYOUT: &str = "layout";
/// The annotation in which containerd stores the name of an image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The program of the operator in a layer.
struct Program {
    archive: Arc<Archive>,
    file: LayerFile,
}

impl FileContent for Program {
    fn read(&self, offset: u64) -> ByteStream<'static> {
        self.file.read(&self.archive, offset)
    }
}

/// The files for nodes of `architecture`. The layout has of each image what that architecture runs, under the name and digest that pods
/// use.
///
/// # Errors
/// A stalled fault that names what the archive lacks.
pub fn seed_files(
    archive: &Arc<Archive>,
    images: [(&PackedImage, &InstalledImage); 2],
    files: &NodeFiles,
    architecture: &str,
) -> Result<Vec<SeedFile>, Fault> {
    let mut found: BTreeMap<String, SeedFile> = BTreeMap::new();
    let mut add = |file: SeedFile| drop(found.insert(file.name.clone(), file));
    add(SeedFile {
        name: PROGRAM.to_owned(),
        size: files.program.size,
        digest: files.program.digest.clone(),
        content: Arc::new(Program {
            archive: Arc::clone(archive),
            file: files.program.clone(),
        }),
    });
    add(small(
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec().into(),
    ));
    let mut entries = Vec::new();
    for (packed, installed) in images {
        let within = |fault: Fault| fault.with_context(format_args!("image `{}`", packed.name));
        let root = archive
            .document(&packed.root)
            .ok_or_else(|| within(missing(&packed.root)))?;
        let manifest = packed.manifest(archive, architecture)?;
        for document in [root, manifest] {
            add(small(&blob_path(document.digest()), document.raw.clone()));
        }
        for blob in distinct_blobs(std::slice::from_ref(manifest)) {
            add(stored(archive, blob).map_err(within)?);
        }
        entries.push(entry(root, installed));
    }
    let index = Document::of_index(Index::new(entries)).map_err(|error| {
        Fault::stalled(
            Reason::InternalError,
            format!("the list of the two images cannot be made: {error}"),
        )
    })?;
    add(small("index.json", index.raw));
    Ok(found.into_values().collect())
}

/// The entry of an image in the list of the layout.
fn entry(root: &Document, installed: &InstalledImage) -> Descriptor {
    let mut entry = Descriptor::new(
        root.descriptor.media_type.clone(),
        root.digest().clone(),
        root.raw.len() as u64,
    );
    let name = installed.tagged().unwrap_or_else(|| installed.to_string());
    for annotation in [CONTAINERD_NAME, REF_NAME] {
        entry.annotations.insert(annotation.to_owned(), name.clone());
    }
    entry
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn small(path: &str, content: Bytes) -> SeedFile {
    SeedFile {
        name: format!("{LAYOUT}/{path}"),
        size: content.len() as u64,
        digest: Digest::of(&content),
        content: Arc::new(content),
    }
}

/// A blob of the archive.
fn stored(archive: &Arc<Archive>, blob: &Descriptor) -> Result<SeedFile, Fault> {
    match (archive.size(&blob.digest), blob.inline_content()) {
        (Some(size), _) if size == blob.size => Ok(SeedFile {
            name: format!("{LAYOUT}/{}", blob_path(&blob.digest)),
            size,
            digest: blob.digest.clone(),
            content: Arc::new(ArchiveBlob {
                archive: Arc::clone(archive),
                digest: blob.digest.clone(),
            }),
        }),
        (None, Some(content)) => Ok(small(&blob_path(&blob.digest), content)),
        _ => Err(missing(&blob.digest)),
    }
}

fn missing(digest: &Digest) -> Fault {
    let message = format!("the archive lacks {digest}; pack it again with all layers, without --have");
    Fault::stalled(Reason::SourceNotFound, message)
}
