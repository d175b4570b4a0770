//! The reconciler of `JackalPackage` objects: plans, creates an object for each image, and starts the task that builds the
//! artifact once all images are in the registry.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::children::Children;
use super::collection::{collect, delete_all, run_deletion};
use super::context::{ContextInputs, PackageContext};
use super::deletion_tasks::DeletionDecision;
use super::finalizers;
use super::lease::{LEASE_RETRY, Leadership};
use super::object_cache::{GuardedPackage, ObjectCache};
use super::package_selection::{EffectivePackage, TagResolution, resolve_tags, suspend};
use super::package_tags::{check_tag, enqueue_for_image, enqueue_for_package};
use super::publication::{self, PublicationRequest};
use super::summary::{Verification, count, failures, rows, transfer_message, written_images};
use super::undecodable;
use crate::api::v1alpha1::{
    Conditions, DeletionPolicy, JackalImage, JackalPackage, JackalPackageStatus, PackagedImage, READY, requested_at,
};
use crate::fault::{Disposition, Fault};
use crate::oci::Naming;
use crate::package::{Plan, check_images};
use crate::runtime::{
    Decision, ObjectChange, ObjectKind, ObjectView, Registries, RegistryTarget, Settings, disposition_after_write,
    is_up_to_date, object_uids, until_stopped,
};

/// Keeps the object until its images' objects are deleted.
const FINALIZER: &str = "jackal.dev/package";

/// Reconciles packages until `stop`.
pub(super) async fn run(
    client: Client,
    identity: &str,
    settings: Settings,
    (registries, objects): (Arc<Registries>, ObjectCache),
    leadership: Leadership,
    stop: CancellationToken,
) {
    let (queue, queued) = mpsc::channel(1024);
    let context = Arc::new(PackageContext::new(ContextInputs {
        client,
        identity: identity.to_owned(),
        settings,
        registries,
        leadership,
        objects: objects.clone(),
        queue,
        stop: stop.clone(),
    }));
    let ObjectCache { packages, images } = objects;
    let observer = Arc::clone(&context);
    let package_changes = packages.subscribe().inspect(move |change| {
        enqueue_for_package(&observer, change);
        match change {
            ObjectChange::Applied { .. } => {}
            ObjectChange::Deleted { last, .. } => observer.forget(last.uid().as_deref().unwrap_or_default()),
            ObjectChange::Listed => observer.retain(&object_uids(&observer.packages)),
        }
    });
    let observer = Arc::clone(&context);
    let image_changes = images
        .subscribe()
        .inspect(move |change| enqueue_for_image(&observer, change));
    let controller = Controller::for_shared_stream(packages.changed(package_changes), packages.store())
        .owns_shared_stream(images.changed(image_changes))
        .with_config(Config::default().concurrency(8))
        .reconcile_on(ReceiverStream::new(queued))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, error, _| match *error {}, Arc::clone(&context))
        .for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "reconciling packages");
            }
        });
    until_stopped(controller, &stop).await;
    context.tracker.close();
    context.tracker.wait().await;
}

async fn reconcile(object: Arc<GuardedPackage>, context: Arc<PackageContext>) -> Result<Action, Infallible> {
    match context.leadership.during(reconcile_as_leader(&object, &context)).await {
        Some(action) => Ok(action),
        None => Ok(Action::requeue(LEASE_RETRY)),
    }
}

async fn reconcile_as_leader(object: &GuardedPackage, context: &Arc<PackageContext>) -> Action {
    let package = match &object.0 {
        Ok(package) => package,
        Err(invalid) => {
            return undecodable::report::<JackalPackage>(&context.client, &context.events, invalid).await;
        }
    };
    let timer = context.settings.metrics.start_reconcile(ObjectKind::JackalPackage);
    let result = reconcile_package(context, package).await;
    timer.finish(&result);
    let fault = match result {
        Ok(again) => return again.map_or_else(Action::await_change, Action::requeue),
        Err(fault) => fault,
    };
    // It failed before any task was started: the plan, a Secret, the API server.
    let uid = package.uid().unwrap_or_default();
    let written = context.write_own_failure(package, &fault).await;
    let disposition = disposition_after_write(package, written, fault.disposition);
    // The other object may be deleted while this failure is written, so the next reconciliation is not postponed.
    if disposition == Disposition::Blocked {
        let interval = context.settings.interval(package.spec.interval);
        return Action::requeue(interval.min(context.settings.backoff.limit));
    }
    context
        .tasks
        .failed(&uid, context.key(package, None), disposition, Instant::now());
    let again = postponed(context, package).and_then(Decision::delay);
    again.map_or_else(Action::await_change, Action::requeue)
}

