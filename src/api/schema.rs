//! What an object says that the schema of its custom resource does not allow, as far as a person gets it wrong:
//! fields, values of enumerations, types, limits, rules, and what is missing. An API server drops an unknown field unless it is
//! asked to be strict, and build has no API server. No IO.

mod limits;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

use crate::suggestion::{did_you_mean, misspelt};

/// The most violations that are told of one object.
const MOST: usize = 10;
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

/// What `object` has that `schema`, the OpenAPI v3 schema of the whole resource as JSON, does not allow: the first ten, in
/// the order of their names. A `null` counts as absent, and its status is the operator's own.
pub fn violations(object: &Value, schema: &Value) -> Vec<Violation> {
    let mut check = Check {
        spec: &schema["properties"]["spec"],
        found: Vec::new(),
    };
    let path = Path::default();
    if let (Some(fields), Some(known)) = (object.as_object(), properties(schema)) {
        for (name, value) in fields.iter().filter(|(name, _)| *name != "status") {
            check.field(name, value, known, &path);
        }
    }
    if object["spec"].is_null() {
        check.say(path.field("spec"), " is missing".to_owned());
    }
    // Rules are written for what is of the right types, where no field is `null`.
    if check.found.is_empty() {
        let mut object = object.clone();
        drop_nulls(&mut object, schema);
        for (path, message) in rules::broken(&object, schema) {
            check.say(path, format!(": {message}"));
        }
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
    /// The schema of the resource's `spec`.
    spec: &'a Value,
    found: Vec<Violation>,
}

impl Check<'_> {
    fn say(&mut self, path: Path, what: String) {
        if self.found.len() < MOST {
            self.found.push(Violation { path, what });
        }
    }

    fn value(&mut self, value: &Value, schema: &Value, path: &Path) {
        if let (Some(word), Some(allowed)) = (word(value), schema["enum"].as_array()) {
            let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            if !allowed.contains(&word.as_str()) {
                let meant = did_you_mean(&word, allowed.iter().copied());
                let what = format!(": {} is not one of {}{meant}", shown(&word), allowed.join(", "));
                self.say(path.clone(), what);
            }
            return;
        }
        if let Some(expected) = mismatch(value, schema) {
            let (found, advice) = (described(value), advice(value, &expected, schema));
            return self.say(path.clone(), format!(": found {found}, expected {expected}{advice}"));
        }
        if let Some(broken) = limits::broken(value, schema) {
            let found = match is_empty(value) {
                true => String::new(),
                false => format!("found {}; ", described(value)),
            };
            self.say(path.clone(), format!(": {found}{broken}"));
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
            self.field(name, value, known, path);
        }
        let required = branches(schema).find_map(|branch| branch["required"].as_array());
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if fields.get(name).is_none_or(Value::is_null) {
                self.say(path.clone(), format!(": the field {name} is missing"));
            }
        }
    }

    /// The field `name` of the object at `path`, whose fields are `known`.
    fn field(&mut self, name: &str, value: &Value, known: &serde_json::Map<String, Value>, path: &Path) {
        let is_beside_spec = path.0.is_empty();
        let path = path.field(name);
        match known.get(name) {
            None => {
                let what = format!(": unknown field{}", self.meant(name, known, is_beside_spec));
                self.say(path, what);
            }
            Some(_) if value.is_null() => {}
            Some(schema) => self.value(value, schema, &path),
        }
    }

    /// What the field `name` was probably meant to be: a field of this place that is misspelt, one of the same name
    /// elsewhere, or one of this place that it is a part of.
    /// What belongs into `spec` is often written beside it.
    fn meant(&self, name: &str, known: &serde_json::Map<String, Value>, is_beside_spec: bool) -> String {
        let here = known.keys().map(String::as_str);
        if (is_beside_spec || misspelt(name, here.clone()).is_none())
            && let Some(owner) = owner(name, self.spec, "spec")
        {
            return format!("; {name} is a field of {owner}");
        }
        match did_you_mean(name, here) {
            meant if meant.is_empty() => format!("; the fields there are {}", names(known)),
            meant => meant,
        }
    }
}

/// What a person may have meant as a word: a text, or what YAML reads as a number or a truth.
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

/// What to do about a value that is not of the type `expected`.
fn advice(value: &Value, expected: &str, schema: &Value) -> String {
    match (value, expected) {
        (Value::Number(_) | Value::Bool(_), "a string") => {
            match limits::broken(&Value::String(value.to_string()), schema) {
                // In quotes it would be refused too.
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
            Some(known) => format!("; the fields there are {}", names(known)),
            None => String::new(),
        },
        _ => String::new(),
    }
}

fn names(fields: &serde_json::Map<String, Value>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.join(", ")
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
