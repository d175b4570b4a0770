//! Which images the manifests and charts of a component name, and which of them the package lacks.
//!
//! Manifests say so exactly. A chart says so only when it is rendered, which takes Helm; here its values, its annotations
//! and what its templates write out are read. What a template puts together in its own way is not seen.

mod charts;
mod values;

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::{ComponentContent, manifests_of};
use crate::api::v1alpha1::{JackalPackageSpec, MissingImage};
use crate::oci::Reference;
use crate::package::plan::Plan;

pub use charts::{ChartTexts, images_of_chart};
pub use values::merge as merge_values;

/// The most missing images that are told.
const LIMIT: usize = 200;
/// How deep a document is walked; the reader of YAML takes no deeper one.
const DEPTH: usize = 64;
/// Where a pod has its containers.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The images that what was `found` of the components of `spec`, in their order, names, and that neither the component
/// that names one nor one that is `required`, and so always deployed, lists in `plan`.
pub fn missing_images(spec: &JackalPackageSpec, plan: &Plan, found: &[ComponentContent]) -> Vec<MissingImage> {
    let required: HashSet<&String> = spec
        .components
        .iter()
        .filter(|component| component.required)
        .map(|component| &component.name)
        .collect();
    let mut missing = BTreeSet::new();
    for (component, found) in spec.components.iter().zip(found) {
        let at_hand: HashSet<String> = plan
            .images
            .iter()
            .filter(|image| {
                let counts = |name: &String| *name == component.name || required.contains(name);
                image.components.iter().any(counts)
            })
            .flat_map(|image| {
                // What names the registry inside the cluster already is found there.
                let names = image.location.names();
                names
                    .filter(|_| image.location.has_address)
                    .filter_map(|name| name.parse().ok().as_ref().map(identity))
                    .chain([identity(&image.package_reference())])
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut take = |named: Vec<String>, found_in: String| {
            for text in named {
                let Ok(reference) = text.parse::<Reference>() else {
                    continue;
                };
                if !at_hand.contains(&identity(&reference)) {
                    missing.insert(MissingImage {
                        component: component.name.clone(),
                        image: reference.to_string(),
                        found_in: found_in.clone(),
                    });
                }
            }
        };
        for (manifest, texts) in component.manifests.iter().zip(&found.manifests) {
            for text in texts {
                let documents = manifests_of(&String::from_utf8_lossy(text)).unwrap_or_default();
                take(images_of_manifests(&documents), format!("manifest {}", manifest.name));
            }
        }
        for (spec, chart) in component.charts.iter().zip(&found.charts) {
            take(chart.images.clone(), format!("chart {}", spec.name));
        }
    }
    missing.into_iter().take(LIMIT).collect()
}

/// What makes two references the same image: a digest, beside which a tag says nothing, or the tag.
fn identity(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.to_string(),
    }
}

/// The images that objects of Kubernetes name: those of pods, wherever a pod's template stands, of Flux's
/// OCIRepository, and in other resources what an `image` says. A test of Helm's, and data that nobody runs, is left out.
pub fn images_of_manifests(documents: &[Value]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for document in documents {
        of_object(document, &mut found);
    }
    found.into_iter().collect()
}

fn of_object(object: &Value, found: &mut BTreeSet<String>) {
    let hook = &object["metadata"]["annotations"]["helm.sh/hook"];
    if hook
        .as_str()
        .is_some_and(|hook| hook.split(',').any(|part| part.trim().starts_with("test")))
    {
        return;
    }
    match object["kind"].as_str() {
        Some("ConfigMap" | "Secret" | "CustomResourceDefinition") => {}
        Some("OCIRepository") => found.extend(of_flux(&object["spec"])),
        Some("List") => {
            for item in object["items"].as_array().into_iter().flatten() {
                of_object(item, found);
            }
        }
        _ => walk(object, false, DEPTH, found),
    }
}

/// The artifact of an OCIRepository: by its digest or tag. Which version a range means only its registry knows.
fn of_flux(spec: &Value) -> Option<String> {
    let url = spec["url"].as_str()?.strip_prefix("oci://")?;
    let reference = &spec["ref"];
    match (
        reference["digest"].as_str(),
        reference["tag"].as_str(),
        reference["semver"].as_str(),
    ) {
        (Some(digest), _, _) => Some(format!("{url}@{digest}")),
        (None, _, Some(_)) => None,
        (None, Some(tag), None) => Some(format!("{url}:{tag}")),
        (None, None, None) => Some(url.to_owned()),
    }
}

/// `container` says that `value` is a container, whose image needs neither host nor tag to be one.
fn walk(value: &Value, container: bool, depth: usize, found: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "image" && (container || is_telling(text)) => take(text, found),
                    Value::Object(image) if key == "image" => {
                        // An image as a volume, and one whose parts stand apart.
                        let volume = image.get("reference").and_then(Value::as_str).map(str::to_owned);
                        let named = volume.or_else(|| values::composed(image, None, None));
                        match named {
                            Some(text) => take(&text, found),
                            None => walk(value, false, depth, found),
                        }
                    }
                    Value::Array(items) if CONTAINERS.contains(&key.as_str()) => {
                        items.iter().for_each(|item| walk(item, true, depth, found));
                    }
                    _ => walk(value, false, depth, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, false, depth, found)),
        _ => {}
    }
}

/// Whether a text that could be any word is written as an image: with a path or a tag.
fn is_telling(text: &str) -> bool {
    text.contains(['/', ':'])
}

/// Takes `text` if it can be an image at all. What a deployment replaces (`###…###`, `{{…}}`) is not known yet.
fn take(text: &str, found: &mut BTreeSet<String>) {
    if !text.contains("://") && text.parse::<Reference>().is_ok() {
        found.insert(text.to_owned());
    }
}

/// The text of a field that is one, or that YAML read as a number, and is not empty.
fn text_of(fields: &Map<String, Value>, key: &str) -> Option<String> {
    match fields.get(key)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
