//! What an object says that the schema of its custom resource does not allow, as far as a person gets it wrong:
//! fields, values of enumerations, types, and what is missing. An API server drops an unknown field unless it is asked to
//! be strict, and build has no API server. No IO.

use std::fmt;

use serde_json::Value;

use crate::suggestion::did_you_mean;

/// The most violations that are told of one object.
const MOST: usize = 10;
/// The fields of every object.
const OBJECT: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// The longest part in characters of a value that is shown.
const SHOWN: usize = 60;

/// One step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a field of an object.
    Field(String),
    /// To an item of a list, counted from zero.
    Item(usize),
}

/// Where a value stands in an object: `spec.components[0].images`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl Path {
    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => write!(formatter, "{}", shown(name))?,
                Step::Field(name) => write!(formatter, ".{}", shown(name))?,
                Step::Item(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Something that the schema does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where it stands; for a missing field, what lacks it.
    pub path: Path,
    what: String,
}

impl fmt::Display for Violation {
    /// Path, what is wrong, and what was probably meant.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.path, self.what)
    }
}

/// What `object`, of the kind `kind`, has, first of all in `spec`, that `schema`, the OpenAPI v3 schema of the whole resource as
/// JSON, does not allow: the first ten, in the order of their names. A `null` counts as absent.
pub fn violations(object: &Value, schema: &Value, kind: &str) -> Vec<Violation> {
    let schema = &schema["properties"]["spec"];
    let path = Path::default().field("spec");
    let mut check = Check {
        kind,
        root: schema,
        found: Vec::new(),
    };
    for name in object.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if !OBJECT.contains(&name.as_str()) {
            let meant = did_you_mean(name, OBJECT);
            check.say(Path::default().field(name), format!(" is no field of a {kind}{meant}"));
        }
    }
    match &object["spec"] {
        Value::Null => check.say(path, " is missing".to_owned()),
        spec => check.value(spec, schema, &path),
    }
    check.found
}

/// Removes every field of `value` that is `null` and that `schema` knows. What stands in fields of free form, such as a
/// chart's values, stays: there a `null` may have a meaning.
pub fn drop_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            let Some(known) = properties(schema) else { return };
            fields.retain(|name, value| !value.is_null() || !known.contains_key(name));
            for (name, value) in fields.iter_mut() {
                if let Some(schema) = known.get(name) {
                    drop_nulls(value, schema);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls(item, &schema["items"])),
        _ => {}
    }
}

struct Check<'a> {
    kind: &'a str,
    root: &'a Value,
    found: Vec<Violation>,
}

impl Check<'_> {
    fn say(&mut self, path: Path, what: String) {
        if self.found.len() < MOST {
            self.found.push(Violation { path, what });
        }
    }

    fn value(&mut self, value: &Value, schema: &Value, path: &Path) {
        if let Some(expected) = mismatch(value, schema) {
            let advice = match (value, expected.as_str()) {
                (Value::Number(_) | Value::Bool(_), "a string") => "; put it in quotes",
                (Value::String(_), "a list") => "; write each item on a line that begins with `- `",
                (Value::String(_), "a number" | "true or false") => "; write it without quotes",
                _ => "",
            };
            let found = described(value);
            return self.say(path.clone(), format!(": found {found}, expected {expected}{advice}"));
        }
        if let Some(allowed) = schema["enum"].as_array() {
            let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            if let Value::String(text) = value
                && !allowed.contains(&text.as_str())
            {
                let meant = did_you_mean(text, allowed.iter().copied());
                let what = format!(": {} is not one of {}{meant}", shown(text), allowed.join(", "));
                self.say(path.clone(), what);
            }
            return;
        }
        match value {
            Value::Object(fields) => self.fields(fields, schema, path),
            Value::Array(items) if schema["items"].is_object() => {
                for (index, item) in items.iter().enumerate() {
                    let path = path.with(Step::Item(index));
                    match item {
                        Value::Null => self.say(
                            path,
                            " is empty; remove the item, or write what belongs there".to_owned(),
                        ),
                        item => self.value(item, &schema["items"], &path),
                    }
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, fields: &serde_json::Map<String, Value>, schema: &Value, path: &Path) {
        let Some(known) = properties(schema) else {
            // A map of free keys.
            let values = &schema["additionalProperties"];
            if !values.is_object() {
                return;
            }
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                self.value(value, values, &path.field(name));
            }
            return;
        };
        for (name, value) in fields {
            match known.get(name) {
                None => {
                    let path = path.field(name);
                    let what = format!(" is no field of a {}{}", self.kind, self.meant(name, known));
                    self.say(path, what);
                }
                Some(_) if value.is_null() => {}
                Some(schema) => self.value(value, schema, &path.field(name)),
            }
        }
        let required = branches(schema).find_map(|branch| branch["required"].as_array());
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if fields.get(name).is_none_or(Value::is_null) {
                self.say(path.clone(), format!(": the field {name} is missing"));
            }
        }
    }

    /// What the field `name` was probably meant to be: a field of this place, or one of the same name elsewhere.
    fn meant(&self, name: &str, known: &serde_json::Map<String, Value>) -> String {
        let meant = did_you_mean(name, known.keys().map(String::as_str));
        if !meant.is_empty() {
            return meant;
        }
        match owner(name, self.root, "spec") {
            Some(owner) => format!("; {name} is a field of {owner}"),
            None => {
                let fields: Vec<&str> = known.keys().map(String::as_str).collect();
                format!("; the fields there are {}", fields.join(", "))
            }
        }
    }
}

