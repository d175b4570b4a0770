//! Images of a containerd without docker, for example the one whose images a node's kubelet pulls (namespace `k8s.io`).
//!
//! Names are looked up over its socket (`images.v1`); its events report changes (`events.v1`). Blobs are read from its
//! folder if possible (`source::content`). Manifests and blobs are copied unchanged. The containerd is never
//! asked to pull: an image that it does not hold is [`Reason::SourceNotFound`].
//!
//! The API is used with tonic and hand-written messages: the crate with all messages needs `protoc` to build, and
//! reading images takes only thirteen small messages.

mod watch;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub use super::containerd_api::{Client, DEFAULT_ADDRESS, ImageWriter};
pub use watch::ContainerdEvents;

use super::content::{ContentStore, ContentStores, StoreOwner};
use super::{BlobSink, Delivery, ImageSource, Resolved};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, Reference};

/// The namespace of Kubernetes' container runtime interface.
pub const DEFAULT_NAMESPACE: &str = "k8s.io";

/// The images of one namespace of a containerd.
#[derive(Clone, Debug)]
pub struct Containerd {
    client: Client,
    stores: ContentStores,
}

impl Containerd {
    /// Reads images from the containerd of `client`. Its root directory is at `root` for this process, or else where the
    /// containerd says. Where that cannot be read, content is read over its socket.
    pub fn new(client: Client, root: Option<PathBuf>) -> Self {
        let stores = ContentStores::new(root);
        Self { client, stores }
    }

    /// The same with another timeout for content that is not received.
    pub fn with_idle_timeout(&self, idle_timeout: Duration) -> Self {
        Self {
            client: self.client.with_idle_timeout(idle_timeout),
            stores: self.stores.clone(),
        }
    }

    /// The client of its API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    // The digest of the image `reference`. Kubernetes' runtime interface names an image by its tag and by its digest, both
    // with the default registry written out.
    async fn find(&self, reference: &Reference) -> Result<Digest, Fault> {
        let session = self.client.connect().await?;
        let tagged = reference.without_digest();
        if let Some(target) = session.image(&tagged.to_string()).await? {
            return Ok(target.digest);
        }
        if let (Some(digest), None) = (reference.digest(), reference.tag())
            && let Some(target) = session.image_by_digest(digest).await?
        {
            return Ok(target.digest);
        }
        // No image has this digest, but an index may list it.
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

    async fn open(&self, reference: &Reference, proof: &Digest) -> Result<ContentStore, Fault> {
        let opened = self.stores.open(None, Some(&self.client), proof).await;
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
        let resolved = content
            .resolve(StoreOwner::Containerd, &root, reference, platforms)
            .await?;
        match reference.digest() {
            Some(asked) if asked != resolved.identity.digest() => Err(mismatch(reference, asked, &root, &resolved)),
            _ => Ok(resolved),
        }
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        // An index that was made here is not in the store, but its entries are.
        let proof = image
            .documents
            .first()
            .map_or(image.identity.digest(), |document| document.digest());
        let content = self.open(&image.reference, proof).await?;
        content.deliver(StoreOwner::Containerd, image, sink).await
    }
}

// The cluster refers to the image by this digest, so no other image may be copied under it.
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
