//! Deletion of a package's artifacts: of those that `retention` does not keep, once their deletion has been announced in
//! the status for a while, and of all of them with the package.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource as _, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::conflict;
use super::context::PackageContext;
use super::deletion::{Deletion, UNRECORDED, moved};
use super::deletion_tasks::{DeletionDecision, as_leader};
use super::retention::{self, DeletionResult, RetentionContext};
use crate::api::v1alpha1::{Garbage, JackalPackage, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::same_host;
use crate::runtime::{RegistryTarget, Settings, kube_fault, qualified_name};

/// Digests that other packages name in the repository `written` of the artifacts of `package`, whatever name they use
/// for the registry.
pub(super) fn claimed_digests(
    context: &PackageContext,
    package: &JackalPackage,
    target: &RegistryTarget,
    written: &WrittenRepository,
) -> BTreeSet<String> {
    let names = registry_names(&context.settings, target);
    let known = context.packages.state();
    let others = known.iter().filter_map(|other| other.0.as_ref().ok());
    others
        .filter(|other| other.uid() != package.uid() && shares_repository(other, names.as_deref(), written))
        .flat_map(conflict::artifacts)
        .map(str::to_owned)
        .collect()
}

/// The names of the registry of `target`, as far as they are known without a request; none where it may have others.
fn registry_names(settings: &Settings, target: &RegistryTarget) -> Option<Vec<String>> {
    let flags = &settings.defaults.registry;
    let operator: Vec<&String> = flags.address.iter().chain(&flags.endpoint).collect();
    flags.address.as_ref()?;
    let mut names = vec![target.address.clone(), target.endpoint.host.clone()];
    let is_operators = names
        .iter()
        .any(|name| operator.iter().any(|known| same_host(known, name)));
    names.extend(operator.into_iter().filter(|_| is_operators).cloned());
    Some(names)
}

fn deletion(context: &PackageContext) -> Deletion<'_> {
    Deletion {
        client: &context.client,
        settings: &context.settings,
        registries: &context.registries,
        events: &context.events,
    }
}

/// Deletes what is due of the plan in the status, in a task of its own. Gives when the package is to be reconciled
/// again. A failure is recorded as an event and retried; the package stays as ready as it is.
pub(super) fn collect(
    context: &Arc<PackageContext>,
    package: &Arc<JackalPackage>,
    target: &RegistryTarget,
) -> Option<Duration> {
    let status = package.status.as_ref()?;
    let uid = package.uid().unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    let next = retention::next(status)?;
    if next.0 > now.0 {
        return Some(Duration::try_from(next.0.duration_since(now.0)).unwrap_or_default());
    }
    let path = crate::package::repository(&target.prefix, &package.name_any());
    let written = context
        .settings
        .defaults
        .written_repository(&package.spec.registry, target, &path);
    // The plan of a former registry is replaced by the task that publishes.
    if !status.registry.as_ref().is_some_and(|known| known.is(&written)) {
        return None;
    }
    let claimed = claimed_digests(context, package, target, &written);
    let retention = RetentionContext {
        repository: &format!("{}/{path}", target.address),
        claimed: &claimed,
        images: &[],
        after: now.clone(),
        is_requested: false,
    };
    let due = retention::due(&package.spec, status, &retention, &now);
    // What is planned no more is removed from the plan by the next publication.
    if due.is_empty() {
        return None;
    }
    let token = match context.deletions.decide(&uid) {
        DeletionDecision::Begin(token) => token,
        DeletionDecision::Wait(left) => return left,
    };
    let (task_context, package, target) = (Arc::clone(context), Arc::clone(package), target.clone());
    context.tracker.spawn(async move {
        let work = delete_due(&task_context, &package, &target, &path, &due);
        run_deletion(&task_context, &package, &uid, token, work).await;
    });
    None
}

/// Runs `work`, a deletion of content of `package`, as long as this process leads. Records the event of a failure where
/// that is new, and requests a reconciliation of the package.
pub(super) async fn run_deletion(
    context: &PackageContext,
    package: &JackalPackage,
    uid: &str,
    token: CancellationToken,
    work: impl Future<Output = Result<(), Fault>>,
) {
    let result = context.deletions.run(uid, token, as_leader(&context.leadership, work));
    match result.await {
        Some(Err(fault)) => {
            warn!(package = qualified_name(package), %fault, "deleting artifacts");
            let before = context
                .deletion_failures()
                .insert(uid.to_owned(), fault.message.clone());
            if before.as_ref() != Some(&fault.message) {
                let reason = "GarbageCollectionFailed";
                context.events.warning(package, reason, &fault.message).await;
            }
        }
        Some(Ok(())) => drop(context.deletion_failures().remove(uid)),
        None => {}
    }
    context.enqueue(package).await;
}

