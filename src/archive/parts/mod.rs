//! Package files in parts, for media that do not take the whole: `NAME.tar.zst.part001` and so on, at most 999, in the order of the
//! file. `NAME.tar.zst.part000` lists them ([`PartList`]); Zarf reads its digest, length and count and ignores the rest.
//!
//! Parity parts (`NAME.tar.zst.parity001`) replace as many lost or damaged parts as there are of them: a Reed-Solomon code over the
//! bytes at equal offsets of all parts. `NAME.tar.zst.parity000` is a copy of the list. Zarf takes every file that matches
//! `NAME.tar.zst.part*` for a part, so no other name begins like that.

mod code;
mod files;
mod flaws;
mod join;
mod list;
mod name;
mod open;
mod repair;
mod temporary;
mod write;

#[cfg(test)]
mod tests;

pub use code::PART_UNIT;
pub use flaws::{Flaw, PartSet, Wrong};
pub use join::{Joined, join, join_to};
pub use list::{PARITY_LIMIT, PARTS_LIMIT, Part, PartList};
pub use name::PartName;
pub use open::{PartsFile, has_parts};
pub use repair::{Repaired, repair};
pub use write::{PartWriter, PendingParts, SplitInto, split, write_in_parts};

use crate::fault::{Fault, Reason};

/// Runs `work`, which blocks, on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Fault::retryable(Reason::InternalError, error.to_string()))?
}

/// A file cannot be written: no space, or no right to.
fn unwritable(path: &std::path::Path, error: impl std::fmt::Display) -> Fault {
    let message = format!("{} cannot be written: {error}", path.display());
    Fault::retryable(Reason::PushFailed, message)
}
