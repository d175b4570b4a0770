//! The build of a package of a file: what differs from one in a cluster.

use std::sync::OnceLock;

use serde::Serialize;

use crate::api::v1alpha1::ComponentSpec;
use crate::cli::progress::Display;
use crate::fault::Fault;
use crate::oci::Digest;
use crate::package::component::ComponentContent;
use crate::package::{BuildHost, BuiltPackage, SbomProgress, TransferredImage};

/// How far the SBOMs are, in the report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SbomRow {
    /// Whether all exist and are in the package.
    complete: bool,
    /// Images of one platform that have SBOMs, or need them.
    images: usize,
    /// Why they are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The build of a package of a file.
pub(super) struct FileBuild<'a> {
    /// The content of its components, which was found before its images were transferred.
    contents: Vec<ComponentContent>,
    display: &'a Display,
    sboms: OnceLock<SbomRow>,
    /// Why the SBOMs were not created.
    sbom_failure: OnceLock<String>,
}

impl<'a> FileBuild<'a> {
    pub fn new(contents: Vec<ComponentContent>, display: &'a Display) -> Self {
        Self {
            contents,
            display,
            sboms: OnceLock::new(),
            sbom_failure: OnceLock::new(),
        }
    }

    /// How far the SBOMs are; none where none are requested.
    pub fn into_sboms(self) -> Option<SbomRow> {
        self.sboms.into_inner()
    }
}

impl BuildHost for FileBuild<'_> {
    type Error = Fault;

    const SBOMS_LATER: bool = false;

    async fn run_step<T>(&self, step: impl Future<Output = T>) -> Result<T, Fault> {
        Ok(step.await)
    }

    // They were verified when they were transferred.
    async fn verify(&self, _: &[TransferredImage]) -> Result<(), Fault> {
        Ok(())
    }

    async fn contents(&self, _: &[ComponentSpec]) -> Result<Vec<ComponentContent>, Fault> {
        Ok(self.contents.clone())
    }

    async fn announce(&self, _: &Digest) -> Result<(), Fault> {
        Ok(())
    }

    fn sboms_failed(&self, fault: Fault) -> Result<(), Fault> {
        let message = &fault.message;
        self.display
            .warn(format_args!("{message}; the package is built without SBOMs"));
        let _ = self.sbom_failure.set(fault.message);
        Ok(())
    }

    fn note_sboms(&self, progress: &SbomProgress) {
        let (sboms, complete) = match progress {
            SbomProgress::NotRequested => return,
            SbomProgress::Pending(sboms) => (sboms, false),
            SbomProgress::Complete(sboms) => (sboms, true),
        };
        let images = sboms.total();
        if complete {
            self.display.say(format_args!("SBOMs of {images} images"));
        }
        let _ = self.sboms.set(SbomRow {
            complete,
            images,
            message: self.sbom_failure.get().cloned(),
        });
    }

    async fn record(&self, _: &BuiltPackage, _: &SbomProgress) -> Result<(), Fault> {
        Ok(())
    }
}
