//! Brings an image from a source to a destination.

mod destination;
mod layout;
mod registry;

pub use destination::{Destination, Upload};
pub use layout::LayoutDestination;
pub use registry::RegistryDestination;
