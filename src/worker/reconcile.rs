//! The reconciler of `JackalImage` objects: decides for each whether a task starts, waits or is not needed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::claim::remove_claim;
use super::concurrency::ConcurrencyLimits;
use super::context::{Worker, now};
use super::task;
use crate::api::v1alpha1::{Conditions, JackalImage, requested_at};
use crate::fault::{Disposition, Fault, Reason};
use crate::runtime::{
    Decision, Events, GuardedImage, ObjectChange, ObjectKind, ObjectView, Recheck, Registries, Role, Settings, TaskKey,
    TaskTable, WorkerInputs, current_selection, image_with_tag, is_ready, kube_fault, object_uids, qualified_name,
    until_stopped, update_status,
};

/// How long a process waits for its tasks when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest delay until a failed reconciliation is retried.
const RECONCILE_RETRY_LIMIT: Duration = Duration::from_secs(10);

/// Reconciles images, and starts their tasks.
struct Reconciler {
    worker: Arc<Worker>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Runs the worker of a process until `stop`; then cancels its tasks, releases its claims and returns.
pub async fn run(
    client: Client,
    holder: &str,
    role: Arc<dyn Role>,
    settings: Settings,
    registries: Arc<Registries>,
    inputs: WorkerInputs,
    stop: CancellationToken,
) {
    let WorkerInputs { images, rechecks } = inputs;
    let (wakes, woken) = mpsc::channel(1024);
    let worker = Arc::new(Worker {
        events: Events::new(client.clone(), holder),
        tasks: TaskTable::new(holder, settings.backoff),
        limits: ConcurrencyLimits::new(settings.concurrency),
        verified: Arc::default(),
        holder: holder.to_owned(),
        client,
        role,
        settings,
        registries,
        wakes,
    });
    let reconciler = Arc::new(Reconciler {
        worker,
        tracker: TaskTracker::new(),
        stop: stop.child_token(),
    });
    let reader = images.store();
    let (observer, store) = (Arc::clone(&reconciler), images.store());
    let changes = images
        .subscribe()
        .inspect(move |change| observer.observe(&store, change));
    let controller = Controller::for_shared_stream(images.changed(changes), reader.clone())
        .with_config(Config::default().concurrency(16))
        .reconcile_on(ReceiverStream::new(woken))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, error, _| match *error {}, Arc::clone(&reconciler))
        .for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "reconciling images");
            }
        });
    tokio::select! {
        () = until_stopped(controller, &stop) => {}
        () = reconciler.recheck(rechecks, &reader) => {}
    }
    reconciler.stop.cancel();
    reconciler.tracker.close();
    if tokio::time::timeout(STOP_TIMEOUT, reconciler.tracker.wait())
        .await
        .is_err()
    {
        warn!("tasks did not stop in {STOP_TIMEOUT:?}; their claims become stale");
    }
}

impl Reconciler {
    /// Keeps the task table as the images are, and reconciles those again that `change` affects.
    fn observe(self: &Arc<Self>, store: &Store<GuardedImage>, change: &ObjectChange<GuardedImage>) {
        let tasks = &self.worker.tasks;
        match change {
            ObjectChange::Applied { .. } => {}
            ObjectChange::Deleted { last, .. } => tasks.forget(last.uid().as_deref().unwrap_or_default()),
            // Objects deleted between two lists have no event.
            ObjectChange::Listed => tasks.retain(&object_uids(store)),
        }
        self.wake_affected(store, change);
    }

    /// Reconciles the images again that `change` affects.
    fn wake_affected(self: &Arc<Self>, store: &Store<GuardedImage>, change: &ObjectChange<GuardedImage>) {
        let Some(last) = change.object() else { return };
        let role = &self.worker.role;
        let before = change.before().and_then(|before| before.0.as_ref().ok());
        let now = change.now().and_then(|now| now.0.as_ref().ok());
        if !role.affects_others(before, now) {
            return;
        }
        let changed: Vec<&JackalImage> = before.into_iter().chain(last.0.as_ref().ok()).collect();
        let affected = store.state_filter(|other| {
            let other = other.0.as_ref().ok();
            other.is_some_and(|other| changed.iter().any(|changed| role.concerns(changed, other)))
        });
        if affected.is_empty() {
            return;
        }
        let worker = Arc::clone(&self.worker);
        self.tracker.spawn(async move {
            for object in affected {
                if let Ok(image) = &object.0 {
                    worker.wake(image).await;
                }
            }
        });
    }

