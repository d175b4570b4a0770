//! The images in the values of a chart, in the usual notations.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{DEPTH, add, text_of};

/// Overrides the `values` of a chart with `over` as Helm does: recursively by field, and null removes a field.
pub(super) fn override_values(values: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, new) in over {
        match (values.get_mut(key), new) {
            (_, Value::Null) => {
                values.remove(key);
            }
            (Some(Value::Object(old)), Value::Object(new)) => override_values(old, new),
            _ => {
                values.insert(key.clone(), new.clone());
            }
        }
    }
}

/// Merges the values of one file into those of earlier files as Helm does: recursively by field. Null is kept, because it
/// later removes a field of the chart's own values.
pub fn merge(values: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, new) in over {
        match (values.get_mut(&key), new) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, new) => {
                values.insert(key, new);
            }
        }
    }
}

/// The value at a path such as `redis.enabled`.
pub(super) fn at<'a>(values: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.trim().split('.');
    let first = values.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// The images in `values` of a chart whose `appVersion` is `app_version`. Parts that are not `enabled` are ignored.
pub(super) fn images(values: &Map<String, Value>, app_version: Option<&str>, found: &mut BTreeSet<String>) {
    let registry = at(values, "global.imageRegistry").and_then(Value::as_str);
    let registry = registry.filter(|registry| !registry.is_empty());
    let context = Context { registry, app_version };
    // `enabled: false` at the top level is evaluated by the parent chart.
    context.fields(values, DEPTH, found);
}

struct Context<'a> {
    registry: Option<&'a str>,
    app_version: Option<&'a str>,
}

impl Context<'_> {
    fn walk(&self, key: &str, value: &Value, depth: usize, found: &mut BTreeSet<String>) {
        let Some(depth) = depth.checked_sub(1) else { return };
        match value {
            Value::Object(fields) if fields.get("enabled") == Some(&Value::Bool(false)) => {}
            Value::Object(fields) => {
                let is_image = is_image(key)
                    || ["tag", "digest", "registry"]
                        .iter()
                        .any(|key| fields.contains_key(*key));
                if is_image && let Some(text) = from_fields(fields, self.registry, self.app_version) {
                    add(&text, found);
                }
                self.fields(fields, depth, found);
            }
            Value::Array(items) => {
                for item in items {
                    self.walk(key, item, depth, found);
                }
            }
            _ => {}
        }
    }

    fn fields(&self, fields: &Map<String, Value>, depth: usize, found: &mut BTreeSet<String>) {
        for (key, value) in fields {
            match value {
                Value::String(text) if is_image(key) => {
                    if let Some(text) = self.image_in_text(text, key, fields) {
                        add(&text, found);
                    }
                }
                _ => self.walk(key, value, depth, found),
            }
        }
    }

    /// An image in one text, with its tag in it or in a neighbouring field.
    fn image_in_text(&self, text: &str, key: &str, beside: &Map<String, Value>) -> Option<String> {
        let last = text.rsplit('/').next().unwrap_or(text);
        if last.contains([':', '@']) {
            return Some(text.to_owned());
        }
        let tag = text_of(beside, &format!("{key}Tag")).or_else(|| text_of(beside, "tag"));
        Some(format!("{text}:{}", tag?))
    }
}

/// Whether the name of a field is that of an image: `image`, `sidecarImage`.
fn is_image(key: &str) -> bool {
    key == "image" || key.ends_with("Image")
}

/// The image in separate `fields`: `repository`, and optionally `registry`, `tag` and `digest`. Without tag and digest its
/// tag is the chart's `app_version`, as in charts made by `helm create`. `registry` overrides the image's own.
pub(super) fn from_fields(
    fields: &Map<String, Value>,
    registry: Option<&str>,
    app_version: Option<&str>,
) -> Option<String> {
    let repository = text_of(fields, "repository")?;
    let own = text_of(fields, "registry");
    let mut text = match registry.or(own.as_deref()) {
        Some(registry) => format!("{}/{repository}", registry.trim_end_matches('/')),
        None => repository,
    };
    let digest = text_of(fields, "digest").or_else(|| text_of(fields, "sha"));
    let tag = text_of(fields, "tag");
    let last = text.rsplit('/').next().unwrap_or(&text);
    if !last.contains(':') {
        match (tag.as_deref().or(app_version), &digest) {
            (Some(tag), _) => text = format!("{text}:{tag}"),
            (None, Some(_)) => {}
            (None, None) => return None,
        }
    }
    if let Some(digest) = digest {
        let digest = digest.strip_prefix("sha256:").unwrap_or(&digest);
        text = format!("{text}@sha256:{digest}");
    }
    Some(text)
}