/// A schema with the alternatives that it consists of.
fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    let alternatives = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array());
    std::iter::once(schema).chain(alternatives.flatten())
}

/// The fields that an object of `schema` has, unless they are free.
fn properties(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    branches(schema).find_map(|branch| branch["properties"].as_object())
}

/// The path of the first object in `schema` that has a field `name`.
fn owner(name: &str, schema: &Value, path: &str) -> Option<String> {
    if let Some(fields) = properties(schema) {
        if fields.contains_key(name) {
            return Some(path.to_owned());
        }
        let mut fields = fields.iter();
        return fields.find_map(|(field, schema)| owner(name, schema, &format!("{path}.{field}")));
    }
    owner_of_items(name, schema, path)
}

fn owner_of_items(name: &str, schema: &Value, path: &str) -> Option<String> {
    schema
        .get("items")
        .and_then(|items| owner(name, items, &format!("{path}[]")))
}

/// The types that `schema` allows, if `value` has none of them.
fn mismatch(value: &Value, schema: &Value) -> Option<String> {
    if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then(|| "a string or a whole number".to_owned());
    }
    let mut types: Vec<&str> = branches(schema).filter_map(|branch| branch["type"].as_str()).collect();
    types.dedup();
    // No type says of fields that the fields are those of an object, and that a string may stand there too.
    if types.is_empty() && properties(schema).is_some() {
        types = vec!["string", "object"];
    }
    if types.is_empty() || types.iter().any(|kind| fits(value, kind)) {
        return None;
    }
    let types: Vec<&str> = types.into_iter().map(type_name).collect();
    Some(types.join(" or "))
}

