//! The task that puts a package's artifact together once all its images are in their places.

mod build_reason;
mod packed;
mod recorded;

use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use self::recorded::{announce, done};
use super::access::ObjectAccess;
use super::packages::Packages;
use super::retention::SBOMS_ADDED;
use super::sboms::{self, Sboms};
use super::summary::Verification;
use crate::api::v1alpha1::{
    ComponentSpec, Differential, JackalImage, JackalPackage, MissingImage, PackagedImage, PinnedChart, SIGNED,
    VERIFIED, WrittenRepository,
};
use crate::fault::{Disposition, Fault, Reason};
use crate::fetch;
use crate::oci::Digest;
use crate::package::{
    self, Definition, Material, Parts, Plan, PlannedImage, Published, ReusableTars, TransferredImage, component,
};
use crate::runtime::{NamespaceEntryReader, RegistryTarget, catch_panic, disposition_after_write};
use crate::signing::SigningKey;
use crate::transfer::RegistryDestination;

/// What an artifact is put together from.
pub(super) struct Publication {
    pub place: RegistryTarget,
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

    /// What the status records of where the artifact is written.
    fn written_to(&self, packages: &Packages, package: &JackalPackage) -> WrittenRepository {
        let defaults = &packages.settings.defaults;
        defaults.written(&package.spec.registry, &self.place, &self.path(package))
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
    let failed = match catch_panic(build(packages, package, &publication, &token)).await {
        Ok(()) => None,
        Err(End::Cancelled) => {
            packages.memory.ended(&uid);
            packages.wake(package).await;
            return;
        }
        Err(End::Unwritten(error)) => Some(disposition_after_write(&**package, Err(error), Disposition::Retryable)),
        Err(End::Unsigned(fault)) => {
            let written = packages.failed_with(package, &fault, |conditions, generation, now| {
                let said = (&*fault.reason.to_string(), &*fault.message);
                conditions.note(SIGNED, Some(false), said, generation, now);
            });
            Some(disposition_after_write(&**package, written.await, fault.disposition))
        }
        Err(End::Failed(fault)) if fault.reason == Reason::VerificationError => {
            let written = packages.failed_with(package, &fault, |conditions, generation, now| {
                let said = (&*fault.reason.to_string(), &*fault.message);
                conditions.note(VERIFIED, Some(false), said, generation, now);
            });
            Some(disposition_after_write(&**package, written.await, fault.disposition))
        }
        Err(End::Failed(fault)) => {
            let mut written = Ok(());
            if fault.reason == Reason::SbomFailed {
                written = sboms::failed(packages, package, &fault).await;
            }
            let written = written.and(packages.failed(package, &fault).await);
            Some(disposition_after_write(&**package, written, fault.disposition))
        }
        // A package that is ready is looked at again at its interval, whatever its SBOMs wait for.
        Err(End::WithoutSboms(fault)) => {
            let written = sboms::failed(packages, package, &fault).await;
            let disposition = disposition_after_write(&**package, written, fault.disposition);
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
        let reached = ObjectAccess::by_package(packages, package, &publication.place);
        packed::verify(packages, package, publication, &images, &reached).await?;
        let found = fetch::gather(&package.spec.components, &reached, &packages.charts).await?;
        let known = known_tars(packages, package, publication, key).await?;
        let sboms = Sboms::look(packages, package, &mut images, &known).await?;
        let built = assemble(packages, package, publication, &images, (&found, &known), &sboms, key).await?;
        Ok::<_, Fault>((found, known, sboms, built))
    };
    let (found, known, sboms, built) = leading(packages, token, look).await??;
    done(packages, package, publication, &built, &sboms).await?;
    let Sboms::Pending(missing) = sboms else {
        return Ok(());
    };
    let made = leading(packages, token, Sboms::make(packages, missing)).await?;
    let sboms = made.map_err(End::WithoutSboms)?;
    let assembled = assemble(packages, package, publication, &images, (&found, &known), &sboms, key);
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
    /// Whose package the key did not sign that the index under the tag lists too.
    foreign: Option<String>,
    differential: Option<Differential>,
    charts: Vec<PinnedChart>,
    missing: Vec<MissingImage>,
}

fn brought(packages: &Packages, publication: &Publication) -> Result<Vec<TransferredImage>, Fault> {
    let registry = packages.registries.open(&publication.place.endpoint)?;
    let mut images = Vec::with_capacity(publication.plan.images.len());
    let rows = publication.rows.iter().zip(&publication.origins);
    for (planned, (row, origin)) in publication.plan.images.iter().zip(rows) {
        let digest = row.digest.as_deref().unwrap_or_default();
        images.push(TransferredImage {
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
    let entries = NamespaceEntryReader::new(&packages.client, &package.namespace().unwrap_or_default());
    entries.signing_key(signing).await.map(Some)
}

/// The tars of the artifact that stands, and of the one that the status records.
async fn known_tars(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    key: Option<&SigningKey>,
) -> Result<ReusableTars, Fault> {
    let spec = &package.spec;
    let able = packages.settings.syft.is_some();
    let without = spec.components.iter().all(ComponentSpec::holds_images_only);
    if without && spec.wanted_sboms(able).is_none() {
        return Ok(ReusableTars::default());
    }
    let registry = packages.registries.open(&publication.place.endpoint)?;
    let repository = RegistryDestination::new(registry.repository(publication.path(package)));
    let status = package.status.as_ref();
    let recorded = status.and_then(|status| status.artifact.as_ref()?.digest.parse().ok());
    let architecture = Definition::of(&package.name_any(), spec, &publication.plan)?
        .architecture()
        .to_owned();
    ReusableTars::read(&repository, spec.version(), &architecture, recorded.as_ref(), key).await
}

async fn assemble(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    images: &[TransferredImage],
    (found, known): (&[component::Found], &ReusableTars),
    sboms: &Sboms,
    key: Option<&SigningKey>,
) -> Result<Built, Fault> {
    let spec = &package.spec;
    let registry = packages.registries.open(&publication.place.endpoint)?;
    let definition = Definition::of(&package.name_any(), spec, &publication.plan)?.holding(spec, found);
    let destination = RegistryDestination::new(registry.repository(publication.path(package)));
    let version = package.spec.version();
    let announce =
        async |digest: &Digest| announce(packages, package, publication, &format!("{version}@{digest}")).await;
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
        known,
    };
    let assembled = package::assemble(parts, &destination, announce).await?;
    Ok(Built {
        differential: assembled.differential,
        published: assembled.published,
        signed_by: key.map(|key| key.public().fingerprint().to_string()),
        foreign: assembled.signed.and_then(|signed| signed.foreign),
        charts,
        missing: component::missing_images(spec, &publication.plan, found),
    })
}
