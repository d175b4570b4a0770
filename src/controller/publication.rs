//! The task that puts a package's artifact together once all its images are in their places.

mod why;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::why::{lack, why};
use super::packages::Packages;
use super::reach::Reached;
use super::retention::{self, SBOMS_ADDED, Surroundings};
use super::sboms::{self, Sboms};
use super::tally::Verification;
use crate::api::v1alpha1::{
    Artifact, Conditions, Counts, Differential, Garbage, HistoryEntry, JackalImage, JackalPackage, MissingImage,
    PackagedImage, PinnedChart, READY, SIGNED, mebibytes, requested_at,
};
use crate::fault::{Disposition, Fault, Reason};
use crate::fetch;
use crate::oci::Digest;
use crate::package::{self, BroughtImage, Definition, Material, Parts, Plan, PlannedImage, Published, component};
use crate::signing::SigningKey;
use crate::transfer::RegistryDestination;
use crate::worker::{NamespaceEntries, Place, caught, kube_fault, name_of, told};

/// What an artifact is put together from.
pub(super) struct Publication {
    pub place: Place,
    pub plan: Plan,
    pub rows: Vec<PackagedImage>,
    /// For each image of the plan where it came from, as far as its object says it.
    pub origins: Vec<Option<Material>>,
    /// A digest of all that the artifact depends on.
    pub inputs: String,
    /// Name and digest of the images that their objects wrote.
    pub written: Vec<(String, String)>,
    /// What is known of the signatures that the images must have.
    pub verification: Verification,
}

impl Publication {
    /// The artifact's repository in its registry.
    fn path(&self, package: &JackalPackage) -> String {
        package::repository(&self.place.prefix, &package.name_any())
    }

    /// The artifact's repository, as pods name it.
    fn repository(&self, package: &JackalPackage) -> String {
        format!("{}/{}", self.place.address, self.path(package))
    }

    /// The artifact, as pods name it.
    fn url(&self, package: &JackalPackage) -> String {
        format!("oci://{}:{}", self.repository(package), package.spec.version())
    }
}

/// A digest of all that the artifact depends on beside the package's generation.
pub(super) fn inputs(package: &JackalPackage, images: &[JackalImage]) -> String {
    let mut text = package.spec.version().to_owned();
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

/// Where the images of `plan` came from, by their objects.
pub(super) fn origins(plan: &Plan, images: &[JackalImage]) -> Vec<Option<Material>> {
    let origin = |(planned, image): (&PlannedImage, &JackalImage)| {
        let status = image.status.as_ref()?;
        let node = status
            .assignment
            .as_ref()
            .map(|assignment| assignment.node_name.as_str());
        let parsed = |digest: &Option<String>| digest.as_deref()?.parse().ok();
        let (source, became) = (parsed(&status.source_digest)?, parsed(&status.digest)?);
        Some(Material::of_image(
            planned,
            node,
            source,
            status.method.as_deref(),
            &became,
        ))
    };
    plan.images.iter().zip(images).map(origin).collect()
}

/// Why a task has no result.
enum End {
    /// It was cancelled, or another leads.
    Cancelled,
    /// The status could not be written.
    Unwritten(kube::Error),
    /// There is no artifact.
    Failed(Fault),
    /// There is none because it cannot be signed.
    Unsigned(Fault),
    /// The artifact stands without the SBOMs, which the status says.
    WithoutSboms(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        match fault.reason {
            Reason::SigningFailed => Self::Unsigned(fault),
            _ => Self::Failed(fault),
        }
    }
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        Self::Unwritten(error)
    }
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
    let failed = match caught(build(packages, package, &publication, &token)).await {
        Ok(()) => None,
        Err(End::Cancelled) => {
            packages.memory.ended(&uid);
            packages.wake(package).await;
            return;
        }
        Err(End::Unwritten(error)) => Some(told(&**package, Err(error), Disposition::Retryable)),
        Err(End::Unsigned(fault)) => {
            let written = packages.failed_with(package, &fault, |conditions, generation, now| {
                let said = (&*fault.reason.to_string(), &*fault.message);
                conditions.note(SIGNED, Some(false), said, generation, now);
            });
            Some(told(&**package, written.await, fault.disposition))
        }
        Err(End::Failed(fault)) => {
            let mut written = Ok(());
            if fault.reason == Reason::SbomFailed {
                written = sboms::failed(packages, package, &fault).await;
            }
            let written = written.and(packages.failed(package, &fault).await);
            Some(told(&**package, written, fault.disposition))
        }
        // A package that is ready is looked at again at its interval, whatever its SBOMs wait for.
        Err(End::WithoutSboms(fault)) => {
            let written = sboms::failed(packages, package, &fault).await;
            let disposition = told(&**package, written, fault.disposition);
            Some(disposition).filter(|disposition| *disposition != Disposition::Stalled)
        }
    };
    match failed {
        None => packages.memory.succeeded(&uid, key, Instant::now()),
        Some(disposition) => packages.memory.failed(&uid, key, disposition, Instant::now()),
    }
    packages.wake(package).await;
}

