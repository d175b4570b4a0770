//! The task that puts a package's artifact together once all its images are in their places.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::packages::Packages;
use crate::api::v1alpha1::{
    Artifact, Conditions, Counts, HistoryEntry, JackalImage, JackalPackage, PackagedImage, READY, requested_at,
};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::Digest;
use crate::package::{BroughtImage, Definition, Plan, Published, publish};
use crate::transfer::RegistryDestination;
use crate::worker::{Place, name_of};

/// Artifacts that the history keeps.
const HISTORY: usize = 10;

/// What an artifact is put together from.
pub(super) struct Publication {
    pub place: Place,
    pub plan: Plan,
    pub rows: Vec<PackagedImage>,
    /// A digest of all that the artifact depends on.
    pub inputs: String,
}

/// A digest of all that the artifact depends on beside the package's generation.
pub(super) fn inputs(package: &JackalPackage, images: &[JackalImage]) -> String {
    let mut text = package.spec.version.clone();
    for image in images {
        let digest = image
            .status
            .as_ref()
            .and_then(|status| status.digest.as_deref())
            .unwrap_or_default();
        text.push_str(&format!("\n{} {digest}", image.name_any()));
    }
    Digest::of(text.as_bytes()).to_string()
}

/// Runs the task to its end, or until `token` is cancelled.
pub(super) async fn run(
    packages: &Arc<Packages>,
    package: &Arc<JackalPackage>,
    publication: Publication,
    token: CancellationToken,
) {
    let uid = package.uid().unwrap_or_default();
    let key = packages.key(package, Some(&publication.inputs));
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        // Whoever leads by now may have put another artifact under the tag.
        result = packages.leadership.during(assemble(packages, package, &publication)) => result,
    };
    match result {
        None => packages.memory.ended(&uid),
        Some(Ok(published)) => match done(packages, package, &publication, &published).await {
            Ok(()) => packages.memory.succeeded(&uid, key, Instant::now()),
            Err(error) => {
                warn!(package = name_of(&**package), %error, "the status could not be written");
                packages
                    .memory
                    .failed(&uid, key, Disposition::Retryable, Instant::now());
            }
        },
        Some(Err(fault)) => {
            if let Err(error) = packages.failed(package, &fault).await {
                warn!(package = name_of(&**package), %error, "the status could not be written");
            }
            packages.memory.failed(&uid, key, fault.disposition, Instant::now());
        }
    }
    packages.wake(package).await;
}

async fn assemble(packages: &Packages, package: &JackalPackage, publication: &Publication) -> Result<Published, Fault> {
    let (registry, _) = packages.registries.open(&publication.place.endpoint)?;
    let mut images = Vec::with_capacity(publication.plan.images.len());
    for (planned, row) in publication.plan.images.iter().zip(&publication.rows) {
        let digest = row.digest.as_deref().unwrap_or_default();
        images.push(BroughtImage {
            reference: planned.listed(),
            digest: digest
                .parse()
                .map_err(|error| Fault::retryable(Reason::PackageFailed, format!("{}: {error}", row.image)))?,
            destination: Arc::new(RegistryDestination::new(
                registry.repository(&planned.location.repository),
            )),
            documents: Vec::new(),
        });
    }
    let definition = Definition::of(&package.name_any(), &package.spec, &publication.plan)?;
    let destination = RegistryDestination::new(registry.repository(repository(publication, package)));
    publish(&definition, &images, &destination, &package.spec.version).await
}

fn repository(publication: &Publication, package: &JackalPackage) -> String {
    crate::package::repository(&publication.place.prefix, &package.name_any())
}

async fn done(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    published: &Published,
) -> Result<(), kube::Error> {
    let news = AtomicBool::new(false);
    let version = &package.spec.version;
    let url = format!(
        "oci://{}/{}:{version}",
        publication.place.address,
        repository(publication, package)
    );
    let revision = format!("{version}@{}", published.manifest);
    let message = format!(
        "{} images and the package {url} are in the registry",
        publication.rows.len()
    );
    packages
        .change(package, |status, generation| {
            let now = Time(jiff::Timestamp::now());
            let digest = published.manifest.to_string();
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            news.store(!conditions.is_true(READY, generation), Ordering::Relaxed);
            conditions.ready(generation, "Succeeded", &message, now.clone());
            status.conditions = conditions.0;
            let before = status.artifact.take();
            if before.as_ref().is_none_or(|before| before.revision != revision) {
                news.store(true, Ordering::Relaxed);
                let reason = why(
                    before.as_ref(),
                    version,
                    &status.history,
                    &status.images,
                    &publication.rows,
                );
                status.history.insert(
                    0,
                    HistoryEntry {
                        revision: revision.clone(),
                        digest: digest.clone(),
                        reason,
                        completed_at: now.clone(),
                    },
                );
                status.history.truncate(HISTORY);
            }
            let unchanged = before.filter(|before| before.revision == revision);
            status.artifact = Some(Artifact {
                last_update_time: unchanged.map_or(now, |before| before.last_update_time),
                digest,
                revision: revision.clone(),
                url: url.clone(),
                size: i64::try_from(published.size).unwrap_or(i64::MAX),
            });
            let total = i32::try_from(publication.rows.len()).unwrap_or(i32::MAX);
            status.counts = Some(Counts {
                total,
                ready: total,
                failed: 0,
            });
            status.images = publication.rows.clone();
            status.last_handled_reconcile_at = requested_at(package.annotations()).map(str::to_owned);
        })
        .await?;
    if news.into_inner() {
        info!(
            package = name_of(package),
            revision,
            moved_bytes = published.moved_bytes,
            "built"
        );
        packages
            .events
            .normal(package, "Succeeded", &format!("{url} is {}", published.manifest))
            .await;
    }
    Ok(())
}

/// Why an artifact was built: what differs from the one before.
fn why(
    before: Option<&Artifact>,
    version: &str,
    history: &[HistoryEntry],
    known: &[PackagedImage],
    rows: &[PackagedImage],
) -> String {
    let Some(before) = before else {
        return "first build".to_owned();
    };
    let mut reasons = Vec::new();
    if before
        .revision
        .split_once('@')
        .is_none_or(|(known, _)| known != version)
    {
        let old = before.revision.split_once('@').map_or("", |(known, _)| known);
        reasons.push(format!("version {old} became {version}"));
    }
    for row in rows {
        match known.iter().find(|known| known.image == row.image) {
            None => reasons.push(format!("{} was added", row.image)),
            Some(known) if known.digest.is_some() && known.digest != row.digest => {
                reasons.push(format!("{} changed", row.image))
            }
            Some(_) => {}
        }
    }
    for gone in known
        .iter()
        .filter(|known| rows.iter().all(|row| row.image != known.image))
    {
        reasons.push(format!("{} was removed", gone.image));
    }
    if reasons.is_empty() {
        // The rows of the artifact before are gone when an image's change was written meanwhile.
        let digest = history.first().map_or("", |entry| entry.digest.as_str());
        reasons.push(format!(
            "the content differs from {}",
            digest.get(..19).unwrap_or(digest)
        ));
    }
    let mut text = reasons.join(", ");
    if text.len() > 400 {
        text = format!("{} changes: {}", reasons.len(), reasons[0]);
    }
    text
}
