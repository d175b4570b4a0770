//! The task that builds a package's artifact once all its images are in the registry, by the steps of
//! [`package::build_package`].

mod archived;
mod build_reason;
mod record;
mod request;
mod signatures;
mod status;

use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

pub(super) use self::request::{PublicationRequest, inputs, origins};
use super::access::{AccessClients, ObjectAccess};
use super::context::PackageContext;
use super::sbom_condition;
use crate::api::v1alpha1::{ComponentSpec, Conditions, JackalPackage, SIGNED, VERIFIED};
use crate::fault::{Disposition, Fault, Reason};
use crate::fetch;
use crate::oci::Digest;
use crate::package::component::ComponentContent;
use crate::package::{self, BuildHost, BuiltPackage, Recipe, SbomProgress, TransferredImage};
use crate::runtime::{NamespaceEntryReader, catch_panic, disposition_after_write};
use crate::signing::SigningKey;
use crate::transfer::RegistryDestination;

/// Why a build ended early.
enum BuildEnd {
    /// It was cancelled, or another process leads.
    Cancelled,
    /// The status could not be written.
    StatusNotWritten(kube::Error),
    /// There is no artifact.
    Failed(Fault),
    /// There is none because it cannot be signed.
    Unsigned(Fault),
    /// The artifact exists without SBOMs, which the status says.
    WithoutSboms(Fault),
}

impl From<Fault> for BuildEnd {
    fn from(fault: Fault) -> Self {
        match fault.reason {
            Reason::SigningFailed => Self::Unsigned(fault),
            _ => Self::Failed(fault),
        }
    }
}

impl From<kube::Error> for BuildEnd {
    fn from(error: kube::Error) -> Self {
        Self::StatusNotWritten(error)
    }
}

/// Runs the task to its end, or until `token` is cancelled.
pub(super) async fn run(
    context: &Arc<PackageContext>,
    package: &Arc<JackalPackage>,
    request: PublicationRequest,
    token: CancellationToken,
) {
    let uid = package.uid().unwrap_or_default();
    let key = context.key(package, Some(&request.inputs));
    let build = ClusterBuild {
        context,
        package,
        request: &request,
        token: &token,
    };
    match catch_panic(build.run()).await {
        Ok(()) => context.tasks.succeeded(&uid, key, Instant::now()),
        Err(BuildEnd::Cancelled) => context.tasks.ended(&uid),
        Err(end) => match write_failure(context, package, end).await {
            Some(disposition) => context.tasks.failed(&uid, key, disposition, Instant::now()),
            None => context.tasks.succeeded(&uid, key, Instant::now()),
        },
    }
    context.enqueue(package).await;
}

/// Writes why a build ended. Gives whether it is retried; none where it counts as succeeded.
async fn write_failure(context: &PackageContext, package: &JackalPackage, end: BuildEnd) -> Option<Disposition> {
    let also = |condition: &'static str, fault: &Fault| {
        let (reason, message) = (fault.reason.to_string(), fault.message.clone());
        move |conditions: &mut Conditions, generation, now| {
            conditions.set(condition, Some(false), (&reason, &message), generation, now);
        }
    };
    let (written, disposition) = match end {
        BuildEnd::Cancelled => return None,
        BuildEnd::StatusNotWritten(error) => (Err(error), Disposition::Retryable),
        BuildEnd::Unsigned(fault) => {
            let written = context.write_failure_with(package, &fault, also(SIGNED, &fault)).await;
            (written, fault.disposition)
        }
        BuildEnd::Failed(fault) if fault.reason == Reason::VerificationError => {
            let written = context
                .write_failure_with(package, &fault, also(VERIFIED, &fault))
                .await;
            (written, fault.disposition)
        }
        BuildEnd::Failed(fault) => {
            let mut written = Ok(());
            if fault.reason == Reason::SbomFailed {
                written = sbom_condition::write_failure(context, package, &fault).await;
            }
            (
                written.and(context.write_own_failure(package, &fault).await),
                fault.disposition,
            )
        }
        BuildEnd::WithoutSboms(fault) => {
            let written = sbom_condition::write_failure(context, package, &fault).await;
            let disposition = disposition_after_write(package, written, fault.disposition);
            // A package that is Ready is reconciled at its interval, whatever its SBOMs lack.
            return Some(disposition).filter(|disposition| *disposition != Disposition::Stalled);
        }
    };
    Some(disposition_after_write(package, written, disposition))
}

