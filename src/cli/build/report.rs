//! The report of `build`.

use serde::Serialize;

use super::host::SbomRow;
use crate::api::v1alpha1::{Differential, MissingImage, PinnedChart};
use crate::cli::package_file::{Kind, Object};
use crate::cli::progress::Display;
use crate::cli::{UsageError, print};
use crate::fault::Fault;
use crate::oci::{Document, OmittedTag};
use crate::package::{Material, PlannedImage};

/// The result of one object, as printed by `--output json`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Kind and name of the object: `JackalPackage/shop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The name of a package; absent for an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub dry_run: bool,
    /// The directory of the OCI layout, if that is the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// The artifact; absent on a dry run.
    #[serde(flatten)]
    pub named: Option<Named>,
    pub changed: bool,
    pub moved_bytes: u64,
    /// The images that did not fail.
    pub images: Vec<Row>,
    /// The charts, with the digests of their content.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<PinnedChart>,
    /// Images that manifests and charts name and `images` lack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_images: Vec<MissingImage>,
    /// The progress of the SBOMs; absent if none are generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sboms: Option<SbomRow>,
    /// What is omitted because an earlier version contains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differential: Option<Differential>,
    /// Empty if nothing failed.
    pub failures: Vec<Failure>,
    /// The number of images to copy.
    #[serde(skip)]
    pub planned: usize,
    /// Whether the file has several objects, so that messages name the object.
    #[serde(skip)]
    several: bool,
}

/// The artifact of a package.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Named {
    /// `HOST/REPOSITORY:VERSION`, or `oci:DIR:REPOSITORY:VERSION` in an OCI layout.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
}

impl Report {
    /// Records a failure and prints it.
    pub fn fail(&mut self, failure: Failure, display: &Display) {
        self.tell(&failure, display);
        self.failures.push(failure);
    }

    /// Prints a failure on standard error.
    pub fn tell(&self, failure: &Failure, display: &Display) {
        match (&self.object, self.several && failure.image.is_none()) {
            (Some(object), true) => display.warn(format_args!("{object}: {failure}")),
            _ => display.warn(failure),
        }
    }

    /// The failures of single images.
    fn failed_images(&self) -> impl Iterator<Item = &Failure> {
        self.failures.iter().filter(|failure| failure.image.is_some())
    }
}

/// The results of all objects of a file.
#[derive(Debug)]
pub(super) struct Reports {
    dry_run: bool,
    objects: Vec<Report>,
    /// Failures that do not concern an object.
    failures: Vec<Failure>,
}

/// The sum of several reports, as printed by `--output json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportSummary<'a> {
    dry_run: bool,
    changed: bool,
    moved_bytes: u64,
    images: Vec<&'a Row>,
    failures: Vec<&'a Failure>,
    /// Each object's own report, in the order of the file.
    objects: &'a [Report],
}

impl Reports {
    pub fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            objects: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Starts the report of the next object, which is one of `several` or the only one.
    pub fn begin(&mut self, object: &Object, several: bool) -> &mut Report {
        self.objects.push(Report {
            object: Some(object.to_string()),
            package: (object.kind == Kind::Package).then(|| object.name.clone()),
            dry_run: self.dry_run,
            several,
            ..Report::default()
        });
        let last = self.objects.len() - 1;
        &mut self.objects[last]
    }

    /// Records a failure that concerns no object, and prints it.
    pub fn fail(&mut self, failure: Failure, display: &Display) {
        display.warn(&failure);
        self.failures.push(failure);
    }

    /// All failures.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        let of_objects = self.objects.iter().flat_map(|report| &report.failures);
        of_objects.chain(&self.failures)
    }

    /// Whether manifests or charts name images that an object lacks.
    pub fn lack_images(&self) -> bool {
        self.objects.iter().any(|report| !report.missing_images.is_empty())
    }

    /// Lists the failed images of every object with several images; their messages were printed before.
    pub fn summarize(&self) {
        for report in self.objects.iter().filter(|report| report.planned > 1) {
            let failed: Vec<&Failure> = report.failed_images().collect();
            if failed.is_empty() {
                continue;
            }
            let object = report.object.as_deref().unwrap_or_default();
            print::note(format_args!(
                "{object}: {} of {} images failed:",
                failed.len(),
                report.planned
            ));
            for failure in failed {
                let image = failure.image.as_deref().unwrap_or_default();
                print::note(format_args!("  {image}: {}", failure.reason));
            }
        }
    }

    /// The JSON document: the report of a single object, or the sum of several with the report of each.
    pub fn json(&mut self) -> serde_json::Result<String> {
        if self.objects.is_empty() {
            self.objects.push(Report {
                dry_run: self.dry_run,
                ..Report::default()
            });
        }
        let text = match self.objects.as_mut_slice() {
            [report] => {
                report.failures.append(&mut self.failures);
                serde_json::to_string_pretty(report)
            }
            _ => serde_json::to_string_pretty(&ReportSummary {
                dry_run: self.dry_run,
                changed: self.objects.iter().any(|report| report.changed),
                moved_bytes: self.objects.iter().map(|report| report.moved_bytes).sum(),
                images: self.objects.iter().flat_map(|report| &report.images).collect(),
                failures: self.failures().collect(),
                objects: &self.objects,
            }),
        };
        text.map(|text| text + "\n")
    }

    /// The progress of the objects.
    fn progress(&self) -> String {
        let Some(report) = self.objects.last() else {
            return "nothing was moved yet".to_owned();
        };
        let object = report.object.as_deref().unwrap_or_default();
        let images = match (report.planned, report.images.len()) {
            (0, _) => return format!("of {object} nothing was moved yet"),
            (planned, there) => format!("{there} of {planned} images of {object} are there"),
        };
        match (&report.package, &report.named) {
            (Some(_), None) => format!("{images}, its artifact is not"),
            _ => images,
        }
    }
}

/// A failure; the rest was done nevertheless.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// The image, if the failure concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub reason: String,
    pub message: String,
    #[serde(skip)]
    pub stalled: bool,
}

impl Failure {
    /// The failure of an interrupted command.
    pub fn interrupted(reports: &Reports) -> Self {
        Self {
            image: None,
            reason: "Interrupted".to_owned(),
            message: format!(
                "interrupted: {}; what was moved is found again by the next run",
                reports.progress()
            ),
            stalled: false,
        }
    }

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
            stalled: fault.is_stalled(),
            message: fault.message,
        }
    }
}

impl From<UsageError> for Failure {
    fn from(unusable: UsageError) -> Self {
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
        match error.downcast::<UsageError>() {
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
            // Most messages name the image.
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
    /// Why a faster method was not used for all of the image, or what was left out of it: reason and message as in the status
    /// of a JackalImage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method_message: Option<String>,
    pub moved_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_blobs: Option<u64>,
    /// Copied referrers of the image: signatures, attestations, SBOMs.
    pub moved_referrers: usize,
    /// The plain tag that the image did not get, and its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted_tag: Option<OmittedTag>,
    pub current: bool,
    #[serde(skip)]
    pub documents: Vec<Document>,
}

impl Row {
    /// The image in the provenance of the package.
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
