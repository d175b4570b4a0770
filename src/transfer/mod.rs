//! Brings an image from a source to a destination.

mod compress;
mod destination;
mod image;
mod progress;
mod sink;

pub use destination::{Destination, Upload};
pub use image::{Estimate, Outcome, Standing, Transfer};
pub use progress::Progress;
pub use sink::KnownBlobs;
