//! Where a package comes from: a SLSA provenance (v1, <https://slsa.dev/spec/v1.1/provenance>) as the in-toto statement
//! (v1) that is signed and attached to the artifact. No IO.
//!
//! Times and the names of pods are left out: the statement says what was built from what, and the same build says the same.

use serde_json::{Value, json};

use crate::api::v1alpha1::JackalPackageSpec;
use crate::oci::Digest;
use crate::signing::{Statement, Subject};

/// The type of the statement's predicate.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// What `externalParameters` and `resolvedDependencies` mean: the package's spec, and its [`Material`]s.
const BUILD_TYPE: &str = "https://jackal.dev/package/v1";
/// Who built it.
const BUILDER: &str = "https://jackal.dev/jackal-operator";

/// What went into a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// Where it came from, such as `oci://ghcr.io/x/app:1` or `docker://node-1/x/app:1`.
    pub uri: String,
    /// What its source calls it: the digest of a manifest or of content, or a docker engine's image ID.
    pub digest: Digest,
    /// How its bytes left the source, where there were several ways.
    pub method: Option<String>,
    /// What it became in the registry, where that has another digest.
    pub became: Option<Digest>,
}

/// The statement about the artifact `url` whose index is `index` and whose manifest is `manifest`.
pub fn statement(
    url: &str,
    manifest: &Digest,
    index: &Digest,
    spec: &JackalPackageSpec,
    materials: &[Material],
) -> Statement {
    let subject = |digest: &Digest| Subject {
        name: url.to_owned(),
        ..Subject::of(digest)
    };
    let mut materials: Vec<&Material> = materials.iter().collect();
    materials.sort_by(|left, right| (&left.uri, &left.digest).cmp(&(&right.uri, &right.digest)));
    materials.dedup();
    let predicate = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"package": url, "spec": spec},
            "resolvedDependencies": materials.into_iter().map(dependency).collect::<Vec<_>>(),
        },
        "runDetails": {"builder": {"id": BUILDER, "version": {"jackal-operator": env!("CARGO_PKG_VERSION")}}},
    });
    Statement::new(vec![subject(manifest), subject(index)], PREDICATE_TYPE, predicate)
}

fn dependency(material: &Material) -> Value {
    let mut annotations = serde_json::Map::new();
    if let Some(method) = &material.method {
        annotations.insert("method".to_owned(), json!(method));
    }
    if let Some(became) = &material.became {
        annotations.insert("became".to_owned(), json!(became));
    }
    let mut dependency = json!({"uri": material.uri, "digest": Subject::of(&material.digest).digest});
    if !annotations.is_empty() {
        dependency["annotations"] = Value::Object(annotations);
    }
    dependency
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_built_from_what() {
        let spec: JackalPackageSpec = serde_json::from_value(json!({
            "version": "1", "components": [{"name": "web", "images": [{"image": "nginx:1"}]}],
        }))
        .unwrap();
        let material = |uri: &str, became: Option<Digest>| Material {
            uri: uri.to_owned(),
            digest: Digest::of(uri.as_bytes()),
            method: Some("DockerGraph".to_owned()),
            became,
        };
        let one = material("docker://node-1/docker.io/library/nginx:1", Some(Digest::of(b"pushed")));
        let two = material("oci://ghcr.io/x/app:2", None);
        let (manifest, index) = (Digest::of(b"manifest"), Digest::of(b"index"));
        let made = |materials: &[Material]| {
            let statement = statement("oci://r/web:1", &manifest, &index, &spec, materials);
            serde_json::to_vec(&statement).unwrap()
        };
        let text = made(&[two.clone(), one.clone(), two.clone()]);
        assert_eq!(text, made(&[one, two]), "in any order, each once");
        let statement: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], manifest.hex());
        assert_eq!(statement["subject"][1]["digest"]["sha256"], index.hex());
        let definition = &statement["predicate"]["buildDefinition"];
        assert_eq!(definition["externalParameters"]["spec"]["version"], "1");
        let dependencies = &definition["resolvedDependencies"];
        assert_eq!(dependencies.as_array().unwrap().len(), 2);
        assert_eq!(dependencies[0]["uri"], "docker://node-1/docker.io/library/nginx:1");
        assert_eq!(dependencies[0]["annotations"]["became"], Digest::of(b"pushed").as_str());
        assert_eq!(dependencies[1]["annotations"], json!({"method": "DockerGraph"}));
    }
}
