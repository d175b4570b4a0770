//! Packages that come from an archive: the task that reads which package and images it has, and the package with these images, which is
//! what the rest of the reconciler sees.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::access::{AccessClients, ObjectAccess};
use super::children::PACKAGE_LABEL;
use super::context::PackageContext;
use super::package_selection::{EffectivePackage, TagResolution};
use crate::api::v1alpha1::{
    ArchivedImage, ComponentSpec, Conditions, ImageEntry, ImageSpec, JackalPackage, PackageOrigin, VERIFIED,
};
use crate::archive::{self, Archive, ArchivedPackage, StoredArchive};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Digest, Reference, ReferenceError};
use crate::package::requirements;
use crate::runtime::{
    Backoff, Decision, NamespaceEntryReader, ObjectView, TaskKey, TaskTable, catch_panic, disposition_after_write,
};

/// The field that names the archive, for messages.
const FIELD: &str = "from.archive.oci";
/// The component that has the images of an archive while they are transferred.
const COMPONENT: &str = "archive";

/// What an archive has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvedArchive {
    /// Its reference by digest.
    reference: String,
    /// The digest of the package's manifest; none where it is not known, because the package was suspended meanwhile.
    manifest: Option<Digest>,
    version: String,
    architecture: String,
    images: Vec<ArchivedReference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ArchivedReference {
    image: String,
    digest: Digest,
}

impl ResolvedArchive {
    /// What the package's artifact depends on beside its images.
    pub fn inputs(&self) -> &str {
        self.manifest.as_ref().map_or("", Digest::as_str)
    }
}

/// The archives of all packages, and the tasks that read them.
pub(super) struct ResolvedArchives {
    tasks: TaskTable,
    resolved: Mutex<HashMap<String, (TaskKey, Arc<ResolvedArchive>)>>,
}

impl ResolvedArchives {
    pub fn new(identity: &str, backoff: Backoff) -> Self {
        Self {
            tasks: TaskTable::new(identity, backoff),
            resolved: Mutex::default(),
        }
    }

    fn resolved(&self) -> MutexGuard<'_, HashMap<String, (TaskKey, Arc<ResolvedArchive>)>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels the task of the package `uid`.
    pub fn cancel(&self, uid: &str) {
        self.tasks.cancel(uid);
    }

    /// Removes what is known of the package `uid`.
    pub fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
        self.resolved().remove(uid);
    }

    /// Removes what is known of all packages but those of `uids`.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.tasks.retain(uids);
        self.resolved().retain(|uid, _| uids.contains(uid));
    }

    fn of(&self, uid: &str) -> Option<(TaskKey, Arc<ResolvedArchive>)> {
        self.resolved().get(uid).cloned()
    }

    /// Stores what was read. True where it differs from what was known.
    fn set(&self, uid: &str, key: TaskKey, archive: ResolvedArchive) -> bool {
        let archive = Arc::new(archive);
        let before = self.resolved().insert(uid.to_owned(), (key, Arc::clone(&archive)));
        before.is_none_or(|(_, before)| before != archive)
    }
}

/// The package with the images of its archive. The archive is read by a task of its own, at each interval and at each request; while
/// the package is suspended it stays as it is.
pub(super) fn resolve_archive(context: &Arc<PackageContext>, package: &JackalPackage) -> TagResolution {
    let uid = package.uid().unwrap_or_default();
    let archives = &context.archives;
    let known = archives.of(&uid);
    if package.spec.suspend {
        archives.cancel(&uid);
        let known = known.map(|(_, archive)| archive);
        let archive = known.or_else(|| recorded(context, package).map(Arc::new));
        return match archive {
            Some(archive) => TagResolution::Resolved(effective(package, archive, None)),
            None => TagResolution::Pending(None),
        };
    }
    let (key, now) = (context.key(package, None), Instant::now());
    // A failed task is retried after its delay, and nothing else happens before.
    if let Some(postponed) = archives.tasks.postponed(&uid, &key, now) {
        return TagResolution::Pending(postponed.delay());
    }
    let known = known.filter(|(known, _)| *known == key);
    let view = ObjectView {
        ready: known.is_some(),
        claim: None,
        rechecks: true,
        interval: context.settings.interval(package.spec.interval),
    };
    let again = match archives.tasks.decide(&uid, &key, view, now) {
        Decision::AwaitChange => None,
        Decision::Requeue(left) => Some(left),
        Decision::Run => {
            let token = archives.tasks.begin(&uid, &key, &context.stop);
            let (task_context, package) = (Arc::clone(context), package.clone());
            context
                .tracker
                .spawn(async move { run(&task_context, &package, key, token).await });
            None
        }
    };
    match known {
        Some((_, archive)) => TagResolution::Resolved(effective(package, archive, again)),
        None => TagResolution::Pending(again),
    }
}

