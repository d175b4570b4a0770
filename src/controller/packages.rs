//! The reconciler of `JackalPackage` objects: plans, sees that each image has its object, and has the artifact
//! put together once all are in their places.

mod tags;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::children::{Children, LegacyNames};
use super::deletion_tasks::{DeletionRequest, DeletionTasks};
use super::finalizers;
use super::leader_metrics::LeaderMetrics;
use super::lease::{LAPSE, Leadership};
use super::publication::{self, Publication};
use super::summary::{Verification, brought, count, failures, rows, written};
use super::tag_selections::{EffectivePackage, Followable, TagSelections};
use super::undecodable;
use crate::api::v1alpha1::{
    Conditions, DeletionPolicy, JackalImage, JackalPackage, JackalPackageStatus, PackagedImage, READY, requested_at,
};
use crate::fault::{Disposition, Fault};
use crate::fetch::ChartCache;
use crate::oci::Naming;
use crate::package::{Plan, VerificationCache, check_images};
use crate::runtime::{
    Decision, Events, ObjectKind, ObjectView, Registries, RegistryTarget, Settings, TaskKey, TaskTable,
    disposition_after_write, drop_managed_fields, is_up_to_date, object_uids, until_stopped,
};

pub(super) type GuardedPackage = DeserializeGuard<JackalPackage>;

/// Keeps the object until its images' objects are gone.
const FINALIZER: &str = "jackal.dev/package";

/// How long the reconciler may take to hear of something; it is gone when it takes longer.
const WAKE: Duration = Duration::from_secs(5);

/// What all reconciliations of packages share.
pub(super) struct Packages {
    pub client: Client,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub leadership: Leadership,
    pub events: Events,
    pub memory: TaskTable,
    /// What is known of the packages' charts.
    pub charts: ChartCache,
    /// Images that were verified when they were packed.
    pub verified: Arc<VerificationCache>,
    pub following: TagSelections,
    /// Every package that this process works on.
    pub known: Store<GuardedPackage>,
    /// Deletions of artifacts.
    pub(super) removals: DeletionTasks,
    /// Of deletions that failed last, by uid, what was told.
    collections: Mutex<HashMap<String, String>>,
    /// The images' objects as they were seen last.
    children: Store<DeserializeGuard<JackalImage>>,
    /// Of each package, by uid, the generation for which the API server was asked for objects that it lacks, and which of
    /// its objects have earlier names.
    swept: Mutex<HashMap<String, (i64, LegacyNames)>>,
    wakes: mpsc::Sender<ObjectRef<GuardedPackage>>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Reconciles packages until `stop`.
pub(super) async fn run(
    client: Client,
    identity: &str,
    settings: Settings,
    registries: Arc<Registries>,
    leadership: Leadership,
    tally: &LeaderMetrics,
    stop: CancellationToken,
) {
    let (wakes, woken) = mpsc::channel(1024);
    let (reader, writer) = reflector::store();
    let (children, children_writer) = reflector::store();
    tally.count(reader.clone(), children.clone());
    let packages = Arc::new(Packages {
        events: Events::new(client.clone(), identity),
        memory: TaskTable::new(identity, settings.backoff),
        charts: ChartCache::default(),
        verified: Arc::default(),
        following: TagSelections::new(identity, settings.backoff),
        client: client.clone(),
        registries,
        leadership,
        known: reader.clone(),
        removals: DeletionTasks::new(identity, settings.backoff, &stop),
        collections: Mutex::default(),
        children,
        swept: Mutex::default(),
        wakes,
        tasks: TaskTracker::new(),
        stop: stop.clone(),
        settings,
    });
    let api: Api<GuardedPackage> = packages.settings.api(&packages.client);
    let images: Api<DeserializeGuard<JackalImage>> = packages.settings.api(&packages.client);
    let (gone, freed_by_packages) = (Arc::clone(&packages), Arc::clone(&packages));
    let health = &packages.settings.health;
    let mut listing = health.further_listing("JackalPackages");
    let mut children_listing = health.further_listing("JackalImages");
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(drop_managed_fields)
        .inspect(move |event| freed_by_packages.release_of_package(event))
        .reflect(writer)
        .inspect(move |event| {
            listing.note(event);
            match event {
                Ok(Event::Delete(object)) => gone.forget(object.uid().as_deref().unwrap_or_default()),
                Ok(Event::InitDone) => gone.keep(&object_uids(&gone.known)),
                _ => {}
            }
        })
        .touched_objects();
    let freed = Arc::clone(&packages);
    let changes = watcher(images, watcher::Config::default())
        .default_backoff()
        .modify(drop_managed_fields)
        .inspect(move |event| freed.release_of_image(event))
        .reflect(children_writer)
        .inspect(move |event| children_listing.note(event))
        .touched_objects();
    let controller = Controller::for_stream(stream, reader)
        .owns_stream(changes)
        .with_config(Config::default().concurrency(8))
        .reconcile_on(ReceiverStream::new(woken))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, error, _| match *error {}, Arc::clone(&packages))
        .for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "reconciling packages");
            }
        });
    until_stopped(controller, &stop).await;
    packages.tasks.close();
    packages.tasks.wait().await;
}

