//! What an installation needs of the archive: the two images, and the files of the operator's image.
//!
//! Everything that depends on the version comes from the operator's image: its program, the program of the seed and the objects. So
//! an archive of another version installs that version, whatever program reads it.

mod files;
mod images;
mod layout;

pub use self::files::{NodeFiles, node_files};
pub use self::images::{PackedImage, PackedImages, find};
pub use self::layout::{LAYOUT, PROGRAM, seed_files};
use crate::archive::Archive;
use crate::oci::Digest;

/// The digest of what `archive` holds: its packages and images. It does not depend on the form of the archive.
pub fn identity(archive: &Archive) -> Digest {
    let packages = archive
        .packages()
        .iter()
        .map(|package| package.manifest.digest().to_string());
    let images = archive.images().iter().map(|image| match &image.name {
        Some(name) => format!("{name} {}", image.root.digest),
        None => image.root.digest.to_string(),
    });
    let mut lines: Vec<String> = packages.chain(images).collect();
    lines.sort();
    lines.dedup();
    Digest::of(lines.join("\n").as_bytes())
}
