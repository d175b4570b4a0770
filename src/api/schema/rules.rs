//! The CEL rules of a schema, as an API server evaluates them.

use kube_cel::{ErrorKind, Validator, compile_schema};
use serde_json::Value;

use super::{Path, Step};

/// The rules of `schema`, and of all schemas in it, that `value` violates: path and message of each. Rules that cannot be
/// evaluated here are left to the API server.
pub(super) fn broken(value: &Value, schema: &Value) -> Vec<(Path, String)> {
    let Err(errors) = Validator::new().validate_compiled(&compile_schema(schema), value, None) else {
        return Vec::new();
    };
    let broken = errors.into_vec().into_iter();
    let broken = broken.filter(|error| error.kind == ErrorKind::ValidationFailure);
    broken.map(|error| (path(&error.field_path), error.message)).collect()
}

/// Parses a path such as `spec.components[0].files`.
fn path(text: &str) -> Path {
    let mut steps = Vec::new();
    for part in text.split('.').filter(|part| !part.is_empty()) {
        let mut parts = part.split('[');
        steps.extend(parts.next().map(|name| Step::Field(name.to_owned())));
        let items = parts.map_while(|item| item.strip_suffix(']')?.parse().ok());
        steps.extend(items.map(Step::Item));
    }
    Path(steps)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::{JackalImage, JackalPackage};

    #[test]
    fn every_rule_can_be_evaluated() {
        for schema in [
            crate::api::v1alpha1::schema::<JackalPackage>(),
            crate::api::v1alpha1::schema::<JackalImage>(),
        ] {
            let spec = compile_schema(&schema["properties"]["spec"]);
            assert!(!spec.has_errors(), "{:?}", spec.compilation_errors());
        }
    }

    #[test]
    fn paths_are_parsed() {
        let path = path("spec.components[12].files[0]");
        assert_eq!(path.to_string(), "spec.components[12].files[0]");
        assert_eq!(path.0.len(), 5);
        assert_eq!(super::path("").0, []);
    }

    #[test]
    fn violations_of_rules_have_a_path() {
        let schema = json!({ "type": "object", "properties": { "list": { "type": "array", "items": {
            "type": "object", "properties": { "a": { "type": "string" }, "b": { "type": "boolean", "default": true } },
            "x-kubernetes-validations": [{ "rule": "has(self.a) || !self.b", "message": "set a, or b: false" }],
        } } } });
        let found = broken(&json!({ "list": [{ "a": "x" }, {}, { "b": false }] }), &schema);
        let found: Vec<String> = found
            .iter()
            .map(|(path, message)| format!("{path}: {message}"))
            .collect();
        assert_eq!(found, ["list[1]: set a, or b: false"]);
    }
}