/// Does the next step for a package. Gives when it is reconciled again, if no event comes before.
async fn reconcile_package(context: &Arc<PackageContext>, package: &JackalPackage) -> Result<Option<Duration>, Fault> {
    let uid = package.uid().unwrap_or_default();
    if package.metadata.deletion_timestamp.is_some() {
        context.tasks.cancel(&uid);
        context.selections.cancel(&uid);
        context.archives.cancel(&uid);
        return finalize(context, package).await;
    }
    // A failure of this spec is retried after its delay, whatever else changed in the object.
    if let Some(postponed) = postponed(context, package) {
        return Ok(postponed.delay());
    }
    finalizers::set(&context.client, package, FINALIZER, true).await?;
    check_images(&package.spec)?;
    match resolve_tags(context, package)? {
        TagResolution::Resolved(effective) => {
            let reselection = effective.again;
            let again = reconcile_effective(context, effective).await?;
            Ok(again.into_iter().chain(reselection).min())
        }
        TagResolution::Pending(again) => {
            if package.spec.suspend {
                suspend(context, package).await?;
            }
            Ok(again)
        }
    }
}

/// The same for a package whose tags are chosen.
async fn reconcile_effective(
    context: &Arc<PackageContext>,
    effective: EffectivePackage,
) -> Result<Option<Duration>, Fault> {
    let EffectivePackage {
        mut package,
        selections,
        archive,
        ..
    } = effective;
    let target = context.target(&package).await?;
    package.spec.naming = naming(context, &package, &target).await?.into();
    let package = &Arc::new(package);
    let plan = plan(context, package, &target).await?;
    let images = sync_images(context, package, &plan).await?;
    let rows = rows(&plan, &images, &selections);
    if !write_transfers(context, package, &rows, &images).await? {
        return Ok(None);
    }
    let request = PublicationRequest {
        target,
        origins: publication::origins(&plan, &images),
        plan,
        rows,
        inputs: publication::inputs(package, &images, archive.as_deref()),
        written_images: written_images(&images),
        verification: Verification::of_package(&package.spec, &images),
        archive,
    };
    Ok(publish(context, package, request))
}

/// How the names of the package's images are formed: as the spec says, or where that leaves it to the cluster, as in its
/// registry.
async fn naming(context: &PackageContext, package: &JackalPackage, target: &RegistryTarget) -> Result<Naming, Fault> {
    if let Some(naming) = package.spec.naming.explicit() {
        return Ok(naming);
    }
    let is_current = |status: &&JackalPackageStatus| {
        status.observed_generation == package.metadata.generation
            && status.last_handled_reconcile_at.as_deref() == requested_at(package.annotations())
    };
    let known = package
        .status
        .as_ref()
        .filter(is_current)
        .and_then(|status| status.naming);
    context.settings.defaults.naming(&context.client, target, known).await
}

/// The plan of the package. Checks that it may be written to `target`, and, unless it is suspended, that it has its tag.
async fn plan(context: &PackageContext, package: &JackalPackage, target: &RegistryTarget) -> Result<Plan, Fault> {
    let suspended = package.spec.suspend;
    if !suspended {
        check_tag(context, package).await?;
    }
    let plan = Plan::of_package(&package.name_any(), &package.spec, &target.address, &target.prefix)?;
    for planned in &plan.images {
        target.check(&planned.location.repository, &format!("image `{}`", planned.spec.image))?;
    }
    if !suspended {
        context.write_planned(package, plan.images.len()).await?;
    }
    Ok(plan)
}

/// Creates, changes and deletes the objects of the package's images as `plan` says. Gives them in its order.
async fn sync_images(
    context: &PackageContext,
    package: &JackalPackage,
    plan: &Plan,
) -> Result<Vec<JackalImage>, Fault> {
    let uid = package.uid().unwrap_or_default();
    let generation = package.metadata.generation.unwrap_or_default();
    let names = context.listed_images(&uid, generation);
    let known = names.as_ref().map(|names| (&context.images, names));
    let children = Children::of(&context.client, package);
    let images = children.sync(plan, known).await?;
    context.note_listed(&uid, generation, children.legacy_names(plan, &images));
    Ok(images)
}

