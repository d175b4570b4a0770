//! The limits of a value that a schema has besides its type, as an API server checks them.

use regex::Regex;
use serde_json::Value;

use super::rules;

/// The first limit of `schema` that `value`, whose type it allows, does not keep, in words.
/// Rules (CEL) count where they are about a text.
pub(super) fn broken(value: &Value, schema: &Value) -> Option<String> {
    match value {
        Value::String(text) => of_text(text, schema),
        Value::Array(items) => of_length(items.len(), "items", schema, ["minItems", "maxItems"]),
        Value::Number(number) => of_number(number.as_f64()?, schema),
        _ => None,
    }
}

fn of_text(text: &str, schema: &Value) -> Option<String> {
    let length = of_length(text.chars().count(), "characters", schema, ["minLength", "maxLength"]);
    if length.is_some() {
        return length;
    }
    if schema["x-kubernetes-validations"].is_array() {
        let broken = rules::broken(&Value::from(text), schema).into_iter().next();
        if let Some((_, message)) = broken {
            return Some(message);
        }
    }
    let pattern = schema["pattern"].as_str()?;
    // A pattern that cannot be read limits nothing.
    let differs = Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text));
    differs.then(|| format!("it does not match {pattern}"))
}

fn of_length(length: usize, of: &str, schema: &Value, [least, most]: [&str; 2]) -> Option<String> {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let least = schema[least].as_u64().filter(|least| length < *least);
    let most = schema[most].as_u64().filter(|most| length > *most);
    match (length, least, most) {
        (0, Some(_), _) => Some("it is empty".to_owned()),
        (_, Some(least), _) => Some(format!("it has {length} {of}, and at least {least} are needed")),
        (_, _, Some(most)) => Some(format!("it has {length} {of}, and at most {most} are allowed")),
        _ => None,
    }
}

fn of_number(number: f64, schema: &Value) -> Option<String> {
    let least = schema["minimum"].as_f64().filter(|least| number < *least);
    let most = schema["maximum"].as_f64().filter(|most| number > *most);
    match (least, most) {
        (Some(least), _) => Some(format!("it must be at least {least}")),
        (_, Some(most)) => Some(format!("it must be at most {most}")),
        _ => None,
    }
}
