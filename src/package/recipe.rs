//! How a package is built once its plan is made and its images are transferred: the one sequence of steps, for the
//! controller and for `build`. What differs between the two is a [`BuildHost`].
//!
//! 1. The signatures that images must have are verified, where that was not done while they were transferred.
//! 2. The content of the components is found: manifests, charts and files.
//! 3. The tars of the artifact that exists already are read, so that unchanged ones are not made again.
//! 4. SBOMs of the images are looked up, and created where they are missing.
//! 5. The artifact is published and signed, by [`assemble`].
//! 6. The result is recorded. Where SBOMs are created afterwards, steps 4 to 6 are repeated with them.

use super::archive::{Archive, ReusableTars};
use super::assembly::{AssembledPackage, PackageParts, assemble};
use super::component::{self, ComponentContent};
use super::definition::Definition;
use super::plan::Plan;
use super::publish::{PublishedPackage, TransferredImage};
use super::sboms::PackageSboms;
use super::signature::SignedPackage;
use crate::api::v1alpha1::{ComponentSpec, Differential, JackalPackageSpec, MissingImage, PinnedChart};
use crate::fault::Fault;
use crate::oci::Digest;
use crate::sbom::{Syft, unable};
use crate::signing::SigningKey;
use crate::transfer::Destination;

/// What a package is built from.
pub struct Recipe<'a> {
    /// The name of the package.
    pub name: &'a str,
    /// Its spec, with a version and a tag or digest for each image.
    pub spec: &'a JackalPackageSpec,
    /// The plan of the spec.
    pub plan: &'a Plan,
    /// The images of the plan, in its order.
    pub images: Vec<TransferredImage>,
    /// The repository of the artifact.
    pub repository: &'a dyn Destination,
    /// The address of the artifact, `oci://registry/repository:version`.
    pub url: &'a str,
    /// The key that signs the package.
    pub key: Option<&'a SigningKey>,
    /// The digest of the package's last artifact, where an object's status records it.
    pub recorded: Option<Digest>,
    /// What creates SBOMs, where the process can.
    pub syft: Option<&'a Syft>,
}

/// Where a package is built: in a cluster, or from a file.
// Every use has a concrete type, whose futures say themselves whether they are Send.
#[allow(async_fn_in_trait)]
pub trait BuildHost {
    /// Why a build ends early.
    type Error: From<Fault>;

    /// Whether a package that does not require its SBOMs is published before they are created, and once more with them.
    const SBOMS_LATER: bool;

    /// Runs one step of the build, unless the build is to end.
    async fn run_step<T>(&self, step: impl Future<Output = T>) -> Result<T, Self::Error>;

    /// Verifies the signatures that `images` must have.
    async fn verify(&self, images: &[TransferredImage]) -> Result<(), Fault>;

    /// The content of `components`, in their order.
    async fn contents(&self, components: &[ComponentSpec]) -> Result<Vec<ComponentContent>, Fault>;

    /// Called before an artifact is written, with the digest of its manifest.
    async fn announce(&self, manifest: &Digest) -> Result<(), Fault>;

    /// Called when the SBOMs could not be created, and the package does not require them. An error ends the build.
    fn sboms_failed(&self, fault: Fault) -> Result<(), Self::Error>;

    /// Called before an artifact is published.
    fn note_sboms(&self, _: &SbomProgress) {}

    /// Called after an artifact was published.
    async fn record(&self, built: &BuiltPackage, sboms: &SbomProgress) -> Result<(), Self::Error>;
}

/// How far the SBOMs of a package are.
pub enum SbomProgress {
    /// None are requested.
    NotRequested,
    /// Some are missing.
    Pending(PackageSboms),
    /// All exist.
    Complete(PackageSboms),
}

impl SbomProgress {
    fn of(sboms: PackageSboms) -> Self {
        match sboms.is_complete() {
            true => Self::Complete(sboms),
            false => Self::Pending(sboms),
        }
    }

    /// The tar of the SBOMs; none unless all exist.
    fn archive(&self) -> Option<Archive> {
        match self {
            Self::Complete(sboms) => sboms.archive(),
            Self::NotRequested | Self::Pending(_) => None,
        }
    }
}

/// A package that was published.
pub struct BuiltPackage {
    /// The artifact in the registry.
    pub published: PublishedPackage,
    /// The fingerprint of the key that signed it.
    pub signed_by: Option<String>,
    /// Its signatures, where it has a key.
    pub signed: Option<SignedPackage>,
    /// What was left out, where `differentialFrom` asks for it.
    pub differential: Option<Differential>,
    /// Its charts, with the content that was found.
    pub charts: Vec<PinnedChart>,
    /// Images that its manifests and charts name and that are not among its images.
    pub missing: Vec<MissingImage>,
}

/// What is known after the first steps, and does not change until the build ends.
struct Prepared {
    contents: Vec<ComponentContent>,
    known: ReusableTars,
}

