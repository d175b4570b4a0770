//! The limits of values (length, range, pattern), as an API server checks them.

use regex::Regex;
use serde_json::Value;

use super::rules;

/// The message of the first limit of `schema` that `value` violates; its type must be right. For a string, CEL rules are
/// evaluated too.
pub(super) fn broken(value: &Value, schema: &Value) -> Option<String> {
    match value {
        Value::String(text) => text_violation(text, schema),
        Value::Array(items) => length_violation(items.len(), "items", schema, ["minItems", "maxItems"]),
        Value::Number(number) => number_violation(number.as_f64()?, schema),
        _ => None,
    }
}

fn text_violation(text: &str, schema: &Value) -> Option<String> {
    let length = length_violation(text.chars().count(), "characters", schema, ["minLength", "maxLength"]);
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
    // An invalid pattern is ignored.
    let differs = Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text));
    differs.then(|| format!("it does not match {pattern}"))
}

fn length_violation(length: usize, of: &str, schema: &Value, [least, most]: [&str; 2]) -> Option<String> {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let least = schema[least].as_u64().filter(|least| length < *least);
    let most = schema[most].as_u64().filter(|most| length > *most);
    match (length, least, most) {
        (0, Some(_), _) => Some("it is empty".to_owned()),
        (_, Some(least), _) => Some(format!("it has {length} {of}; at least {least} are required")),
        (_, _, Some(most)) => Some(format!("it has {length} {of}; at most {most} are allowed")),
        _ => None,
    }
}

fn number_violation(number: f64, schema: &Value) -> Option<String> {
    let least = schema["minimum"].as_f64().filter(|least| number < *least);
    let most = schema["maximum"].as_f64().filter(|most| number > *most);
    match (least, most) {
        (Some(least), _) => Some(format!("it must be at least {least}")),
        (_, Some(most)) => Some(format!("it must be at most {most}")),
        _ => None,
    }
}
