//! The SBOMs of a package that is built without a cluster: made before its artifact is put together, once.

use serde::Serialize;

use super::{Build, Report};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::cli::progress::Display;
use crate::package::{Archive, PackageSboms, ReusableTars, TransferredImage};
use crate::sbom::unable;

/// How far the SBOMs are.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// Whether all are there, and in the package.
    complete: bool,
    /// Images of one platform that have SBOMs, or need them.
    images: usize,
    /// Why they are not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Build {
    /// Makes the SBOMs that `spec` wants of `images`. Without them the package stands all the same, unless it demands them.
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
