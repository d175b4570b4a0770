//! Version `v1alpha1`: [`JackalPackage`], what a person writes, and [`JackalImage`], one image to bring to one
//! destination.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt as _;

mod common;
#[cfg(test)]
mod compat;
mod component;
mod conditions;
mod image;
mod package;
mod period;
mod verification;

pub use common::{DeletionPolicy, ImagePatterns, LocalReference, RegistrySpec, SourceKind};
pub use component::{ChartSpec, ConfigMapReference, FileSpec, ManifestSpec, MissingImage, PinnedChart, ValuesSource};
pub use conditions::{Conditions, READY, RECONCILING, SBOMS_COMPLETE, STALLED, cut};
pub use image::{Assignment, Candidate, Claim, JackalImage, JackalImageSpec, JackalImageStatus, TransferProgress};
pub use package::{
    Artifact, ComponentSpec, Counts, Differential, DifferentialFrom, Garbage, HistoryEntry, ImagePolicy, ImageSpec,
    JackalPackage, JackalPackageSpec, JackalPackageStatus, PackagedImage, Retention, SbomSpec, Selected, SemverPolicy,
    TagOrder, VersionFrom,
};
pub use period::{Period, PeriodError};
pub use verification::{EntryReference, IdentitySpec, PublicKeySource, SigningSpec, VerifySpec};

/// The annotation that asks for a reconciliation now: any new value does. Flux's own is honoured too.
pub const REQUESTED_AT: [&str; 2] = ["jackal.dev/requestedAt", "reconcile.fluxcd.io/requestedAt"];

/// The newest request for a reconciliation that `annotations` carry. Of two that are times, in seconds since the epoch
/// or in RFC 3339 as Flux writes it, the later one; a time is newer than anything else.
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

/// Both custom resource definitions, as `crds/` holds them.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [JackalPackage::crd(), JackalImage::crd()].map(with_status).into()
}

/// Has the API server give every object a status from its first moment on, of a generation that there never is:
/// kstatus, and Flux's health checks with it, takes an object without a status for one that is all right.
fn with_status(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|whole| whole.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
            status.default = Some(JSON(serde_json::json!({ "observedGeneration": -1 })));
        }
    }
    definition
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The paths of all properties below `schema` that nobody described.
    fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if property["description"].as_str().is_none_or(str::is_empty) {
                found.push(path.clone());
            }
            undescribed(property, &path, found);
        }
        if schema["items"].is_object() {
            undescribed(&schema["items"], &format!("{path}[]"), found);
        }
    }

    #[test]
    fn the_later_request_counts_however_it_is_written() {
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

    #[test]
    fn every_field_is_described() {
        for definition in definitions() {
            let definition = serde_json::to_value(definition).unwrap();
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            for part in ["spec", "status"] {
                let mut found = Vec::new();
                undescribed(&schema["properties"][part], part, &mut found);
                assert_eq!(found, Vec::<String>::new(), "{}", definition["metadata"]["name"]);
            }
        }
    }
}
