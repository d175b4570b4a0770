//! The SLSA provenance of a package (v1, <https://slsa.dev/spec/v1.1/provenance>) as the in-toto statement (v1) that is
//! signed and attached to the artifact. No IO.
//!
//! Times and the names of pods are omitted, so that the same build gives the same statement.

use serde_json::{Value, json};

use super::plan::PlannedImage;
use crate::api::v1alpha1::{JackalPackageSpec, PinnedChart, SourceKind};
use crate::oci::Digest;
use crate::signing::{Statement, Subject};

/// The type of the statement's predicate.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// The type that defines `externalParameters`, the package's spec, and `resolvedDependencies`, its [`Material`]s.
const BUILD_TYPE: &str = "https://jackal.dev/package/v1";
/// The builder's identifier.
const BUILDER: &str = "https://jackal.dev/jackal-operator";

/// An input of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// Its origin: `oci://ghcr.io/x/app:1`, `docker://node-1/ghcr.io/x/app:1`, `containerd://…` (without the node's name if
    /// it is the machine that ran `build`), or the address from which a chart or a file was fetched.
    pub uri: String,
    /// Its digest at the source: of a manifest or of content, or a docker engine's image ID.
    pub digest: Digest,
    /// How its bytes were read, if the source has several methods.
    pub method: Option<String>,
    /// Its digest in the registry, if that is a different one.
    pub stored_digest: Option<Digest>,
}

impl Material {
    /// An image. `node` is the node whose engine was read, `method` the one in its status, `stored_digest` its digest in the
    /// registry.
    pub fn of_image(
        planned: &PlannedImage,
        node: Option<&str>,
        source_digest: Digest,
        method: Option<&str>,
        stored_digest: &Digest,
    ) -> Self {
        let node = node.unwrap_or_default();
        let uri = match planned.spec.source {
            SourceKind::Registry => format!("oci://{}", planned.request.reference),
            SourceKind::Docker => format!("docker://{node}/{}", planned.request.reference),
            SourceKind::Containerd => format!("containerd://{node}/{}", planned.request.reference),
        };
        Self {
            uri,
            stored_digest: (source_digest != *stored_digest).then(|| stored_digest.clone()),
            digest: source_digest,
            // An image that was not read has no method.
            method: method.filter(|method| *method != "Unchanged").map(str::to_owned),
        }
    }
}

/// The charts of `spec`, whose digests are in `pinned`, and the files that are fetched.
pub fn of_components(spec: &JackalPackageSpec, pinned: &[PinnedChart]) -> Vec<Material> {
    let fetched = |uri: String, digest: Option<Digest>| {
        let digest = digest?;
        Some(Material {
            uri,
            digest,
            method: None,
            stored_digest: None,
        })
    };
    let mut materials = Vec::new();
    for component in &spec.components {
        for chart in &component.charts {
            let found = pinned
                .iter()
                .find(|pinned| pinned.component == component.name && pinned.name == chart.name);
            let digest = found.and_then(|found| found.digest.parse().ok());
            // A chart repository has many charts under one address.
            let uri = match chart.url.strip_prefix("oci://") {
                Some(reference) => {
                    let bare = reference.split_once('@').map_or(reference, |(bare, _)| bare);
                    format!("oci://{bare}:{}", chart.version.replace('+', "_"))
                }
                None => format!("{}#{}-{}", chart.url, chart.name, chart.version),
            };
            materials.extend(fetched(uri, digest));
        }
        for file in &component.files {
            let digest = file.sha256.as_ref();
            let digest = digest.and_then(|hex| format!("sha256:{hex}").parse().ok());
            materials.extend(file.url.clone().and_then(|url| fetched(url, digest)));
        }
    }
    materials
}

/// The statement about the artifact at the address `url`: `manifests` are the digests of its manifest and of the index that
/// lists it.
pub fn statement(url: &str, manifests: [&Digest; 2], spec: &JackalPackageSpec, materials: &[Material]) -> Statement {
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
    Statement::new(manifests.map(subject).to_vec(), PREDICATE_TYPE, predicate)
}

