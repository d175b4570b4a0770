//! What all reconciliations of images by the leader share. It decides nothing; see [`super::image_reconcile`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::deletion_tasks::DeletionTasks;
use super::lease::Leadership;
use super::object_cache::ObjectCache;
use crate::api::v1alpha1::JackalImage;
use crate::runtime::{Events, GuardedImage, Registries, Settings, TaskTable};

/// How long a request for a reconciliation may wait for the controller's queue. The controller has ended when it takes
/// longer.
const ENQUEUE: Duration = Duration::from_secs(5);
/// The most objects for which is known since when their agents are waited for. Objects come and go; one that was
/// removed is only waited for once more.
const AWAITED: usize = 10_000;

/// What all reconciliations of images share, for one term of the leader.
pub(super) struct ImageContext {
    pub client: Client,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub leadership: Leadership,
    pub events: Events,
    pub objects: ObjectCache,
    /// The Leases of agents: only their metadata, as the content of an invalid one would keep the others from being read.
    pub agents: Store<PartialObjectMeta<Lease>>,
    /// The tasks that choose tags.
    pub selections: TaskTable,
    /// The tasks that delete images from registries.
    pub deletions: DeletionTasks,
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
    queue: mpsc::Sender<ObjectRef<GuardedImage>>,
    /// When this process first saw a generation of an object, by uid: answers of agents are waited for from then.
    since: Mutex<HashMap<String, (i64, Instant)>>,
}

/// What an [`ImageContext`] is created with.
pub(super) struct ImageContextInputs {
    pub client: Client,
    /// NameOwners this process in events and tasks.
    pub identity: String,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub leadership: Leadership,
    pub objects: ObjectCache,
    pub agents: Store<PartialObjectMeta<Lease>>,
    /// Receives the images that are to be reconciled again.
    pub queue: mpsc::Sender<ObjectRef<GuardedImage>>,
    pub stop: CancellationToken,
}

impl ImageContext {
    pub fn new(inputs: ImageContextInputs) -> Self {
        let ImageContextInputs {
            client,
            identity,
            settings,
            registries,
            leadership,
            objects,
            agents,
            queue,
            stop,
        } = inputs;
        Self {
            events: Events::new(client.clone(), &identity),
            selections: TaskTable::new(identity.clone(), settings.backoff),
            deletions: DeletionTasks::new(&identity, settings.backoff, &stop),
            tracker: TaskTracker::new(),
            since: Mutex::default(),
            client,
            settings,
            registries,
            leadership,
            objects,
            agents,
            stop,
            queue,
        }
    }

    /// Requests another reconciliation of the image.
    pub async fn enqueue(&self, image: &JackalImage) {
        let object = ObjectRef::new(&image.name_any()).within(&image.namespace().unwrap_or_default());
        // The receiver is gone only when the term has ended.
        let _ = tokio::time::timeout(ENQUEUE, self.queue.send(object)).await;
    }

    /// How long answers of agents have been waited for, for this generation of the image.
    pub fn waited(&self, image: &JackalImage, generation: i64) -> Duration {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.len() > AWAITED {
            since.clear();
        }
        let entry = since
            .entry(image.uid().unwrap_or_default())
            .or_insert((generation, Instant::now()));
        if entry.0 != generation {
            *entry = (generation, Instant::now());
        }
        entry.1.elapsed()
    }

    /// Removes what is known of the image `uid`, which no longer exists.
    pub fn forget(&self, uid: &str) {
        self.selections.forget(uid);
        self.deletions.forget(uid);
    }

    /// Removes what is known of all images but those of `uids`.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.selections.retain(uids);
        self.deletions.retain(uids);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|uid, _| uids.contains(uid));
    }

    /// Waits for the end of all tasks, which end with the term.
    pub async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
