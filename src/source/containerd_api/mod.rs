//! containerd's API over its socket, as far as reading and storing images needs it.

mod client;
mod messages;
mod write_messages;
mod writer;

pub(super) use client::Session;
pub use client::{Client, DEFAULT_ADDRESS};
#[cfg(test)]
pub(super) use messages::Any;
pub(super) use messages::{Envelope, ImageEvent};
pub use writer::ImageWriter;
