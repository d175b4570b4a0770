//! The definition of a package without some of its images, as `zarf package create --differential` writes it. No IO.

use std::collections::BTreeSet;

use serde_json::Value;

use super::PackedDefinition;
use crate::decode::{Ordered, ordered_yaml_documents};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Reference};
use crate::package::yaml;

/// The field of a definition, or of its build record, with the digest of the checksums.
const AGGREGATE: &str = "aggregateChecksum";

impl PackedDefinition {
    /// The definition `text` of the file `file` without the images `omitted`, and with the digest `checksums` of the new checksums.
    /// It is marked as differential.
    ///
    /// # Errors
    /// A stalled fault that says what is wrong.
    pub fn without_images(
        file: &str,
        text: &[u8],
        omitted: &BTreeSet<String>,
        checksums: &Digest,
    ) -> Result<String, Fault> {
        let invalid = |what: String| Fault::stalled(Reason::SourceFailed, format!("{file} {what}"));
        let text = std::str::from_utf8(text).map_err(|error| invalid(format!("is not text: {error}")))?;
        let documents = ordered_yaml_documents(text).map_err(|error| invalid(format!("is not YAML: {error}")))?;
        let mut written = Vec::with_capacity(documents.len());
        for mut document in documents {
            edit(&mut document, omitted, checksums).ok_or_else(|| invalid("is not a definition".to_owned()))?;
            written.push(yaml(&document).map_err(|error| invalid(format!("cannot be written: {error}")))?);
        }
        Ok(written.join("---\n"))
    }
}

/// Changes one document; `None` where it is not a definition.
fn edit(document: &mut Ordered, omitted: &BTreeSet<String>, checksums: &Digest) -> Option<()> {
    let Ordered::Fields(fields) = document else { return None };
    for component in list(fields, "components").into_iter().flatten() {
        if let Ordered::Fields(component) = component
            && let Some(images) = list(component, "images")
        {
            images.retain(|image| !image_name(image).is_some_and(|name| omitted.contains(&name)));
        }
    }
    let metadata = object(fields, "metadata")?;
    let sum = || Ordered::Scalar(Value::from(checksums.hex()));
    let is_in_metadata = metadata.iter().any(|(name, _)| name == AGGREGATE);
    if is_in_metadata {
        set(metadata, AGGREGATE, sum());
    }
    if !fields.iter().any(|(name, _)| name == "build") {
        fields.push(("build".to_owned(), Ordered::Fields(Vec::new())));
    }
    let build = object(fields, "build")?;
    if !is_in_metadata {
        set(build, AGGREGATE, sum());
    }
    set(build, "differential", Ordered::Scalar(Value::Bool(true)));
    Some(())
}

/// The name of an image of a component in the normal form: a text, or an object with a name.
fn image_name(image: &Ordered) -> Option<String> {
    let text = match image {
        Ordered::Scalar(text) => text.as_str(),
        Ordered::Fields(fields) => match fields.iter().find(|(field, _)| field == "name") {
            Some((_, Ordered::Scalar(text))) => text.as_str(),
            _ => None,
        },
        Ordered::List(_) => None,
    };
    let reference: Reference = text?.parse().ok()?;
    Some(reference.to_string())
}

type Fields = Vec<(String, Ordered)>;

fn object<'f>(fields: &'f mut Fields, name: &str) -> Option<&'f mut Fields> {
    match fields.iter_mut().find(|(field, _)| field == name) {
        Some((_, Ordered::Fields(inner))) => Some(inner),
        _ => None,
    }
}

/// The elements of the list `name`, if there is one.
fn list<'f>(fields: &'f mut Fields, name: &str) -> Option<&'f mut Vec<Ordered>> {
    match fields.iter_mut().find(|(field, _)| field == name) {
        Some((_, Ordered::List(elements))) => Some(elements),
        _ => None,
    }
}

fn set(fields: &mut Fields, name: &str, value: Ordered) {
    match fields.iter_mut().find(|(field, _)| field == name) {
        Some((_, known)) => *known = value,
        None => fields.push((name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str) -> Result<String, Fault> {
        let omitted = ["docker.io/library/nginx:1".to_owned(), "ghcr.io/a/b:2".to_owned()];
        PackedDefinition::without_images("zarf.yaml", text.as_bytes(), &omitted.into(), &Digest::of(b"new"))
    }

    #[test]
    fn images_are_left_out_and_everything_else_stays() {
        let new = Digest::of(b"new");
        let text = edited(
            "kind: ZarfPackageConfig
metadata: {name: shop, version: '1.0', aggregateChecksum: old, other: [1, yes]}
components:
- {name: a, images: ['nginx:1', 'nginx:2', ghcr.io/a/b:2], required: true}
- {name: b}
build: {architecture: amd64, differential: false}
",
        )
        .unwrap();
        let document: Value = crate::decode::yaml(&text).unwrap();
        let expected = serde_json::json!({
            "kind": "ZarfPackageConfig",
            "metadata": { "name": "shop", "version": "1.0", "aggregateChecksum": new.hex(), "other": [1, "yes"] },
            "components": [{ "name": "a", "images": ["nginx:2"], "required": true }, { "name": "b" }],
            "build": { "architecture": "amd64", "differential": true },
        });
        assert_eq!(document, expected);
        assert_eq!(edited(&text).unwrap(), text, "nothing is left to do");
    }

    #[test]
    fn each_of_two_documents_is_changed() {
        let text = edited(
            "apiVersion: zarf.dev/v1alpha1
metadata: {name: shop, aggregateChecksum: old}
components: [{name: a, images: ['nginx:1']}]
---
apiVersion: zarf.dev/v1beta1
metadata: {name: shop}
components: [{name: a, images: [{name: 'nginx:1'}, {name: 'nginx:2'}]}]
build: {aggregateChecksum: old}
",
        )
        .unwrap();
        let documents = crate::decode::yaml_documents(&text).unwrap();
        let sum = Digest::of(b"new");
        let [alpha, beta] = &documents[..] else {
            panic!("{text}")
        };
        assert_eq!(alpha["metadata"]["aggregateChecksum"], sum.hex());
        assert_eq!(alpha["components"][0]["images"], serde_json::json!([]));
        assert_eq!(alpha["build"], serde_json::json!({ "differential": true }));
        assert_eq!(beta["build"]["aggregateChecksum"], sum.hex());
        assert_eq!(
            beta["components"][0]["images"],
            serde_json::json!([{ "name": "nginx:2" }])
        );
    }

    #[test]
    fn what_is_not_a_definition_is_refused() {
        for text in ["[]", "a", "metadata: []", "{"] {
            assert!(edited(text).unwrap_err().is_stalled(), "{text}");
        }
    }
}
