//! What the leader writes into the status of a package.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tracing::warn;

use super::context::PackageContext;
use super::status_write::{StatusWrite, write_status};
use super::summary::{Verification, count, transfer_message};
use crate::api::v1alpha1::{
    Conditions, Counts, JackalImage, JackalPackage, JackalPackageStatus, PackagedImage, READY, SIGNED, VERIFIED,
    requested_at,
};
use crate::fault::{Fault, Reason};
use crate::runtime::{Failure, kube_fault, qualified_name};

impl PackageContext {
    /// Writes the images' rows and counts, and the conditions that `set` sets. Gives its value where it was written.
    pub(super) async fn write_images<T>(
        &self,
        package: &JackalPackage,
        rows: &[PackagedImage],
        images: &[JackalImage],
        set: impl Fn(&mut Conditions, Option<i64>, Time) -> T,
    ) -> Result<Option<T>, Fault> {
        self.change_status(package, |status, generation| {
            status.images = rows.to_vec();
            status.naming = package.spec.naming.explicit();
            status.counts = Some(count(images));
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let now = Time(jiff::Timestamp::now());
            Verification::of_package(&package.spec, images).set(&mut conditions, generation, now.clone());
            let result = set(&mut conditions, generation, now);
            status.conditions = conditions.0;
            result
        })
        .await
        .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
    }

    /// Writes the number of images before their objects are created, which takes a while where there are many. Counts
    /// of the same number of images stay.
    pub(super) async fn write_planned(&self, package: &JackalPackage, total: usize) -> Result<(), Fault> {
        let known = package.status.as_ref().and_then(|status| status.counts.as_ref());
        let counts = Counts::new(total, 0, 0);
        if known.is_some_and(|known| known.total == counts.total) {
            return Ok(());
        }
        let written = self.change_status(package, |status, generation| {
            record_planned(status, &counts, generation, Time(jiff::Timestamp::now()));
        });
        written
            .await
            .map(|_| ())
            .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
    }

    /// Writes a failure of the package's images, and records an event where it is new.
    pub(super) async fn write_image_failure(
        &self,
        package: &JackalPackage,
        rows: &[PackagedImage],
        images: &[JackalImage],
        fault: &Fault,
    ) -> Result<(), Fault> {
        let set = |conditions: &mut Conditions, generation, now| Failure(fault).record(conditions, generation, now);
        if self.write_images(package, rows, images, set).await? == Some(true) {
            self.events
                .warning(package, &fault.reason.to_string(), &fault.message)
                .await;
        }
        Ok(())
    }

    /// Writes a failure of the package itself, and records an event where it is new.
    pub(super) async fn write_own_failure(&self, package: &JackalPackage, fault: &Fault) -> Result<(), kube::Error> {
        self.write_failure_with(package, fault, |_, _, _| {}).await
    }

    /// The same, and sets further conditions by `set`.
    pub(super) async fn write_failure_with(
        &self,
        package: &JackalPackage,
        fault: &Fault,
        set: impl Fn(&mut Conditions, Option<i64>, Time),
    ) -> Result<(), kube::Error> {
        let is_news = self.change_status(package, |status, generation| {
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let now = Time(jiff::Timestamp::now());
            let is_news = Failure(fault).record(&mut conditions, generation, now.clone());
            set(&mut conditions, generation, now);
            status.conditions = conditions.0;
            status.last_handled_reconcile_at = requested_at(package.annotations()).map(str::to_owned);
            is_news
        });
        if is_news.await? == Some(true) {
            warn!(package = qualified_name(package), %fault);
            self.events
                .warning(package, &fault.reason.to_string(), &fault.message)
                .await;
        }
        Ok(())
    }

    /// Changes the status, if this process still leads and the generation is still that of `package`. Gives the value of
    /// `change` where it was written. Where the lease was not held, the package is reconciled again.
    pub(super) async fn change_status<T>(
        &self,
        package: &JackalPackage,
        change: impl Fn(&mut JackalPackageStatus, Option<i64>) -> T,
    ) -> Result<Option<T>, kube::Error> {
        let change = |current: &JackalPackage, status: &mut JackalPackageStatus| {
            let generation = current.metadata.generation;
            if generation != package.metadata.generation {
                return None;
            }
            let result = change(status, generation);
            complete_status(status, package, generation);
            Some(result)
        };
        match write_status(&self.client, &self.leadership, package, change).await? {
            StatusWrite::Written(result) => Ok(Some(result)),
            StatusWrite::Outdated => Ok(None),
            StatusWrite::NotLeading => {
                self.enqueue(package).await;
                Ok(None)
            }
        }
    }
}

/// Sets the fields that each write of a status sets.
fn complete_status(status: &mut JackalPackageStatus, package: &JackalPackage, generation: Option<i64>) {
    if let Some(version) = &package.spec.version {
        status.version = Some(version.clone());
    }
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    for (kind, is_requested) in [
        (SIGNED, package.spec.signing.is_some()),
        (VERIFIED, !package.spec.verify.is_empty()),
    ] {
        if !is_requested {
            conditions.clear(kind);
        }
    }
    status.conditions = conditions.0;
    // Else an older generation's Ready would be taken for this one's.
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
    if ready.is_some_and(|ready| ready.observed_generation == generation) {
        status.observed_generation = generation;
    }
}

/// Records the number of images of a package. `status` may be newer than the package that was planned: where it has
/// that number already, conditions that were set since then stay.
fn record_planned(status: &mut JackalPackageStatus, counts: &Counts, generation: Option<i64>, now: Time) {
    if status.counts.as_ref().is_some_and(|known| known.total == counts.total) {
        return;
    }
    status.counts = Some(counts.clone());
    let message = transfer_message(counts);
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    conditions.progressing(generation, "Transferring", &message, now);
    status.conditions = conditions.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planned_count_keeps_later_conditions() {
        let now = || Time(jiff::Timestamp::UNIX_EPOCH);
        let mut status = JackalPackageStatus::default();
        record_planned(&mut status, &Counts::new(0, 0, 0), Some(1), now());
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        let ready = conditions.get(READY).unwrap();
        let message = "the package has no images; its artifact is being built";
        assert_eq!((ready.status.as_str(), ready.message.as_str()), ("Unknown", message));
        conditions.stalled(Some(1), "PolicyDenied", "a host that is not listed", now());
        status.conditions = conditions.0;

        let failed = status.clone();
        record_planned(&mut status, &Counts::new(0, 0, 0), Some(1), now());
        assert_eq!(status, failed);
        record_planned(&mut status, &Counts::new(2, 0, 0), Some(2), now());
        assert_ne!(status, failed);
    }
}
