//! The reconciler of `JackalImage` objects: decides for each whether a task runs, waits or rests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Controller, WatchStreamExt as _};
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
    Decision, Events, GuardedImage, ObjectKind, ObjectView, Registries, Role, Settings, TaskKey, TaskTable,
    WorkerInputs, current_selection, drop_managed_fields, is_ready, kube_fault, movable, object_uids, qualified_name,
    until_stopped, update,
};

/// How long a process waits for its tasks to stop.
const STOP: Duration = Duration::from_secs(10);

/// What all reconciliations of one process share.
pub struct Worker {
    pub(super) client: Client,
    pub(super) holder: String,
    pub(super) duty: Arc<dyn Role>,
    pub(super) settings: Settings,
    pub(super) registries: Arc<Registries>,
    pub(super) events: Events,
    pub(super) memory: TaskTable,
    pub(super) turns: Arc<ConcurrencyLimits>,
    pub(super) verified: Arc<VerificationCache>,
    wakes: mpsc::Sender<ObjectRef<GuardedImage>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Worker {
    /// Has the reconciler look at the image again.
    pub(super) async fn wake(&self, image: &JackalImage) {
        let object = ObjectRef::new(&image.name_any()).within(&image.namespace().unwrap_or_default());
        // The reconciler is gone only when the process stops.
        let _ = self.wakes.send(object).await;
    }

    /// Has those images looked at again that `event` concerns, which `before` does not know of yet.
    fn wake_concerned(
        self: &Arc<Self>,
        before: &Store<GuardedImage>,
        event: &Result<Event<GuardedImage>, watcher::Error>,
    ) {
        let Ok(Event::Apply(object) | Event::Delete(object)) = event else {
            return;
        };
        let known = before.get(&ObjectRef::from_obj(object));
        let known = known.as_ref().and_then(|known| known.0.as_ref().ok());
        let last = object.0.as_ref().ok();
        let now = last.filter(|_| !matches!(event, Ok(Event::Delete(_))));
        if !self.duty.is_news(known, now) {
            return;
        }
        let changed: Vec<&JackalImage> = known.into_iter().chain(last).collect();
        let concerned = before.state_filter(|other| {
            let other = other.0.as_ref().ok();
            other.is_some_and(|other| changed.iter().any(|changed| self.duty.concerns(changed, other)))
        });
        if concerned.is_empty() {
            return;
        }
        let worker = Arc::clone(self);
        self.tasks.spawn(async move {
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
    duty: Arc<dyn Role>,
    settings: Settings,
    registries: Arc<Registries>,
    feed: WorkerInputs,
    stop: CancellationToken,
) {
    let WorkerInputs {
        images: writer,
        mut nudges,
    } = feed;
    let (wakes, woken) = mpsc::channel(1024);
    let worker = Arc::new(Worker {
        events: Events::new(client.clone(), holder),
        memory: TaskTable::new(holder, settings.backoff),
        turns: ConcurrencyLimits::new(settings.concurrency),
        verified: Arc::default(),
        holder: holder.to_owned(),
        client: client.clone(),
        duty,
        settings,
        registries,
        wakes,
        tasks: TaskTracker::new(),
        stop: stop.child_token(),
    });
    let api: Api<GuardedImage> = worker.settings.api(&client);
    let reader = writer.as_reader();
    let gone = Arc::clone(&worker);
    let mut listing = worker.settings.health.listing("JackalImages");
    let listed = reader.clone();
    let (before, changing) = (reader.clone(), Arc::clone(&worker));
    let stream = watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(drop_managed_fields)
        .inspect(move |event| changing.wake_concerned(&before, event))
        .reflect(writer)
        .inspect(move |event| {
            listing.note(event);
            match event {
                Ok(Event::Delete(object)) => gone.memory.forget(object.uid().as_deref().unwrap_or_default()),
                // What went between two lists is told by nobody.
                Ok(Event::InitDone) => gone.memory.keep(&object_uids(&listed)),
                _ => {}
            }
        })
        .touched_objects();
    let nudged = {
        let (reader, worker) = (reader.clone(), Arc::clone(&worker));
        async move {
            while let Some(nudge) = nudges.recv().await {
                for object in reader.state() {
                    let Ok(image) = &object.0 else { continue };
                    if nudge.admits(image) {
                        worker.memory.retry(image.uid().as_deref().unwrap_or_default());
                        worker.wake(image).await;
                    }
                }
            }
            std::future::pending::<()>().await;
        }
    };
    let controller = Controller::for_stream(stream, reader)
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
        () = nudged => {}
    }
    worker.stop.cancel();
    worker.tasks.close();
    if tokio::time::timeout(STOP, worker.tasks.wait()).await.is_err() {
        warn!("tasks did not stop in {STOP:?}; their claims go stale by themselves");
    }
}

async fn reconcile(object: Arc<GuardedImage>, worker: Arc<Worker>) -> Result<Action, Infallible> {
    let image = match &object.0 {
        Ok(image) => Arc::new(image.clone()),
        // The controller says so in its status, once for all processes.
        Err(_) => return Ok(Action::await_change()),
    };
    let pass = worker.settings.metrics.reconcile(ObjectKind::JackalImage);
    let looked = look(&worker, &image).await;
    pass.ended(&looked);
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
        worker.memory.cancel(&uid);
        return Ok(Action::await_change());
    }
    if image.spec.suspend {
        worker.memory.cancel(&uid);
        if !worker.memory.runs(&uid) && worker.duty.admits(image) {
            suspend(worker, image, &uid).await?;
        }
        return Ok(Action::await_change());
    }
    worker.duty.report(image).await?;
    if !worker.duty.admits(image) {
        worker.memory.cancel(&uid);
        return Ok(Action::await_change());
    }
    // The leader chooses the tag first, where a policy asks for it; its choice wakes us.
    let Some(image) = movable(image) else {
        worker.memory.cancel(&uid);
        return Ok(Action::await_change());
    };
    let image = &Arc::new(image.into_owned());
    let owner = match worker.duty.plain_tag_owner(image).await {
        Err(fault) if fault.disposition != Disposition::Blocked => return Err(fault),
        owner => owner,
    };
    let key = key_of(image, &owner);
    let status = image.status.as_ref();
    let view = ObjectView {
        ready: is_ready(image),
        claim: status.and_then(|status| status.claim.as_ref()),
        rechecks: worker.duty.rechecks(),
        interval: worker.settings.interval(image.spec.interval),
    };
    match worker.memory.decide(&uid, &key, view, Instant::now()) {
        Decision::Rest => Ok(Action::await_change()),
        Decision::Wait(left) => Ok(Action::requeue(left)),
        Decision::Run => {
            let token = worker.memory.begin(&uid, &key, &worker.stop);
            worker
                .tasks
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
        image_id: assignment
            .filter(|_| image.spec.source.is_engine())
            .map(|assignment| assignment.image_id.clone())
            .or_else(|| selected.map(|selected| selected.tag.clone())),
        holder: match owner {
            Ok(owner) => owner.clone(),
            Err(fault) => Some(fault.message.clone()),
        },
    }
}

/// Says that nothing happens because somebody wants it so. What is ready stays ready.
async fn suspend(worker: &Worker, image: &JackalImage, uid: &str) -> Result<(), Fault> {
    let api: Api<JackalImage> = Api::namespaced(worker.client.clone(), &image.namespace().unwrap_or_default());
    let name = image.name_any();
    let written = update(&api, &name, uid, |standing, status| {
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
