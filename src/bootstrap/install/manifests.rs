//! Reads the objects in the operator's image.

use serde_json::Value;

use super::{NAMESPACE, Object, REGISTRY};
use crate::decode::yaml_documents;
use crate::fault::{Fault, Reason};

/// The longest file in bytes.
pub const MANIFESTS_LIMIT: u64 = 4 << 20;
/// The most objects of a file.
const OBJECTS: usize = 500;
/// The annotation of objects that helm makes only at some times, such as tests.
const HOOK: &str = "helm.sh/hook";

/// The objects in the YAML file `raw`.
///
/// # Errors
/// A stalled fault that says what is wrong with the file or names the object.
pub(super) fn parse(raw: &[u8]) -> Result<Vec<Object>, Fault> {
    let refused = |what: String| {
        let message =
            format!("the list of objects in the operator's image {what}; pack an operator's image of a release");
        Fault::stalled(Reason::InvalidSpec, message)
    };
    if raw.len() as u64 > MANIFESTS_LIMIT {
        return Err(refused(format!("has more than {MANIFESTS_LIMIT} bytes")));
    }
    let text = std::str::from_utf8(raw).map_err(|_| refused("is not text".to_owned()))?;
    let documents = yaml_documents(text).map_err(|error| refused(format!("is not YAML: {error}")))?;
    let documents = documents.into_iter().filter(|document| !document.is_null());
    let documents: Vec<Value> = documents
        .filter(|document| document["metadata"]["annotations"].get(HOOK).is_none())
        .collect();
    match documents.len() {
        0 => return Err(refused("is empty".to_owned())),
        1..=OBJECTS => {}
        _ => return Err(refused(format!("has more than {OBJECTS} objects"))),
    }
    let objects: Vec<Object> = documents
        .into_iter()
        .map(|document| Object::new(document, NAMESPACE))
        .collect::<Result<_, Fault>>()?;
    match objects.iter().find(|object| object.kind.kind == "Secret") {
        // The chart was told to use existing ones; a password in an image would be known to everybody.
        Some(secret) => Err(refused(format!("has {secret}, but Secrets are made by bootstrap"))),
        None => Ok(objects),
    }
}

/// The labels of the registry's objects.
///
/// # Errors
/// A stalled fault, where there is no registry.
pub(super) fn registry_labels(objects: &[Object]) -> Result<Value, Fault> {
    let mut sets = objects.iter().filter(|object| object.kind.kind == "StatefulSet");
    match sets.find(|object| object.name == REGISTRY) {
        Some(registry) => Ok(registry.content["metadata"]["labels"].clone()),
        None => Err(Fault::stalled(
            Reason::InvalidSpec,
            format!("the installation has no StatefulSet {REGISTRY}; pack an operator's image of a release"),
        )),
    }
}
