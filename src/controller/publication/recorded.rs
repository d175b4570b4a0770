//! What a package's status says of its artifact: before the first byte of it is written, and once it stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tracing::info;

use super::super::packages::Packages;
use super::super::retention::{self, RetentionContext};
use super::super::sboms::Sboms;
use super::super::summary::complete;
use super::build_reason::{BuildReason, lack, why};
use super::{Built, Publication};
use crate::api::v1alpha1::{
    Artifact, Conditions, Counts, Garbage, HistoryEntry, JackalPackage, READY, SIGNED, mebibytes, requested_at,
};
use crate::fault::{Fault, Reason};
use crate::runtime::{kube_fault, qualified_name};

/// Notes that the artifact `revision` is about to be written: whoever finds it after a crash knows whose it is.
pub(super) async fn announce(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    revision: &str,
) -> Result<(), Fault> {
    let message = format!("putting the artifact {} together", package.spec.version());
    let written = publication.written_to(packages, package);
    let left = Mutex::new(None);
    let noted = packages.change(package, |status, generation| {
        *left.lock().unwrap_or_else(PoisonError::into_inner) = retention::settle_in(status, &written, generation);
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        // Ready of this spec stays Ready, and another try after a failure is no news before it succeeds.
        if !conditions.is_true(READY, generation) && !conditions.is_failing(generation) {
            conditions.progressing(generation, "Transferring", &message, Time(jiff::Timestamp::now()));
        }
        status.conditions = conditions.0;
        if status.publishing.as_deref() != Some(revision) {
            retention::interrupted(status);
            status.publishing = Some(revision.to_owned());
        }
    });
    noted
        .await
        .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))?;
    tell_left(packages, package, left).await;
    Ok(())
}

/// Tells what stays in a former registry.
async fn tell_left(packages: &Packages, package: &JackalPackage, left: Mutex<Option<String>>) {
    if let Some(left) = left.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let note = format!("what the package wrote to {left} stays there and is not deleted");
        packages.events.normal(package, "RegistryChanged", &note).await;
    }
}

pub(super) async fn done(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    built: &Built,
    sboms: &Sboms,
) -> Result<(), kube::Error> {
    let published = &built.published;
    let (news, planned) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let version = package.spec.version();
    let (place, url) = (publication.repository(package), publication.url(package));
    let written = publication.written_to(packages, package);
    let claimed = packages.claimed(package, &publication.place, &written);
    let left = Mutex::new(None);
    let standing = packages.following.standing(&package.uid().unwrap_or_default());
    let after = Time(jiff::Timestamp::now() + packages.settings.garbage_delay);
    let revision = format!("{version}@{}", published.manifest);
    let lack = lack(&built.missing);
    let message = format!(
        "{}{}",
        complete(publication.rows.len(), &url),
        lack.as_ref().map(|lack| format!("; {lack}")).unwrap_or_default(),
    );
    let newly_missing = AtomicBool::new(false);
    packages
        .change(package, |status, generation| {
            let now = Time(jiff::Timestamp::now());
            let digest = published.manifest.to_string();
            // First, for it asks what the package was ready for before.
            *left.lock().unwrap_or_else(PoisonError::into_inner) = retention::settle_in(status, &written, generation);
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let anew = !conditions.is_true(READY, generation)
                || status.last_handled_reconcile_at.as_deref() != requested_at(package.annotations());
            news.store(!conditions.is_true(READY, generation), Ordering::Relaxed);
            conditions.ready(generation, "Succeeded", &message, now.clone());
            let sboms_came = sboms.are_news(&conditions);
            sboms.note(&mut conditions, generation, now.clone());
            publication.verification.note(&mut conditions, generation, now.clone());
            if let Some(key) = &built.signed_by {
                let mut message = format!("signed by the key {key}");
                if let Some(foreign) = &built.foreign {
                    message += &format!(
                        "; not the index under the tag, which lists a package for {foreign} that this key has not signed"
                    );
                }
                conditions.note(SIGNED, Some(true), ("Succeeded", &message), generation, now.clone());
            }
            status.conditions = conditions.0;
            let announced = status
                .publishing
                .take_if(|publishing| *publishing == revision)
                .is_some();
            let adopted = !published.changed && !announced;
            retention::interrupted(status);
            let before = status.artifact.take();
            let same = |known: &&HistoryEntry| known.digest == digest && known.repository.is_none();
            let known = status.history.iter().find(same);
            let unchanged = before.as_ref().is_some_and(|before| before.revision == revision);
            let came = unchanged && known.is_none() && !status.history.is_empty();
            if !unchanged || came {
                news.store(true, Ordering::Relaxed);
                let why = match came {
                    true => BuildReason::registry_changed(),
                    false => why(
                        before.as_ref(),
                        version,
                        &status.history,
                        standing.as_ref().unwrap_or(&status.images),
                        &publication.rows,
                        (&status.charts, &built.charts),
                        sboms_came,
                    ),
                };
                let entry = HistoryEntry {
                    revision: revision.clone(),
                    digest: digest.clone(),
                    reason: why.reason.to_owned(),
                    message: why.message,
                    completed_at: now.clone(),
                    // Who wrote it once has written it, whatever was built in between.
                    adopted: known.map_or(adopted, |known| known.adopted && adopted),
                    repository: None,
                };
                status.history.insert(0, entry);
            }
            let unchanged = before.filter(|before| before.revision == revision);
            status.artifact = Some(Artifact {
                last_update_time: unchanged.map_or(now, |before| before.last_update_time),
                digest,
                revision: revision.clone(),
                url: url.clone(),
                size: i64::try_from(published.size).unwrap_or(i64::MAX),
                display_size: mebibytes(published.size),
            });
            let total = publication.rows.len();
            status.counts = Some(Counts::new(total, total, 0));
            status.images = publication.rows.clone();
            status.naming = package.spec.naming.explicit();
            status.differential.clone_from(&built.differential);
            status.charts.clone_from(&built.charts);
            newly_missing.store(status.missing_images != built.missing, Ordering::Relaxed);
            status.missing_images.clone_from(&built.missing);
            retention::trim(&package.spec, status);
            let around = RetentionContext {
                repository: &place,
                claimed: &claimed,
                images: &publication.written,
                after: after.clone(),
                anew,
            };
            let garbage = retention::plan(&package.spec, status, &around);
            let is_new = |entry: &&Garbage| {
                entry.delete_after.is_some() && entry.kept.is_none() && !status.garbage.contains(entry)
            };
            *planned.lock().unwrap_or_else(PoisonError::into_inner) = garbage.iter().filter(is_new).cloned().collect();
            status.garbage = garbage;
            status.last_handled_reconcile_at = requested_at(package.annotations()).map(str::to_owned);
        })
        .await?;
    tell_left(packages, package, left).await;
    if news.into_inner() {
        info!(
            package = qualified_name(package),
            revision,
            moved_bytes = published.moved_bytes,
            "built"
        );
        packages
            .events
            .normal(package, "Succeeded", &format!("{url} is {}", published.manifest))
            .await;
    }
    if let Some(lack) = lack.filter(|_| newly_missing.into_inner()) {
        packages.events.warning(package, "ImagesMissing", &lack).await;
    }
    let planned: Vec<Garbage> = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !planned.is_empty() {
        let names: Vec<&str> = planned.iter().map(|entry| entry.reference.as_str()).collect();
        let note = format!("to be deleted, see status.garbage: {}", names.join(", "));
        packages.events.normal(package, "GarbagePlanned", &note).await;
    }
    Ok(())
}