fn dependency(material: &Material) -> Value {
    let mut annotations = serde_json::Map::new();
    if let Some(method) = &material.method {
        annotations.insert("method".to_owned(), json!(method));
    }
    if let Some(stored_digest) = &material.stored_digest {
        annotations.insert("became".to_owned(), json!(stored_digest));
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
    use crate::package::Plan;

    #[test]
    fn the_statement_lists_each_material_once() {
        let spec: JackalPackageSpec = serde_json::from_value(json!({
            "version": "1", "components": [{"name": "web", "images": [{"image": "nginx:1"}]}],
        }))
        .unwrap();
        let material = |uri: &str, stored_digest: Option<Digest>| Material {
            uri: uri.to_owned(),
            digest: Digest::of(uri.as_bytes()),
            method: Some("DockerGraph".to_owned()),
            stored_digest,
        };
        let one = material("docker://node-1/docker.io/library/nginx:1", Some(Digest::of(b"pushed")));
        let two = material("oci://ghcr.io/x/app:2", None);
        let (manifest, index) = (Digest::of(b"manifest"), Digest::of(b"index"));
        let made = |materials: &[Material]| {
            let statement = statement("oci://r/web:1", [&manifest, &index], &spec, materials);
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

    #[test]
    fn materials_are_named_by_their_source() {
        let spec: JackalPackageSpec = serde_json::from_value(json!({
            "version": "1",
            "components": [{
                "name": "web",
                "images": [
                    {"image": "nginx:1"}, {"image": "team/app:2", "source": "Docker"},
                    {"image": "team/db:3", "source": "Containerd"},
                ],
                "charts": [
                    {"name": "podinfo", "version": "6.4.0+1", "namespace": "web", "url": "oci://r.example/charts/podinfo"},
                    {"name": "redis", "version": "1.0.0", "namespace": "web", "url": "https://charts.example"},
                ],
                "files": [
                    {"target": "a", "url": "https://files.example/a", "sha256": Digest::of(b"file").hex()},
                    {"target": "b", "inline": "text"},
                ],
            }],
        }))
        .unwrap();
        let plan = Plan::of(&spec, "registry.example", "").unwrap();
        let (source, other) = (Digest::of(b"source"), Digest::of(b"other"));
        let of = |index: usize, node, method, stored_digest| {
            Material::of_image(&plan.images[index], node, source.clone(), method, stored_digest)
        };
        let registry = of(0, None, Some("Unchanged"), &source);
        assert_eq!(registry.uri, "oci://docker.io/library/nginx:1");
        assert_eq!((registry.method, registry.stored_digest), (None, None));
        let docker = of(1, Some("node-1"), Some("DockerGraph"), &other);
        assert_eq!(docker.uri, "docker://node-1/docker.io/team/app:2");
        assert_eq!(docker.method.as_deref(), Some("DockerGraph"));
        assert_eq!(docker.stored_digest, Some(other.clone()));
        assert_eq!(of(2, None, None, &other).uri, "containerd:///docker.io/team/db:3");

        let pinned = |name: &str, content: &[u8]| PinnedChart {
            component: "web".to_owned(),
            name: name.to_owned(),
            version: "1".to_owned(),
            digest: Digest::of(content).to_string(),
        };
        let found = of_components(&spec, &[pinned("redis", b"redis"), pinned("podinfo", b"podinfo")]);
        let found: Vec<(&str, &Digest)> = found.iter().map(|one| (one.uri.as_str(), &one.digest)).collect();
        assert_eq!(
            found,
            [
                ("oci://r.example/charts/podinfo:6.4.0_1", &Digest::of(b"podinfo")),
                ("https://charts.example#redis-1.0.0", &Digest::of(b"redis")),
                ("https://files.example/a", &Digest::of(b"file")),
            ]
        );
    }
}
