//! Objects written by earlier versions (`tests/compat/`) are decoded by the present types without loss.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{JackalImage, JackalPackage};

/// All objects of `tests/compat/v1alpha1`, with their files.
fn golden() -> Vec<(PathBuf, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compat/v1alpha1");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let object = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap());
            let object = object.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            (file, object)
        })
        .collect()
}

fn round_trip<K: DeserializeOwned + Serialize>(object: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<K>(object.clone()).unwrap()).unwrap()
}

/// The paths of values in `old` that `new` lacks or changes. Additional fields in `new` are no loss: they have defaults.
fn lost(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                lost(
                    value,
                    new.get(key).unwrap_or(&Value::Null),
                    &format!("{path}.{key}"),
                    found,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                lost(old, new, &format!("{path}[{index}]"), found);
            }
        }
        _ if old == new => {}
        _ => found.push(format!("{path}: {old} became {new}")),
    }
}

#[test]
fn recorded_objects_are_decoded_without_loss() {
    let golden = golden();
    assert!(golden.len() >= 20, "the set has {} objects", golden.len());
    for (file, object) in golden {
        let read = match object["kind"].as_str() {
            Some("JackalPackage") => round_trip::<JackalPackage>(&object),
            Some("JackalImage") => round_trip::<JackalImage>(&object),
            other => panic!("{}: an object of kind {other:?}", file.display()),
        };
        let mut found = Vec::new();
        lost(&object, &read, "", &mut found);
        assert_eq!(found, [] as [String; 0], "{}", file.display());
    }
}

/// The paths of properties in `schema` that none of `objects` has.
fn unused(schema: &Value, objects: &[&Value], path: &str, found: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let values: Vec<&Value> = objects.iter().filter_map(|object| object.get(name)).collect();
        if values.is_empty() {
            found.push(path);
            continue;
        }
        unused(property, &values, &path, found);
        let items = values.iter().filter_map(|value| value.as_array()).flatten();
        unused(&property["items"], &items.collect::<Vec<_>>(), &path, found);
    }
}

#[test]
fn every_field_is_in_a_recorded_object() {
    let golden = golden();
    for definition in super::definitions() {
        let kind = definition.spec.names.kind.clone();
        let objects: Vec<&Value> = golden
            .iter()
            .map(|(_, object)| object)
            .filter(|object| object["kind"] == *kind)
            .collect();
        let definition = serde_json::to_value(definition).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut found = Vec::new();
        for part in ["spec", "status"] {
            let values: Vec<&Value> = objects.iter().filter_map(|object| object.get(part)).collect();
            unused(&schema["properties"][part], &values, part, &mut found);
        }
        assert_eq!(
            found,
            [] as [String; 0],
            "{kind}: add an object with these fields to tests/compat"
        );
    }
}