/// A build of a package of the cluster.
struct ClusterBuild<'a> {
    context: &'a PackageContext,
    package: &'a JackalPackage,
    request: &'a PublicationRequest,
    token: &'a CancellationToken,
}

impl ClusterBuild<'_> {
    async fn run(&self) -> Result<(), BuildEnd> {
        if let Some(archive) = &self.request.archive {
            return self.publish_archived(archive).await;
        }
        let images = self.images()?;
        // Before anything is written: a package that cannot be signed is not published.
        let key = self.run_step(self.signing_key()).await?.map_err(BuildEnd::Unsigned)?;
        let Self {
            context,
            package,
            request,
            ..
        } = *self;
        let registry = context.registries.open(&request.target.endpoint)?;
        let repository = RegistryDestination::new(registry.repository(request.path(package)));
        let status = package.status.as_ref();
        let recipe = Recipe {
            name: &package.name_any(),
            spec: &package.spec,
            plan: &request.plan,
            images,
            repository: &repository,
            url: &request.url(package),
            key: key.as_ref(),
            recorded: status.and_then(|status| status.artifact.as_ref()?.digest.parse().ok()),
            syft: context.settings.syft.as_deref(),
        };
        package::build_package(recipe, self).await?;
        Ok(())
    }

    /// The images of the plan, in the package's registry.
    fn images(&self) -> Result<Vec<TransferredImage>, Fault> {
        let registry = self.context.registries.open(&self.request.target.endpoint)?;
        let images = self.request.images().map(|(planned, digest, origin)| {
            let repository = registry.repository(&planned.location.repository);
            Ok(TransferredImage {
                reference: planned.package_reference(),
                digest: digest?,
                destination: Arc::new(RegistryDestination::new(repository)),
                documents: Vec::new(),
                origin: origin.cloned(),
            })
        });
        images.collect()
    }

    /// The key that signs the package, where it is to be signed.
    async fn signing_key(&self) -> Result<Option<SigningKey>, Fault> {
        let Some(signing) = &self.package.spec.signing else {
            return Ok(None);
        };
        let namespace = self.package.namespace().unwrap_or_default();
        let entries = NamespaceEntryReader::new(&self.context.client, &namespace);
        entries.signing_key(signing).await.map(Some)
    }

    fn access(&self) -> ObjectAccess<'_> {
        let PackageContext {
            client,
            settings,
            registries,
            ..
        } = self.context;
        let clients = AccessClients::of(client, settings, registries);
        ObjectAccess::of_package(clients, self.package, &self.request.target)
    }
}

impl BuildHost for ClusterBuild<'_> {
    type Error = BuildEnd;

    const SBOMS_LATER: bool = true;

    /// Runs the step as long as the task is not cancelled and this process leads: another leader may have put another
    /// artifact under the tag.
    async fn run_step<T>(&self, step: impl Future<Output = T>) -> Result<T, BuildEnd> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(BuildEnd::Cancelled),
            result = self.context.leadership.during(step) => result.ok_or(BuildEnd::Cancelled),
        }
    }

    async fn verify(&self, images: &[TransferredImage]) -> Result<(), Fault> {
        signatures::verify(self.context, self.package, &self.request.plan, images, &self.access()).await
    }

    async fn contents(&self, components: &[ComponentSpec]) -> Result<Vec<ComponentContent>, Fault> {
        fetch::gather(components, &self.access(), &self.context.charts).await
    }

    async fn announce(&self, manifest: &Digest) -> Result<(), Fault> {
        status::write_start(self.context, self.package, self.request, manifest).await
    }

    fn sboms_failed(&self, fault: Fault) -> Result<(), BuildEnd> {
        Err(BuildEnd::WithoutSboms(fault))
    }

    async fn record(&self, built: &BuiltPackage, sboms: &SbomProgress) -> Result<(), BuildEnd> {
        status::write_result(self.context, self.package, self.request, (built, sboms)).await?;
        Ok(())
    }
}
