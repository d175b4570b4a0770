//! What `build` says came of it.

use serde::Serialize;

use super::sboms;
use crate::api::v1alpha1::{Differential, MissingImage, PinnedChart};
use crate::cli::Unusable;
use crate::fault::{Disposition, Fault};
use crate::oci::Document;
use crate::package::{Material, PlannedImage};

/// What is printed with `--output json`, whatever comes of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub dry_run: bool,
    /// The digest of the artifact's manifest; absent on a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub changed: bool,
    pub moved_bytes: u64,
    /// Those that did not fail.
    pub images: Vec<Row>,
    /// The charts with the content that was found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<PinnedChart>,
    /// What manifests and charts name and `images` lack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_images: Vec<MissingImage>,
    /// How far the SBOMs are; absent where none are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sboms: Option<sboms::Row>,
    /// What is left out, because an earlier version holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differential: Option<Differential>,
    /// Empty when all is well.
    pub failures: Vec<Failure>,
}

/// Something that failed; the rest was done all the same.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// The image; absent where it was not about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub reason: String,
    pub message: String,
    #[serde(skip)]
    pub stalled: bool,
}

impl Failure {
    pub fn of(image: &str, fault: Fault) -> Self {
        Self {
            image: Some(image.to_owned()),
            ..fault.into()
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self {
            image: None,
            reason: fault.reason.to_string(),
            stalled: fault.disposition == Disposition::Stalled,
            message: fault.message,
        }
    }
}

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Self {
        Self {
            image: None,
            reason: "Unusable".to_owned(),
            message: unusable.0,
            stalled: true,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Fault>() {
            Ok(fault) => return fault.into(),
            Err(error) => error,
        };
        match error.downcast::<Unusable>() {
            Ok(unusable) => unusable.into(),
            Err(error) => Self {
                image: None,
                reason: "Failed".to_owned(),
                message: format!("{error:#}"),
                stalled: false,
            },
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.image {
            // Most messages name it themselves.
            Some(image) if !self.message.contains(image) => write!(formatter, "{image}: {}", self.message),
            _ => formatter.write_str(&self.message),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub image: String,
    pub name: String,
    pub source_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Why a better way was not taken, or not for all of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method_reason: Option<String>,
    pub moved_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_blobs: Option<u64>,
    /// Manifests that were written of those that refer to the image: signatures, attestations, SBOMs.
    pub moved_referrers: usize,
    pub current: bool,
    #[serde(skip)]
    pub documents: Vec<Document>,
}

impl Row {
    /// What it is in the package's provenance.
    pub fn material(&self, planned: &PlannedImage) -> anyhow::Result<Material> {
        let became = self.digest.as_deref().unwrap_or_default().parse()?;
        let source = self.source_digest.parse()?;
        Ok(Material::of_image(
            planned,
            None,
            source,
            self.method.as_deref(),
            &became,
        ))
    }
}
