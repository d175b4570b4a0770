//! Which digests a manifest names. No IO.

use serde_json::Value;

use crate::oci::Digest;

/// The digests in a manifest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    /// All, in any field: also of kinds of manifests that are not known yet.
    pub all: Vec<Digest>,
    /// Those of manifests that an index lists.
    pub manifests: Vec<Digest>,
}

/// The references of the manifest `content`.
///
/// # Errors
/// When it is not a JSON object.
pub(super) fn references(content: &[u8]) -> Result<References, String> {
    let value: Value = serde_json::from_slice(content).map_err(|error| format!("it is not JSON: {error}"))?;
    if !value.is_object() {
        return Err("it is not a JSON object".to_owned());
    }
    let mut found = References::default();
    collect(&value, &mut found.all);
    if let Some(entries) = value.get("manifests").and_then(Value::as_array) {
        let digests = entries.iter().filter_map(|entry| entry.get("digest")?.as_str());
        found.manifests = digests.filter_map(|digest| digest.parse().ok()).collect();
    }
    Ok(found)
}

/// serde_json limits the depth of `value`.
fn collect(value: &Value, found: &mut Vec<Digest>) {
    match value {
        Value::String(text) => found.extend(text.parse::<Digest>()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_digest_counts() {
        let digests: Vec<Digest> = (0..5).map(|number: u8| Digest::of(&[number])).collect();
        let manifest = json!({
            "config": { "digest": digests[0].as_str() },
            "layers": [{ "digest": digests[1].as_str(), "annotations": { "a": digests[2].as_str() } }],
            "fsLayers": [{ "blobSum": digests[3].as_str() }],
            "manifests": [{ "digest": digests[4].as_str() }, { "digest": "sha256:1" }],
            "other": "sha256:x",
        });
        let mut found = references(manifest.to_string().as_bytes()).unwrap();
        found.all.sort();
        let mut expected = digests.clone();
        expected.sort();
        assert_eq!(found.all, expected);
        assert_eq!(found.manifests, digests[4..]);
        for wrong in ["", "[]", "{", "\"a\""] {
            assert!(references(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
