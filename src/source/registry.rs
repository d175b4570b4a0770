//! Images in a registry: manifests are copied unchanged, blobs streamed.

mod lookup;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use super::reread::Rereads;
use super::{
    Blob, BlobSink, Delivery, Form, Identity, ImageSource, Method, RepositoryReader, Resolved, may_mean_deleted,
};
use crate::budget::IMAGES;
use crate::fault::{Fault, Reason};
use crate::oci::{
    Descriptor, Platform, Reference, Selection, distinct_blobs, distinct_foreign_layers, select, total_size,
};
use crate::registry::{Registry, Repository};

pub(super) use self::lookup::children_first;
use self::lookup::{CONCURRENCY, Lookup};

/// A registry as a source. References are looked up in it by their repository; the host that they name is ignored, so the
/// registry may be a mirror.
#[derive(Clone)]
pub struct RegistrySource {
    registry: Registry,
}

impl RegistrySource {
    /// Reads from `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }

    fn lookup(&self, reference: &Reference) -> Lookup {
        Lookup {
            repository: self.registry.repository(reference.repository()),
            name: reference.to_string(),
            pinned: reference.digest().is_some(),
            memory: Arc::new(IMAGES.reserve()),
        }
    }
}

#[async_trait]
impl ImageSource for RegistrySource {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let lookup = self.lookup(reference);
        // The tag is read once; everything below it by digests.
        let root = lookup.root(reference).await?;
        let digest = root.digest().clone();
        let fault = match lookup.resolve(root, reference, platforms).await {
            Err(fault) if may_mean_deleted(&fault) && reference.digest().is_none() => fault,
            resolved => return resolved,
        };
        // The tag may have been moved meanwhile, and the image that it named may be deleted.
        let lookup = self.lookup(reference);
        let root = lookup.root(reference).await?;
        if *root.digest() == digest {
            return Err(fault);
        }
        tracing::info!(image = %reference, from = %digest, to = %root.digest(), "the tag was moved, and is resolved again");
        lookup.resolve(root, reference, platforms).await
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        let repository = self.registry.repository(image.reference.repository());
        let name = image.reference.to_string();
        let mut blobs = distinct_blobs(&image.documents);
        let foreign = distinct_foreign_layers(&image.documents);
        blobs.extend(&foreign);
        // The largest first: started last, it would run alone at the end.
        blobs.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.digest.cmp(&other.digest)));
        let (repository, name, foreign) = (&repository, &name, &foreign);
        stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |blob| async move {
                if foreign.contains(&blob) {
                    return transfer_foreign_layer(repository, name, blob, sink).await;
                }
                let mut rereads = Rereads::default();
                loop {
                    match transfer(repository, name, blob, sink).await {
                        Err(fault) => rereads.retry_after(fault)?,
                        done => return done,
                    }
                }
            })
            .await?;
        Ok(Delivery {
            documents: image.documents.clone(),
            method: Method::Registry,
            method_message: whole_index(image),
        })
    }

    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        let lookup = self.lookup(reference);
        let exists = lookup.repository.has_blob(&layer.digest).await;
        exists.map_err(|error| error.into_read_fault(&lookup.name))
    }

    async fn referrer(&self, reference: &Reference, identifier: &str) -> Result<Option<Resolved>, Fault> {
        let lookup = self.lookup(reference);
        let Some(root) = lookup.document(identifier).await? else {
            return Ok(None);
        };
        let digest = root.digest().clone();
        let documents = match lookup.with_children(root, HashMap::new()).await {
            Ok(documents) => documents,
            Err(fault) if fault.reason == Reason::SourceNotFound => return Ok(None),
            Err(fault) => return Err(fault),
        };
        Ok(Some(Resolved {
            reference: reference.clone(),
            platforms: Vec::new(),
            identity: Identity::Manifest(digest),
            chosen_from: None,
            size: Some(total_size(distinct_blobs(&documents))),
            documents,
            memory: lookup.memory,
        }))
    }

    fn repository(&self, reference: &Reference) -> Option<Box<dyn RepositoryReader>> {
        Some(Box::new(self.registry.repository(reference.repository())))
    }
}

/// Transfers a foreign layer if its registry has it. Its `urls` are not read.
async fn transfer_foreign_layer(
    repository: &Repository,
    name: &str,
    layer: &Descriptor,
    sink: &dyn BlobSink,
) -> Result<(), Fault> {
    if sink.existing_size(&layer.digest, Some(layer.size)).await?.is_some() {
        return Ok(());
    }
    let exists = repository.has_blob(&layer.digest).await;
    if !exists.map_err(|error| error.into_read_fault(name))? {
        return Ok(());
    }
    let mut rereads = Rereads::default();
    loop {
        match transfer(repository, name, layer, sink).await {
            Err(fault) if fault.reason == Reason::SourceNotFound => return Ok(()),
            Err(fault) => rereads.retry_after(fault)?,
            done => return done,
        }
    }
}

async fn transfer(repository: &Repository, name: &str, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
    if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_some() {
        return Ok(());
    }
    let owned = name.to_owned();
    let bytes = match blob.inline_content() {
        Some(content) => stream::iter([Ok(content)]).boxed(),
        // The sink verifies it. The request is sent when the first chunk is read.
        None => {
            let download = repository.unverified_blob(&blob.digest, blob.size);
            download
                .into_stream()
                .map_err(move |error| error.into_read_fault(&owned))
                .boxed()
        }
    };
    let stored = sink.store(Blob {
        form: Form::Exact,
        digest: Some(blob.digest.clone()),
        size: Some(blob.size),
        bytes,
    });
    match stored.await {
        Ok(_) => Ok(()),
        // The destination found another digest; its message does not name the source.
        Err(fault) if fault.reason == Reason::DigestMismatch && !fault.message.contains(name) => {
            let message = format!(
                "cannot read {name}: its content does not match its digests: {}",
                fault.message
            );
            Err(Fault { message, ..fault })
        }
        Err(fault) => Err(fault),
    }
}

/// Why an index was taken whole although platforms were asked for.
fn whole_index(image: &Resolved) -> Option<String> {
    let root = image.documents.last()?;
    let index = root.index().filter(|_| !image.platforms.is_empty())?;
    let pinned = image.reference.digest() == Some(root.digest());
    let all = pinned && !matches!(select(index, &image.platforms), Ok(Selection::Unchanged));
    all.then(|| {
        "all platforms were taken: the image is named by the digest of its index, which a registry takes only with all that it lists; name one image by its digest, or a tag, to take less".to_owned()
    })
}