/// Puts the artifact together; where SBOMs are missing and nobody demands them first, once more when they are there.
async fn build(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    token: &CancellationToken,
) -> Result<(), End> {
    let mut images = brought(packages, publication)?;
    // Before anything is written: a package that cannot be signed is not published.
    let key = leading(packages, token, key_of(packages, package))
        .await?
        .map_err(End::Unsigned)?;
    let key = key.as_ref();
    let look = async {
        let reached = Reached::by_package(packages, package, &publication.place);
        let found = fetch::gather(&package.spec.components, &reached, &packages.charts).await?;
        let sboms = Sboms::look(packages, package, &mut images).await?;
        let built = assemble(packages, package, publication, &images, &found, &sboms, key).await?;
        Ok::<_, Fault>((found, sboms, built))
    };
    let (found, sboms, built) = leading(packages, token, look).await??;
    done(packages, package, publication, &built, &sboms).await?;
    let Sboms::Pending(missing) = sboms else {
        return Ok(());
    };
    let made = leading(packages, token, Sboms::make(packages, missing)).await?;
    let sboms = made.map_err(End::WithoutSboms)?;
    let assembled = assemble(packages, package, publication, &images, &found, &sboms, key);
    let built = leading(packages, token, assembled).await??;
    done(packages, package, publication, &built, &sboms).await?;
    Ok(())
}

/// `work`, as long as it is asked for and this process leads: whoever leads by then may have put another artifact under
/// the tag.
async fn leading<T>(packages: &Packages, token: &CancellationToken, work: impl Future<Output = T>) -> Result<T, End> {
    tokio::select! {
        biased;
        () = token.cancelled() => Err(End::Cancelled),
        result = packages.leadership.during(work) => result.ok_or(End::Cancelled),
    }
}

/// What was put together.
struct Built {
    published: Published,
    /// The fingerprint of the key that signed it.
    signed_by: Option<String>,
    differential: Option<Differential>,
    charts: Vec<PinnedChart>,
    missing: Vec<MissingImage>,
}

fn brought(packages: &Packages, publication: &Publication) -> Result<Vec<BroughtImage>, Fault> {
    let registry = packages.registries.open(&publication.place.endpoint)?;
    let mut images = Vec::with_capacity(publication.plan.images.len());
    let rows = publication.rows.iter().zip(&publication.origins);
    for (planned, (row, origin)) in publication.plan.images.iter().zip(rows) {
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
            origin: origin.clone(),
        });
    }
    Ok(images)
}

/// What signs the package, where it is to be signed.
async fn key_of(packages: &Packages, package: &JackalPackage) -> Result<Option<SigningKey>, Fault> {
    let Some(signing) = &package.spec.signing else {
        return Ok(None);
    };
    let entries = NamespaceEntries::new(&packages.client, &package.namespace().unwrap_or_default());
    entries.signing_key(signing).await.map(Some)
}

