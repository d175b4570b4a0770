//! The condition SBOMsComplete of a package.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tracing::warn;

use super::context::PackageContext;
use crate::api::v1alpha1::{Conditions, JackalPackage, SBOMS_COMPLETE, cut};
use crate::fault::Fault;
use crate::package::SbomProgress;
use crate::runtime::qualified_name;

/// Sets the condition. A failure stays until the SBOMs exist or the generation changes: a retry is no news.
pub(super) fn set(conditions: &mut Conditions, sboms: &SbomProgress, generation: Option<i64>, now: Time) {
    match sboms {
        SbomProgress::NotRequested => conditions.clear(SBOMS_COMPLETE),
        SbomProgress::Pending(sboms) => {
            let failed = |known: &&Condition| is_failure(known, generation);
            if conditions.get(SBOMS_COMPLETE).filter(failed).is_none() {
                let message = format!("creating the SBOMs of {} images", sboms.total());
                conditions.set(SBOMS_COMPLETE, None, ("Progressing", &message), generation, now);
            }
        }
        SbomProgress::Complete(sboms) => {
            let message = match sboms.total() {
                0 => "no image of the package has files that an SBOM could list".to_owned(),
                total => format!("SBOMs of {total} images are beside them and in the package"),
            };
            conditions.set(SBOMS_COMPLETE, Some(true), ("Succeeded", &message), generation, now);
        }
    }
}

/// Whether an artifact with `sboms` has SBOMs and the one before, which had these conditions, had none.
pub(super) fn is_added(sboms: &SbomProgress, before: &Conditions) -> bool {
    let existed = before.get(SBOMS_COMPLETE).is_some_and(|known| known.status == "True");
    matches!(sboms, SbomProgress::Complete(_)) && !existed
}

fn is_failure(known: &Condition, generation: Option<i64>) -> bool {
    known.status == "False" && known.observed_generation == generation
}

/// Writes that the SBOMs could not be created, and records an event where that is new.
pub(super) async fn write_failure(
    context: &PackageContext,
    package: &JackalPackage,
    fault: &Fault,
) -> Result<(), kube::Error> {
    let reason = fault.reason.to_string();
    let is_news = context.change_status(package, |status, generation| {
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        let known = conditions.get(SBOMS_COMPLETE);
        let is_known = known.is_some_and(|known| is_failure(known, generation) && known.message == cut(&fault.message));
        let now = Time(jiff::Timestamp::now());
        conditions.set(SBOMS_COMPLETE, Some(false), (&reason, &fault.message), generation, now);
        status.conditions = conditions.0;
        !is_known
    });
    if is_news.await? == Some(true) {
        warn!(package = qualified_name(package), %fault, "SBOMs");
        context.events.warning(package, &reason, &fault.message).await;
    }
    Ok(())
}
