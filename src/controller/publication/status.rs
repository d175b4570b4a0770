//! Writes to a package's status what [`record`](super::record) makes of it, and records events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tracing::info;

use super::super::collection::claimed_digests;
use super::super::context::PackageContext;
use super::record::{BuildRecord, PackageSignature, RecordedChanges, record, record_start};
use super::request::PublicationRequest;
use crate::api::v1alpha1::JackalPackage;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::package::{BuiltPackage, SbomProgress};
use crate::runtime::{kube_fault, qualified_name};

/// Writes that the artifact `manifest` is about to be written.
pub(super) async fn write_start(
    context: &PackageContext,
    package: &JackalPackage,
    request: &PublicationRequest,
    manifest: &Digest,
) -> Result<(), Fault> {
    let version = package.spec.version();
    let revision = format!("{version}@{manifest}");
    let written_to = request.written_to(&context.settings.defaults, package);
    let written = context.change_status(package, |status, generation| {
        let now = Time(jiff::Timestamp::now());
        record_start(status, generation, (&revision, version), &written_to, &now)
    });
    let former = written
        .await
        .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))?;
    record_former_repository(context, package, former.flatten()).await;
    Ok(())
}

/// Records the event that artifacts stay in the repository `former`.
async fn record_former_repository(context: &PackageContext, package: &JackalPackage, former: Option<String>) {
    if let Some(former) = former {
        let note = format!("what the package wrote to {former} stays there and is not deleted");
        context.events.normal(package, "RegistryChanged", &note).await;
    }
}

/// Writes the artifact that was built, and records what is new as events.
pub(super) async fn write_result(
    context: &PackageContext,
    package: &JackalPackage,
    request: &PublicationRequest,
    (built, sboms): (&BuiltPackage, &SbomProgress),
) -> Result<(), kube::Error> {
    let published = &built.published;
    let written_to = request.written_to(&context.settings.defaults, package);
    let build = BuildRecord {
        package,
        revision: format!("{}@{}", package.spec.version(), published.manifest),
        digest: published.manifest.to_string(),
        size: published.size,
        changed: published.changed,
        url: request.url(package),
        repository: request.repository(package),
        claimed: claimed_digests(context, package, &request.target, &written_to),
        written_to,
        rows: &request.rows,
        written_images: &request.written_images,
        charts: &built.charts,
        missing: &built.missing,
        differential: built.differential.as_ref(),
        verification: &request.verification,
        sboms,
        signature: built.signed_by.as_ref().map(|key| PackageSignature {
            key: key.clone(),
            foreign: built.signed.as_ref().and_then(|signed| signed.foreign.clone()),
        }),
        previous_images: context.selections.previous_images(&package.uid().unwrap_or_default()),
        delete_after: Time(jiff::Timestamp::now() + context.settings.garbage_delay),
    };
    let changes = context.change_status(package, |status, generation| {
        record(status, generation, &build, &Time(jiff::Timestamp::now()))
    });
    let Some(changes) = changes.await? else {
        return Ok(());
    };
    if changes.is_news {
        info!(
            package = qualified_name(package),
            revision = build.revision,
            moved_bytes = published.moved_bytes,
            "built"
        );
    }
    record_events(context, package, &build, changes).await;
    Ok(())
}

async fn record_events(
    context: &PackageContext,
    package: &JackalPackage,
    build: &BuildRecord<'_>,
    changes: RecordedChanges,
) {
    let RecordedChanges {
        is_news,
        missing,
        former_repository,
        planned,
    } = changes;
    record_former_repository(context, package, former_repository).await;
    if is_news {
        let note = format!("{} is {}", build.url, build.digest);
        context.events.normal(package, "Succeeded", &note).await;
    }
    if let Some(missing) = missing {
        context.events.warning(package, "ImagesMissing", &missing).await;
    }
    if !planned.is_empty() {
        let names: Vec<&str> = planned.iter().map(|entry| entry.reference.as_str()).collect();
        let note = format!("to be deleted, see status.garbage: {}", names.join(", "));
        context.events.normal(package, "GarbagePlanned", &note).await;
    }
}
