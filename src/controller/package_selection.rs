//! Packages whose images follow a policy: the task that chooses tags of those that exist, and the package with these
//! tags, which is what the rest of the reconciler sees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::access::{AccessClients, ObjectAccess};
use super::archived::{ResolvedArchive, resolve_archive};
use super::context::PackageContext;
use crate::api::v1alpha1::{Conditions, JackalPackage, PackagedImage};
use crate::fault::{Fault, Reason};
use crate::fetch::select;
use crate::package::{self, PolicyImage, Selection};
use crate::runtime::{Decision, ObjectView, TaskKey, catch_panic, disposition_after_write, kube_fault};

/// A package with the tags that its policies chose.
pub(super) struct EffectivePackage {
    /// The package, with a tag for each image.
    pub package: JackalPackage,
    /// What was chosen for it.
    pub selections: Arc<Vec<Selection>>,
    /// The archive that it comes from.
    pub archive: Option<Arc<ResolvedArchive>>,
    /// When tags are chosen, or the archive is read, again.
    pub again: Option<Duration>,
}

/// Whether all tags of a package are chosen, and its archive is read.
// Few of them live at once.
#[allow(clippy::large_enum_variant)]
pub(super) enum TagResolution {
    /// They are, or the package has no policy and no archive.
    Resolved(EffectivePackage),
    /// They are not. The package is reconciled again after that time, or by an event where there is none.
    Pending(Option<Duration>),
}

/// The package with the tags that its policies choose. They are chosen by a task of its own, at each interval and at
/// each request; while the package is suspended they stay as they are.
pub(super) fn resolve_tags(context: &Arc<PackageContext>, package: &JackalPackage) -> Result<TagResolution, Fault> {
    let uid = package.uid().unwrap_or_default();
    if package.spec.from.is_some() {
        context.selections.forget(&uid);
        return Ok(resolve_archive(context, package));
    }
    context.archives.forget(&uid);
    if !package::has_policies(&package.spec) {
        context.selections.forget(&uid);
        return Ok(TagResolution::Resolved(EffectivePackage {
            package: package.clone(),
            selections: Arc::default(),
            archive: None,
            again: None,
        }));
    }
    let followed = package::policy_images(&package.spec)?;
    let selections = &context.selections;
    let known = selections.of(&uid, package);
    if package.spec.suspend {
        selections.cancel(&uid);
        let chosen = match known {
            Some(chosen) => chosen.selections,
            None => Arc::new(recorded_selections(package, followed)),
        };
        return Ok(match with_tags(package, chosen, None) {
            Some(effective) => TagResolution::Resolved(effective),
            None => TagResolution::Pending(None),
        });
    }
    let (key, now) = (context.key(package, None), Instant::now());
    // A failed task is retried after its delay, and nothing else happens before.
    if let Some(postponed) = selections.tasks.postponed(&uid, &key, now) {
        return Ok(TagResolution::Pending(postponed.delay()));
    }
    let known = known.filter(|chosen| chosen.key == key);
    let view = ObjectView {
        ready: known.is_some(),
        claim: None,
        rechecks: true,
        interval: context.settings.interval(package.spec.interval),
    };
    let again = match selections.tasks.decide(&uid, &key, view, now) {
        Decision::AwaitChange => None,
        Decision::Requeue(left) => Some(left),
        Decision::Run => {
            let token = selections.tasks.begin(&uid, &key, &context.stop);
            let (task_context, package) = (Arc::clone(context), package.clone());
            context
                .tracker
                .spawn(async move { run(&task_context, &package, followed, key, token).await });
            None
        }
    };
    Ok(
        match known.and_then(|chosen| with_tags(package, chosen.selections, again)) {
            Some(effective) => TagResolution::Resolved(effective),
            None => TagResolution::Pending(again),
        },
    )
}

/// Writes the Suspended condition of a package that is suspended before its tags were chosen.
pub(super) async fn suspend(context: &PackageContext, package: &JackalPackage) -> Result<(), Fault> {
    context.tasks.cancel(&package.uid().unwrap_or_default());
    let written = context.change_status(package, |status, generation| {
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        conditions.suspended(generation, Time(jiff::Timestamp::now()));
        status.conditions = conditions.0;
    });
    written
        .await
        .map(|_| ())
        .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
}

/// The selections that the status records, for a suspended package that this process chose nothing for.
fn recorded_selections(package: &JackalPackage, followed: Vec<PolicyImage>) -> Vec<Selection> {
    let rows: Vec<&PackagedImage> = package.status.iter().flat_map(|status| &status.images).collect();
    let recorded = |followed: PolicyImage| {
        let row = rows
            .iter()
            .find(|row| row.image == followed.image && row.selected.is_some())?;
        let selected = row.selected.clone()?;
        Some(Selection {
            image: followed,
            selected,
        })
    };
    followed.into_iter().filter_map(recorded).collect()
}

/// The package with these tags; none where one is missing.
fn with_tags(
    package: &JackalPackage,
    selections: Arc<Vec<Selection>>,
    again: Option<Duration>,
) -> Option<EffectivePackage> {
    Some(EffectivePackage {
        package: JackalPackage {
            metadata: package.metadata.clone(),
            spec: package::with_selected_tags(&package.spec, &selections)?,
            status: package.status.clone(),
        },
        selections,
        archive: None,
        again,
    })
}

/// Runs the task to its end, or until `token` is cancelled.
async fn run(
    context: &Arc<PackageContext>,
    package: &JackalPackage,
    followed: Vec<PolicyImage>,
    key: TaskKey,
    token: CancellationToken,
) {
    let uid = package.uid().unwrap_or_default();
    let selections = &context.selections;
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        result = context.leadership.during(catch_panic(choose_tags(context, package, followed))) => result,
    };
    match result {
        None => selections.tasks.ended(&uid),
        Some(Ok(chosen)) => {
            if selections.set(package, &uid, key.clone(), chosen) {
                // The objects of the images before are found by a list, and deleted.
                context.list_images_again(&uid);
            }
            selections.tasks.succeeded(&uid, key, Instant::now());
        }
        Some(Err(fault)) => {
            selections.clear(&uid);
            let written = context.write_own_failure(package, &fault).await;
            let disposition = disposition_after_write(package, written, fault.disposition);
            selections.tasks.failed(&uid, key, disposition, Instant::now());
        }
    }
    context.enqueue(package).await;
}

async fn choose_tags(
    context: &PackageContext,
    package: &JackalPackage,
    followed: Vec<PolicyImage>,
) -> Result<Vec<Selection>, Fault> {
    let target = context.target(package).await?;
    let clients = AccessClients::of(&context.client, &context.settings, &context.registries);
    select(&followed, &ObjectAccess::of_package(clients, package, &target)).await
}
