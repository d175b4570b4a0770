//! Checks for missing images, charts and files, without copying anything.

use futures::StreamExt as _;

use super::access::FileAccess;
use super::report::Failure;
use super::{Build, BuildContext, Report, Target};
use crate::api::v1alpha1::{ComponentSpec, JackalPackageSpec, SourceKind};
use crate::cli::package_file::FileObjects;
use crate::cli::progress::Display;
use crate::cli::registry_clients::RegistryClients;
use crate::fault::{Fault, Reason};
use crate::fetch::{ChartCache, gather};
use crate::package::component::{ComponentContent, missing_images, pinned};
use crate::package::{Plan, PlannedImage};

/// Images that are checked concurrently.
const AT_ONCE: usize = 8;

impl Build {
    /// Finds the content of the components other than images.
    pub(super) async fn gather(
        &self,
        components: &[ComponentSpec],
        given: &FileObjects,
        target: &Target,
        access: &RegistryClients,
    ) -> Result<Vec<ComponentContent>, Fault> {
        let reach = FileAccess::new(self, given, target, access);
        gather(components, &reach, &ChartCache::default()).await
    }

    /// Checks that everything in `spec` exists, and reports what does not.
    pub(super) async fn check_all(
        &self,
        plan: &Plan,
        spec: &JackalPackageSpec,
        given: &FileObjects,
        access: &RegistryClients,
        display: &Display,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let works = BuildContext::open(self, plan, Target::Nowhere, access, given).await?;
        let works = &works;
        let asked = plan
            .images
            .iter()
            .map(|planned| async move { (planned, ask(works, planned).await) });
        let mut answers = futures::stream::iter(asked).buffered(AT_ONCE);
        while let Some((planned, answer)) = answers.next().await {
            let image = &planned.spec.image;
            match answer {
                Ok(()) => {}
                // Engines run on nodes; without an engine on this machine, their images cannot be checked.
                Err(fault) if planned.spec.source != SourceKind::Registry && fault.reason == Reason::SourceFailed => {
                    display.warn(format_args!("{image} is not checked: {}", fault.message));
                }
                Err(fault) => report.fail(Failure::of(image, fault), display),
            }
        }
        let mut found = Vec::with_capacity(spec.components.len());
        for component in &spec.components {
            let gathered = self
                .gather(std::slice::from_ref(component), given, &Target::Nowhere, access)
                .await;
            let of_component = match gathered {
                Ok(gathered) => gathered.into_iter().next().unwrap_or_default(),
                Err(fault) => {
                    report.fail(fault.into(), display);
                    ComponentContent::default()
                }
            };
            for file in &of_component.files {
                if let Err(fault) = file.origin.exists().await {
                    let fault = fault.with_context(format_args!("component `{}`", component.name));
                    report.fail(fault.into(), display);
                }
            }
            found.push(of_component);
        }
        report.charts = pinned(spec, &found);
        report.missing_images = missing_images(spec, plan, &found);
        self.say_missing(report, display);
        Ok(())
    }

    /// Reports missing images: as the output of a check, else as a warning.
    pub(super) fn say_missing(&self, report: &Report, display: &Display) {
        for missing in &report.missing_images {
            let line = format!(
                "component {}: {} of {} is not among images",
                missing.component, missing.image, missing.found_in
            );
            match self.check {
                true => display.say(&line),
                false => display.warn(&line),
            }
        }
        if self.check && report.missing_images.is_empty() && report.failures.is_empty() {
            display.say("no image is missing");
        }
    }
}

/// Checks that an image exists at its source.
async fn ask(works: &BuildContext, planned: &PlannedImage) -> Result<(), Fault> {
    let source = works.verified_source(planned)?;
    let request = &planned.request;
    source.resolve(&request.reference, &request.platforms).await.map(drop)
}
