//! The SBOMs of a package that is built without a cluster. They are generated once, before the artifact is built.

use serde::Serialize;

use super::{Build, Report};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::cli::progress::Display;
use crate::package::{Archive, PackageSboms, ReusableTars, TransferredImage};
use crate::sbom::unable;

/// The progress of the SBOMs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// Whether all SBOMs exist and are in the package.
    complete: bool,
    /// The number of single-platform images that have or need SBOMs.
    images: usize,
    /// Why they are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Build {
    /// Generates the SBOMs of `images` that `spec` requests. If that fails, the package is built without them, unless it
    /// requires them.
    pub(super) async fn sboms(
        &self,
        spec: &JackalPackageSpec,
        images: &mut [TransferredImage],
        known: &ReusableTars,
        display: &Display,
        report: &mut Report,
    ) -> anyhow::Result<Option<Archive>> {
        let syft = self.sbom.open().await;
        let Some(wanted) = spec.wanted_sboms(syft.is_some()) else {
            return Ok(None);
        };
        let memory = syft.as_ref().map(|syft| syft.cache());
        let mut sboms = PackageSboms::find(images, memory).await?;
        sboms.accept_proven(known, memory);
        let made = match &syft {
            _ if sboms.is_complete() => Ok(()),
            Some(syft) => sboms.generate_missing(syft).await,
            None => Err(unable()),
        };
        let message = match made {
            Err(fault) if wanted.required => return Err(fault.into()),
            Err(fault) => {
                display.warn(format_args!("{}; the package is built without SBOMs", fault.message));
                Some(fault.message)
            }
            Ok(()) => {
                display.say(format_args!("SBOMs of {} images", sboms.total()));
                None
            }
        };
        report.sboms = Some(Row {
            complete: sboms.is_complete(),
            images: sboms.total(),
            message,
        });
        Ok(sboms.archive())
    }
}