/// Cancels the task that builds the artifact and writes how far the images are, unless all are in the registry. True when
/// they are, so that the artifact can be built.
async fn write_transfers(
    context: &PackageContext,
    package: &JackalPackage,
    rows: &[PackagedImage],
    images: &[JackalImage],
) -> Result<bool, Fault> {
    let suspended = package.spec.suspend;
    let counts = count(images);
    let failure = failures(images, &counts);
    if !suspended && failure.is_none() && counts.ready == counts.total {
        return Ok(true);
    }
    context.tasks.cancel(&package.uid().unwrap_or_default());
    if suspended {
        let set = |conditions: &mut Conditions, generation, now| conditions.suspended(generation, now);
        context.write_images(package, rows, images, set).await?;
    } else if let Some(fault) = failure {
        context.write_image_failure(package, rows, images, &fault).await?;
    // Ready stays while images that are up to date are only checked again on request.
    } else if !(is_built_from(package, rows) && images.iter().all(is_up_to_date)) {
        let message = transfer_message(&counts);
        let set = |conditions: &mut Conditions, generation, now| {
            conditions.progressing(generation, "Transferring", &message, now);
        };
        context.write_images(package, rows, images, set).await?;
    }
    Ok(false)
}

/// Starts the task that builds the artifact, unless it runs, or ran for the same inputs.
fn publish(
    context: &Arc<PackageContext>,
    package: &Arc<JackalPackage>,
    request: PublicationRequest,
) -> Option<Duration> {
    let key = context.key(package, Some(&request.inputs));
    let ready = is_ready(package, &request.rows);
    let view = ObjectView {
        ready,
        claim: None,
        rechecks: true,
        interval: context.settings.interval(package.spec.interval),
    };
    let uid = package.uid().unwrap_or_default();
    // Nothing is built during a deletion, whose end requests a reconciliation.
    if context.deletions.runs(&uid) {
        return None;
    }
    match context.tasks.decide(&uid, &key, view, Instant::now()) {
        // Nothing is deleted during a build, which is started here alone.
        Decision::AwaitChange if context.tasks.is_running(&uid) || !ready => None,
        Decision::AwaitChange => collect(context, package, &request.target),
        Decision::Requeue(left) if !ready => Some(left),
        Decision::Requeue(left) => {
            let collection = collect(context, package, &request.target);
            collection.into_iter().chain([left]).min()
        }
        Decision::Run => {
            let token = context.tasks.begin(&uid, &key, &context.stop);
            let (task_context, package) = (Arc::clone(context), Arc::clone(package));
            context
                .tracker
                .spawn(async move { publication::run(&task_context, &package, request, token).await });
            None
        }
    }
}

/// When the package is reconciled again, where a step before any task failed and the package has not changed since.
fn postponed(context: &PackageContext, package: &JackalPackage) -> Option<Decision> {
    let uid = package.uid().unwrap_or_default();
    context
        .tasks
        .postponed(&uid, &context.key(package, None), Instant::now())
}

/// Whether the status says Ready of this spec with these images, and of the last request for a reconciliation.
fn is_ready(package: &JackalPackage, rows: &[PackagedImage]) -> bool {
    let handled = package
        .status
        .as_ref()
        .and_then(|status| status.last_handled_reconcile_at.as_deref());
    is_built_from(package, rows) && handled == requested_at(package.annotations())
}

/// Whether the status says Ready of this spec with these images.
fn is_built_from(package: &JackalPackage, rows: &[PackagedImage]) -> bool {
    package.status.as_ref().is_some_and(|status| {
        Conditions(status.conditions.clone()).is_true(READY, package.metadata.generation) && status.images == rows
    })
}

/// Does the next step for a package that is being deleted: deletes its images' objects, then what it wrote where the
/// package says so, then the finalizer.
async fn finalize(context: &Arc<PackageContext>, package: &JackalPackage) -> Result<Option<Duration>, Fault> {
    if !package.finalizers().iter().any(|known| known == FINALIZER) {
        return Ok(None);
    }
    if !Children::of(&context.client, package).clear().await? {
        // Events of their deletion request a reconciliation; the time is for one that this process never saw.
        return Ok(Some(Duration::from_secs(2)));
    }
    if package.spec.deletion_policy != DeletionPolicy::Delete {
        finalizers::set(&context.client, package, FINALIZER, false).await?;
        return Ok(None);
    }
    let uid = package.uid().unwrap_or_default();
    let token = match context.deletions.decide(&uid) {
        DeletionDecision::Begin(token) => token,
        DeletionDecision::Wait(left) => return Ok(left),
    };
    let (task_context, package) = (Arc::clone(context), package.clone());
    context.tracker.spawn(async move {
        let work = async {
            delete_all(&task_context, &package).await?;
            finalizers::set(&task_context.client, &package, FINALIZER, false).await
        };
        run_deletion(&task_context, &package, &uid, token, work).await;
    });
    Ok(None)
}