async fn reconcile(object: Arc<GuardedPackage>, packages: Arc<Packages>) -> Result<Action, Infallible> {
    match packages.leadership.during(lead(&object, &packages)).await {
        Some(action) => Ok(action),
        None => Ok(Action::requeue(LAPSE)),
    }
}

/// What the leader does about a package.
async fn lead(object: &GuardedPackage, packages: &Arc<Packages>) -> Action {
    let package = match &object.0 {
        Ok(package) => package,
        Err(invalid) => {
            return undecodable::report::<JackalPackage>(&packages.client, &packages.events, invalid).await;
        }
    };
    let pass = packages.settings.metrics.reconcile(ObjectKind::JackalPackage);
    let looked = packages.look(package).await;
    pass.ended(&looked);
    let fault = match looked {
        Ok(again) => return again.map_or_else(Action::await_change, Action::requeue),
        Err(fault) => fault,
    };
    // What failed before any task ran: the plan, a Secret, the API server.
    let uid = package.uid().unwrap_or_default();
    let disposition = disposition_after_write(package, packages.failed(package, &fault).await, fault.disposition);
    // The other object may go while this one is told of it, so nothing is to keep it from the next look.
    if disposition == Disposition::Blocked {
        let interval = packages.settings.interval(package.spec.interval);
        return Action::requeue(interval.min(packages.settings.backoff.limit));
    }
    packages
        .memory
        .failed(&uid, packages.key(package, None), disposition, Instant::now());
    let again = packages.postponed(package).flatten();
    again.map_or_else(Action::await_change, Action::requeue)
}

impl Packages {
    /// Does what is to be done about a package now; gives the time after which it is looked at again, if it is not
    /// woken before.
    async fn look(self: &Arc<Self>, package: &JackalPackage) -> Result<Option<Duration>, Fault> {
        let uid = package.uid().unwrap_or_default();
        if package.metadata.deletion_timestamp.is_some() {
            self.memory.cancel(&uid);
            self.following.cancel(&uid);
            return self.remove(package).await;
        }
        // A failure of the same spec waits for its time, whatever else changed in the object.
        if let Some(again) = self.postponed(package) {
            return Ok(again);
        }
        finalizers::set(&self.client, package, FINALIZER, true).await?;
        check_images(&package.spec)?;
        match self.followed(package)? {
            Followable::Now(effective) => {
                let looks = effective.again;
                let again = self.advance(effective).await?;
                Ok(again.into_iter().chain(looks).min())
            }
            Followable::Later(again) => {
                if package.spec.suspend {
                    self.suspend(package).await?;
                }
                Ok(again)
            }
        }
    }

