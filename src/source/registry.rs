//! Images that lie in a registry: manifests are carried to the byte, blobs streamed through.

mod lookup;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use super::reread::Rereads;
use super::{Blob, BlobSink, Delivery, Form, Identity, ImageSource, Method, RepositoryReader, Resolved, may_be_gone};
use crate::budget::IMAGES;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Platform, Reference, Selection, distinct_blobs, distinct_foreign_layers, select};
use crate::registry::{Registry, Repository};

use self::lookup::Lookup;
pub(super) use self::lookup::children_first;

/// Manifests of one image that are read at once, and blobs that are carried. What of it runs is up to the
/// registries' limits; a blob that somebody else brings just now only waits.
const AT_ONCE: usize = 8;

/// A registry as a source. References are looked up in it by their repository, whatever host they name, so a
/// mirror may stand in.
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
        // A look at the tag; from here on digests decide.
        let root = lookup.root(reference).await?;
        let digest = root.digest().clone();
        let fault = match lookup.resolve(root, reference, platforms).await {
            Err(fault) if may_be_gone(&fault) && reference.digest().is_none() => fault,
            resolved => return resolved,
        };
        // The tag may have moved meanwhile, and what it named before may be deleted.
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
        // The largest first: begun last, it would be what everybody waits for.
        blobs.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.digest.cmp(&other.digest)));
        let (repository, name, foreign) = (&repository, &name, &foreign);
        stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |blob| async move {
                if foreign.contains(&blob) {
                    return carry_foreign(repository, name, blob, sink).await;
                }
                let mut readings = Rereads::default();
                loop {
                    match carry(repository, name, blob, sink).await {
                        Err(fault) => readings.again(fault)?,
                        done => return done,
                    }
                }
            })
            .await?;
        Ok(Delivery {
            documents: image.documents.clone(),
            method: Method::Registry,
            declined: whole_index(image),
        })
    }

    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        let lookup = self.lookup(reference);
        let has = lookup.repository.has_blob(&layer.digest).await;
        has.map_err(|error| error.reading(&lookup.name))
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
            size: Some(distinct_blobs(&documents).iter().map(|blob| blob.size).sum()),
            documents,
            memory: lookup.memory,
        }))
    }

    fn repository(&self, reference: &Reference) -> Option<Box<dyn RepositoryReader>> {
        Some(Box::new(self.registry.repository(reference.repository())))
    }
}

/// Carries a foreign layer if its registry has it. It is asked of nobody else: where its `urls` lead is not for us to
/// read.
async fn carry_foreign(
    repository: &Repository,
    name: &str,
    layer: &Descriptor,
    sink: &dyn BlobSink,
) -> Result<(), Fault> {
    if sink.holds(&layer.digest, Some(layer.size)).await?.is_some() {
        return Ok(());
    }
    let has = repository.has_blob(&layer.digest).await;
    if !has.map_err(|error| error.reading(name))? {
        return Ok(());
    }
    let mut readings = Rereads::default();
    loop {
        match carry(repository, name, layer, sink).await {
            Err(fault) if fault.reason == Reason::SourceNotFound => return Ok(()),
            Err(fault) => readings.again(fault)?,
            done => return done,
        }
    }
}

async fn carry(repository: &Repository, name: &str, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
    if sink.holds(&blob.digest, Some(blob.size)).await?.is_some() {
        return Ok(());
    }
    let owned = name.to_owned();
    let bytes = match blob.known_content() {
        Some(content) => stream::iter([Ok(content)]).boxed(),
        // The sink verifies it. Nothing is asked of the registry before the first chunk is.
        None => {
            let download = repository.unverified_blob(&blob.digest, blob.size);
            download
                .into_stream()
                .map_err(move |error| error.reading(&owned))
                .boxed()
        }
    };
    let taken = sink.take(Blob {
        form: Form::Exact,
        digest: Some(blob.digest.clone()),
        size: Some(blob.size),
        bytes,
    });
    match taken.await {
        Ok(_) => Ok(()),
        // Where it went it was found to be another; more than that it came from here is not known.
        Err(fault) if fault.reason == Reason::DigestMismatch && !fault.message.contains(name) => {
            let message = format!("cannot read {name} as its digests say: {}", fault.message);
            Err(Fault { message, ..fault })
        }
        Err(fault) => Err(fault),
    }
}

/// Why an index was taken whole though some platforms were asked for.
fn whole_index(image: &Resolved) -> Option<String> {
    let root = image.documents.last()?;
    let index = root.index().filter(|_| !image.platforms.is_empty())?;
    let pinned = image.reference.digest() == Some(root.digest());
    let all = pinned && !matches!(select(index, &image.platforms), Ok(Selection::Whole));
    all.then(|| {
        "all platforms were taken: the image is named by the digest of its index, which a registry takes only with all that it lists; name one image by its digest, or a tag, to take less".to_owned()
    })
}
