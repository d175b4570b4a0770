//! Layers of a classic store, read from the engine's folder without an export.
//!
//! Only the driver overlay2 with native diff keeps the files of a layer as its tar had them. The files and the engine's
//! tar-split data give the exact tar, so digest and length are known before the first byte, and a layer that the
//! destination holds costs one HEAD. Each file is checked by its length and CRC, the layer by its digest. Nothing is
//! written, no link is followed, and no path in a layer leads out of its folder. The folder counts as this engine's if
//! it contains the configuration of the image.
//!
//! A layer that is not exactly as expected gets an [`UnreadableReason`] and is left to the export;
//! `status.methodMessage` contains the reason.

mod layerdb;
pub(super) mod tarsplit;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

use self::layerdb::{Layer, LayerDb, chain_ids};
use super::engine::Storage;
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Descriptor, Digest};
use crate::source::chunks::Chunks;
use crate::source::reread::Rereads;
use crate::source::unreadable::{UnreadableReason, blocking};
use crate::source::{Blob, BlobSink, Form};

/// Layers of all images that are read concurrently: each takes a thread and some chunks of memory.
const CONCURRENCY: usize = 4;
/// Unreadable layers that are reported with their reasons; of the others only the number is.
const REPORTED_LAYERS: usize = 3;

/// The directory of one engine, as this process sees it.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    // The engine's root directory for this process, if not where the engine says.
    root: Option<PathBuf>,
    read_permits: Arc<Semaphore>,
}

/// What was transferred.
#[derive(Debug, Default)]
pub(super) struct TransferredParts {
    /// The configuration's length in bytes, if it was transferred.
    pub config: Option<u64>,
    /// Layers by their uncompressed digest.
    pub layers: HashMap<Digest, Descriptor>,
    /// Why something was not, for a person.
    pub method_message: Option<String>,
}

impl Graph {
    /// The engine's root is at `root`, or where the engine says.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self {
            root,
            read_permits: Arc::new(Semaphore::new(CONCURRENCY)),
        }
    }

    /// The engine's root directory for this process, if not where the engine says.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Transfers the configuration of `image_id`, unless `with_config` is false, and those of its layers
    /// `diff_ids` for which `is_missing`, to `sink`. What cannot be read is skipped; the result says why.
    ///
    /// # Errors
    /// Only those of the sink.
    pub async fn transfer(
        &self,
        storage: &Storage,
        image_id: &Digest,
        diff_ids: &[Digest],
        with_config: bool,
        is_missing: impl Fn(&Digest) -> bool,
        sink: &dyn BlobSink,
    ) -> Result<TransferredParts, Fault> {
        let mut transferred = TransferredParts::default();
        let (db, config) = match self.open(storage, image_id).await {
            Ok(opened) => opened,
            Err(reason) => {
                transferred.method_message = Some(format!("the engine's directory was not read: {reason}"));
                return Ok(transferred);
            }
        };
        let mut seen = BTreeSet::new();
        let mut lookups = Vec::new();
        for (diff_id, chain_id) in diff_ids.iter().zip(chain_ids(diff_ids)) {
            if is_missing(diff_id) && seen.insert(diff_id) {
                lookups.push(find_layer(Arc::clone(&db), diff_id.clone(), chain_id));
            }
        }
        let mut layers = Vec::new();
        let mut unreadable = Vec::new();
        let found: Vec<_> = futures::stream::iter(lookups).buffered(CONCURRENCY).collect().await;
        for result in found {
            match result {
                Ok(layer) => layers.push(layer),
                Err(skipped) => unreadable.push(skipped),
            }
        }
        // The largest first: started last, it would run alone at the end.
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.length));
        let config = async {
            match with_config {
                true => store_config(config, image_id, sink).await.map(Some),
                false => Ok(None),
            }
        };
        let mut transfers = Vec::with_capacity(layers.len());
        for layer in layers {
            transfers.push(self.transfer_layer(Arc::clone(&db), Arc::new(layer), sink));
        }
        let results = futures::stream::iter(transfers)
            .buffer_unordered(CONCURRENCY)
            .try_collect();
        let (config, results): (_, Vec<LayerResult>) = futures::try_join!(config, results)?;
        transferred.config = config;
        for result in results {
            match result {
                LayerResult::Stored(diff_id, stored) => drop(transferred.layers.insert(diff_id, *stored)),
                LayerResult::Unreadable(diff_id, reason) => unreadable.push((diff_id, reason)),
            }
        }
        transferred.method_message = describe_unreadable(diff_ids, unreadable);
        Ok(transferred)
    }

    // The engine's directory. That it is this engine's is shown by the image's configuration in it.
    async fn open(&self, storage: &Storage, image_id: &Digest) -> Result<(Arc<LayerDb>, Bytes), UnreadableReason> {
        if storage.driver != "overlay2" {
            let what = format!(
                "its storage driver is {}, and only overlay2 can be read",
                storage.driver
            );
            return Err(UnreadableReason::new(what));
        }
        if !storage.native_diff || storage.metacopy {
            return Err(UnreadableReason::new(
                "overlay2 is used there without native diff or with metacopy, so the files of a layer are not kept unchanged",
            ));
        }
        let root = match (&self.root, &storage.root) {
            (Some(root), _) => root.clone(),
            (None, Some(root)) => PathBuf::from(root),
            (None, None) => return Err(UnreadableReason::new("the engine does not name its root directory")),
        };
        let image_id = image_id.clone();
        let opened = blocking(move || open(&root, &image_id)).await;
        opened.map_err(|reason| {
            UnreadableReason::new(format!(
                "{reason}; mount the engine's root read-only and name it with --docker-root"
            ))
        })
    }

    async fn transfer_layer(
        &self,
        db: Arc<LayerDb>,
        layer: Arc<Layer>,
        sink: &dyn BlobSink,
    ) -> Result<LayerResult, Fault> {
        let mut rereads = Rereads::default();
        loop {
            match self.try_transfer_layer(Arc::clone(&db), Arc::clone(&layer), sink).await {
                Err(fault) => rereads.retry_after(fault)?,
                done => return done,
            }
        }
    }

    async fn try_transfer_layer(
        &self,
        db: Arc<LayerDb>,
        layer: Arc<Layer>,
        sink: &dyn BlobSink,
    ) -> Result<LayerResult, Fault> {
        let diff_id = layer.diff_id.clone();
        let length = layer.length;
        // The sink may report only that the content ended early; the cause is kept here.
        let failed: Arc<Mutex<Option<UnreadableReason>>> = Arc::default();
        let failing = Arc::clone(&failed);
        let read_permits = Arc::clone(&self.read_permits);
        // Nothing is read before the sink asks for it: it may wait for another transfer of the same layer.
        let content = futures::stream::once(async move {
            // The semaphore is never closed.
            let permit = read_permits.acquire_owned().await.ok();
            let (mut chunks, receiver) = Chunks::new(length);
            tokio::task::spawn_blocking(move || {
                let result = db
                    .open_layer(&layer)
                    .map_err(Into::into)
                    .and_then(|(gzip, diff)| tarsplit::assemble(gzip, &diff, &mut chunks));
                chunks.finish(result);
            });
            ReceiverStream::new(receiver).map(move |chunk| {
                let _permit = &permit;
                chunk.map_err(|reason| {
                    *failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
                    Fault::retryable(Reason::SourceFailed, reason.0)
                })
            })
        })
        .flatten();
        let blob = Blob {
            form: Form::Diff,
            digest: Some(diff_id.clone()),
            size: Some(length),
            bytes: content.boxed(),
        };
        let stored = sink.store(blob).await;
        let reason = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (stored, reason) {
            (Ok(stored), _) => Ok(LayerResult::Stored(diff_id, Box::new(stored.descriptor))),
            (Err(_), Some(reason)) => Ok(LayerResult::Unreadable(diff_id, reason)),
            (Err(fault), None) if fault.disposition == Disposition::Reread => Err(fault),
            // The checksum of every file was right, but the digest of the tar is not.
            (Err(fault), None) if fault.reason == Reason::DigestMismatch => Ok(LayerResult::Unreadable(
                diff_id,
                UnreadableReason::new("its content is not what its digest says"),
            )),
            (Err(fault), None) => Err(fault),
        }
    }
}