    /// The same for a package that is complete.
    async fn advance(self: &Arc<Self>, effective: EffectivePackage) -> Result<Option<Duration>, Fault> {
        let EffectivePackage {
            mut package,
            selections,
            ..
        } = effective;
        let uid = package.uid().unwrap_or_default();
        let suspended = package.spec.suspend;
        let place = self.place(&package).await?;
        package.spec.naming = self.naming(&package, &place).await?.into();
        let package = &Arc::new(package);
        if !suspended {
            self.check_tag(package).await?;
        }
        let plan = Plan::of_package(&package.name_any(), &package.spec, &place.address, &place.prefix)?;
        for planned in &plan.images {
            place.check(&planned.location.repository, &format!("image `{}`", planned.spec.image))?;
        }
        if !suspended {
            self.planned(package, plan.images.len()).await?;
        }
        let generation = package.metadata.generation.unwrap_or_default();
        let swept = self.swept().get(&uid).filter(|swept| swept.0 == generation).cloned();
        let known = swept.as_ref().map(|(_, names)| (&self.children, names));
        let children = Children::of(&self.client, package);
        let images = children.sync(&plan, known).await?;
        let names = children.earlier_names(&plan, &images);
        self.swept().insert(uid.clone(), (generation, names));
        let rows = rows(&plan, &images, &selections);
        if suspended {
            self.memory.cancel(&uid);
            self.write(package, &rows, &images, |conditions, generation, now| {
                conditions.suspended(generation, now)
            })
            .await?;
            return Ok(None);
        }
        let counts = count(&images);
        if let Some(fault) = failures(&images, &counts) {
            self.memory.cancel(&uid);
            self.write_failure(package, &rows, &images, &fault).await?;
            return Ok(None);
        }
        if counts.ready < counts.total {
            self.memory.cancel(&uid);
            // A look again, because somebody asked for one, takes nothing back of what stands.
            if self.stands(package, &rows) && images.iter().all(is_up_to_date) {
                return Ok(None);
            }
            let message = brought(&counts);
            self.write(package, &rows, &images, |conditions, generation, now| {
                conditions.progressing(generation, "Transferring", &message, now);
            })
            .await?;
            return Ok(None);
        }
        self.publish(
            package,
            Publication {
                place,
                origins: publication::origins(&plan, &images),
                plan,
                rows,
                inputs: publication::inputs(package, &images),
                written: written(&images),
                verification: Verification::of(&images),
            },
        )
        .await
    }

    /// How the names of the package's images are made: as it says, or where it leaves that to the cluster, as holds in its
    /// registry.
    async fn naming(&self, package: &JackalPackage, place: &RegistryTarget) -> Result<Naming, Fault> {
        if let Some(naming) = package.spec.naming.explicit() {
            return Ok(naming);
        }
        let same = |status: &&JackalPackageStatus| {
            status.observed_generation == package.metadata.generation
                && status.last_handled_reconcile_at.as_deref() == requested_at(package.annotations())
        };
        let known = package.status.as_ref().filter(same).and_then(|status| status.naming);
        self.settings.defaults.naming(&self.client, place, known).await
    }

    /// The registry that the package means.
    pub(super) async fn place(&self, package: &JackalPackage) -> Result<RegistryTarget, Fault> {
        let idle = self.settings.idle(package.spec.stall_timeout);
        let namespace = package.namespace().unwrap_or_default();
        let defaults = &self.settings.defaults;
        defaults
            .place(&self.client, &namespace, &package.spec.registry, idle)
            .await
    }

    /// Starts the task that puts the artifact together, unless it runs, or ran for the same inputs.
    async fn publish(
        self: &Arc<Self>,
        package: &Arc<JackalPackage>,
        publication: Publication,
    ) -> Result<Option<Duration>, Fault> {
        let inputs = publication.inputs.clone();
        let ready = self.is_ready(package, &publication.rows);
        let view = ObjectView {
            ready,
            claim: None,
            rechecks: true,
            interval: self.settings.interval(package.spec.interval),
        };
        let uid = package.uid().unwrap_or_default();
        // Nothing is put together while something is deleted; its end wakes us.
        if self.removals.runs(&uid) {
            return Ok(None);
        }
        match self
            .memory
            .decide(&uid, &self.key(package, Some(&inputs)), view, Instant::now())
        {
            // Nothing is deleted while the artifact is put together, which is begun here alone.
            Decision::Rest if self.memory.runs(&uid) || !ready => Ok(None),
            Decision::Rest => Ok(self.collect(package, &publication.place)),
            Decision::Wait(left) if !ready => Ok(Some(left)),
            Decision::Wait(left) => {
                let collected = self.collect(package, &publication.place);
                Ok(collected.into_iter().chain([left]).min())
            }
            Decision::Run => {
                let token = self.memory.begin(&uid, &self.key(package, Some(&inputs)), &self.stop);
                let (packages, package) = (Arc::clone(self), Arc::clone(package));
                self.tasks
                    .spawn(async move { publication::run(&packages, &package, publication, token).await });
                Ok(None)
            }
        }
    }

