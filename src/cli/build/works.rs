//! What `build` reads from and writes to, opened once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Build;
use super::target::Target;
use crate::api::v1alpha1::SourceKind;
use crate::cli::package_file::Given;
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Reference, ReferrersPolicy};
use crate::package::{Plan, PlannedImage, VerifiedSource, requirements};
use crate::registry::Registry;
use crate::signing::Requirement;
use crate::source::containerd::Containerd;
use crate::source::docker::Docker;
use crate::source::{ImageSource, RegistrySource};
use crate::transfer::{Destination, KnownBlobs, LayoutDestination, RegistryDestination, Transfer};

/// The open ends: the destination, and every source that the plan reads.
pub(super) struct Works {
    target: Target,
    destination: Option<Registry>,
    registries: HashMap<String, Registry>,
    docker: Option<Arc<Docker>>,
    containerd: Option<Arc<Containerd>>,
    known: Arc<KnownBlobs>,
    /// What images must satisfy, by the image and the kind of its source.
    requirements: HashMap<(Reference, SourceKind), Vec<Requirement>>,
}

impl Works {
    pub async fn open(
        build: &Build,
        plan: &Plan,
        target: Target,
        idle: Duration,
        given: &Given,
    ) -> anyhow::Result<Self> {
        let mut required = HashMap::new();
        for planned in &plan.images {
            let asked = requirements(&planned.verify, given).await?;
            required.insert((planned.image.clone(), planned.spec.source), asked);
        }
        let open = async |host: &str, plain_http: bool| build.open(host, plain_http, idle).await;
        let destination = match &target {
            Target::Registry { host, .. } => Some(open(host, build.insecure).await?),
            Target::Layout(_) => None,
        };
        let mut registries = HashMap::new();
        let (mut docker, mut containerd) = (None, None);
        for planned in &plan.images {
            match planned.spec.source {
                SourceKind::Docker if docker.is_none() => {
                    docker = Some(Arc::new(build.engine.docker(idle)?));
                }
                SourceKind::Containerd if containerd.is_none() => {
                    containerd = Some(Arc::new(build.engine.containerd(idle)?));
                }
                SourceKind::Registry if !registries.contains_key(planned.image.registry()) => {
                    let host = planned.image.registry();
                    let plain_http = build.is_plain_http(host, &target);
                    // One client for a registry, that its limits hold for all that is asked of it.
                    let shared = destination
                        .as_ref()
                        .filter(|to| to.host() == host && plain_http == build.insecure);
                    let registry = match shared {
                        Some(destination) => destination.clone(),
                        None => open(host, plain_http).await?,
                    };
                    registries.insert(host.to_owned(), registry);
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
        Ok(Transfer {
            source: self.verified_source(planned)?,
            reference: planned.image.clone(),
            platforms: planned
                .spec
                .platforms
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, crate::oci::PlatformError>>()
                .map_err(|error| Fault::stalled(Reason::InvalidSpec, error.to_string()))?,
            destination: self.destination(&planned.location.repository)?,
            location: planned.location.clone(),
            compression,
            referrers,
            progress: Arc::default(),
            known: Arc::clone(&self.known),
        })
    }

    fn verified_source(&self, planned: &PlannedImage) -> Result<Arc<dyn ImageSource>, Fault> {
        let asked = self.requirements.get(&(planned.image.clone(), planned.spec.source));
        let asked = asked.cloned().unwrap_or_default();
        VerifiedSource::of(self.source(planned)?, &planned.image, asked, &Arc::default())
    }

    fn source(&self, planned: &PlannedImage) -> Result<Arc<dyn ImageSource>, Fault> {
        let unplanned = || Fault::stalled(Reason::InvalidSpec, format!("{} has no source", planned.image));
        Ok(match planned.spec.source {
            SourceKind::Docker => Arc::clone(self.docker.as_ref().ok_or_else(unplanned)?) as Arc<dyn ImageSource>,
            SourceKind::Containerd => {
                Arc::clone(self.containerd.as_ref().ok_or_else(unplanned)?) as Arc<dyn ImageSource>
            }
            SourceKind::Registry => {
                let registry = self.registries.get(planned.image.registry()).ok_or_else(unplanned)?;
                Arc::new(RegistrySource::new(registry.clone()))
            }
        })
    }

    pub fn destination(&self, repository: &str) -> Result<Arc<dyn Destination>, Fault> {
        Ok(match (&self.target, &self.destination) {
            (Target::Layout(directory), _) => Arc::new(LayoutDestination::new(directory, repository)),
            (Target::Registry { .. }, Some(registry)) => {
                Arc::new(RegistryDestination::new(registry.repository(repository)))
            }
            (Target::Registry { host, .. }, None) => {
                return Err(Fault::stalled(Reason::InvalidSpec, format!("{host} is not open")));
            }
        })
    }
}
