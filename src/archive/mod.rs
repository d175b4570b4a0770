//! Package files: a package in one file, `NAME.tar.zst`, that carries it across an air gap.
//!
//! The file is a tar in seekable Zstandard ([`format`]). The tar has the files of the package at their paths, as
//! `zarf package create` lays them out. Content that cannot be compressed further is stored in raw blocks, so that it can be read
//! at any offset. Metadata comes first: a skippable frame with the package's manifest and configuration ([`Header`]), then
//! the definition, its signature, the checksums and the manifests of the images, so that a reader of a pipe can verify them before
//! the first layer arrives.
//!
//! A file may hold several packages ([`Packing`]). Other tools see the first. What the others have beside it is a second tar, each
//! of whose frames is wrapped in a skippable frame.
//!
//! Archives of other tools are read too ([`open`] tells the format by the content): packages of Jackal and Zarf, OCI archives and
//! layouts, files of `docker save`, archives of hauler. All of them yield [`Contents`]: a tar, and where the content with each digest
//! lies in it. What a format lacks is made when it is opened: the manifest of a package's artifact, the manifests of images of
//! `docker save`. A compressed tar without a seek table ([`StreamTar`]) is decompressed from its beginning; its small documents are kept
//! when it is listed, so that `load`, which reads in the order of the file, decompresses it twice.

mod artifact;
mod attachment;
mod check;
mod compare;
mod contents;
mod coordinates;
mod diff;
mod differential;
mod directory;
mod docker_save;
pub mod format;
mod frame_content;
#[cfg(fuzzing)]
pub mod fuzzing;
mod header;
mod image_list;
mod input;
mod inspect;
pub mod inventory;
mod layer_files;
mod load;
mod load_images;
mod load_stream;
pub mod made;
mod members;
mod oci_layout;
mod omitted;
mod open;
mod order;
mod package_tar;
mod packing;
mod partial;
pub mod parts;
mod publish;
mod read;
mod resume;
mod retry;
mod sboms;
mod sections;
mod signed;
mod stream_tar;
mod tar_content;
#[cfg(test)]
mod testing;
pub mod unpack;
mod write;

pub use artifact::StoredArchive;
pub use check::{Checked, check};
pub use compare::compare;
pub use contents::{Archive, Contents};
pub use coordinates::Coordinates;
pub use diff::{Change, Difference, ImageChange, Overlap, PackageChange, SbomChange, VersionChange};
pub use differential::DifferentialPackage;
pub use header::{HEADER_LIMIT, Header, Packed};
pub use image_list::NamedImage;
pub use input::{DiskFile, RandomAccess};
pub use inspect::{
    Amount, ComponentSummary, ImageSummary, Inspection, PackageSummary, Shared, SignatureState, inspect,
};
pub use layer_files::{LayerFile, layer_files};
pub use load::{Loaded, LoadedImage, Target, load, missing, verify_signatures};
pub use load_images::{LoadedImages, load_images};
pub use load_stream::load_stream;
pub use members::{Extent, Member, list};
pub use omitted::Missing;
pub use open::open;
pub use order::{PackageFile, files_of};
pub use packing::{PackageSource, Packing};
pub use partial::PartialFile;
pub use publish::{ArchivedPackage, PublishedImage};
pub use read::Reader;
pub use resume::Kept;
pub use retry::Retries;
pub use stream_tar::{StreamCompression, StreamTar};
pub use tar_content::{PlainTar, SeekableTar, TarContent};
pub use write::{Written, write};
