//! Changes of the images of an engine or a containerd.

use crate::fault::Fault;

/// A change of the images of an engine or a containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageChange {
    /// Events may have been missed until now, and none will be from now on: check every image. The first
    /// change, and the first after every lost connection.
    Resync,
    /// An image was added, removed or renamed. The name is in docker's familiar form; without one (an image
    /// that was loaded, imported or deleted, and on a classic store also one that lost a name) any name may
    /// refer to another image now.
    Changed {
        /// Such as `app:dev`.
        name: Option<String>,
    },
    /// The engine cannot be reached any more, and why. Returned once; [`ImageChange::Resync`] shows that it is back.
    Lost(Fault),
}
