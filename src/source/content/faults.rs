//! What goes wrong when an image is read from a content store.

use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest};
use crate::source::unreadable::UnreadableReason;

/// Which program a content store belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum StoreOwner {
    /// A docker engine with the containerd image store.
    Docker,
    /// A containerd that is used directly, such as by a kubelet.
    Containerd,
}

impl StoreOwner {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Docker => "the docker engine of this machine",
            Self::Containerd => "the containerd of this machine",
        }
    }

    /// How an image gets into the store again.
    pub(super) fn reload_advice(self) -> &'static str {
        match self {
            Self::Docker => "`docker pull` or load it there again",
            Self::Containerd => "pull or import it there again",
        }
    }
}

/// An image in a content store, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredImage<'a> {
    pub owner: StoreOwner,
    pub name: &'a str,
}

impl StoredImage<'_> {
    /// A blob that the image needs does not exist.
    pub fn missing(&self, digest: &Digest) -> Fault {
        let message = format!(
            "{} lists `{}` but does not hold its content {digest}; {}, or choose by platforms what it holds",
            self.owner.name(),
            self.name,
            self.owner.reload_advice()
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    /// The content of a blob does not match its digest or length; `how` says in which way.
    pub fn damaged(&self, digest: &Digest, how: &str) -> Fault {
        let message = format!(
            "the content {digest} of `{}` is damaged in the store of {} ({how}); remove the image there, then {}",
            self.name,
            self.owner.name(),
            self.owner.reload_advice()
        );
        Fault::retryable(Reason::DigestMismatch, message)
    }

    /// A blob has `length` bytes instead of its descriptor's.
    pub fn wrong_length(&self, blob: &Descriptor, length: u64) -> Fault {
        let how = format!("it has {length} bytes instead of {}", blob.size);
        self.damaged(&blob.digest, &how)
    }

    /// A document has `length` bytes, more than `limit`.
    pub fn too_long(&self, digest: &Digest, length: u64, limit: u64) -> Fault {
        let message = format!(
            "{} keeps {digest} of `{}` with {length} bytes, more than the {limit} that such a document may have",
            self.owner.name(),
            self.name
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    /// The files of the store cannot be read.
    pub fn unreadable(&self, reason: &UnreadableReason) -> Fault {
        let message = format!(
            "`{}` cannot be read from the content store of {}: {reason}; it is retried; check the disk there if it fails again",
            self.name,
            self.owner.name()
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    /// The image cannot be used; `what` says why.
    pub fn unusable(&self, what: &str) -> Fault {
        let message = format!(
            "`{}` cannot be read from {}: {what}; {}",
            self.name,
            self.owner.name(),
            self.owner.reload_advice()
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    /// The store has the image, but not for `platform`.
    pub fn platform_not_found(&self, platform: &str) -> Fault {
        let message = format!(
            "{} does not hold {platform} of `{}`; pull or build it there for that platform, or change platforms",
            self.owner.name(),
            self.name
        );
        Fault::retryable(Reason::SourceNotFound, message)
    }
}
