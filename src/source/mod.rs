//! Image sources: the trait [`ImageSource`] and its implementations.
//!
//! A source *resolves* a reference to what can be known before any layer is read. It then *delivers* the blobs that the
//! destination lacks to a [`BlobSink`], in the order that is natural for it: a registry in parallel, a docker export in
//! one pass. It returns the manifests, which become visible only after all their blobs were verified.
//!
//! # Methods
//!
//! For an engine's image the methods are tried in this order:
//!
//! - classic docker store: `DockerGraph` (the engine's folder), `DockerSave` (an export) for the remaining layers,
//!   `DockerPush` (the engine pushes the image);
//! - containerd store: `ContainerdContent` (the store's folder), `ContainerdApi` (the socket), `DockerSave`,
//!   `DockerPush`.
//!
//! `status.methodMessage`, the log and the report of `build` say which methods were not used and why.
//!
//! # Reading files
//!
//! Files are read by a separate thread that requests large files from the disk 16 MiB ahead; the kernel's own window of
//! 128 KiB does not saturate a fast disk. Most files are small: four threads look up and open the next files of a layer in
//! parallel, 16 at a time, and request them, while the first thread reads and checks the previous ones. The chunk buffers
//! belong to the process, not to a layer, and are reused.
//!
//! # Repeated reads
//!
//! When a registry lost the beginning of an upload, the source reads that blob again (`reread`, three reads in total):
//! a registry is asked for the blob, a folder is read, an engine exports again what has not arrived.

mod buffers;
mod chunks;
mod confined_directory;
pub mod containerd;
mod containerd_api;
mod content;
pub mod docker;
mod image_change;
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

pub(crate) use buffers::{BUFFER, Buffer};
pub(crate) use confined_directory::ConfinedDirectory;
pub use image_change::ImageChange;
pub use registry::RegistrySource;
pub use repository::RepositoryReader;
pub(crate) use reread::Rereads;

/// The content of a blob. An error ends it. An end before the announced size is an error too.
pub type ByteStream<'a> = BoxStream<'a, Result<Bytes, Fault>>;

/// How an image's bytes are read from their source, as in `status.method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Method {
    /// Read from a registry.
    Registry,
    /// From the directory of a docker engine: the files of its layers and their tar-splits.
    DockerGraph,
    /// From the directory of the content store of a containerd: its blobs as they are stored.
    ContainerdContent,
    /// The same blobs, over the socket of the containerd.
    ContainerdApi,
    /// By the docker engine's save API, streamed once.
    DockerSave,
    /// The docker engine pushed the image itself.
    DockerPush,
    /// Nothing was read: the destination has all of it.
    Unchanged,
}

impl Method {
    /// The reason why no better method was used, as in `status.methodReason`.
    pub fn method_reason(self) -> &'static str {
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

/// The identity of an image at its source before its layers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The digest of its manifest or index, which is copied unchanged.
    Manifest(Digest),
    /// The digest of its configuration: an engine that keeps no manifest has only this. `diff_ids` are the
    /// digests of the uncompressed layers, lowest first, as the configuration lists them.
    Config {
        /// The image ID in docker.
        image_id: Digest,
        /// One per layer, lowest first; a digest may repeat.
        diff_ids: Vec<Digest>,
    },
}

impl Identity {
    /// The digest of either.
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
    /// The reference that was resolved.
    pub reference: Reference,
    /// The platforms that were asked for; empty means all that the source has.
    pub platforms: Vec<Platform>,
    /// Its identity at the source.
    pub identity: Identity,
    /// The index from which platforms were selected, if the image is not all of it.
    pub chosen_from: Option<Digest>,
    /// Every manifest, children before the index that lists them, the root last. Empty if they are
    /// known only after the delivery.
    pub documents: Vec<Document>,
    /// The memory that is reserved for the documents, as long as they are kept.
    pub memory: Arc<Reservation>,
    /// The size in bytes at the source, if it is known: for progress only.
    pub size: Option<u64>,
}

/// The result of a delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Every manifest, children before the index that lists them, the root last. Never empty.
    pub documents: Vec<Document>,
    /// How the bytes were read; of several methods, the last one.
    pub method: Method,
    /// Why a better method was not used, or not for all of it, for a person. Repeated attempts with the same result have the
    /// same text.
    pub method_message: Option<String>,
}

/// Whether the destination may choose the compression of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Content that a manifest names already: it is stored unchanged.
    Exact,
    /// An uncompressed layer that no manifest names yet: the destination may choose its compression.
    Diff,
}

/// A blob that is sent to the destination.
pub struct Blob<'a> {
    /// Whether its compression may be chosen.
    pub form: Form,
    /// The digest of `bytes`, if it is known before. It is verified.
    pub digest: Option<Digest>,
    /// The length of `bytes`, if it is known before. It is verified.
    pub size: Option<u64>,
    /// The content. The source reads nothing before it is polled.
    pub bytes: ByteStream<'a>,
}

/// A blob that exists in the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// The digest of the bytes that the source sent.
    pub content_digest: Digest,
    /// The blob in the destination. The media type is that of an OCI layer for [`Form::Diff`], and
    /// `application/octet-stream` for [`Form::Exact`], where the source knows better.
    pub descriptor: Descriptor,
}

/// Where an engine may push an image itself.
#[derive(Clone, Debug)]
pub struct PushTarget {
    /// Host and port of the registry.
    pub host: String,
    /// The repository in it.
    pub repository: String,
    /// The tag that the image gets there.
    pub tag: String,
    /// The credentials for the push; without them it is anonymous.
    pub credentials: Option<Credentials>,
}

/// The destination of a delivery. Blobs may be stored concurrently; each takes memory until it is stored.
#[async_trait]
pub trait BlobSink: Send + Sync {
    /// The size in bytes of the blob in the destination, if it exists. A blob that can be mounted from another repository of
    /// the destination is mounted, and exists then. `size` is the blob's size if the source knows it, for progress.
    async fn existing_size(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault>;

    /// The stored form of an uncompressed layer, if the destination has it.
    async fn existing_layer(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault>;

    /// Reads a blob to its end, verifies it and stores it. On any error nothing is visible under its digest. If another transfer
    /// sends the same blob, this waits for it, and reads nothing if it succeeds.
    async fn store(&self, blob: Blob<'_>) -> Result<StoredBlob, Fault>;

    /// Where an engine may push the image itself: `None` if only this process may write. That the tag may be written was
    /// checked.
    async fn push_target(&self) -> Result<Option<PushTarget>, Fault> {
        Ok(None)
    }

    /// A manifest or index in the destination, if it exists.
    async fn document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        let _ = digest;
        Ok(None)
    }
}

/// Whether a failure to read an image may mean that its content was deleted. Some registries refuse access then.
pub fn may_mean_deleted(fault: &Fault) -> bool {
    matches!(
        fault.reason,
        Reason::SourceNotFound | Reason::SourceFailed | Reason::AuthenticationFailed
    )
}

/// A source of images.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Finds the image and its identity. `platforms` selects from an index; empty means all.
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault>;

    /// Transfers every blob that `sink` lacks, and returns the manifests. Foreign layers are transferred if the source has
    /// them; otherwise they are skipped.
    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault>;

    /// Whether the source has the foreign layer `layer` of the image `reference`, which [`ImageSource::deliver`] then
    /// transfers.
    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        let _ = (reference, layer);
        Ok(false)
    }

    /// Finds the referrer that has the tag or digest `identifier` in the repository of `reference`, with every manifest
    /// that it lists, for [`ImageSource::deliver`]; `None` if it or one of these does not exist.
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
