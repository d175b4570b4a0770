//! What status and events say of an artifact: why it was built, and what it lacks. No IO.

use std::collections::BTreeSet;

use super::SBOMS_ADDED;
use crate::api::v1alpha1::{Artifact, HistoryEntry, MissingImage, PackagedImage, PinnedChart};

/// What a package that was built lacks, if it lacks anything.
pub(super) fn lack(missing: &[MissingImage]) -> Option<String> {
    let first = missing.first()?;
    let images: BTreeSet<&str> = missing.iter().map(|missing| missing.image.as_str()).collect();
    Some(format!(
        "{} images that its manifests and charts name are not among images, {} of {} first; see status.missingImages",
        images.len(),
        first.image,
        first.found_in
    ))
}

/// That another tag was chosen for an image.
fn became(known: &PackagedImage, row: &PackagedImage) -> Option<String> {
    let (before, now) = (&known.selected.as_ref()?.tag, &row.selected.as_ref()?.tag);
    (before != now).then(|| format!("{} {before} became {now}", row.image))
}

/// Why an artifact was built.
pub(super) struct BuildReason {
    /// The first that applies, as [`HistoryEntry::reason`] lists them.
    pub reason: &'static str,
    /// All that differs from the one before.
    pub message: String,
}

impl BuildReason {
    /// The same was written to another place.
    pub fn registry_changed() -> Self {
        Self {
            reason: "RegistryChanged",
            message: "the package goes to another registry or repository".to_owned(),
        }
    }
}

/// Why an artifact was built: what differs from the one before.
pub(super) fn why(
    before: Option<&Artifact>,
    version: &str,
    history: &[HistoryEntry],
    known: &[PackagedImage],
    rows: &[PackagedImage],
    charts: (&[PinnedChart], &[PinnedChart]),
    sboms_came: bool,
) -> BuildReason {
    let Some(before) = before else {
        return BuildReason {
            reason: "FirstBuild",
            message: "first build".to_owned(),
        };
    };
    let mut reason = None;
    let mut reasons = Vec::new();
    if before
        .revision
        .split_once('@')
        .is_none_or(|(known, _)| known != version)
    {
        let old = before.revision.split_once('@').map_or("", |(known, _)| known);
        reasons.push(format!("version {old} became {version}"));
        reason = Some("VersionChanged");
    }
    let of_version = reasons.len();
    for row in rows {
        match known.iter().find(|known| known.image == row.image) {
            None => reasons.push(format!("{} was added", row.image)),
            Some(known) if became(known, row).is_some() => reasons.extend(became(known, row)),
            Some(known) if known.digest.is_some() && known.digest != row.digest => {
                reasons.push(format!("{} changed", row.image))
            }
            Some(_) => {}
        }
    }
    for gone in known
        .iter()
        .filter(|known| rows.iter().all(|row| row.image != known.image))
    {
        reasons.push(format!("{} was removed", gone.image));
    }
    if reasons.len() > of_version {
        reason = reason.or(Some("ImagesChanged"));
    }
    reasons.extend(why_of_charts(charts.0, charts.1));
    if !reasons.is_empty() {
        reason = reason.or(Some("ChartsChanged"));
    }
    if reasons.is_empty() && sboms_came {
        reasons.push("SBOMs were added".to_owned());
        reason = Some(SBOMS_ADDED);
    }
    if reasons.is_empty() {
        // The rows of the artifact before are gone when an image's change was written meanwhile.
        let digest = history.first().map_or("", |entry| entry.digest.as_str());
        reasons.push(format!(
            "the content differs from {}",
            digest.get(..19).unwrap_or(digest)
        ));
    }
    let mut text = reasons.join(", ");
    if text.len() > 400 {
        text = format!("{} changes: {}", reasons.len(), reasons[0]);
    }
    BuildReason {
        reason: reason.unwrap_or("ContentChanged"),
        message: text,
    }
}

/// What differs of the charts. Content that changed under one version, which nobody should see, is told by its digests.
fn why_of_charts(known: &[PinnedChart], charts: &[PinnedChart]) -> Vec<String> {
    let same = |one: &PinnedChart, other: &PinnedChart| one.component == other.component && one.name == other.name;
    let short = |digest: &str| digest.get(..19).unwrap_or(digest).to_owned();
    let mut reasons = Vec::new();
    for chart in charts {
        let PinnedChart {
            name, version, digest, ..
        } = chart;
        match known.iter().find(|known| same(known, chart)) {
            None => reasons.push(format!("chart {name} {version} was added")),
            Some(known) if known.version != *version => {
                reasons.push(format!("chart {name} {} became {version}", known.version));
            }
            Some(known) if known.digest != *digest => reasons.push(format!(
                "chart {name} {version} was {} and is {} now, under the same version",
                short(&known.digest),
                short(digest)
            )),
            Some(_) => {}
        }
    }
    let gone = known
        .iter()
        .filter(|known| !charts.iter().any(|chart| same(known, chart)));
    reasons.extend(gone.map(|gone| format!("chart {} was removed", gone.name)));
    reasons
}

#[cfg(test)]
mod tests;
