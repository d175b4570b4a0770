//! What an installation needs of the archive: the two images, and the files of the operator's image.
//!
//! Everything that depends on the version comes from the operator's image: its program, the program of the seed and the objects. So
//! an archive of another version installs that version, whatever program reads it.

mod files;
mod images;

pub use self::files::{NodeFiles, node_files};
pub use self::images::{PackedImage, PackedImages, find};