fn fits(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn type_name(kind: &str) -> &str {
    match kind {
        "string" => "a string",
        "integer" | "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object with fields",
        other => other,
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string `{}`", shown(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object with fields".to_owned(),
    }
}

/// As much of `text` as a message has room for, without what a terminal would obey.
fn shown(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    let mut shown: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::JackalPackage;

    fn schema() -> Value {
        crate::api::v1alpha1::schema::<JackalPackage>()
    }

    fn found(spec: Value) -> Vec<String> {
        let violations = violations(&json!({ "spec": spec }), &schema(), "JackalPackage");
        violations.iter().map(Violation::to_string).collect()
    }

    fn of_image(image: Value) -> Vec<String> {
        found(json!({ "components": [{ "name": "web", "images": [image] }] }))
    }

    #[test]
    fn a_right_object_violates_nothing() {
        let image = json!({ "image": "a", "source": "Docker", "nodeSelector": { "any.thing/goes": "here" }, "platforms": null });
        assert_eq!(of_image(image), Vec::<String>::new());
    }

    #[test]
    fn unknown_fields_are_named_with_their_path_and_what_was_meant() {
        let field = |name: &str| of_image(json!({ "image": "a", name: "b" })).join("\n");
        let path = "spec.components[0].images[0]";
        for (name, meant) in [
            ("platfroms", "; did you mean platforms?"),
            ("Source", "; did you mean source?"),
            ("node_selector", "; did you mean nodeSelector?"),
            ("repositoryPrefix", "; repositoryPrefix is a field of spec.registry"),
        ] {
            let expected = format!("{path}.{name} is no field of a JackalPackage{meant}");
            assert_eq!(field(name), expected);
        }
        let unknown = field("colour");
        assert!(unknown.contains("; the fields there are image, "), "{unknown}");
        let all = found(json!({ "compnents": [], "versoin": "1", "components": [] }));
        assert_eq!(all.len(), 2, "{all:?}");
        let many: serde_json::Map<String, Value> = (0..50).map(|number| (format!("x{number}"), json!(1))).collect();
        assert_eq!(found(Value::Object(many)).len(), MOST);
        let long = field(&format!("a\u{1b}{}", "b".repeat(100)));
        assert!(!long.contains('\u{1b}') && long.contains('…'), "{long}");
    }

    #[test]
    fn values_are_held_against_enumerations_and_types() {
        let source = |value: Value| of_image(json!({ "image": "a", "source": value })).join("\n");
        let path = "spec.components[0].images[0].source";
        assert_eq!(
            source(json!("docker")),
            format!("{path}: docker is not one of Registry, Docker, Containerd; did you mean Docker?")
        );
        assert_eq!(
            source(json!("podman")),
            format!("{path}: podman is not one of Registry, Docker, Containerd")
        );
        assert_eq!(
            source(json!(1)),
            format!("{path}: found the number 1, expected a string; put it in quotes")
        );
        let whole = |spec: Value| found(spec).join("\n");
        let components = json!([{ "name": "web" }]);
        assert_eq!(
            whole(json!({ "components": components, "suspend": "yes" })),
            "spec.suspend: found the string `yes`, expected true or false; write it without quotes"
        );
        assert_eq!(
            whole(json!({ "components": { "name": "web" } })),
            "spec.components: found an object with fields, expected a list"
        );
        let labels = json!({ "image": "a", "nodeSelector": { "gpu": true } });
        assert!(of_image(labels)[0].contains("nodeSelector.gpu: found true, expected a string; put it in quotes"));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            of_image(json!({})),
            ["spec.components[0].images[0]: the field image is missing"]
        );
        assert_eq!(of_image(json!({ "image": null })).len(), 1);
        let empty = found(json!({ "components": [null] })).join("\n");
        assert!(empty.starts_with("spec.components[0] is empty"), "{empty}");
        let nothing = violations(&json!({}), &schema(), "JackalPackage");
        assert_eq!(nothing[0].to_string(), "spec is missing");
        let misspelt = violations(&json!({ "Spec": {} }), &schema(), "JackalPackage");
        assert_eq!(
            misspelt[0].to_string(),
            "Spec is no field of a JackalPackage; did you mean spec?"
        );
    }

    #[test]
    fn strings_or_objects_are_held_against_what_they_are() {
        let either = json!({ "properties": { "spec": { "type": "object", "properties": { "images": { "type": "array", "items": {
            "x-kubernetes-preserve-unknown-fields": true,
            "anyOf": [{ "type": "string" }, { "type": "object", "required": ["image"], "properties": { "image": { "type": "string" } } }],
        } } } } } });
        let found = |item: Value| {
            let object = json!({ "spec": { "images": [item] } });
            let found = violations(&object, &either, "JackalPackage");
            found.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(found(json!("a:1")), "");
        assert_eq!(found(json!({ "image": "a:1" })), "");
        assert!(
            found(json!({ "imgae": "a:1" }))
                .contains("images[0].imgae is no field of a JackalPackage; did you mean image?")
        );
        assert!(found(json!(1)).contains("expected a string or an object with fields"));
    }

    #[test]
    fn nulls_go_where_the_schema_knows_the_field() {
        let schema = schema();
        let mut object = json!({ "spec": {
            "version": null,
            "components": [{ "name": "web", "images": null, "charts": [{ "name": "c", "values": { "nodeSelector": null } }] }],
        } });
        drop_nulls(&mut object, &schema);
        let component = &object["spec"]["components"][0];
        assert!(
            object["spec"].get("version").is_none() && component.get("images").is_none(),
            "{object}"
        );
        assert!(
            component["charts"][0]["values"].get("nodeSelector").is_some(),
            "{object}"
        );
    }
}
