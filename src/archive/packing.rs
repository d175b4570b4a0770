//! What a package file holds, in its order: known before the first byte of it is written.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use zstd::zstd_safe::CParameter;

use super::format::{self, TooLong};
use super::header::{HEADER_LIMIT, Header, Packed};
use super::image_list::{NamedImage, add_images};
use super::inventory::Holdings;
use super::omitted::omit;
use super::order::{PackageFile, blob_path, describe_first, files_of, listed};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, MANIFEST_LIMIT};
use crate::package::{LAYOUT_INDEX, tar_header};
use crate::transfer::Destination;

/// The level at which content is compressed that is not compressed yet: zstd's own default.
pub(super) const LEVEL: i32 = 3;
/// The most documents of a package that are read to find its manifests.
const MANIFESTS: usize = 10_000;
/// Zeros at the end of a tar.
const TAR_END: usize = 1024;
/// The length of a tar's blocks.
const BLOCK: u64 = 512;

/// A package that is put into a file.
#[derive(Clone, Copy)]
pub struct PackageSource<'a> {
    /// The repository that holds it.
    pub repository: &'a dyn Destination,
    /// Its manifest.
    pub manifest: &'a Document,
}

/// What a package file holds: a tar with every file of the first package, then a second tar, in wrapped frames, with the content
/// of the other packages that none before it has.
pub struct Packing<'a> {
    /// The first frame.
    pub(super) header: Bytes,
    pub(super) parts: Vec<Part<'a>>,
    /// Blobs of the packages that are left out.
    pub(super) omitted: usize,
}

/// A part of a tar: a file, or its end.
pub(super) struct Part<'a> {
    /// Whether it belongs to the second tar.
    pub second: bool,
    /// The file; `None` for the end.
    pub file: Option<PackedFile<'a>>,
}

/// A file of a package.
pub(super) struct PackedFile<'a> {
    /// Where it is read.
    pub repository: &'a dyn Destination,
    /// Its path in the tar.
    pub path: String,
    /// The file in the package.
    pub file: PackageFile,
}

impl<'a> Packing<'a> {
    /// Reads the manifests of `packages`, whose files are in the file without the content of `holdings`.
    ///
    /// # Errors
    /// A fault that names the document that cannot be read, or says why the packages cannot be in one file.
    pub async fn of(packages: &[PackageSource<'a>], holdings: &Holdings) -> Result<Self, Fault> {
        let mut header = Header { packages: Vec::new() };
        let (mut parts, mut known, mut images) = (Vec::new(), HashSet::new(), Vec::new());
        for (at, package) in packages.iter().enumerate() {
            let PackageSource { repository, manifest } = *package;
            let content = manifest.manifest().filter(|_| manifest.is_package());
            let content = content.ok_or_else(|| {
                Fault::stalled(
                    Reason::SourceFailed,
                    format!("{} in {} is not a package", manifest.digest(), repository.name()),
                )
            })?;
            if header
                .packages
                .iter()
                .any(|other| other.manifest.digest() == manifest.digest())
            {
                let message = format!("the package {} is named twice; name it once", manifest.digest());
                return Err(Fault::stalled(Reason::InvalidSpec, message));
            }
            let mut files = files_of(content)?;
            let manifests = read_manifests(repository, &files, &mut images).await?;
            describe_first(&mut files, &manifests);
            let omitted = omit(&mut files, holdings, &manifests);
            for file in files {
                let is_new = known.insert(file.digest.clone());
                if at == 0 || is_new {
                    let path = match at {
                        0 => file.path.clone(),
                        _ => blob_path(&file.digest),
                    };
                    parts.push(Part {
                        second: at > 0,
                        file: Some(PackedFile { repository, path, file }),
                    });
                }
            }
            // The second tar has the content of all packages behind the first.
            if at == 0 || at + 1 == packages.len() {
                parts.push(Part {
                    second: at > 0,
                    file: None,
                });
            }
            header.packages.push(Packed {
                manifest: manifest.clone(),
                config: small(repository, &content.config).await?,
                omitted,
            });
        }
        let text = header.encode();
        if text.len() as u64 > u64::from(HEADER_LIMIT) {
            let message = "the manifests of the packages are too long for one file; make several files".to_owned();
            return Err(Fault::stalled(Reason::PackageFailed, message));
        }
        Ok(Self {
            omitted: header.packages.iter().map(|package| package.omitted.len()).sum(),
            header: format::header(&text).map_err(too_long)?,
            parts,
        })
    }

    /// Bytes of the content of all files.
    pub fn size(&self) -> u64 {
        let files = self.parts.iter().filter_map(|part| part.file.as_ref());
        files.fold(0, |sum, packed| packed.file.size.saturating_add(sum))
    }

    /// The number of files.
    pub fn files(&self) -> usize {
        self.parts.iter().filter(|part| part.file.is_some()).count()
    }
}

impl Part<'_> {
    /// The frame before the content of the file, or the end of the tar, and the length of its content. `padding` is that of the
    /// file before.
    pub async fn start(&self, padding: usize) -> Result<(Bytes, usize), Fault> {
        let mut start = vec![0; padding];
        match &self.file {
            Some(packed) => start.extend(tar_header(&packed.path, 0o644, packed.file.size).await?),
            None => start.resize(padding + TAR_END, 0),
        }
        Ok((self.placed(checked(&start)?)?, start.len()))
    }

