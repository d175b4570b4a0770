//! The SBOMs of a package's images, as far as they are the leader's business: what is wanted, what the status says, and
//! that they follow the images without keeping the package from being Ready.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tracing::warn;

use super::packages::Packages;
use crate::api::v1alpha1::{Conditions, JackalPackage, SBOMS_COMPLETE, cut};
use crate::fault::Fault;
use crate::package::{Archive, PackageSboms, ReusableTars, TransferredImage};
use crate::runtime::qualified_name;
use crate::sbom::unable;

/// What came of a package's SBOMs until an artifact was put together.
pub(super) enum Sboms {
    /// None are wanted.
    Off,
    /// Some are still to be made, after the package is Ready.
    Pending(PackageSboms),
    /// All are there.
    Complete(PackageSboms),
}

impl Sboms {
    /// Asks for the SBOMs of `images`, and makes what is missing where the package must not be Ready without. `known` are the
    /// tars of the artifact that stands.
    pub async fn look(
        packages: &Packages,
        package: &JackalPackage,
        images: &mut [TransferredImage],
        known: &ReusableTars,
    ) -> Result<Self, Fault> {
        let syft = packages.settings.syft.as_ref();
        let Some(wanted) = package.spec.wanted_sboms(syft.is_some()) else {
            return Ok(Self::Off);
        };
        let memory = syft.map(|syft| syft.memory());
        let mut sboms = PackageSboms::look(images, memory).await?;
        sboms.prove(known, memory);
        if wanted.required && !sboms.is_complete() {
            sboms.make(syft.ok_or_else(unable)?).await?;
        }
        Ok(match sboms.is_complete() {
            true => Self::Complete(sboms),
            false => Self::Pending(sboms),
        })
    }

    /// Makes what is missing.
    pub async fn make(packages: &Packages, mut sboms: PackageSboms) -> Result<Self, Fault> {
        sboms.make(packages.settings.syft.as_ref().ok_or_else(unable)?).await?;
        Ok(Self::Complete(sboms))
    }

    /// The tar of them; none before all are there.
    pub fn archive(&self) -> Option<Archive> {
        match self {
            Self::Complete(sboms) => sboms.archive(),
            Self::Off | Self::Pending(_) => None,
        }
    }

    /// Notes in a package's conditions how far its SBOMs are. A failure stays until they are there or another generation
    /// is about something else: another try is no news.
    pub fn note(&self, conditions: &mut Conditions, generation: Option<i64>, now: Time) {
        match self {
            Self::Off => conditions.clear(SBOMS_COMPLETE),
            Self::Pending(sboms) => {
                let failed = |known: &&Condition| is_failure(known, generation);
                if conditions.get(SBOMS_COMPLETE).filter(failed).is_none() {
                    let message = format!("SBOMs of {} images are made", sboms.total());
                    conditions.note(SBOMS_COMPLETE, None, ("Progressing", &message), generation, now);
                }
            }
            Self::Complete(sboms) => {
                let message = match sboms.total() {
                    0 => "no image of the package has files that an SBOM could list".to_owned(),
                    total => format!("SBOMs of {total} images are beside them and in the package"),
                };
                conditions.note(SBOMS_COMPLETE, Some(true), ("Succeeded", &message), generation, now);
            }
        }
    }

    /// Whether SBOMs come into the package with this artifact, by the conditions of the one before.
    pub fn are_news(&self, before: &Conditions) -> bool {
        let stood = before.get(SBOMS_COMPLETE).is_some_and(|known| known.status == "True");
        matches!(self, Self::Complete(_)) && !stood
    }
}

fn is_failure(known: &Condition, generation: Option<i64>) -> bool {
    known.status == "False" && known.observed_generation == generation
}

/// Notes that the SBOMs did not come about, and tells it once.
pub(super) async fn failed(packages: &Packages, package: &JackalPackage, fault: &Fault) -> Result<(), kube::Error> {
    let news = AtomicBool::new(false);
    let reason = fault.reason.to_string();
    packages
        .change(package, |status, generation| {
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let known = conditions.get(SBOMS_COMPLETE);
            let told = known.is_some_and(|known| is_failure(known, generation) && known.message == cut(&fault.message));
            news.store(!told, Ordering::Relaxed);
            let now = Time(jiff::Timestamp::now());
            conditions.note(SBOMS_COMPLETE, Some(false), (&reason, &fault.message), generation, now);
            status.conditions = conditions.0;
        })
        .await?;
    if news.into_inner() {
        warn!(package = qualified_name(package), %fault, "SBOMs");
        packages.events.warning(package, &reason, &fault.message).await;
    }
    Ok(())
}
