//! A package file that is the destination of a build: images and tars are stored in it when they arrive, once, and the package
//! that is published decides what they are called in it.
//!
//! Lengths and digests of an engine's layers are known only when they have passed. So a file's header in the tar is a frame
//! whose length does not depend on its content, and is written when the package's manifest is known; so is the header of the
//! file, which has room for it at the beginning. Small content waits in memory, because not all of it becomes part of the package.

mod repository;
mod source;
mod store;

pub use repository::MadeRepository;
pub use source::InOrder;
pub use store::MadeFile;
