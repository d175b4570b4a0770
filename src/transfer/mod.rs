//! Copies an image from a source to a destination.
//!
//! # Shared knowledge about one registry
//!
//! [`KnownBlobs`] exists once for each registry and its credentials. It stores which repository holds a blob (to mount
//! it from), as which blob a layer was stored, and which blobs are being sent. A task that needs a blob which another
//! task is sending waits for that task and then mounts the blob. If the sender fails or is cancelled, one of the
//! waiting tasks sends it. Only a streaming task holds such a reservation, and a holder waits for no other. The order
//! is: reservation, permit at the source, write request, read request; nothing is acquired in the opposite direction. A
//! stream starts when it is first read, so a waiting task holds no connection and no thread.
//!
//! The requests of a process to one registry are limited by its client (eight reads, eight writes), not by the number
//! of images. A write request holds at most 4 MiB and its window.
//!
//! # Referrers
//!
//! With `referrers: Copy`, the referrers (signatures, attestations, SBOMs) are copied after the image's children and
//! before its tag, so that a client that finds the image by its tag finds its signatures. A subject need not exist
//! before its referrers.
//!
//! Referrers are searched at the root and at each platform, by the listing and by cosign's three tags, and at the
//! referrers found, by the listing and the tag of their signature: three levels, 256 referrers in total. A check of an
//! image that is already in the destination costs one listing and one HEAD at the source, at the same time, for the
//! root only, and one listing at the destination if the source has referrers. A listed referrer that cannot be read is
//! listed once more, and fails the image if it is still listed. A referrer with another subject is ignored and never
//! makes an image incomplete, so a repeat writes nothing. The manifest under a tag is read by the tag and identified by
//! its own digest, because some registries return another digest in HEAD or have no manifest under the digest that they
//! return.

mod checked_content;
mod compress;
mod destination;
mod image;
mod known_blobs;
mod layout;
mod previous_image;
mod progress;
mod referrers;
mod registry;
mod sink;
mod tags;

pub use destination::{Destination, Upload};
pub use image::{DestinationState, Estimate, Outcome, Transfer};
pub use known_blobs::KnownBlobs;
pub use layout::LayoutDestination;
pub use progress::Progress;
pub use registry::RegistryDestination;
