//! Version `v1alpha1`: [`JackalPackage`], what a person writes, and [`JackalImage`], one image to bring to one
//! destination.

mod common;
mod conditions;
mod image;
mod package;
mod period;

pub use common::{DeletionPolicy, LocalReference, RegistrySpec, SourceKind};
pub use conditions::{Conditions, READY, RECONCILING, STALLED, cut};
pub use image::{Assignment, Candidate, Claim, JackalImage, JackalImageSpec, JackalImageStatus, TransferProgress};
pub use package::{
    Artifact, ComponentSpec, Counts, Garbage, HistoryEntry, ImageSpec, JackalPackage, JackalPackageSpec,
    JackalPackageStatus, PackagedImage, Retention,
};
pub use period::{Period, PeriodError};

/// The annotation that asks for a reconciliation now: any new value does. Flux's own is honoured too.
pub const REQUESTED_AT: [&str; 2] = ["jackal.dev/requestedAt", "reconcile.fluxcd.io/requestedAt"];

/// The newest request for a reconciliation that `annotations` carry.
pub fn requested_at(annotations: &std::collections::BTreeMap<String, String>) -> Option<&str> {
    REQUESTED_AT
        .iter()
        .filter_map(|key| annotations.get(*key))
        .map(String::as_str)
        .max()
}

/// Both custom resource definitions, as `crds/` holds them.
pub fn definitions() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>
{
    use kube::CustomResourceExt as _;
    vec![JackalPackage::crd(), JackalImage::crd()]
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
