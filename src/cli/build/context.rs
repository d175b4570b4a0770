//! The sources and the destination of `build`, opened once.

use std::collections::HashMap;
use std::sync::Arc;

use super::Build;
use super::target::Target;
use crate::api::v1alpha1::SourceKind;
use crate::archive::made::{InOrder, MadeRepository};
use crate::cli::package_file::FileObjects;
use crate::cli::registry_clients::RegistryClients;
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Location, Reference, ReferrersPolicy};
use crate::package::{Plan, PlannedImage, VerifiedSource, requirements};
use crate::registry::Registry;
use crate::signing::Requirement;
use crate::source::containerd::Containerd;
use crate::source::docker::Docker;
use crate::source::{ImageSource, RegistrySource};
use crate::transfer::{Destination, KnownBlobs, LayoutDestination, RegistryDestination, Transfer};

/// The destination, and all sources of the plan.
pub(super) struct BuildContext {
    target: Target,
    destination: Option<Registry>,
    /// The sources of images, by request.
    registries: HashMap<Reference, Registry>,
    docker: Option<Arc<Docker>>,
    containerd: Option<Arc<Containerd>>,
    known: Arc<KnownBlobs>,
    /// The signature requirements, by image and kind of source.
    requirements: HashMap<(Reference, SourceKind), Vec<Requirement>>,
}

impl BuildContext {
    /// The name of the artifact `version` in `repository`.
    pub fn package_name(&self, repository: &str, version: &str) -> String {
        self.target.name_of(repository, version)
    }

    pub async fn open(
        build: &Build,
        plan: &Plan,
        target: Target,
        access: &RegistryClients,
        given: &FileObjects,
    ) -> anyhow::Result<Self> {
        let mut required = HashMap::new();
        for planned in &plan.images {
            let asked = requirements(&planned.verify, given).await?;
            required.insert((planned.request.reference.clone(), planned.spec.source), asked);
        }
        let destination = match &target {
            Target::Registry { host, prefix } => Some(access.destination(host, prefix, build.insecure).await?),
            Target::Layout(_) | Target::Archive(_) | Target::Nowhere => None,
        };
        let mut registries = HashMap::new();
        let (mut docker, mut containerd) = (None, None);
        for planned in &plan.images {
            match planned.spec.source {
                SourceKind::Docker if docker.is_none() => {
                    docker = Some(Arc::new(build.engine.docker(access.idle())?));
                }
                SourceKind::Containerd if containerd.is_none() => {
                    containerd = Some(Arc::new(build.engine.containerd(access.idle())?));
                }
                SourceKind::Registry if !registries.contains_key(&planned.request.reference) => {
                    let plain_http = build.is_plain_http(planned.request.reference.registry(), &target);
                    let registry = access.source(&planned.request.reference, plain_http).await?;
                    registries.insert(planned.request.reference.clone(), registry);
                }
                _ => {}
            }
        }
        Ok(Self {
            target,
            destination,
            registries,
            docker,
            containerd,
            known: Arc::default(),
            requirements: required,
        })
    }

    pub fn transfer(
        &self,
        planned: &PlannedImage,
        (compression, referrers): (Compression, ReferrersPolicy),
    ) -> Result<Transfer, Fault> {
        let source = self.verified_source(planned)?;
        let (source, compression, referrers) = match self.target {
            // The frames of the file compress layers; a package has no referrers.
            Target::Archive(_) => (
                Arc::new(InOrder(source)) as Arc<dyn ImageSource>,
                Compression::None,
                ReferrersPolicy::Ignore,
            ),
            _ => (source, compression, referrers),
        };
        Ok(Transfer {
            source,
            reference: planned.request.reference.clone(),
            platforms: planned.request.platforms.clone(),
            destination: self.destination(&planned.location.repository)?,
            location: planned.location.clone(),
            compression,
            referrers,
            progress: Arc::default(),
            known: Arc::clone(&self.known),
        })
    }

    /// The source of an image, which verifies the required signatures.
    pub fn verified_source(&self, planned: &PlannedImage) -> Result<Arc<dyn ImageSource>, Fault> {
        let asked = self
            .requirements
            .get(&(planned.request.reference.clone(), planned.spec.source));
        let asked = asked.cloned().unwrap_or_default();
        VerifiedSource::of(
            self.source(planned)?,
            &planned.request.reference,
            asked,
            &Arc::default(),
        )
    }

    fn source(&self, planned: &PlannedImage) -> Result<Arc<dyn ImageSource>, Fault> {
        let unplanned = || {
            Fault::stalled(
                Reason::InvalidSpec,
                format!("{} has no source", planned.request.reference),
            )
        };
        Ok(match planned.spec.source {
            SourceKind::Docker => Arc::clone(self.docker.as_ref().ok_or_else(unplanned)?) as Arc<dyn ImageSource>,
            SourceKind::Containerd => {
                Arc::clone(self.containerd.as_ref().ok_or_else(unplanned)?) as Arc<dyn ImageSource>
            }
            SourceKind::Registry => {
                let registry = self.registries.get(&planned.request.reference).ok_or_else(unplanned)?;
                Arc::new(RegistrySource::new(registry.clone()))
            }
        })
    }

    pub fn destination(&self, repository: &str) -> Result<Arc<dyn Destination>, Fault> {
        Ok(match (&self.target, &self.destination) {
            (Target::Layout(directory), _) => Arc::new(LayoutDestination::new(directory, repository)),
            (Target::Archive(file), _) => Arc::new(MadeRepository::new(file, repository)),
            (Target::Registry { .. }, Some(registry)) => {
                Arc::new(RegistryDestination::new(registry.repository(repository)))
            }
            (Target::Registry { host, .. }, None) => {
                return Err(Fault::stalled(Reason::InvalidSpec, format!("{host} is not open")));
            }
            (Target::Nowhere, _) => {
                return Err(Fault::stalled(
                    Reason::InvalidSpec,
                    "a check has no destination".to_owned(),
                ));
            }
        })
    }

    /// The name of an image in the destination: as in pods, or as skopeo names images in a layout. An image in a layout that
    /// is known only by its digest is named as by oras and regctl.
    pub fn name_of(&self, location: &Location) -> String {
        match (&self.target, &location.digest, location.tags.first()) {
            (Target::Layout(directory), Some(digest), _) => format!("oci:{}@{digest}", directory.display()),
            (Target::Layout(_), None, Some(tag)) => self.target.name_of(&location.repository, tag),
            _ => location.to_string(),
        }
    }

    /// The command that copies a package from a layout to a registry for deployment.
    pub fn copy_advice(&self, repository: &str, version: &str) -> Option<String> {
        let Target::Layout(_) = &self.target else {
            return None;
        };
        let name = self.target.name_of(repository, version);
        Some(format!(
            "copy it to a registry: skopeo copy --all {name} docker://REGISTRY/{repository}:{version}"
        ))
    }
}
