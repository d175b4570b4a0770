//! Brings an image from a source to a destination.

mod destination;

pub use destination::{Destination, Upload};