/// The package as one that lists what `archive` has.
fn effective(package: &JackalPackage, archive: Arc<ResolvedArchive>, again: Option<Duration>) -> EffectivePackage {
    let mut effective = package.clone();
    let spec = &mut effective.spec;
    spec.version = Some(archive.version.clone());
    spec.architecture = Some(archive.architecture.clone());
    let images = archive.images.iter().map(|listed| {
        ImageEntry::Spec(ImageSpec {
            archive: Some(ArchivedImage {
                oci: archive.reference.clone(),
                digest: listed.digest.to_string(),
            }),
            ..ImageSpec::named(&listed.image)
        })
    });
    spec.components = vec![ComponentSpec {
        name: COMPONENT.to_owned(),
        description: None,
        required: true,
        images: images.collect(),
        manifests: Vec::new(),
        charts: Vec::new(),
        files: Vec::new(),
    }];
    EffectivePackage {
        package: effective,
        selections: Arc::default(),
        archive: Some(archive),
        again,
    }
}

/// The archive as the objects of the package's images name it, for a suspended package whose archive this process did not read.
fn recorded(context: &PackageContext, package: &JackalPackage) -> Option<ResolvedArchive> {
    let uid = package.uid().unwrap_or_default();
    let objects = context.images.state();
    let mut found = objects.iter().filter_map(|object| {
        let image = object.0.as_ref().ok()?;
        let archive = &image.spec.from.as_ref()?.archive;
        let is_own = image.labels().get(PACKAGE_LABEL) == Some(&uid);
        let listed = ArchivedReference {
            image: image.spec.image.clone(),
            digest: archive.digest.parse().ok()?,
        };
        is_own.then(|| (archive.oci.clone(), listed))
    });
    let (reference, first) = found.next()?;
    let mut images: Vec<ArchivedReference> = [first].into_iter().chain(found.map(|(_, listed)| listed)).collect();
    images.sort_by(|left, right| left.image.cmp(&right.image));
    let status = package.status.as_ref()?;
    Some(ResolvedArchive {
        reference,
        manifest: None,
        version: status.version.clone()?,
        architecture: package.spec.architecture.clone().unwrap_or_else(|| "amd64".to_owned()),
        images,
    })
}

/// Runs the task to its end, or until `token` is cancelled.
async fn run(context: &Arc<PackageContext>, package: &JackalPackage, key: TaskKey, token: CancellationToken) {
    let uid = package.uid().unwrap_or_default();
    let archives = &context.archives;
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        result = context.leadership.during(catch_panic(read_archive(context, package))) => result,
    };
    match result {
        None => archives.tasks.ended(&uid),
        Some(Ok(archive)) => {
            if archives.set(&uid, key.clone(), archive) {
                // The objects of images that the archive no longer has are found by a list, and deleted.
                context.list_images_again(&uid);
            }
            archives.tasks.succeeded(&uid, key, Instant::now());
        }
        Some(Err(fault)) => {
            archives.resolved().remove(&uid);
            let unverified = fault.reason == Reason::VerificationError;
            let set = |conditions: &mut Conditions, generation, now| {
                if unverified {
                    let reason = (fault.reason.to_string(), fault.message.clone());
                    conditions.set(VERIFIED, Some(false), (&reason.0, &reason.1), generation, now);
                }
            };
            let written = context.write_failure_with(package, &fault, set).await;
            let disposition = disposition_after_write(package, written, fault.disposition);
            archives.tasks.failed(&uid, key, disposition, Instant::now());
        }
    }
    context.enqueue(package).await;
}

