//! Layers of a classic store read straight from the engine's folder, without an export.
//!
//! Only the driver overlay2 with native diff keeps the files of a layer as its tar had them. A layer's digest
//! and length are known before the first byte. Whatever is not just as it should be is a [`UnreadableReason`]: the layer
//! is left for the engine's API, which knows what to make of it. Nothing is written, and no path that a layer
//! names leads out of its folder.

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
use crate::source::{Blob, BlobSink, Form, confined_directory};

/// Layers of all images that are read at once: each takes a thread and some chunks of memory.
const READ_AT_ONCE: usize = 4;
/// Layers that are told by name why they were left; of more only the number.
const TOLD: usize = 3;

/// The folders of one engine, as this process sees them.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    // Where the engine's root lies for this process, if not where the engine says.
    root: Option<PathBuf>,
    turns: Arc<Semaphore>,
}

/// What was brought.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// The configuration's length in bytes, if it was brought.
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
            turns: Arc::new(Semaphore::new(READ_AT_ONCE)),
        }
    }

    /// Where the engine's root lies for this process, if not where the engine says.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Brings the configuration of `image_id`, unless `with_config` is false, and those of its layers
    /// `diff_ids` for which `is_missing`, to `sink`. What cannot be read is left, and why is said.
    ///
    /// # Errors
    /// Only those of the sink.
    pub async fn bring(
        &self,
        storage: &Storage,
        image_id: &Digest,
        diff_ids: &[Digest],
        with_config: bool,
        is_missing: impl Fn(&Digest) -> bool,
        sink: &dyn BlobSink,
    ) -> Result<Brought, Fault> {
        let mut brought = Brought::default();
        let (db, config) = match self.open(storage, image_id).await {
            Ok(opened) => opened,
            Err(doubt) => {
                brought.method_message = Some(format!("the engine's folder was not read: {doubt}"));
                return Ok(brought);
            }
        };
        let mut seen = BTreeSet::new();
        let mut looks = Vec::new();
        for (diff_id, chain_id) in diff_ids.iter().zip(chain_ids(diff_ids)) {
            if is_missing(diff_id) && seen.insert(diff_id) {
                looks.push(look(Arc::clone(&db), diff_id.clone(), chain_id));
            }
        }
        let mut layers = Vec::new();
        let mut doubts = Vec::new();
        let looked: Vec<_> = futures::stream::iter(looks).buffered(READ_AT_ONCE).collect().await;
        for looked in looked {
            match looked {
                Ok(layer) => layers.push(layer),
                Err(left) => doubts.push(left),
            }
        }
        // The largest is not left for the end, when nothing else is to be done beside it.
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.length));
        let config = async {
            match with_config {
                true => take_config(config, image_id, sink).await.map(Some),
                false => Ok(None),
            }
        };
        let mut takes = Vec::with_capacity(layers.len());
        for layer in layers {
            takes.push(self.take(Arc::clone(&db), Arc::new(layer), sink));
        }
        let taken = futures::stream::iter(takes)
            .buffer_unordered(READ_AT_ONCE)
            .try_collect();
        let (config, taken): (_, Vec<Taken>) = futures::try_join!(config, taken)?;
        brought.config = config;
        for taken in taken {
            match taken {
                Taken::StoredBlob(diff_id, stored) => drop(brought.layers.insert(diff_id, *stored)),
                Taken::Left(diff_id, doubt) => doubts.push((diff_id, doubt)),
            }
        }
        brought.method_message = told(diff_ids, doubts);
        Ok(brought)
    }

    // The engine's folder, which is proved to be its by holding the image's configuration.
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
                "overlay2 runs there without native diff or with metacopy, so layers are not kept as they came",
            ));
        }
        let root = match (&self.root, &storage.root) {
            (Some(root), _) => root.clone(),
            (None, Some(root)) => PathBuf::from(root),
            (None, None) => return Err(UnreadableReason::new("the engine does not say where it is")),
        };
        let image_id = image_id.clone();
        let opened = blocking(move || open(&root, &image_id)).await;
        opened.map_err(|doubt| {
            UnreadableReason::new(format!(
                "{doubt}; mount the engine's root read-only and name it with --docker-root"
            ))
        })
    }

    async fn take(&self, db: Arc<LayerDb>, layer: Arc<Layer>, sink: &dyn BlobSink) -> Result<Taken, Fault> {
        let mut rereads = Rereads::default();
        loop {
            match self.try_take(Arc::clone(&db), Arc::clone(&layer), sink).await {
                Err(fault) => rereads.retry_after(fault)?,
                done => return done,
            }
        }
    }

    async fn try_take(&self, db: Arc<LayerDb>, layer: Arc<Layer>, sink: &dyn BlobSink) -> Result<Taken, Fault> {
        let diff_id = layer.diff_id.clone();
        let length = layer.length;
        // Who sends content on may only have noticed that it ended.
        let doubted: Arc<Mutex<Option<UnreadableReason>>> = Arc::default();
        let doubting = Arc::clone(&doubted);
        let turns = Arc::clone(&self.turns);
        // Nothing is begun before it is asked for: the sink may wait for another who brings the same layer.
        let content = futures::stream::once(async move {
            // Never closed.
            let turn = turns.acquire_owned().await.ok();
            let (mut chunks, receiver) = Chunks::new(length);
            tokio::task::spawn_blocking(move || {
                let result = db
                    .parts(&layer)
                    .map_err(Into::into)
                    .and_then(|(gzip, mut diff)| tarsplit::assemble(gzip, &mut diff, &mut chunks));
                chunks.end(result);
            });
            ReceiverStream::new(receiver).map(move |chunk| {
                let _turn = &turn;
                chunk.map_err(|doubt| {
                    *doubting.lock().unwrap_or_else(PoisonError::into_inner) = Some(doubt.clone());
                    Fault::retryable(Reason::SourceFailed, doubt.0)
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
        let doubt = doubted.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (stored, doubt) {
            (Ok(stored), _) => Ok(Taken::StoredBlob(diff_id, Box::new(stored.descriptor))),
            (Err(_), Some(doubt)) => Ok(Taken::Left(diff_id, doubt)),
            (Err(fault), None) if fault.disposition == Disposition::Reread => Err(fault),
            // Every file was as its checksum says, and the whole is another all the same.
            (Err(fault), None) if fault.reason == Reason::DigestMismatch => Ok(Taken::Left(
                diff_id,
                UnreadableReason::new("its content is not what its digest says"),
            )),
            (Err(fault), None) => Err(fault),
        }
    }
}

enum Taken {
    StoredBlob(Digest, Box<Descriptor>),
    Left(Digest, UnreadableReason),
}

fn open(root: &Path, image_id: &Digest) -> Result<(Arc<LayerDb>, Bytes), UnreadableReason> {
    let db = LayerDb::at(root)?;
    let config = db.config(image_id)?;
    Ok((Arc::new(db), config))
}

async fn look(db: Arc<LayerDb>, diff_id: Digest, chain_id: Digest) -> Result<Layer, (Digest, UnreadableReason)> {
    let wanted = diff_id.clone();
    let looked = blocking(move || db.layer(&wanted, &chain_id)).await;
    looked.map_err(|doubt| (diff_id, doubt))
}

async fn take_config(config: Bytes, image_id: &Digest, sink: &dyn BlobSink) -> Result<u64, Fault> {
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

// In the image's order, so that two tries say the same.
fn told(diff_ids: &[Digest], mut doubts: Vec<(Digest, UnreadableReason)>) -> Option<String> {
    let place = |layer: &Digest| diff_ids.iter().position(|diff_id| diff_id == layer);
    doubts.sort_by_key(|(layer, _)| place(layer));
    let more = doubts.len().saturating_sub(TOLD);
    let mut told: Vec<String> = doubts
        .iter()
        .take(TOLD)
        .map(|(layer, doubt)| {
            format!(
                "layer {} was not read from the engine's folder: {doubt}",
                layer.short_form()
            )
        })
        .collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    (!told.is_empty()).then(|| told.join("; "))
}
