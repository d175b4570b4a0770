//! The reconciler of `JackalImage` objects: decides for each whether a task runs, waits or rests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::concurrency::ConcurrencyLimits;
use super::task;
use crate::api::v1alpha1::{Conditions, JackalImage, requested_at};
use crate::fault::{Disposition, Fault, Reason};
use crate::package::VerificationCache;
use crate::runtime::{
    Decision, Events, GuardedImage, ObjectChange, ObjectKind, ObjectView, Registries, Role, Settings, TaskKey,
    TaskTable, WorkerInputs, current_selection, image_with_tag, is_ready, kube_fault, object_uids, qualified_name,
    until_stopped, update_status,
};

/// How long a process waits for its tasks to stop.
const STOP: Duration = Duration::from_secs(10);

/// What all reconciliations of one process share.
pub struct Worker {
    pub(super) client: Client,
    pub(super) holder: String,
    pub(super) role: Arc<dyn Role>,
    pub(super) settings: Settings,
    pub(super) registries: Arc<Registries>,
    pub(super) events: Events,
    pub(super) tasks: TaskTable,
    pub(super) limits: Arc<ConcurrencyLimits>,
    pub(super) verified: Arc<VerificationCache>,
    wakes: mpsc::Sender<ObjectRef<GuardedImage>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Worker {
    /// Has the reconciler look at the image again.
    pub(super) async fn wake(&self, image: &JackalImage) {
        let object = ObjectRef::new(&image.name_any()).within(&image.namespace().unwrap_or_default());
        // The reconciler is gone only when the process stops.
        let _ = self.wakes.send(object).await;
    }

    /// Requests reconciliations of the images that may have other tags by `change`.
    fn enqueue_concerned(self: &Arc<Self>, store: &Store<GuardedImage>, change: &ObjectChange<GuardedImage>) {
        let Some(last) = change.object() else { return };
        let before = change.before().and_then(|before| before.0.as_ref().ok());
        let now = change.now().and_then(|now| now.0.as_ref().ok());
        if !self.role.affects_others(before, now) {
            return;
        }
        let changed: Vec<&JackalImage> = before.into_iter().chain(last.0.as_ref().ok()).collect();
        let concerned = store.state_filter(|other| {
            let other = other.0.as_ref().ok();
            other.is_some_and(|other| changed.iter().any(|changed| self.role.concerns(changed, other)))
        });
        if concerned.is_empty() {
            return;
        }
        let worker = Arc::clone(self);
        self.tracker.spawn(async move {
            for object in concerned {
                if let Ok(image) = &object.0 {
                    worker.wake(image).await;
                }
            }
        });
    }
}

/// Runs the worker of a process until `stop`; then cancels its tasks, gives its claims back and returns.
pub async fn run(
    client: Client,
    holder: &str,
    role: Arc<dyn Role>,
    settings: Settings,
    registries: Arc<Registries>,
    feed: WorkerInputs,
    stop: CancellationToken,
) {
    let WorkerInputs { images, mut rechecks } = feed;
    let (wakes, woken) = mpsc::channel(1024);
    let worker = Arc::new(Worker {
        events: Events::new(client.clone(), holder),
        tasks: TaskTable::new(holder, settings.backoff),
        limits: ConcurrencyLimits::new(settings.concurrency),
        verified: Arc::default(),
        holder: holder.to_owned(),
        client: client.clone(),
        role,
        settings,
        registries,
        wakes,
        tracker: TaskTracker::new(),
        stop: stop.child_token(),
    });
    let reader = images.store();
    let (listed, observer) = (reader.clone(), Arc::clone(&worker));
    let changes = images.subscribe().inspect(move |change| {
        observer.enqueue_concerned(&listed, change);
        match change {
            ObjectChange::Applied { .. } => {}
            ObjectChange::Deleted { last, .. } => observer.tasks.forget(last.uid().as_deref().unwrap_or_default()),
            ObjectChange::Listed => observer.tasks.retain(&object_uids(&listed)),
        }
    });
    let rechecked = {
        let (reader, worker) = (reader.clone(), Arc::clone(&worker));
        async move {
            while let Some(recheck) = rechecks.recv().await {
                for object in reader.state() {
                    let Ok(image) = &object.0 else { continue };
                    if recheck.matches(image) {
                        worker.tasks.retry(image.uid().as_deref().unwrap_or_default());
                        worker.wake(image).await;
                    }
                }
            }
            std::future::pending::<()>().await;
        }
    };
    let controller = Controller::for_shared_stream(images.changed(changes), reader)
        .with_config(Config::default().concurrency(16))
        .reconcile_on(ReceiverStream::new(woken))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, error, _| match *error {}, Arc::clone(&worker))
        .for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "reconciling images");
            }
        });
    tokio::select! {
        () = until_stopped(controller, &stop) => {}
        () = rechecked => {}
    }
    worker.stop.cancel();
    worker.tracker.close();
    if tokio::time::timeout(STOP, worker.tracker.wait()).await.is_err() {
        warn!("tasks did not stop in {STOP:?}; their claims go stale by themselves");
    }
}

async fn reconcile(object: Arc<GuardedImage>, worker: Arc<Worker>) -> Result<Action, Infallible> {
    let image = match &object.0 {
        Ok(image) => Arc::new(image.clone()),
        // The controller says so in its status, once for all processes.
        Err(_) => return Ok(Action::await_change()),
    };
    let timer = worker.settings.metrics.start_reconcile(ObjectKind::JackalImage);
    let looked = look(&worker, &image).await;
    timer.finish(&looked);
    match looked {
        Ok(action) => Ok(action),
        Err(fault) => {
            debug!(image = qualified_name(&*image), %fault, "looking at the image");
            Ok(Action::requeue(
                worker.settings.backoff.limit.min(Duration::from_secs(10)),
            ))
        }
    }
}

async fn look(worker: &Arc<Worker>, image: &Arc<JackalImage>) -> Result<Action, Fault> {
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
    // The leader chooses the tag first, where a policy asks for it; its choice wakes us.
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
            let token = worker.tasks.begin(&uid, &key, &worker.stop);
            worker
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

/// Says that nothing happens because somebody wants it so. What is ready stays ready.
async fn suspend(worker: &Worker, image: &JackalImage, uid: &str) -> Result<(), Fault> {
    let api: Api<JackalImage> = Api::namespaced(worker.client.clone(), &image.namespace().unwrap_or_default());
    let name = image.name_any();
    let written = update_status(&api, &name, uid, |standing, status| {
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        conditions.suspended(standing.metadata.generation, Time(jiff::Timestamp::now()));
        status.conditions = conditions.0;
        status.observed_generation = standing.metadata.generation;
        if status.claim.as_ref().is_some_and(|claim| claim.holder == worker.holder) {
            status.claim = None;
            status.progress = None;
        }
        standing.spec.suspend
    });
    written
        .await
        .map(|_| ())
        .map_err(|error| kube_fault(Reason::SourceFailed, "writing the status", &error))
}