/// Deletes `entries` and writes the result of each into the status.
async fn delete_due(
    context: &PackageContext,
    package: &JackalPackage,
    target: &RegistryTarget,
    path: &str,
    entries: &[Garbage],
) -> Result<(), Fault> {
    let (results, outcome) = deletion(context)
        .artifacts(target, path, entries, || context.leadership.is_held())
        .await;
    if !results.is_empty() {
        let written = context.change_status(package, |status, _| retention::record_results(status, &results));
        let is_news = written
            .await
            .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))?;
        record_events(context, package, &results, is_news.unwrap_or_default()).await;
    }
    outcome
}

/// Records an event for each artifact that was deleted and, where `retained_is_news`, for each that was retained for a new
/// reason.
async fn record_events(
    context: &PackageContext,
    package: &JackalPackage,
    results: &[(Garbage, DeletionResult)],
    retained_is_news: bool,
) {
    let (deletion, object) = (deletion(context), package.object_ref(&()));
    for (entry, result) in results {
        match (result, entry.digest.parse()) {
            (DeletionResult::Deleted, Ok(digest)) => {
                deletion.record_deleted(&object, &entry.reference, &digest).await;
            }
            (DeletionResult::Retained(why), _) if retained_is_news && entry.kept.as_ref() != Some(why) => {
                deletion.record_retained(&object, &entry.reference, &why.message).await;
            }
            _ => {}
        }
    }
}

/// Deletes every artifact that `package`, which is being deleted, wrote.
pub(super) async fn delete_all(context: &PackageContext, package: &JackalPackage) -> Result<(), Fault> {
    let mut status = package.status.clone().unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    retention::record_interrupted(&mut status, &now);
    if status.history.is_empty() {
        return Ok(());
    }
    let target = context.target(package).await?;
    let path = crate::package::repository(&target.prefix, &package.name_any());
    let written = context
        .settings
        .defaults
        .written_repository(&package.spec.registry, &target, &path);
    let retained = match &status.registry {
        Some(known) if known.is(&written) => None,
        Some(known) => Some(moved(known, &written)),
        None => Some(UNRECORDED.to_owned()),
    };
    if let Some(why) = retained {
        let object = package.object_ref(&());
        let deletion = deletion(context);
        deletion.record_retained(&object, "what the package wrote", &why).await;
        return Ok(());
    }
    let claimed = claimed_digests(context, package, &target, &written);
    let retention = RetentionContext {
        repository: &format!("{}/{path}", target.address),
        claimed: &claimed,
        images: &[],
        after: now,
        is_requested: true,
    };
    let entries = retention::plan(&package.spec, &status, &retention);
    let (results, outcome) = deletion(context)
        .artifacts(&target, &path, &entries, || context.leadership.is_held())
        .await;
    record_events(context, package, &results, true).await;
    outcome?;
    match results.len() < entries.len() {
        true => Err(Fault::retryable(
            Reason::PackageFailed,
            "the lease was lost while artifacts were deleted",
        )),
        false => Ok(()),
    }
}

/// Whether the artifacts of `other` are in the repository `written`, whose registry has these `names`. Where the names are
/// unknown, or `other` does not say which registry received its artifacts, only the paths are compared.
fn shares_repository(other: &JackalPackage, names: Option<&[String]>, written: &WrittenRepository) -> bool {
    let Some(status) = &other.status else { return false };
    match (&status.registry, &status.artifact) {
        (Some(known), _) => {
            let named = |names: &[String]| known.hosts().any(|host| names.iter().any(|name| same_host(name, host)));
            known.repository == written.repository && names.is_none_or(named)
        }
        (None, Some(artifact)) => {
            let rest = artifact
                .url
                .strip_prefix("oci://")
                .and_then(|rest| rest.split_once('/'));
            let repository = rest.and_then(|(_, rest)| rest.rsplit_once(':')).map(|(path, _)| path);
            repository == Some(written.repository.as_str())
        }
        (None, None) => false,
    }
}