    pub(super) fn key(&self, package: &JackalPackage, inputs: Option<&str>) -> TaskKey {
        TaskKey {
            generation: package.metadata.generation.unwrap_or_default(),
            requested_at: requested_at(package.annotations()).map(str::to_owned),
            image_id: inputs.map(str::to_owned),
            holder: None,
        }
    }

    /// What to do about a package whose plan failed before and that has not changed since.
    fn postponed(&self, package: &JackalPackage) -> Option<Option<Duration>> {
        let uid = package.uid().unwrap_or_default();
        let postponed = self.memory.postponed(&uid, &self.key(package, None), Instant::now());
        postponed.map(Decision::left)
    }

    fn is_ready(&self, package: &JackalPackage, rows: &[PackagedImage]) -> bool {
        let handled = package
            .status
            .as_ref()
            .and_then(|status| status.last_handled_reconcile_at.as_deref());
        self.stands(package, rows) && handled == requested_at(package.annotations())
    }

    /// Whether the status says Ready of this spec with these images.
    fn stands(&self, package: &JackalPackage, rows: &[PackagedImage]) -> bool {
        package.status.as_ref().is_some_and(|status| {
            Conditions(status.conditions.clone()).is_true(READY, package.metadata.generation) && status.images == rows
        })
    }

    /// What was told of deletions that failed, by uid.
    pub(super) fn collections(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swept(&self) -> MutexGuard<'_, HashMap<String, (i64, LegacyNames)>> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the API server asked for objects that the package `uid` lacks.
    pub(super) fn sweep(&self, uid: &str) {
        self.swept().remove(uid);
    }

    fn forget(&self, uid: &str) {
        self.memory.forget(uid);
        self.following.forget(uid);
        self.swept().remove(uid);
        self.collections().remove(uid);
        self.removals.forget(uid);
    }

    /// All packages but those of `uids` are gone.
    fn keep(&self, uids: &HashSet<String>) {
        self.memory.keep(uids);
        self.following.keep(uids);
        self.removals.keep(uids);
        self.swept().retain(|uid, _| uids.contains(uid));
        self.collections().retain(|uid, _| uids.contains(uid));
    }

    /// Has the reconciler look at the package again.
    pub(super) async fn wake(&self, package: &JackalPackage) {
        let object = ObjectRef::new(&package.name_any()).within(&package.namespace().unwrap_or_default());
        // The reconciler is gone only when the term has ended.
        let _ = tokio::time::timeout(WAKE, self.wakes.send(object)).await;
    }

    async fn remove(self: &Arc<Self>, package: &JackalPackage) -> Result<Option<Duration>, Fault> {
        if !package.finalizers().iter().any(|known| known == FINALIZER) {
            return Ok(None);
        }
        if !Children::of(&self.client, package).clear().await? {
            // Their going wakes us; the time is for the case that one of them was never seen.
            return Ok(Some(Duration::from_secs(2)));
        }
        if package.spec.deletion_policy != DeletionPolicy::Delete {
            finalizers::set(&self.client, package, FINALIZER, false).await?;
            return Ok(None);
        }
        let uid = package.uid().unwrap_or_default();
        let token = match self.removals.decide(&uid) {
            DeletionRequest::Begin(token) => token,
            DeletionRequest::Later(later) => return Ok(later),
        };
        let (packages, package) = (Arc::clone(self), package.clone());
        self.tasks.spawn(async move {
            let work = async {
                packages.take_back(&package).await?;
                finalizers::set(&packages.client, &package, FINALIZER, false).await
            };
            packages.removed(&package, &uid, token, work).await;
        });
        Ok(None)
    }
}