/// Builds the package. Gives the last artifact, and how far its SBOMs are.
pub async fn build_package<H: BuildHost>(
    mut recipe: Recipe<'_>,
    host: &H,
) -> Result<(BuiltPackage, SbomProgress), H::Error> {
    let prepared = host.run_step(recipe.prepare(host)).await??;
    let mut sboms = host.run_step(recipe.look_up_sboms(&prepared.known)).await??;
    if let SbomProgress::Pending(missing) = &mut sboms
        && (recipe.requires_sboms() || !H::SBOMS_LATER)
    {
        match host.run_step(recipe.create_sboms(missing)).await? {
            Ok(()) => sboms = complete(sboms),
            Err(fault) if recipe.requires_sboms() => return Err(fault.into()),
            Err(fault) => host.sboms_failed(fault)?,
        }
    }
    let built = publish(&recipe, host, &prepared, &sboms).await?;
    if H::SBOMS_LATER
        && let SbomProgress::Pending(missing) = &mut sboms
    {
        if let Err(fault) = host.run_step(recipe.create_sboms(missing)).await? {
            host.sboms_failed(fault)?;
            return Ok((built, sboms));
        }
        let sboms = complete(sboms);
        let built = publish(&recipe, host, &prepared, &sboms).await?;
        return Ok((built, sboms));
    }
    Ok((built, sboms))
}

fn complete(sboms: SbomProgress) -> SbomProgress {
    match sboms {
        SbomProgress::Pending(sboms) => SbomProgress::of(sboms),
        other => other,
    }
}

/// Publishes the artifact and records it.
async fn publish<H: BuildHost>(
    recipe: &Recipe<'_>,
    host: &H,
    prepared: &Prepared,
    sboms: &SbomProgress,
) -> Result<BuiltPackage, H::Error> {
    host.note_sboms(sboms);
    let built = host.run_step(recipe.publish(host, prepared, sboms)).await??;
    // Not a step: an artifact that exists is recorded, even if the build is to end.
    host.record(&built, sboms).await?;
    Ok(built)
}

impl Recipe<'_> {
    async fn prepare<H: BuildHost>(&self, host: &H) -> Result<Prepared, Fault> {
        host.verify(&self.images).await?;
        let contents = host.contents(&self.spec.components).await?;
        let known = self.known_tars().await?;
        Ok(Prepared { contents, known })
    }

    /// The tars of the artifact under the package's tag, and of the one that is recorded.
    async fn known_tars(&self) -> Result<ReusableTars, Fault> {
        let without_content = self.spec.components.iter().all(ComponentSpec::holds_images_only);
        if without_content && self.spec.wanted_sboms(self.syft.is_some()).is_none() {
            return Ok(ReusableTars::default());
        }
        let definition = Definition::of(self.name, self.spec, self.plan)?;
        let (version, architecture) = (self.spec.version(), definition.architecture());
        ReusableTars::read(self.repository, version, architecture, self.recorded.as_ref(), self.key).await
    }

    /// Whether the package must not be published without its SBOMs.
    fn requires_sboms(&self) -> bool {
        let wanted = self.spec.wanted_sboms(self.syft.is_some());
        wanted.is_some_and(|wanted| wanted.required)
    }

    /// Asks for the SBOMs of the images. Those of a tar of `known` count where its content is proven.
    async fn look_up_sboms(&mut self, known: &ReusableTars) -> Result<SbomProgress, Fault> {
        if self.spec.wanted_sboms(self.syft.is_some()).is_none() {
            return Ok(SbomProgress::NotRequested);
        }
        let cache = self.syft.map(Syft::cache);
        let mut sboms = PackageSboms::find(&mut self.images, cache).await?;
        sboms.accept_proven(known, cache);
        Ok(SbomProgress::of(sboms))
    }

    async fn create_sboms(&self, missing: &mut PackageSboms) -> Result<(), Fault> {
        missing.generate_missing(self.syft.ok_or_else(unable)?).await
    }

    async fn publish<H: BuildHost>(
        &self,
        host: &H,
        prepared: &Prepared,
        sboms: &SbomProgress,
    ) -> Result<BuiltPackage, Fault> {
        let Prepared { contents, known } = prepared;
        let mut archives = component::archives(self.spec, contents);
        archives.extend(sboms.archive());
        let charts = component::pinned(self.spec, contents);
        let parts = PackageParts {
            definition: Definition::of(self.name, self.spec, self.plan)?.with_contents(self.spec, contents),
            spec: self.spec,
            images: &self.images,
            archives: &archives,
            charts: &charts,
            url: self.url,
            key: self.key,
            known,
        };
        let announce = async |manifest: &Digest| host.announce(manifest).await;
        let AssembledPackage {
            published,
            differential,
            signed,
        } = assemble(parts, self.repository, announce).await?;
        Ok(BuiltPackage {
            published,
            signed_by: self.key.map(|key| key.public().fingerprint().to_string()),
            signed,
            differential,
            missing: component::missing_images(self.spec, self.plan, contents),
            charts,
        })
    }
}

#[cfg(test)]
mod tests;