enum LayerResult {
    Stored(Digest, Box<Descriptor>),
    Unreadable(Digest, UnreadableReason),
}

fn open(root: &Path, image_id: &Digest) -> Result<(Arc<LayerDb>, Bytes), UnreadableReason> {
    let db = LayerDb::open(root)?;
    let config = db.config(image_id)?;
    Ok((Arc::new(db), config))
}

async fn find_layer(db: Arc<LayerDb>, diff_id: Digest, chain_id: Digest) -> Result<Layer, (Digest, UnreadableReason)> {
    let sought = diff_id.clone();
    let found = blocking(move || db.layer(&sought, &chain_id)).await;
    found.map_err(|reason| (diff_id, reason))
}

async fn store_config(config: Bytes, image_id: &Digest, sink: &dyn BlobSink) -> Result<u64, Fault> {
    let size = config.len() as u64;
    let blob = Blob {
        form: Form::Exact,
        digest: Some(image_id.clone()),
        size: Some(size),
        bytes: futures::stream::iter([Ok(config)]).boxed(),
    };
    sink.store(blob).await?;
    Ok(size)
}

// In the order of the image, so that repeated attempts have the same message.
fn describe_unreadable(diff_ids: &[Digest], mut unreadable: Vec<(Digest, UnreadableReason)>) -> Option<String> {
    let position = |layer: &Digest| diff_ids.iter().position(|diff_id| diff_id == layer);
    unreadable.sort_by_key(|(layer, _)| position(layer));
    let more = unreadable.len().saturating_sub(REPORTED_LAYERS);
    let mut messages: Vec<String> = unreadable
        .iter()
        .take(REPORTED_LAYERS)
        .map(|(layer, reason)| {
            format!(
                "layer {} was not read from the engine's directory: {reason}",
                layer.short_form()
            )
        })
        .collect();
    if more > 0 {
        messages.push(format!("and {more} more"));
    }
    (!messages.is_empty()).then(|| messages.join("; "))
}
