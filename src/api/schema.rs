//! Violations of the schema of a custom resource: unknown and missing fields, values of enumerations, types, limits and
//! rules. An API server drops unknown fields unless validation is strict, and `build` has no API server. No IO.

mod limits;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

use crate::suggestion::{did_you_mean, misspelt};

/// The maximum number of reported violations of one object.
const VIOLATION_LIMIT: usize = 10;
/// The maximum length in characters of a value in a message.
const VALUE_LIMIT: usize = 60;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A field of an object.
    Field(String),
    /// An item of a list, counted from zero.
    Item(usize),
}

/// The path of a value in an object: `spec.components[0].images`.
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

/// A violation of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the value; for a missing field, the path of its object.
    pub path: Path,
    what: String,
}

impl fmt::Display for Violation {
    /// Writes the path, what is wrong, and a suggestion.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.path, self.what)
    }
}

/// The first ten violations of `schema`, the OpenAPI v3 schema of the resource as JSON, in `object`, in the order of field
/// names. A `null` means absent. The status is not checked.
pub fn violations(object: &Value, schema: &Value) -> Vec<Violation> {
    let mut validator = Validator {
        spec: &schema["properties"]["spec"],
        found: Vec::new(),
    };
    let path = Path::default();
    if let (Some(fields), Some(known)) = (object.as_object(), properties(schema)) {
        for (name, value) in fields.iter().filter(|(name, _)| *name != "status") {
            validator.field(name, value, known, &path);
        }
    }
    if object["spec"].is_null() {
        validator.report(path.field("spec"), " is missing".to_owned());
    }
    // Rules require values of the right types, and no `null`.
    if validator.found.is_empty() {
        let mut object = object.clone();
        drop_nulls(&mut object, schema);
        for (path, message) in rules::broken(&object, schema) {
            validator.report(path, format!(": {message}"));
        }
    }
    validator.found
}

/// Removes the fields of `value` that are `null` and that `schema` knows. Fields without a schema, such as the values of a
/// chart, are unchanged: a `null` may have a meaning there.
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

struct Validator<'a> {
    /// The schema of the resource's `spec`.
    spec: &'a Value,
    found: Vec<Violation>,
}

impl Validator<'_> {
    fn report(&mut self, path: Path, what: String) {
        if self.found.len() < VIOLATION_LIMIT {
            self.found.push(Violation { path, what });
        }
    }

    fn value(&mut self, value: &Value, schema: &Value, path: &Path) {
        if let (Some(word), Some(allowed)) = (word(value), schema["enum"].as_array()) {
            let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            if !allowed.contains(&word.as_str()) {
                let meant = did_you_mean(&word, allowed.iter().copied());
                let what = format!(": {} is not one of {}{meant}", shown(&word), allowed.join(", "));
                self.report(path.clone(), what);
            }
            return;
        }
        if let Some(expected) = mismatch(value, schema) {
            let (found, advice) = (described(value), advice(value, &expected, schema));
            return self.report(path.clone(), format!(": found {found}, expected {expected}{advice}"));
        }
        if let Some(broken) = limits::broken(value, schema) {
            let found = match is_empty(value) {
                true => String::new(),
                false => format!("found {}; ", described(value)),
            };
            self.report(path.clone(), format!(": {found}{broken}"));
        }
        match value {
            Value::Object(fields) => self.fields(fields, schema, path),
            Value::Array(items) if schema["items"].is_object() => {
                for (index, item) in items.iter().enumerate() {
                    let path = path.with(Step::Item(index));
                    match item {
                        Value::Null => self.report(path, " is empty; remove the item, or set its value".to_owned()),
                        item => self.value(item, &schema["items"], &path),
                    }
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, fields: &serde_json::Map<String, Value>, schema: &Value, path: &Path) {
        let Some(known) = properties(schema) else {
            // A map with arbitrary keys.
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
            self.field(name, value, known, path);
        }
        let required = branches(schema).find_map(|branch| branch["required"].as_array());
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if fields.get(name).is_none_or(Value::is_null) {
                self.report(path.clone(), format!(": the field {name} is missing"));
            }
        }
    }

    /// The field `name` of the object at `path`, whose fields are `known`.
    fn field(&mut self, name: &str, value: &Value, known: &serde_json::Map<String, Value>, path: &Path) {
        let is_top_level = path.0.is_empty();
        let path = path.field(name);
        match known.get(name) {
            None => {
                let what = format!(": unknown field{}", self.meant(name, known, is_top_level));
                self.report(path, what);
            }
            Some(_) if value.is_null() => {}
            Some(schema) => self.value(value, schema, &path),
        }
    }

    /// A suggestion for the unknown field `name`: a similar field of the same object, or the object that has a field of this
    /// name. Fields of `spec` are often written next to it.
    fn meant(&self, name: &str, known: &serde_json::Map<String, Value>, is_top_level: bool) -> String {
        let here = known.keys().map(String::as_str);
        if (is_top_level || misspelt(name, here.clone()).is_none())
            && let Some(owner) = owner(name, self.spec, "spec")
        {
            return format!("; {name} is a field of {owner}");
        }
        match did_you_mean(name, here) {
            meant if meant.is_empty() => format!("; known fields: {}", names(known)),
            meant => meant,
        }
    }
}

/// The text of a scalar that may be meant as a string: YAML reads some strings as numbers or booleans.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    value == "" || value.as_array().is_some_and(Vec::is_empty)
}

/// What to do about a value that does not have the type `expected`.
fn advice(value: &Value, expected: &str, schema: &Value) -> String {
    match (value, expected) {
        (Value::Number(_) | Value::Bool(_), "a string") => {
            match limits::broken(&Value::String(value.to_string()), schema) {
                // It would be invalid in quotes too.
                Some(broken) => format!("; {broken}"),
                None => "; put it in quotes".to_owned(),
            }
        }
        (Value::String(_) | Value::Object(_), "a list") => {
            "; write each item on a line that begins with `- `".to_owned()
        }
        (Value::String(text), "true or false") if matches!(text.as_str(), "true" | "false") => {
            "; write it without quotes".to_owned()
        }
        (Value::String(text), "a number") if text.parse::<f64>().is_ok() => "; write it without quotes".to_owned(),
        (_, "an object with fields") => match properties(schema) {
            Some(known) => format!("; known fields: {}", names(known)),
            None => String::new(),
        },
        _ => String::new(),
    }
}

fn names(fields: &serde_json::Map<String, Value>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.join(", ")
}

/// A schema and its alternatives.
fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    let alternatives = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array());
    std::iter::once(schema).chain(alternatives.flatten())
}

/// The known fields of an object of `schema`; none if its keys are arbitrary.
fn properties(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    branches(schema).find_map(|branch| branch["properties"].as_object())
}

/// The path of the first object in `schema` with a field `name`.
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
    // A schema with fields but without a type allows an object or a string.
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

/// `text` truncated for a message, without control characters.
fn shown(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    let mut shown: String = text.chars().take(VALUE_LIMIT).map(plain).collect();
    if text.chars().nth(VALUE_LIMIT).is_some() {
        shown.push('…');
    }
    shown
}
