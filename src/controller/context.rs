//! What all reconciliations of packages share: clients, stores, running tasks and caches. It decides nothing; see
//! [`super::reconcile`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::archived::ResolvedArchives;
use super::children::LegacyNames;
use super::deletion_tasks::DeletionTasks;
use super::lease::Leadership;
use super::object_cache::{GuardedPackage, ObjectCache};
use super::tag_selections::TagSelections;
use crate::api::v1alpha1::{JackalPackage, requested_at};
use crate::fault::Fault;
use crate::fetch::ChartCache;
use crate::package::VerificationCache;
use crate::runtime::{Events, GuardedImage, Registries, RegistryTarget, Settings, TaskKey, TaskTable};

/// How long a request for a reconciliation may wait for the controller's queue. The controller has ended when it takes
/// longer.
const ENQUEUE: Duration = Duration::from_secs(5);

/// What all reconciliations of packages share, for one term of the leader.
pub(super) struct PackageContext {
    pub client: Client,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub leadership: Leadership,
    pub events: Events,
    /// The tasks that build artifacts.
    pub tasks: TaskTable,
    /// The tasks that choose tags, and their results.
    pub selections: TagSelections,
    /// The archives of packages with `from`, and the tasks that read them.
    pub archives: ResolvedArchives,
    /// The tasks that delete artifacts.
    pub deletions: DeletionTasks,
    /// What is known of the packages' charts.
    pub charts: ChartCache,
    /// Images whose signatures were verified.
    pub verified: Arc<VerificationCache>,
    /// Every package that this process has seen.
    pub packages: Store<GuardedPackage>,
    /// Every image that this process has seen.
    pub images: Store<GuardedImage>,
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
    queue: mpsc::Sender<ObjectRef<GuardedPackage>>,
    /// By uid of a package, the message of its last deletion if that failed.
    deletion_failures: Mutex<HashMap<String, String>>,
    /// By uid of a package, the generation for which its images were last listed from the API server, and those that have
    /// names of an earlier version.
    listed_images: Mutex<HashMap<String, (i64, LegacyNames)>>,
}

/// What a [`PackageContext`] is created with.
pub(super) struct ContextInputs {
    pub client: Client,
    /// Names this process in events and tasks.
    pub identity: String,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub leadership: Leadership,
    pub objects: ObjectCache,
    /// Receives the packages that are to be reconciled again.
    pub queue: mpsc::Sender<ObjectRef<GuardedPackage>>,
    pub stop: CancellationToken,
}

impl PackageContext {
    pub fn new(inputs: ContextInputs) -> Self {
        let ContextInputs {
            client,
            identity,
            settings,
            registries,
            leadership,
            objects,
            queue,
            stop,
        } = inputs;
        Self {
            events: Events::new(client.clone(), &identity),
            tasks: TaskTable::new(identity.clone(), settings.backoff),
            selections: TagSelections::new(&identity, settings.backoff),
            archives: ResolvedArchives::new(&identity, settings.backoff),
            deletions: DeletionTasks::new(&identity, settings.backoff, &stop),
            charts: ChartCache::default(),
            verified: Arc::default(),
            tracker: TaskTracker::new(),
            deletion_failures: Mutex::default(),
            listed_images: Mutex::default(),
            client,
            settings,
            registries,
            leadership,
            packages: objects.packages.store(),
            images: objects.images.store(),
            queue,
            stop,
        }
    }

    /// The registry that the package is written to.
    pub async fn target(&self, package: &JackalPackage) -> Result<RegistryTarget, Fault> {
        let idle = self.settings.idle(package.spec.stall_timeout);
        let namespace = package.namespace().unwrap_or_default();
        let defaults = &self.settings.defaults;
        defaults
            .target(&self.client, &namespace, &package.spec.registry, idle)
            .await
    }

    /// The key of a task of the package. `inputs` is what the task depends on beside the package.
    pub fn key(&self, package: &JackalPackage, inputs: Option<&str>) -> TaskKey {
        TaskKey {
            generation: package.metadata.generation.unwrap_or_default(),
            requested_at: requested_at(package.annotations()).map(str::to_owned),
            input: inputs.map(str::to_owned),
            tag_owner: None,
        }
    }

    /// Requests another reconciliation of the package.
    pub async fn enqueue(&self, package: &JackalPackage) {
        let object = ObjectRef::new(&package.name_any()).within(&package.namespace().unwrap_or_default());
        self.send(object).await;
    }

    /// Requests another reconciliation of the package `object`, without waiting.
    pub fn spawn_enqueue(self: &Arc<Self>, object: ObjectRef<GuardedPackage>) {
        let context = Arc::clone(self);
        self.tracker.spawn(async move { context.send(object).await });
    }

    async fn send(&self, object: ObjectRef<GuardedPackage>) {
        // The receiver is gone only when the term has ended.
        let _ = tokio::time::timeout(ENQUEUE, self.queue.send(object)).await;
    }

    /// The message of each package's last deletion if that failed, by uid.
    pub fn deletion_failures(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.deletion_failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of an earlier version that images of the package `uid` have; none where its images were not listed for
    /// `generation` yet.
    pub fn listed_images(&self, uid: &str, generation: i64) -> Option<LegacyNames> {
        let listed = self.listed();
        let (_, names) = listed.get(uid).filter(|(known, _)| *known == generation)?;
        Some(names.clone())
    }

    /// Notes that the images of the package `uid` were listed for `generation`.
    pub fn note_listed(&self, uid: &str, generation: i64, names: LegacyNames) {
        self.listed().insert(uid.to_owned(), (generation, names));
    }

    /// Has the images of the package `uid` listed from the API server at its next reconciliation.
    pub fn list_images_again(&self, uid: &str) {
        self.listed().remove(uid);
    }

    fn listed(&self) -> MutexGuard<'_, HashMap<String, (i64, LegacyNames)>> {
        self.listed_images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what is known of the package `uid`, which no longer exists.
    pub fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
        self.selections.forget(uid);
        self.archives.forget(uid);
        self.deletions.forget(uid);
        self.listed().remove(uid);
        self.deletion_failures().remove(uid);
    }

    /// Removes what is known of all packages but those of `uids`.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.tasks.retain(uids);
        self.selections.retain(uids);
        self.archives.retain(uids);
        self.deletions.retain(uids);
        self.listed().retain(|uid, _| uids.contains(uid));
        self.deletion_failures().retain(|uid, _| uids.contains(uid));
    }
}
