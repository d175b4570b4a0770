//! The custom resource definitions, generated from the types and completed for all fields.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResourceExt;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{JackalImage, JackalPackage};

/// Both custom resource definitions, as in `crds/`.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![definition::<JackalPackage>(), definition::<JackalImage>()]
}

/// The OpenAPI v3 schema of the custom resource `K` as JSON, with the fields that an API server adds to it.
pub fn schema<K: CustomResourceExt>() -> Value {
    let mut definition = definition::<K>();
    let schema = definition.spec.versions.first_mut();
    let schema = schema.and_then(|version| version.schema.take()?.open_api_v3_schema);
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    let inline = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let text = serde_json::json!({ "type": "string" });
    schema["properties"]["apiVersion"] = text.clone();
    schema["properties"]["kind"] = text;
    schema["properties"]["metadata"] = inline.into_generator().into_root_schema_for::<ObjectMeta>().to_value();
    schema
}

fn definition<K: CustomResourceExt>() -> CustomResourceDefinition {
    let mut definition = K::crd();
    let schemas = definition
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut());
    for schema in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        for (part, schema) in schema.properties.iter_mut().flatten() {
            match part.as_str() {
                "spec" => complete(schema, true),
                "status" => {
                    complete(schema, false);
                    // The API server gives every new object a status of a generation that never exists: kstatus, and the
                    // health checks of Flux with it, treat an object without a status as ready.
                    schema.default = Some(JSON(serde_json::json!({ "observedGeneration": -1 })));
                }
                _ => {}
            }
        }
    }
    definition
}

/// Completes `schema` and all schemas in it. A list without a list type becomes atomic. If users write the object
/// (`nullable`), a field that is neither required nor has a default may be `null`, which means absent: the API server drops
/// other `null`s, but `kubectl apply --server-side` is rejected for them.
fn complete(schema: &mut JSONSchemaProps, nullable: bool) {
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        schema.x_kubernetes_list_type.get_or_insert_with(|| "atomic".to_owned());
        complete(items, nullable);
    }
    let required = schema.required.clone().unwrap_or_default();
    for (name, property) in schema.properties.iter_mut().flatten() {
        // An enumeration has no `null` among its values, so the API server rejects it.
        let may_be_null = nullable && property.enum_.is_none() && property.default.is_none();
        property.nullable = (may_be_null && !required.contains(name)).then_some(true);
        complete(property, nullable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All schemas in `schema`, with their paths.
    fn each(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
        found.push((path.to_owned(), schema.clone()));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            each(property, &format!("{path}.{name}"), found);
        }
        if schema["items"].is_object() {
            each(&schema["items"], &format!("{path}[]"), found);
        }
    }

    fn all(part: &str) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        for schema in [schema::<JackalPackage>(), schema::<JackalImage>()] {
            each(&schema["properties"][part], part, &mut found);
        }
        found
    }

    #[test]
    fn every_field_is_described() {
        for part in ["spec", "status"] {
            let undescribed = |(path, schema): &(String, Value)| {
                !path.ends_with("[]") && schema["description"].as_str().is_none_or(str::is_empty)
            };
            let found = all(part).into_iter().skip(1).filter(undescribed);
            let found: Vec<String> = found.map(|(path, _)| path).filter(|path| path != part).collect();
            assert_eq!(found, Vec::<String>::new());
        }
    }

    #[test]
    fn every_list_has_a_list_type() {
        let lists = [all("spec"), all("status")].concat();
        let lists = lists.iter().filter(|(_, schema)| schema["items"].is_object());
        let kinds: Vec<(String, String)> = lists
            .map(|(path, schema)| {
                (
                    path.clone(),
                    schema["x-kubernetes-list-type"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        for (path, kind) in [
            ("spec.components", "map"),
            ("spec.components[].images", "atomic"),
            ("spec.components[].images[].platforms", "set"),
            ("spec.components[].manifests", "map"),
            ("spec.components[].charts", "map"),
            ("spec.components[].charts[].valuesFrom", "atomic"),
            ("spec.components[].files", "map"),
            ("spec.imagePullSecrets", "map"),
            ("spec.signing.images", "set"),
            ("spec.verify", "atomic"),
            ("spec.verify[].images", "set"),
            ("spec.platforms", "set"),
            ("status.conditions", "map"),
            ("status.candidates", "map"),
            ("status.images", "atomic"),
        ] {
            let found = kinds.iter().filter(|(known, _)| known == path);
            let found: Vec<&String> = found.map(|(_, kind)| kind).collect();
            assert!(
                !found.is_empty() && found.iter().all(|found| *found == kind),
                "{path}: {found:?}"
            );
        }
    }

    #[test]
    fn only_optional_spec_fields_without_default_are_nullable() {
        let nullable = |part: &str| {
            let all = all(part);
            let found = all
                .into_iter()
                .filter(|(path, schema)| path != part && schema["nullable"] == true);
            found.map(|(path, _)| path).collect::<Vec<String>>()
        };
        assert_eq!(nullable("status"), Vec::<String>::new());
        let spec = nullable("spec");
        for field in [
            "spec.components",
            "spec.components[].images",
            "spec.platforms",
            "spec.description",
            "spec.registry.address",
        ] {
            assert!(spec.iter().any(|path| path == field), "{field}");
        }
        for field in ["spec.registry", "spec.suspend", "spec.referrers", "spec.image"] {
            assert!(!spec.iter().any(|path| path == field), "{field}");
        }
    }
}
