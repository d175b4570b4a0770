//! The leader's reconciler of `JackalImage` objects: it assigns nodes to images of engines, chooses tags by policies, deletes
//! what a deleted object pushed, and writes a condition to objects that cannot be decoded. Transfers are made by
//! [`crate::worker`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config};
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::deletion::Deletion;
use super::deletion_tasks::{DeletionDecision, as_leader};
use super::image_assignment::assign;
use super::image_context::{ImageContext, ImageContextInputs};
use super::image_selection::select_tag;
use super::lease::{LEASE_RETRY, Leadership};
use super::object_cache::ObjectCache;
use super::{finalizers, undecodable};
use crate::api::v1alpha1::{DeletionPolicy, JackalImage};
use crate::fault::Fault;
use crate::runtime::{
    AGENT_LABEL, GuardedImage, ObjectChange, ObjectKind, Registries, Settings, object_uids, qualified_name,
    until_stopped,
};

/// Keeps an object until what it pushed is deleted.
const FINALIZER: &str = "jackal.dev/image";
/// How soon an assignment is retried.
const ASSIGNMENT_RETRY: Duration = Duration::from_secs(5);

/// Reconciles images until `stop`.
pub(super) async fn run(
    client: Client,
    identity: &str,
    settings: Settings,
    (registries, objects): (Arc<Registries>, ObjectCache),
    leadership: Leadership,
    stop: CancellationToken,
) {
    let leases: Api<PartialObjectMeta<Lease>> = Api::namespaced(client.clone(), &settings.defaults.namespace);
    let (agents, writer) = reflector::store();
    let mut agent_listing = settings.health.further_listing("Leases of agents");
    let agent_changes = watcher(leases, watcher::Config::default().labels(AGENT_LABEL))
        .default_backoff()
        .reflect(writer)
        .inspect(move |event| agent_listing.note(event))
        .touched_objects()
        .filter_map(|change| async move { change.ok().map(|_| ()) });
    let (queue, queued) = mpsc::channel(1024);
    let context = Arc::new(ImageContext::new(ImageContextInputs {
        client,
        identity: identity.to_owned(),
        settings,
        registries,
        leadership,
        objects: objects.clone(),
        agents,
        queue,
        stop: stop.clone(),
    }));
    let images = objects.images;
    let (observer, store) = (Arc::clone(&context), images.store());
    let changes = images.subscribe().inspect(move |change| match change {
        ObjectChange::Applied { .. } => {}
        ObjectChange::Deleted { last, .. } => observer.forget(last.uid().as_deref().unwrap_or_default()),
        ObjectChange::Listed => observer.retain(&object_uids(&store)),
    });
    let controller = Controller::for_shared_stream(images.changed(changes), images.store())
        .with_config(Config::default().concurrency(8))
        .reconcile_all_on(agent_changes)
        .reconcile_on(ReceiverStream::new(queued))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, error, _| match *error {}, Arc::clone(&context))
        .for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "reconciling images");
            }
        });
    until_stopped(controller, &stop).await;
    context.finish().await;
}

async fn reconcile(object: Arc<GuardedImage>, context: Arc<ImageContext>) -> Result<Action, Infallible> {
    match context.leadership.during(reconcile_as_leader(&object, &context)).await {
        Some(action) => Ok(action),
        None => Ok(Action::requeue(LEASE_RETRY)),
    }
}

async fn reconcile_as_leader(object: &GuardedImage, context: &Arc<ImageContext>) -> Action {
    let image = match &object.0 {
        Ok(image) => image,
        Err(invalid) => {
            return undecodable::report::<JackalImage>(&context.client, &context.events, invalid).await;
        }
    };
    let timer = context.settings.metrics.start_reconcile(ObjectKind::JackalImage);
    let finalizer = set_finalizer(context, image).await;
    if let Err(fault) = &finalizer {
        timer.finish(&finalizer);
        warn!(image = qualified_name(image), %fault, "setting the finalizer");
        return Action::requeue(context.settings.backoff.limit);
    }
    if image.metadata.deletion_timestamp.is_some() {
        timer.finish(&finalizer);
        return finalize(context, image);
    }
    if image.spec.policy.is_some() {
        timer.finish(&finalizer);
        return select_tag(context, image);
    }
    if !image.spec.source.is_engine() || image.spec.suspend {
        timer.finish(&finalizer);
        return Action::await_change();
    }
    let assigned = assign(context, image).await;
    timer.finish(&assigned);
    assigned.unwrap_or_else(|fault| {
        warn!(image = qualified_name(image), %fault, "assigning a node");
        Action::requeue(ASSIGNMENT_RETRY)
    })
}

/// Adds the finalizer to an object whose deletion deletes what it pushed, and removes it from others.
async fn set_finalizer(context: &ImageContext, image: &JackalImage) -> Result<(), Fault> {
    let deletes = image.spec.deletion_policy == DeletionPolicy::Delete;
    match image.metadata.deletion_timestamp.is_some() {
        true if deletes => Ok(()),
        true => finalizers::set(&context.client, image, FINALIZER, false).await,
        false => finalizers::set(&context.client, image, FINALIZER, deletes).await,
    }
}

/// Starts the task that deletes what an image that is being deleted pushed.
fn finalize(context: &Arc<ImageContext>, image: &JackalImage) -> Action {
    let uid = image.uid().unwrap_or_default();
    context.selections.cancel(&uid);
    if !image.finalizers().iter().any(|known| known == FINALIZER) {
        return Action::await_change();
    }
    let token = match context.deletions.decide(&uid) {
        DeletionDecision::Begin(token) => token,
        DeletionDecision::Wait(left) => return left.map_or_else(Action::await_change, Action::requeue),
    };
    let (task_context, image) = (Arc::clone(context), image.clone());
    context.tracker.spawn(async move {
        let work = as_leader(&task_context.leadership, delete_pushed(&task_context, &image));
        if let Some(Err(fault)) = task_context.deletions.run(&uid, token, work).await {
            warn!(image = qualified_name(&image), %fault, "deleting what was pushed");
            let reason = "GarbageCollectionFailed";
            task_context.events.warning(&image, reason, &fault.message).await;
        }
        task_context.enqueue(&image).await;
    });
    Action::await_change()
}

/// Deletes what the image pushed, then the finalizer.
async fn delete_pushed(context: &ImageContext, image: &JackalImage) -> Result<(), Fault> {
    let ImageContext {
        client,
        settings,
        registries,
        events,
        ..
    } = context;
    let deletion = Deletion {
        client,
        settings,
        registries,
        events,
    };
    deletion.image(image).await?;
    finalizers::set(client, image, FINALIZER, false).await
}
