//! Images of a containerd by itself, such as the one whose images a node's kubelet pulls (namespace `k8s.io`).
//!
//! Names are looked up over its socket, blobs read from its folder where that can be. Manifests and blobs are
//! carried to the byte. It is never asked to pull: what it does not hold is [`Reason::SourceNotFound`].

mod client;
mod watch;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub(in crate::source) use client::Session;
pub use client::{Client, DEFAULT_ADDRESS};
pub use watch::ContainerdEvents;

use super::content::{Content, ContentStores, Keeper};
use super::{BlobSink, Delivery, ImageSource, Resolved};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, Reference};

/// The namespace of Kubernetes' runtime interface.
pub const DEFAULT_NAMESPACE: &str = "k8s.io";

/// The images of one namespace of a containerd.
#[derive(Clone, Debug)]
pub struct Containerd {
    client: Client,
    access: ContentStores,
}

impl Containerd {
    /// Takes images from the containerd behind `client`, whose root this process finds at `root`, or else where
    /// it says that it is. Where that cannot be read its content comes over its socket.
    pub fn new(client: Client, root: Option<PathBuf>) -> Self {
        let access = ContentStores::new(root);
        Self { client, access }
    }

    /// The same, which may stand still for `idle` in a transfer.
    pub fn with_idle_timeout(&self, idle: Duration) -> Self {
        Self {
            client: self.client.with_idle_timeout(idle),
            access: self.access.clone(),
        }
    }

    /// How it is reached.
    pub fn client(&self) -> &Client {
        &self.client
    }

    // What stands under `reference`. Kubernetes' runtime interface names an image by its tag and by its digest, both
    // with the registry that an unwritten one means.
    async fn find(&self, reference: &Reference) -> Result<Digest, Fault> {
        let session = self.client.connect().await?;
        let tagged = reference.without_digest();
        if let Some(target) = session.image(&tagged.to_string()).await? {
            return Ok(target.digest);
        }
        if let (Some(digest), None) = (reference.digest(), reference.tag())
            && let Some(target) = session.image_of(digest).await?
        {
            return Ok(target.digest);
        }
        // No name's own digest; it may be that of one image of an index.
        if let (Some(digest), None) = (reference.digest(), reference.tag())
            && session.size(digest).await?.is_some()
        {
            return Ok(digest.clone());
        }
        let message = format!(
            "no image `{tagged}` in the namespace {} of the containerd of this machine; \
             pull or import it there, or set source: Registry",
            self.client.namespace()
        );
        Err(Fault::retryable(Reason::SourceNotFound, message))
    }

    async fn open(&self, reference: &Reference, proof: &Digest) -> Result<Content, Fault> {
        let opened = self.access.open(None, Some(&self.client), proof).await;
        opened.map_err(|why| {
            let message = format!(
                "`{}` cannot be read from the containerd of this machine: {why}",
                reference.familiar()
            );
            Fault::retryable(Reason::SourceFailed, message)
        })
    }
}

#[async_trait]
impl ImageSource for Containerd {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let root = self.find(reference).await?;
        let content = self.open(reference, &root).await?;
        let resolved = content.resolve(Keeper::Containerd, &root, reference, platforms).await?;
        match reference.digest() {
            Some(asked) if asked != resolved.identity.digest() => Err(mismatch(reference, asked, &root, &resolved)),
            _ => Ok(resolved),
        }
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        // An index of our own is not in the store, but what it lists is.
        let proof = image
            .documents
            .first()
            .map_or(image.identity.digest(), |document| document.digest());
        let content = self.open(&image.reference, proof).await?;
        content.deliver(Keeper::Containerd, image, sink).await
    }
}

// A digest is the image's name in the cluster, so nothing else can be brought under it.
fn mismatch(reference: &Reference, asked: &Digest, root: &Digest, resolved: &Resolved) -> Fault {
    let found = resolved.identity.digest();
    let name = reference.familiar();
    let message = match asked == root {
        true => format!(
            "`{name}` names an index of which the containerd of this machine gives only {found}; \
             name that digest or only a tag, or pull the whole index there"
        ),
        false => format!(
            "`{name}` in the containerd of this machine is the image {root}; \
             tag the right image there, or change the digest"
        ),
    };
    Fault::retryable(Reason::DigestMismatch, message)
}
