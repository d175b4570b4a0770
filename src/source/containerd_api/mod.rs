//! containerd's API over its socket, as far as reading images needs it.

mod client;
mod messages;

pub(super) use client::Session;
pub use client::{Client, DEFAULT_ADDRESS};
#[cfg(test)]
pub(super) use messages::Any;
pub(super) use messages::{Envelope, ImageEvent};
