//! Where images come from: the contract that every source keeps, and its implementations.
//!
//! A source *resolves* a reference to what can be known before any layer is read, then *delivers* the blobs
//! that the destination lacks to a [`BlobSink`], in whatever order is natural for it: a registry in parallel,
//! an export of docker in one pass. It returns the manifests, which become visible only after everything
//! that they refer to was verified.

mod chunks;
mod confined_directory;
pub mod containerd;
mod content;
pub mod docker;
mod read_ahead;
mod reconnection;
mod registry;
mod repository;
mod reread;
mod unreadable;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::budget::Reservation;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Platform, Reference};
use crate::registry::Credentials;

pub(crate) use confined_directory::ConfinedDirectory;
pub use registry::RegistrySource;
pub use repository::RepositoryReader;
pub(crate) use reread::Rereads;

/// The content of a blob as it passes. An error ends it; so does a clean end before the announced size.
pub type ByteStream<'a> = BoxStream<'a, Result<Bytes, Fault>>;

/// A way in which an image's bytes leave their source, as it stands in `status.method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Method {
    /// Read from a registry.
    Registry,
    /// The folder of a docker engine: its layers' files and what it noted of their tars.
    DockerGraph,
    /// The content store of a containerd, read directly: its blobs as they are stored.
    ContainerdContent,
    /// The same blobs, asked of the containerd over its socket.
    ContainerdApi,
    /// The docker engine's save API, streamed once.
    DockerSave,
    /// The docker engine pushed the image by itself.
    DockerPush,
    /// Nothing was read: the destination has it all.
    Unchanged,
}

impl Method {
    /// The reason for which the image left its source in this way and not in a better one, as
    /// `status.methodReason` has it.
    pub fn declined_reason(self) -> &'static str {
        match self {
            Self::DockerPush => "ExportRefused",
            Self::Registry | Self::Unchanged => "ContentAdjusted",
            _ => "FolderUnreadable",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// What a source calls an image before its layers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The digest of its manifest or index, which is carried unchanged.
    Manifest(Digest),
    /// The digest of its configuration: an engine that keeps no manifest has only this. `diff_ids` are the
    /// digests of the uncompressed layers, lowest first, as the configuration lists them.
    Config {
        /// What docker calls the image ID.
        image_id: Digest,
        /// One a layer, lowest first; a digest may repeat.
        diff_ids: Vec<Digest>,
    },
}

impl Identity {
    /// The digest, whichever it is.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Manifest(digest) => digest,
            Self::Config { image_id, .. } => image_id,
        }
    }
}

/// An image that was found at its source.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// The platforms that were asked for; empty means all that the source has.
    pub platforms: Vec<Platform>,
    /// What the source calls it.
    pub identity: Identity,
    /// The index that the platforms were chosen from, where the image is not all of it.
    pub chosen_from: Option<Digest>,
    /// Every manifest, children before the index that lists them, the root last. Empty when only the
    /// delivery tells.
    pub documents: Vec<Document>,
    /// The memory that the documents take, held as long as they are.
    pub memory: Arc<Reservation>,
    /// Bytes that the image has at its source, as far as it says: for progress, not for a decision.
    pub size: Option<u64>,
}

/// What came out of a delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Every manifest, children before the index that lists them, the root last. Never empty.
    pub documents: Vec<Document>,
    /// How the bytes came; the last resort of several.
    pub method: Method,
    /// Why a better way was not taken, or not for all of it, for a person. The same in two tries that go the
    /// same way.
    pub declined: Option<String>,
}

/// What a blob is to the image, which decides whether its form may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Content that a manifest names already: it is carried to the byte.
    Exact,
    /// An uncompressed layer that no manifest names yet: the destination may choose its compression.
    Diff,
}

/// A blob on its way to the destination.
pub struct Blob<'a> {
    /// Whether its form may be chosen.
    pub form: Form,
    /// The digest of `bytes`, when it is known before them. It is verified.
    pub digest: Option<Digest>,
    /// The length of `bytes`, when it is known before them. It is verified.
    pub size: Option<u64>,
    /// The content. Nothing of the source is held before the first of it is asked for.
    pub bytes: ByteStream<'a>,
}

/// A blob that stands in the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// The digest of the bytes that the source gave.
    pub content: Digest,
    /// What stands in the destination. The media type is that of an OCI layer for [`Form::Diff`], and
    /// `application/octet-stream` for [`Form::Exact`], where the source knows better.
    pub stored: Descriptor,
}

/// Where an engine may push an image by itself.
#[derive(Clone, Debug)]
pub struct PushTarget {
    /// Host and port of the registry.
    pub host: String,
    /// The repository in it.
    pub repository: String,
    /// The tag that the image gets there.
    pub tag: String,
    /// Who pushes; without it, anonymously.
    pub credentials: Option<Credentials>,
}

/// Where a source delivers to. Safe to use from several places at once; the number of blobs on their way at
/// once bounds the memory.
#[async_trait]
pub trait BlobSink: Send + Sync {
    /// The size in bytes of the blob in the destination, if it is there. A blob that can be had from another
    /// repository of the destination without moving bytes is brought and counts as there. `size` is the
    /// blob's size when the source knows it, for progress.
    async fn holds(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault>;

    /// The stored form of an uncompressed layer, if the destination holds it already.
    async fn holds_diff(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault>;

    /// Takes a blob to its end, verifies it and stores it. On any error nothing is visible under its digest. When
    /// another transfer is just bringing the same, it waits for that one, and reads nothing if that one succeeds.
    async fn take(&self, blob: Blob<'_>) -> Result<StoredBlob, Fault>;

    /// Where an engine may push the image by itself: `None` where only this process writes. That the tag may be
    /// written was looked at.
    async fn push_target(&self) -> Result<Option<PushTarget>, Fault> {
        Ok(None)
    }

    /// A manifest or index that stands in the destination already.
    async fn document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        let _ = digest;
        Ok(None)
    }
}

/// Whether a failure to read an image may come of its content being deleted, which some registries refuse then.
pub fn may_be_gone(fault: &Fault) -> bool {
    matches!(
        fault.reason,
        Reason::SourceNotFound | Reason::SourceFailed | Reason::AuthenticationFailed
    )
}

/// A place that images can be read from.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Finds the image and fixes which one it is. `platforms` chooses from an index; empty means all.
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault>;

    /// Brings every blob that `sink` lacks, and returns the manifests. Foreign layers come where the source has them, and
    /// are no failure where it has not.
    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault>;

    /// Whether the source has `layer`, a foreign one of the image at `reference`, which [`ImageSource::deliver`] then
    /// brings.
    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        let _ = (reference, layer);
        Ok(false)
    }

    /// Finds the referrer that has the tag or digest `identifier` in the repository of `reference`, with every manifest
    /// that it lists, for [`ImageSource::deliver`]; `None` where it or one of these is not there.
    async fn referrer(&self, reference: &Reference, identifier: &str) -> Result<Option<Resolved>, Fault> {
        let _ = (reference, identifier);
        Ok(None)
    }

    /// The repository that holds the image and its referrers, such as signatures; an engine has none.
    fn repository(&self, reference: &Reference) -> Option<Box<dyn RepositoryReader>> {
        let _ = reference;
        None
    }
}
