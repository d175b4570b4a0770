//! Delivers the blobs of an image one after the other, so that the same image gives the same file.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::fault::Fault;
use crate::oci::{Descriptor, Digest, Document, Platform, Reference, distinct_blobs};
use crate::source::{Blob, BlobSink, Delivery, ImageSource, Resolved, StoredBlob};

/// A source whose blobs come one after the other: in the order of the manifests, or where these are not known before, as those of
/// an engine that has none, in the order in which the source begins with them.
pub struct InOrder(pub Arc<dyn ImageSource>);

#[async_trait]
impl ImageSource for InOrder {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        self.0.resolve(reference, platforms).await
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        let turn = Mutex::new(());
        let ordered = |only| OrderedSink {
            sink,
            turn: &turn,
            only,
        };
        for blob in distinct_blobs(&image.documents) {
            if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_none() {
                self.0.deliver(image, &ordered(Some(&blob.digest))).await?;
            }
        }
        // What is not in these lists, such as foreign layers, and what the delivery was like.
        self.0.deliver(image, &ordered(None)).await
    }

    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        self.0.has_foreign_layer(reference, layer).await
    }
}

/// A sink that stores one blob at a time.
struct OrderedSink<'s> {
    sink: &'s dyn BlobSink,
    /// Whoever asks first has it first.
    turn: &'s Mutex<()>,
    /// The only blob that it lacks.
    only: Option<&'s Digest>,
}

#[async_trait]
impl BlobSink for OrderedSink<'_> {
    async fn existing_size(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        match self.only {
            // Sources that have manifests know the size.
            Some(only) if only != digest => Ok(Some(size.unwrap_or_default())),
            _ => self.sink.existing_size(digest, size).await,
        }
    }

    async fn existing_layer(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault> {
        self.sink.existing_layer(diff_id).await
    }

    async fn store(&self, blob: Blob<'_>) -> Result<StoredBlob, Fault> {
        let _turn = self.turn.lock().await;
        self.sink.store(blob).await
    }

    async fn document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        self.sink.document(digest).await
    }
}