async fn assemble(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    images: &[BroughtImage],
    found: &[component::Found],
    sboms: &Sboms,
    key: Option<&SigningKey>,
) -> Result<Built, Fault> {
    let spec = &package.spec;
    let registry = packages.registries.open(&publication.place.endpoint)?;
    let definition = Definition::of(&package.name_any(), spec, &publication.plan)?.holding(spec, found);
    let destination = RegistryDestination::new(registry.repository(publication.path(package)));
    let version = package.spec.version();
    let announce = async |digest: &Digest| announce(packages, package, &format!("{version}@{digest}")).await;
    let status = package.status.as_ref();
    let previous = status.and_then(|status| status.artifact.as_ref()?.digest.parse().ok());
    let mut archives = component::archives(spec, found);
    archives.extend(sboms.archive());
    let charts = component::pinned(spec, found);
    let parts = Parts {
        definition,
        spec,
        images,
        archives: &archives,
        charts: &charts,
        url: &publication.url(package),
        key,
        previous: previous.as_ref(),
    };
    let assembled = package::assemble(parts, &destination, announce).await?;
    Ok(Built {
        differential: assembled.differential,
        published: assembled.published,
        signed_by: key.map(|key| key.public().fingerprint().to_string()),
        charts,
        missing: component::missing_images(spec, &publication.plan, found),
    })
}

/// Notes that the artifact `revision` is about to be written: whoever finds it after a crash knows whose it is.
async fn announce(packages: &Packages, package: &JackalPackage, revision: &str) -> Result<(), Fault> {
    let message = format!("putting the artifact {} together", package.spec.version());
    let noted = packages.change(package, |status, generation| {
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
        .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
}

async fn done(
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
    let claimed = packages.claimed(package, &place);
    let standing = packages.following.standing(&package.uid().unwrap_or_default());
    let after = Time(jiff::Timestamp::now() + packages.settings.garbage_delay);
    let revision = format!("{version}@{}", published.manifest);
    let lack = lack(&built.missing);
    let message = format!(
        "{} images and the package {url} are in the registry{}",
        publication.rows.len(),
        lack.as_ref().map(|lack| format!("; {lack}")).unwrap_or_default(),
    );
    let newly_missing = AtomicBool::new(false);
    packages
        .change(package, |status, generation| {
            let now = Time(jiff::Timestamp::now());
            let digest = published.manifest.to_string();
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            let anew = !conditions.is_true(READY, generation)
                || status.last_handled_reconcile_at.as_deref() != requested_at(package.annotations());
            news.store(!conditions.is_true(READY, generation), Ordering::Relaxed);
            conditions.ready(generation, "Succeeded", &message, now.clone());
            let sboms_came = sboms.are_news(&conditions);
            sboms.note(&mut conditions, generation, now.clone());
            publication.verification.note(&mut conditions, generation, now.clone());
            if let Some(key) = &built.signed_by {
                let message = format!("signed by the key {key}");
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
            let moved = before.as_ref().and_then(|before| elsewhere(&before.url, &place));
            if let Some(before) = moved {
                for entry in &mut status.history {
                    entry.repository.get_or_insert_with(|| before.clone());
                }
            }
            if before.as_ref().is_none_or(|before| before.revision != revision) {
                news.store(true, Ordering::Relaxed);
                let why = why(
                    before.as_ref(),
                    version,
                    &status.history,
                    standing.as_ref().unwrap_or(&status.images),
                    &publication.rows,
                    (&status.charts, &built.charts),
                    sboms_came,
                );
                let same = |known: &&HistoryEntry| known.digest == digest && known.repository.is_none();
                let known = status.history.iter().find(same);
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
            let around = Surroundings {
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

/// The repository of the artifact `url`, where it is another than `place`.
fn elsewhere(url: &str, place: &str) -> Option<String> {
    let (repository, _) = url.strip_prefix("oci://")?.rsplit_once(':')?;
    (repository != place).then(|| repository.to_owned())
}
