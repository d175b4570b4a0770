//! The images that the manifests and charts of a component name, and those of them that the package lacks.
//!
//! Manifests name their images exactly. Charts would have to be rendered by Helm; here only their values, their annotations
//! and literal images in their templates are read. Images that a template composes differently are not found.

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

/// The most missing images that are reported.
const LIMIT: usize = 200;
/// The depth to which a document is walked; the YAML reader refuses deeper ones.
const DEPTH: usize = 64;
/// The fields of a pod that list containers.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The images that the content `found` of the components of `spec`, in their order, names, and that in `plan` neither the
/// same component nor a `required` one, which is always deployed, lists.
pub fn missing_images(spec: &JackalPackageSpec, plan: &Plan, found: &[ComponentContent]) -> Vec<MissingImage> {
    let required: HashSet<&String> = spec
        .components
        .iter()
        .filter(|component| component.required)
        .map(|component| &component.name)
        .collect();
    let mut missing = BTreeSet::new();
    for (component, found) in spec.components.iter().zip(found) {
        let available: HashSet<String> = plan
            .images
            .iter()
            .filter(|image| {
                let counts = |name: &String| *name == component.name || required.contains(name);
                image.components.iter().any(counts)
            })
            .flat_map(|image| {
                // A manifest may already use the image's name in the cluster.
                let names = image.location.names();
                names
                    .filter(|_| image.location.has_address)
                    .filter_map(|name| name.parse().ok().as_ref().map(identity))
                    .chain([identity(&image.package_reference())])
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut check = |named: Vec<String>, found_in: String| {
            for text in named {
                let Ok(reference) = text.parse::<Reference>() else {
                    continue;
                };
                if !available.contains(&identity(&reference)) {
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
                check(images_of_manifests(&documents), format!("manifest {}", manifest.name));
            }
        }
        for (spec, chart) in component.charts.iter().zip(&found.charts) {
            check(chart.images.clone(), format!("chart {}", spec.name));
        }
    }
    missing.into_iter().take(LIMIT).collect()
}

/// A key that is equal for references to the same image: the name with the digest, or with the tag if there is no digest.
fn identity(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.to_string(),
    }
}

/// The images that Kubernetes objects name: those of pods and of pod templates anywhere in an object, of Flux's
/// OCIRepository, and of fields called `image` in other resources. Helm tests, ConfigMaps, Secrets and
/// CustomResourceDefinitions are ignored.
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

/// The artifact of an OCIRepository, by its digest or tag; `None` for a version range, which only the registry can resolve.
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

/// `container` means that `value` is a container, in which an image needs neither path nor tag to be recognised.
fn walk(value: &Value, container: bool, depth: usize, found: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "image" && (container || looks_like_image(text)) => add(text, found),
                    Value::Object(image) if key == "image" => {
                        // An image volume, or an image in separate fields.
                        let volume = image.get("reference").and_then(Value::as_str).map(str::to_owned);
                        let named = volume.or_else(|| values::from_fields(image, None, None));
                        match named {
                            Some(text) => add(&text, found),
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

/// Whether a text is probably an image and not a word: it has a path or a tag.
fn looks_like_image(text: &str) -> bool {
    text.contains(['/', ':'])
}

/// Adds `text` if it is an image reference; placeholders of a deployment (`###…###`, `{{…}}`) are not.
fn add(text: &str, found: &mut BTreeSet<String>) {
    if !text.contains("://") && text.parse::<Reference>().is_ok() {
        found.insert(text.to_owned());
    }
}

/// The text of a field that is a text or a number and not empty.
fn text_of(fields: &Map<String, Value>, key: &str) -> Option<String> {
    match fields.get(key)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
