//! A minimal copy: a destination as a blob sink.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use jackal_operator::fault::Fault;
use jackal_operator::oci::{Descriptor, Digest, Platform, Reference};
use jackal_operator::source::{Blob, BlobSink, ImageSource, Resolved, StoredBlob};
use jackal_operator::transfer::{Destination, Upload};

/// Passes blobs from a source to a destination.
pub struct Sink<'a> {
    destination: &'a dyn Destination,
    /// Number of transferred blobs.
    pub moved: AtomicUsize,
}

#[async_trait]
impl BlobSink for Sink<'_> {
    async fn existing_size(&self, digest: &Digest, _size: Option<u64>) -> Result<Option<u64>, Fault> {
        self.destination.holds(digest).await
    }

    async fn existing_layer(&self, _diff_id: &Digest) -> Result<Option<Descriptor>, Fault> {
        Ok(None)
    }

    async fn store(&self, blob: Blob<'_>) -> Result<StoredBlob, Fault> {
        self.moved.fetch_add(1, Ordering::Relaxed);
        let upload = Upload {
            digest: blob.digest,
            size: blob.size,
            bytes: blob.bytes,
        };
        let (digest, size) = self.destination.upload(upload).await?;
        Ok(StoredBlob {
            content_digest: digest.clone(),
            descriptor: Descriptor::new("application/octet-stream", digest, size),
        })
    }
}

/// Copies an image to `destination` under `tag`; returns it and the number of transferred blobs.
pub async fn copy(
    source: &dyn ImageSource,
    reference: &str,
    platforms: &[&str],
    destination: &dyn Destination,
    tag: &str,
) -> Result<(Resolved, usize), Fault> {
    let reference: Reference = reference.parse().expect("a reference");
    let platforms: Vec<Platform> = platforms.iter().map(|text| text.parse().expect("a platform")).collect();
    let image = source.resolve(&reference, &platforms).await?;
    let sink = Sink {
        destination,
        moved: AtomicUsize::new(0),
    };
    let delivered = source.deliver(&image, &sink).await?;
    let (root, children) = delivered.documents.split_last().expect("a root");
    for child in children {
        destination.publish(child, None).await?;
    }
    destination.publish(root, Some(tag)).await?;
    Ok((image, sink.moved.into_inner()))
}
