//! Publishes the package of an archive, unchanged, once its images are in the registry.

use super::super::archived::{ResolvedArchive, package_of, whole_archive};
use super::{BuildEnd, ClusterBuild};
use crate::archive::PublishedImage;
use crate::fault::Fault;
use crate::package::{BuildHost as _, BuiltPackage, PublishedPackage, SbomProgress};
use crate::transfer::RegistryDestination;

impl ClusterBuild<'_> {
    /// Publishes the package of `archive`, and records it.
    pub(super) async fn publish_archived(&self, archive: &ResolvedArchive) -> Result<(), BuildEnd> {
        let published = self.run_step(self.copy_archived(archive)).await??;
        let built = BuiltPackage {
            published,
            signed_by: None,
            signed: None,
            differential: None,
            charts: Vec::new(),
            missing: Vec::new(),
        };
        self.record(&built, &SbomProgress::NotRequested).await
    }

    async fn copy_archived(&self, resolved: &ResolvedArchive) -> Result<PublishedPackage, Fault> {
        let registry = self.context.registries.open(&self.request.target.endpoint)?;
        let repository = RegistryDestination::new(registry.repository(self.request.path(self.package)));
        let stored = whole_archive(&self.access(), resolved).await?;
        let (alone, _) = stored.packages().await?;
        if let Some(published) = package_of(&alone, resolved)?.published(&repository).await? {
            return Ok(published);
        }
        let archive = stored.whole().await?;
        let package = package_of(&archive, resolved)?;
        self.announce(package.manifest()).await?;
        let images = self
            .request
            .images()
            .map(|(planned, digest, _)| Ok((digest?, planned.location.repository.clone())));
        let images: Vec<PublishedImage> = images.collect::<Result<_, Fault>>()?;
        package.publish(&images, &repository).await
    }
}
