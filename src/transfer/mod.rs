//! Copies an image from a source to a destination.

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
