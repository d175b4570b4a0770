//! What the leader writes into the status of a package.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt as _};
use tracing::warn;

use super::packages::Packages;
use super::summary::{Verification, brought, count};
use crate::api::v1alpha1::{
    Conditions, Counts, JackalImage, JackalPackage, JackalPackageStatus, PackagedImage, READY, SIGNED, VERIFIED,
    requested_at,
};
use crate::fault::{Fault, Reason};
use crate::runtime::{Failure, kube_fault, qualified_name, update};

impl Packages {
    /// Writes the images' rows and counts, and conditions.
    pub(super) async fn write(
        &self,
        package: &JackalPackage,
        rows: &[PackagedImage],
        images: &[JackalImage],
        say: impl Fn(&mut Conditions, Option<i64>, Time),
    ) -> Result<(), Fault> {
        self.change(package, |status, generation| {
            status.images = rows.to_vec();
            status.naming = package.spec.naming.explicit();
            status.counts = Some(count(images));
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let now = Time(jiff::Timestamp::now());
            Verification::of(images).note(&mut conditions, generation, now.clone());
            say(&mut conditions, generation, now);
            status.conditions = conditions.0;
        })
        .await
        .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
    }

    /// Says how many images there are before their objects are made, which takes a while where there are many. What is
    /// known of as many stays.
    pub(super) async fn planned(&self, package: &JackalPackage, total: usize) -> Result<(), Fault> {
        let known = package.status.as_ref().and_then(|status| status.counts.as_ref());
        let counts = Counts::new(total, 0, 0);
        if known.is_some_and(|known| known.total == counts.total) {
            return Ok(());
        }
        let written = self.change(package, |status, generation| {
            note_planned(status, &counts, generation, Time(jiff::Timestamp::now()));
        });
        written
            .await
            .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
    }

    pub(super) async fn write_failure(
        &self,
        package: &JackalPackage,
        rows: &[PackagedImage],
        images: &[JackalImage],
        fault: &Fault,
    ) -> Result<(), Fault> {
        let news = AtomicBool::new(false);
        self.write(package, rows, images, |conditions, generation, now| {
            news.store(Failure(fault).note(conditions, generation, now), Ordering::Relaxed);
        })
        .await?;
        if news.into_inner() {
            self.events
                .warning(package, &fault.reason.to_string(), &fault.message)
                .await;
        }
        Ok(())
    }

    /// Notes a failure that is the package's own.
    pub(super) async fn failed(&self, package: &JackalPackage, fault: &Fault) -> Result<(), kube::Error> {
        self.failed_with(package, fault, |_, _, _| {}).await
    }

    /// The same, where the failure is that of another condition as well, which `say` notes.
    pub(super) async fn failed_with(
        &self,
        package: &JackalPackage,
        fault: &Fault,
        say: impl Fn(&mut Conditions, Option<i64>, Time),
    ) -> Result<(), kube::Error> {
        let news = AtomicBool::new(false);
        self.change(package, |status, generation| {
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let now = Time(jiff::Timestamp::now());
            let is_news = Failure(fault).note(&mut conditions, generation, now.clone());
            news.store(is_news, Ordering::Relaxed);
            say(&mut conditions, generation, now);
            status.conditions = conditions.0;
            status.last_handled_reconcile_at = requested_at(package.annotations()).map(str::to_owned);
        })
        .await?;
        if news.into_inner() {
            warn!(package = qualified_name(package), %fault);
            self.events
                .warning(package, &fault.reason.to_string(), &fault.message)
                .await;
        }
        Ok(())
    }

    /// Changes the status, if this process still leads and the package still is what was looked at.
    pub(super) async fn change(
        &self,
        package: &JackalPackage,
        change: impl Fn(&mut JackalPackageStatus, Option<i64>),
    ) -> Result<(), kube::Error> {
        let lapsed = AtomicBool::new(false);
        let api: Api<JackalPackage> = Api::namespaced(self.client.clone(), &package.namespace().unwrap_or_default());
        update(
            &api,
            &package.name_any(),
            &package.uid().unwrap_or_default(),
            |standing, status| {
                let current = standing.metadata.generation == package.metadata.generation;
                lapsed.store(!self.leadership.is_held(), Ordering::Relaxed);
                if !current || lapsed.load(Ordering::Relaxed) {
                    return false;
                }
                let generation = standing.metadata.generation;
                change(status, generation);
                if let Some(version) = &package.spec.version {
                    status.version = Some(version.clone());
                }
                let mut conditions = Conditions(std::mem::take(&mut status.conditions));
                for (kind, asked) in [
                    (SIGNED, package.spec.signing.is_some()),
                    (VERIFIED, !package.spec.verify.is_empty()),
                ] {
                    if !asked {
                        conditions.clear(kind);
                    }
                }
                status.conditions = conditions.0;
                // Else an older generation's Ready would be taken for this one's.
                let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
                if ready.is_some_and(|ready| ready.observed_generation == generation) {
                    status.observed_generation = generation;
                }
                true
            },
        )
        .await?;
        if lapsed.into_inner() {
            self.wake(package).await;
        }
        Ok(())
    }
}

/// Enters how many images a package has. The package may have been read before somebody else entered that: what came of
/// it since then stays.
fn note_planned(status: &mut JackalPackageStatus, counts: &Counts, generation: Option<i64>, now: Time) {
    if status.counts.as_ref().is_some_and(|known| known.total == counts.total) {
        return;
    }
    status.counts = Some(counts.clone());
    let message = brought(counts);
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    conditions.progressing(generation, "Transferring", &message, now);
    status.conditions = conditions.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_plan_is_not_taken_back() {
        let now = || Time(jiff::Timestamp::UNIX_EPOCH);
        let mut status = JackalPackageStatus::default();
        note_planned(&mut status, &Counts::new(0, 0, 0), Some(1), now());
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        let ready = conditions.get(READY).unwrap();
        let message = "the package has no images; its artifact is put together";
        assert_eq!((ready.status.as_str(), ready.message.as_str()), ("Unknown", message));
        conditions.stalled(Some(1), "PolicyDenied", "a host that is not listed", now());
        status.conditions = conditions.0;

        let failed = status.clone();
        note_planned(&mut status, &Counts::new(0, 0, 0), Some(1), now());
        assert_eq!(status, failed);
        note_planned(&mut status, &Counts::new(2, 0, 0), Some(2), now());
        assert_ne!(status, failed);
    }
}
