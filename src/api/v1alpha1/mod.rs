//! Version `v1alpha1`: [`JackalPackage`], which users write, and [`JackalImage`], one image for one destination.

mod archive;
mod common;
#[cfg(test)]
mod compat;
mod component;
mod conditions;
mod definition;
mod display;
mod image;
mod package;
mod package_status;
mod period;
mod verification;

pub use archive::{ArchiveSource, ArchivedImage, ImageOrigin, PackageOrigin};
pub use common::{
    DeletionPolicy, ImagePatterns, LocalReference, NamingPolicy, RegistrySpec, SourceKind, SourceRegistrySpec,
    WrittenRepository,
};
pub use component::{ChartSpec, ConfigMapReference, FileSpec, ManifestSpec, MissingImage, PinnedChart, ValuesSource};
pub use conditions::{Conditions, READY, RECONCILING, SBOMS_COMPLETE, SIGNED, STALLED, VERIFIED, cut, cut_to};
pub use definition::{definitions, schema};
pub use display::mebibytes;
pub use image::{
    Assignment, Candidate, Claim, JackalImage, JackalImageSpec, JackalImageStatus, SelectedTag, TransferProgress,
};
pub use package::{
    ComponentSpec, DifferentialFrom, ImageEntry, ImagePolicy, ImageSpec, JackalPackage, JackalPackageSpec,
    PackageFormat, Retention, SbomSpec, SemverPolicy, TagOrder, VersionFrom,
};
pub use package_status::{
    Artifact, Counts, Differential, Garbage, HistoryEntry, ImageState, JackalPackageStatus, PackagedImage,
    RetainedReason, Selected,
};
pub use period::{Period, PeriodError};
pub use verification::{EntryReference, IdentitySpec, PublicKeySource, SigningSpec, VerifySpec};

/// The annotations that request a reconciliation with any new value: the operator's and Flux's.
pub const REQUESTED_AT: [&str; 2] = ["jackal.dev/requestedAt", "reconcile.fluxcd.io/requestedAt"];

/// The newest requested reconciliation in `annotations`. Of two times (seconds since the epoch, or RFC 3339 as written by
/// Flux) it is the later one; a time is newer than any other text.
pub fn requested_at(annotations: &std::collections::BTreeMap<String, String>) -> Option<&str> {
    let moment = |value: &str| match value.parse::<i64>() {
        Ok(seconds) => jiff::Timestamp::from_second(seconds).ok(),
        Err(_) => value.parse::<jiff::Timestamp>().ok(),
    };
    REQUESTED_AT
        .iter()
        .filter_map(|key| annotations.get(*key))
        .map(String::as_str)
        .max_by_key(|value| (moment(value), *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_request_is_used_in_any_format() {
        for (ours, flux, newest) in [
            ("1767225601", "2026-01-01T00:00:00Z", "1767225601"),
            ("1767225599", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00.5Z"),
            (
                "2026-01-01T02:00:00+02:00",
                "2026-01-01T01:00:00Z",
                "2026-01-01T01:00:00Z",
            ),
            ("please", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("99999999999999999999", "b", "b"),
        ] {
            let annotations = REQUESTED_AT.map(str::to_owned).into_iter();
            let annotations = annotations.zip([ours.to_owned(), flux.to_owned()]).collect();
            assert_eq!(requested_at(&annotations), Some(newest));
        }
    }
}
