//! Why an artifact was built, and which images it lacks, as the status says it. No IO.

use std::collections::BTreeSet;

use super::super::retention::SBOMS_ADDED;
use crate::api::v1alpha1::{Artifact, HistoryEntry, MissingImage, PackagedImage, PinnedChart};

/// The longest message of a history entry in bytes. A longer one only counts the changes and names the first.
const MESSAGE: usize = 400;

/// The images that manifests and charts of a package name and that the package lacks; none where it lacks none.
pub(super) fn missing_message(missing: &[MissingImage]) -> Option<String> {
    let first = missing.first()?;
    let images: BTreeSet<&str> = missing.iter().map(|missing| missing.image.as_str()).collect();
    Some(format!(
        "{} images that its manifests and charts name are not among images, {} of {} first; see status.missingImages",
        images.len(),
        first.image,
        first.found_in
    ))
}

/// Why an artifact was built.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BuildReason {
    /// The first that applies, as [`HistoryEntry::reason`] lists them.
    pub reason: &'static str,
    /// All that differs from the artifact before.
    pub message: String,
}

impl BuildReason {
    /// The same artifact was written to another repository.
    pub fn registry_changed() -> Self {
        Self {
            reason: "RegistryChanged",
            message: "the package is written to another registry or repository".to_owned(),
        }
    }
}

/// An artifact and the one before it. Of pairs the first is of the artifact before.
pub(super) struct Change<'a> {
    /// The artifact before.
    pub before: Option<&'a Artifact>,
    /// The version of the new one.
    pub version: &'a str,
    /// The earlier artifacts, the newest first.
    pub history: &'a [HistoryEntry],
    pub images: (&'a [PackagedImage], &'a [PackagedImage]),
    pub charts: (&'a [PinnedChart], &'a [PinnedChart]),
    /// Whether the new one has SBOMs and the one before had none.
    pub sboms_added: bool,
}

/// Why the new artifact of `change` was built: what differs from the one before.
pub(super) fn why(change: Change<'_>) -> BuildReason {
    let Some(before) = change.before else {
        return BuildReason {
            reason: "FirstBuild",
            message: "first build".to_owned(),
        };
    };
    let versions = version_change(before, change.version);
    let images = image_changes(change.images.0, change.images.1);
    let charts = chart_changes(change.charts.0, change.charts.1);
    let reason = match (&versions, images.is_empty(), charts.is_empty()) {
        (Some(_), ..) => "VersionChanged",
        (None, false, _) => "ImagesChanged",
        (None, true, false) => "ChartsChanged",
        (None, true, true) if change.sboms_added => SBOMS_ADDED,
        (None, true, true) => "ContentChanged",
    };
    let mut changes: Vec<String> = versions.into_iter().chain(images).chain(charts).collect();
    if changes.is_empty() && change.sboms_added {
        changes.push("SBOMs were added".to_owned());
    }
    if changes.is_empty() {
        // The images of the artifact before are unknown where a change of one was recorded meanwhile.
        let digest = change.history.first().map_or("", |entry| entry.digest.as_str());
        changes.push(format!("the content differs from {}", short(digest)));
    }
    let mut message = changes.join(", ");
    if message.len() > MESSAGE {
        message = format!("{} changes: {}", changes.len(), changes[0]);
    }
    BuildReason { reason, message }
}

fn version_change(before: &Artifact, version: &str) -> Option<String> {
    let known = before.revision.split_once('@').map(|(known, _)| known);
    (known != Some(version)).then(|| format!("version {} became {version}", known.unwrap_or_default()))
}

fn image_changes(known: &[PackagedImage], images: &[PackagedImage]) -> Vec<String> {
    let mut changes = Vec::new();
    for image in images {
        match known.iter().find(|known| known.image == image.image) {
            None => changes.push(format!("{} was added", image.image)),
            Some(known) => match tag_change(known, image) {
                Some(change) => changes.push(change),
                None if known.digest.is_some() && known.digest != image.digest => {
                    changes.push(format!("{} changed", image.image));
                }
                None => {}
            },
        }
    }
    let is_removed = |known: &&PackagedImage| images.iter().all(|image| image.image != known.image);
    let removed = known.iter().filter(is_removed);
    changes.extend(removed.map(|removed| format!("{} was removed", removed.image)));
    changes
}

/// That another tag was chosen for an image.
fn tag_change(known: &PackagedImage, image: &PackagedImage) -> Option<String> {
    let (before, now) = (&known.selected.as_ref()?.tag, &image.selected.as_ref()?.tag);
    (before != now).then(|| format!("{} {before} became {now}", image.image))
}

/// The first digits of a digest.
fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

/// What differs of the charts. Where only the content differs, although a version should not change, both digests are named.
fn chart_changes(known: &[PinnedChart], charts: &[PinnedChart]) -> Vec<String> {
    let same = |one: &PinnedChart, other: &PinnedChart| one.component == other.component && one.name == other.name;
    let mut changes = Vec::new();
    for chart in charts {
        let PinnedChart {
            name, version, digest, ..
        } = chart;
        match known.iter().find(|known| same(known, chart)) {
            None => changes.push(format!("chart {name} {version} was added")),
            Some(known) if known.version != *version => {
                changes.push(format!("chart {name} {} became {version}", known.version));
            }
            Some(known) if known.digest != *digest => changes.push(format!(
                "chart {name} {version} was {} and is {} now, under the same version",
                short(&known.digest),
                short(digest)
            )),
            Some(_) => {}
        }
    }
    let removed = known
        .iter()
        .filter(|known| !charts.iter().any(|chart| same(known, chart)));
    changes.extend(removed.map(|removed| format!("chart {} was removed", removed.name)));
    changes
}

#[cfg(test)]
mod tests;