/// Reads which package and images the archive has, and verifies its signatures.
async fn read_archive(context: &PackageContext, package: &JackalPackage) -> Result<ResolvedArchive, Fault> {
    let target = context.target(package).await?;
    let clients = AccessClients::of(&context.client, &context.settings, &context.registries);
    let access = ObjectAccess::of_package(clients, package, &target);
    read(context, package, &access).await.map_err(|fault| {
        let of_content = matches!(
            fault.reason,
            Reason::VerificationError | Reason::SourceFailed | Reason::SourceNotFound | Reason::DigestMismatch
        );
        match fault.disposition {
            // Another archive may be published under the same name.
            Disposition::Stalled if of_content => Fault {
                disposition: Disposition::Retryable,
                ..fault
            },
            _ => fault,
        }
    })
}

async fn read(
    context: &PackageContext,
    package: &JackalPackage,
    access: &ObjectAccess<'_>,
) -> Result<ResolvedArchive, Fault> {
    let PackageOrigin { archive } = package.spec.from.as_ref().ok_or_else(|| {
        let message = "the package has no from";
        Fault::stalled(Reason::InvalidSpec, message)
    })?;
    let stored = find(access, &archive.oci, package.spec.architecture.as_deref(), FIELD).await?;
    let (archive, images) = stored.packages().await?;
    let found = ArchivedPackage::of(&archive).map_err(|fault| fault.with_context(stored.pinned()))?;
    let coordinates = found.coordinates();
    if coordinates.repository != package.name_any() {
        let message = format!(
            "the archive has the package `{}`; give this object that name, or name another archive in {FIELD}",
            coordinates.repository
        );
        return Err(Fault::stalled(Reason::InvalidSpec, message));
    }
    let namespace = package.namespace().unwrap_or_default();
    let entries = NamespaceEntryReader::new(&context.client, &namespace);
    for requirement in requirements(&package.spec.verify, &entries).await? {
        let verified = archive::verify_signatures(&archive, &requirement).await;
        verified.map_err(|fault| fault.with_context(stored.pinned()))?;
    }
    let images = images.into_iter().filter_map(|image| {
        Some(ArchivedReference {
            image: image.name?.to_string(),
            digest: image.root.digest,
        })
    });
    Ok(ResolvedArchive {
        reference: stored.pinned().to_owned(),
        manifest: Some(found.manifest().clone()),
        version: coordinates.tag.clone(),
        architecture: coordinates.architecture.clone(),
        images: images.collect(),
    })
}

/// Finds the archive `reference`, which the field `what` of an object names.
async fn find(
    access: &ObjectAccess<'_>,
    reference: &str,
    architecture: Option<&str>,
    what: &str,
) -> Result<StoredArchive, Fault> {
    let reference: Reference = reference.parse().map_err(|error: ReferenceError| {
        Fault::stalled(Reason::InvalidReference, error.to_string()).with_context(what)
    })?;
    let registry = access.registry(&reference, what).await?;
    StoredArchive::find(&registry, &reference, architecture).await
}

/// The image `reference` of an archive, as `archived` names it.
pub(super) async fn image_of_archive(
    access: &ObjectAccess<'_>,
    archived: &ArchivedImage,
    reference: &Reference,
) -> Result<Archive, Fault> {
    let digest: Digest = archived
        .digest
        .parse()
        .map_err(|error| Fault::stalled(Reason::InvalidSpec, format!("from.archive.digest: {error}")))?;
    let stored = find(access, &archived.oci, None, FIELD).await?;
    stored.image(reference, &digest).await
}

/// The archive that was resolved, to publish its package.
pub(super) async fn whole_archive(
    access: &ObjectAccess<'_>,
    resolved: &ResolvedArchive,
) -> Result<StoredArchive, Fault> {
    find(access, &resolved.reference, None, FIELD).await
}

/// The only package of `archive`, which must be the one of `resolved`: a package file is read in parts, whose digests say nothing of
/// the whole.
pub(super) fn package_of<'a>(archive: &'a Archive, resolved: &ResolvedArchive) -> Result<ArchivedPackage<'a>, Fault> {
    let package = ArchivedPackage::of(archive)?;
    match resolved.manifest.as_ref() == Some(package.manifest()) {
        true => Ok(package),
        false => Err(Fault::retryable(
            Reason::DigestMismatch,
            format!(
                "{} has another package than before; it is read again",
                resolved.reference
            ),
        )),
    }
}