    /// Reconciles the images of `reader` again that `rechecks` name, and forgets their failures. Never returns.
    async fn recheck(&self, mut rechecks: mpsc::Receiver<Recheck>, reader: &Store<GuardedImage>) {
        while let Some(recheck) = rechecks.recv().await {
            for object in reader.state() {
                let Ok(image) = &object.0 else { continue };
                if recheck.matches(image) {
                    self.worker.tasks.retry(image.uid().as_deref().unwrap_or_default());
                    self.worker.wake(image).await;
                }
            }
        }
        std::future::pending().await
    }
}

async fn reconcile(object: Arc<GuardedImage>, reconciler: Arc<Reconciler>) -> Result<Action, Infallible> {
    let image = match &object.0 {
        Ok(image) => Arc::new(image.clone()),
        // The leader writes the decoding error into the status, once for all processes.
        Err(_) => return Ok(Action::await_change()),
    };
    let settings = &reconciler.worker.settings;
    let timer = settings.metrics.start_reconcile(ObjectKind::JackalImage);
    let result = decide(&reconciler, &image).await;
    timer.finish(&result);
    match result {
        Ok(action) => Ok(action),
        Err(fault) => {
            debug!(image = qualified_name(&*image), %fault, "reconciling the image");
            Ok(Action::requeue(settings.backoff.limit.min(RECONCILE_RETRY_LIMIT)))
        }
    }
}

/// Starts the task of the image if it is due, and cancels one that is no longer wanted.
async fn decide(reconciler: &Reconciler, image: &Arc<JackalImage>) -> Result<Action, Fault> {
    let worker = &reconciler.worker;
    let uid = image.uid().unwrap_or_default();
    if image.metadata.deletion_timestamp.is_some() {
        worker.tasks.cancel(&uid);
        return Ok(Action::await_change());
    }
    if image.spec.suspend {
        worker.tasks.cancel(&uid);
        if !worker.tasks.is_running(&uid) && worker.role.may_transfer(image) {
            suspend(worker, image, &uid).await?;
        }
        return Ok(Action::await_change());
    }
    worker.role.report(image).await?;
    if !worker.role.may_transfer(image) {
        worker.tasks.cancel(&uid);
        return Ok(Action::await_change());
    }
    // If the image has a tag policy, the leader selects the tag first; its status write triggers a reconciliation.
    let Some(image) = image_with_tag(image) else {
        worker.tasks.cancel(&uid);
        return Ok(Action::await_change());
    };
    let image = &Arc::new(image.into_owned());
    let owner = match worker.role.plain_tag_owner(image).await {
        Err(fault) if fault.disposition != Disposition::Blocked => return Err(fault),
        owner => owner,
    };
    let key = key_of(image, &owner);
    let status = image.status.as_ref();
    let view = ObjectView {
        ready: is_ready(image),
        claim: status.and_then(|status| status.claim.as_ref()),
        rechecks: worker.role.rechecks(),
        interval: worker.settings.interval(image.spec.interval),
    };
    match worker.tasks.decide(&uid, &key, view, Instant::now()) {
        Decision::AwaitChange => Ok(Action::await_change()),
        Decision::Requeue(left) => Ok(Action::requeue(left)),
        Decision::Run => {
            let token = worker.tasks.begin(&uid, &key, &reconciler.stop);
            reconciler
                .tracker
                .spawn(task::run(Arc::clone(worker), Arc::clone(image), key, owner, token));
            Ok(Action::await_change())
        }
    }
}

fn key_of(image: &JackalImage, owner: &Result<Option<String>, Fault>) -> TaskKey {
    let assignment = image.status.as_ref().and_then(|status| status.assignment.as_ref());
    let selected = current_selection(image).filter(|_| image.spec.policy.is_some());
    TaskKey {
        generation: image.metadata.generation.unwrap_or_default(),
        requested_at: requested_at(image.annotations()).map(str::to_owned),
        input: assignment
            .filter(|_| image.spec.source.is_engine())
            .map(|assignment| assignment.image_id.clone())
            .or_else(|| selected.map(|selected| selected.tag.clone())),
        tag_owner: match owner {
            Ok(owner) => owner.clone(),
            Err(fault) => Some(fault.message.clone()),
        },
    }
}

/// Writes into the status that the image is suspended. An image that is Ready stays Ready.
async fn suspend(worker: &Worker, image: &JackalImage, uid: &str) -> Result<(), Fault> {
    let api = worker.api_of(image);
    let name = image.name_any();
    let written = update_status(&api, &name, uid, |current, status| {
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        conditions.suspended(current.metadata.generation, now());
        status.conditions = conditions.0;
        status.observed_generation = current.metadata.generation;
        remove_claim(status, &worker.holder);
        current.spec.suspend
    });
    written
        .await
        .map(|_| ())
        .map_err(|error| kube_fault(Reason::SourceFailed, "writing the status", &error))
}
