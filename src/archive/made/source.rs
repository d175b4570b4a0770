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

#[cfg(test)]
mod tests {
    use std::sync::Mutex as SyncMutex;

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};

    use super::*;
    use crate::oci::Manifest;
    use crate::source::{Form, Identity, Method};

    /// Begins with all its blobs at once. The first of them comes last, unless it comes alone.
    struct Concurrent;

    const BLOBS: [&[u8]; 3] = [b"the first", b"the second", b"the third"];

    #[async_trait]
    impl ImageSource for Concurrent {
        async fn resolve(&self, _: &Reference, _: &[Platform]) -> Result<Resolved, Fault> {
            unreachable!("it is resolved")
        }

        async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
            let stores = BLOBS.into_iter().enumerate().map(|(at, content)| async move {
                let digest = Digest::of(content);
                if sink.existing_size(&digest, Some(content.len() as u64)).await?.is_some() {
                    return Ok(());
                }
                let bytes = stream::once(async move {
                    for _ in at..BLOBS.len() {
                        tokio::task::yield_now().await;
                    }
                    Ok(Bytes::from_static(content))
                });
                let blob = Blob {
                    form: Form::Exact,
                    digest: Some(digest),
                    size: Some(content.len() as u64),
                    bytes: bytes.boxed(),
                };
                sink.store(blob).await.map(drop)
            });
            futures::future::try_join_all(stores).await?;
            Ok(Delivery {
                documents: image.documents.clone(),
                method: Method::Registry,
                method_message: None,
            })
        }
    }

    /// The blobs in the order in which they were complete.
    #[derive(Default)]
    struct Stored(SyncMutex<Vec<Bytes>>);

    #[async_trait]
    impl BlobSink for Stored {
        async fn existing_size(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
            let stored = self.0.lock().unwrap();
            let found = stored.iter().any(|content| Digest::of(content) == *digest);
            Ok(found.then_some(size.unwrap()))
        }

        async fn existing_layer(&self, _: &Digest) -> Result<Option<Descriptor>, Fault> {
            Ok(None)
        }

        async fn store(&self, mut blob: Blob<'_>) -> Result<StoredBlob, Fault> {
            let content = blob.bytes.next().await.unwrap()?;
            let digest = Digest::of(&content);
            let descriptor = Descriptor::new("", digest.clone(), content.len() as u64);
            self.0.lock().unwrap().push(content);
            Ok(StoredBlob {
                content_digest: digest,
                descriptor,
            })
        }
    }

    fn image(documents: Vec<Document>) -> Resolved {
        Resolved {
            reference: "registry.example/app:1".parse().unwrap(),
            platforms: Vec::new(),
            identity: Identity::Manifest(Digest::of(b"")),
            chosen_from: None,
            documents,
            memory: Arc::new(crate::budget::IMAGES.reserve()),
            size: None,
        }
    }

    async fn stored(image: &Resolved) -> Vec<Bytes> {
        let sink = Stored::default();
        InOrder(Arc::new(Concurrent)).deliver(image, &sink).await.unwrap();
        sink.0.into_inner().unwrap()
    }

    #[tokio::test]
    async fn blobs_are_stored_in_the_order_of_the_manifest_or_of_the_source() {
        assert_eq!(stored(&image(Vec::new())).await, BLOBS);
        let blob = |at: usize| Descriptor::new("", Digest::of(BLOBS[at]), BLOBS[at].len() as u64);
        let manifest = Manifest::new(blob(2), vec![blob(1), blob(0)]);
        let documents = vec![Document::of_manifest(manifest).unwrap()];
        let order: Vec<Digest> = distinct_blobs(&documents)
            .into_iter()
            .map(|blob| blob.digest.clone())
            .collect();
        let found = stored(&image(documents)).await;
        assert_eq!(
            found.iter().map(|content| Digest::of(content)).collect::<Vec<_>>(),
            order
        );
        assert_ne!(found, BLOBS);
    }
}