    /// `frame`, wrapped where the part belongs to the second tar.
    pub fn placed(&self, frame: Bytes) -> Result<Bytes, Fault> {
        match self.second {
            true => format::wrapped(&frame).map_err(too_long),
            false => Ok(frame),
        }
    }

    /// The zeros of the tar that follow the file's content: they go before the header of the next.
    pub fn padding(&self) -> usize {
        let size = self.file.as_ref().map_or(0, |packed| packed.file.size);
        usize::try_from(size.wrapping_neg() % BLOCK).unwrap_or_default()
    }
}

/// The frame of tar headers and padding, with a checksum: no digest of the package covers them.
fn checked(content: &[u8]) -> Result<Bytes, Fault> {
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.compress(content)
    };
    compress().map(Bytes::from).map_err(cannot_compress)
}

pub(super) fn cannot_compress(error: std::io::Error) -> Fault {
    Fault::retryable(Reason::PackageFailed, format!("it cannot be compressed: {error}"))
}

pub(super) fn too_long(error: TooLong) -> Fault {
    Fault::stalled(Reason::PackageFailed, error.to_string())
}

/// A small document of the package.
pub(super) async fn small(repository: &dyn Destination, blob: &Descriptor) -> Result<Bytes, Fault> {
    match repository.blob(&blob.digest, MANIFEST_LIMIT).await? {
        Some(content) => Ok(content),
        None => Err(missing(repository, &blob.digest)),
    }
}

pub(super) fn missing(repository: &dyn Destination, digest: &Digest) -> Fault {
    Fault::stalled(
        Reason::SourceFailed,
        format!(
            "{} does not hold {digest}; publish the package again",
            repository.name()
        ),
    )
}

/// The digests of all manifests of the package's images, which are added to `images`.
async fn read_manifests(
    repository: &dyn Destination,
    files: &[PackageFile],
    images: &mut Vec<NamedImage>,
) -> Result<BTreeSet<Digest>, Fault> {
    let mut found: BTreeMap<Digest, u64> = BTreeMap::new();
    let list = files.iter().find(|file| file.path == LAYOUT_INDEX);
    let mut open: Vec<Digest> = list.map(|file| file.digest.clone()).into_iter().collect();
    while let Some(digest) = open.pop() {
        let content = repository.blob(&digest, MANIFEST_LIMIT).await?;
        let content = content.ok_or_else(|| missing(repository, &digest))?;
        if list.is_some_and(|list| list.digest == digest) {
            add_images(images, NamedImage::of_index(&content)?)?;
        }
        let document = Document::parse(None, content).map_err(|error| {
            Fault::stalled(
                Reason::SourceFailed,
                format!("{digest} of {} cannot be read: {error}", repository.name()),
            )
        })?;
        let Content::Index(index) = &document.content else {
            continue;
        };
        for file in listed(files, index) {
            if found.insert(file.digest.clone(), file.size).is_none() {
                open.push(file.digest.clone());
            }
        }
        if found.len() > MANIFESTS {
            return Err(Fault::stalled(
                Reason::SourceFailed,
                format!("the package lists more than {MANIFESTS} manifests; make several packages of it"),
            ));
        }
    }
    Ok(found.into_keys().collect())
}
