//! Our own objects as users and templates write them: with a real API server by both modes of `kubectl apply`, and with
//! `build`.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::api::v1alpha1::JackalPackage;
use serde_json::{Value, json};

use super::workspace::{Workspace, stderr};
use super::{Case, check};
use crate::support::cluster::Cluster;
use crate::support::image::{image, noise, put};
use crate::support::objects::{package, registry_at};
use crate::support::registry::{TestRegistry, Version};

/// Runs a case on its own thread: the futures of a [`Cluster`] are not Send.
fn on_own_thread<F: Future<Output = ()>>(case: impl FnOnce() -> F + Send + 'static) -> BoxFuture<'static, ()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(case());
    };
    let ended = tokio::task::spawn_blocking(run);
    async {
        if let Err(error) = ended.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    .boxed()
}

/// The modes of `kubectl apply`.
const APPLY_MODES: [&[&str]; 2] = [&[], &["--server-side"]];

/// A package with this spec, as YAML.
fn object(name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": name }, "spec": spec,
    });
    object.to_string()
}

/// Whether `build --check` succeeds for an object, and its output.
fn build(object: &str) -> (bool, String) {
    let output = Workspace::with(object).run(&["build", "shop.yaml", "--check"]);
    (output.status.success(), stderr(&output))
}

/// Expects that the spec is accepted by every mode and by build.
async fn assert_accepted(spec: Value) {
    let cluster = Cluster::new().await;
    for (number, mode) in APPLY_MODES.iter().enumerate() {
        let object = object(&format!("taken-{number}"), &spec);
        cluster
            .try_apply_with(&object, mode)
            .unwrap_or_else(|error| panic!("{mode:?}: {error}"));
    }
    // Build continues with the registry of the image, where nothing listens.
    let (content, message) = build(&object("taken", &spec));
    assert!(
        content || message.contains("cannot read 127.0.0.1:1/a/b:1"),
        "{message}"
    );
}

/// Expects that the spec is rejected by every mode and by build, with these words.
async fn assert_rejected(spec: Value, words: &[&str]) {
    let cluster = Cluster::new().await;
    let object = object("refused", &spec);
    for mode in APPLY_MODES {
        let message = cluster.try_apply_with(&object, mode).unwrap_err();
        assert!(words.iter().any(|word| message.contains(word)), "{mode:?}: {message}");
    }
    let (content, message) = build(&object);
    assert!(!content, "build takes it");
    assert!(words.iter().any(|word| message.contains(word)), "build: {message}");
}

/// A spec of one component with these additional fields.
fn package_spec(fields: Value) -> Value {
    let mut spec = json!({ "version": "1", "components": [{ "name": "a" }] });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// The Ready message of a stalled package.
async fn stalled_message(cluster: &Cluster, name: &str) -> String {
    let message = |package: &JackalPackage| {
        let conditions = &package.status.as_ref()?.conditions;
        let stalled = conditions.iter().find(|condition| condition.type_ == "Stalled")?;
        (stalled.reason == "InvalidSpec").then(|| stalled.message.clone())
    };
    let is = |package: &JackalPackage| message(package).map(|_| ());
    let package = cluster.package_where(name, "stalled by InvalidSpec", is).await;
    message(&package).unwrap()
}

/// Expects that the operator and `build` reject an image with these words, and that the object can be deleted.
async fn assert_image_rejected(written: Value, words: &[&str]) {
    let cluster = Cluster::new().await;
    let _controller = cluster.controller(&[]);
    let mut spec = package_spec(json!({ "components": [{ "name": "a", "images": ["127.0.0.1:1/a/b:1", written] }] }));
    spec["registry"] = json!({ "address": "127.0.0.1:31999", "insecure": true });
    let object = object("refused", &spec);
    cluster.apply(&object);
    let message = stalled_message(&cluster, "refused").await;
    let (content, built) = build(&object);
    assert!(!content, "build takes it");
    for word in words {
        assert!(message.contains(word), "{message}");
        assert!(built.contains(word), "{built}");
    }
    cluster.kubectl(&["delete", "jkpkg/refused", "--timeout=30s"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_accepted_or_rejected_with_the_field_path() {
    check(&[
        Case {
            report: "jaegertracing/jaeger-operator#985",
            input: "fields that a template left empty: `images:`, `platforms: null`, `registry:`, `suspend: null`",
            expected: "treated as absent by both modes of applying and by build",
            run: || on_own_thread(|| {
                assert_accepted(package_spec(json!({
                    "components": [
                        {
                            "name": "a", "images": null, "charts": null, "manifests": null, "files": null,
                            "description": null, "required": null,
                        },
                        {
                            "name": "b",
                            "images": [{ "image": "127.0.0.1:1/a/b:1", "platforms": null, "nodeName": null, "source": null }],
                        },
                    ],
                    "description": null, "registry": null, "suspend": null, "imagePullSecrets": null, "verify": null,
                    "signing": null, "retention": null, "sbom": null, "interval": null, "stallTimeout": null,
                })))
            }),
        },
        Case {
            report: "Arnavion/k8s-openapi#173",
            input: "`null` for fields with a default and within objects, by server-side apply",
            expected: "treated as absent",
            run: || on_own_thread(|| {
                assert_accepted(package_spec(json!({
                    "components": [{ "name": "a", "images": [
                        { "image": "127.0.0.1:1/a/b:1", "policy": null, "nodeSelector": null },
                    ] }],
                    "naming": null, "format": null, "compression": null, "referrers": null, "deletionPolicy": null,
                    "registry": { "address": null, "endpoint": null, "insecure": null, "secretRef": null },
                })))
            }),
        },
        Case {
            report: "enix/kube-image-keeper#451",
            input: "`interval: 1d`",
            expected: "a day",
            run: || on_own_thread(|| assert_accepted(package_spec(json!({ "interval": "1d", "stallTimeout": "0.5d" })))),
        },
        Case {
            report: "enix/kube-image-keeper#451",
            input: "`interval: 1w2d`",
            expected: "nine days",
            run: || on_own_thread(|| assert_accepted(package_spec(json!({ "interval": "1w2d" })))),
        },
        Case {
            report: "fluxcd/helm-controller#556",
            input: "a duration of an unknown unit",
            expected: "a message that names the units, not a regular expression",
            run: || on_own_thread(|| assert_rejected(package_spec(json!({ "interval": "1y" })), &["the units w, d, h, m, s and ms"])),
        },
        Case {
            report: "Kubernetes API concepts, server-side apply, merge strategy",
            input: "two components with the same name",
            expected: "rejected, with the name",
            run: || on_own_thread(|| {
                let spec = package_spec(json!({ "components": [{ "name": "web" }, { "name": "web" }] }));
                assert_rejected(
                    spec,
                    &[
                        r#"Duplicate value: {"name":"web"}"#,
                        r#"duplicate entries for key [name="web"]"#,
                        "two components are called `web`",
                    ],
                )
            }),
        },
        Case {
            report: "ray-project/kuberay#4840",
            input: "two appliers, each with its own components",
            expected: "both are kept, and neither removes the other's",
            run: || on_own_thread(two_appliers),
        },
        Case {
            report: "kubernetes/kubernetes#91153",
            input: "an image as a string and one as an object",
            expected: "both are copied",
            run: || on_own_thread(names_and_objects),
        },
        Case {
            report: "kubernetes-sigs/headlamp#7147",
            input: "a misspelt field of an image",
            expected: "stalled, and rejected by build, with the field's path and a suggestion",
            run: || on_own_thread(|| {
                assert_image_rejected(
                    json!({ "image": "a/c:1", "platfroms": ["linux/amd64"] }),
                    &["spec.components[0].images[1].platfroms", "did you mean platforms?"],
                )
            }),
        },
        Case {
            report: "kubernetes-sigs/headlamp#7147",
            input: "a number instead of an image",
            expected: "stalled, and rejected by build, with its path",
            run: || on_own_thread(|| assert_image_rejected(json!(5), &["spec.components[0].images[1]", "a string or an object"])),
        },
    ])
    .await;
}

async fn two_appliers() {
    let cluster = Cluster::new().await;
    let component = |name: &str| {
        object(
            "shared",
            &package_spec(json!({ "components": [{ "name": name, "images": ["127.0.0.1:1/a/b:1"] }] })),
        )
    };
    for (name, manager) in [("web", "--field-manager=one"), ("app", "--field-manager=two")] {
        cluster
            .try_apply_with(&component(name), &["--server-side", manager])
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let spec = cluster.package("shared").await.spec;
    let names: Vec<&str> = spec
        .components
        .iter()
        .map(|component| component.name.as_str())
        .collect();
    assert_eq!(names, ["web", "app"]);
}

async fn names_and_objects() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let mut names = Vec::new();
    for name in ["app", "tool"] {
        let repository = registry.repository(&format!("team/{name}"));
        let content = image(&repository, "linux/amd64", noise(41, 5_000)).await;
        put(&repository, &content, Some("1")).await;
        names.push(format!("{}/team/{name}:1", registry.host));
    }
    let _controller = cluster.controller(&["--insecure-registry", &registry.host]);
    let object = format!("{{image: '{}', platforms: [linux/amd64]}}", names[1]);
    let images = [format!("'{}'", names[0]), object];
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    cluster.apply(&package("shop", "1", &images, &registry_at(&registry.host)));
    let status = cluster.ready("shop").await.status.unwrap();
    let brought: Vec<&str> = status.images.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(brought, ["127.0.0.1:31999/team/app:1", "127.0.0.1:31999/team/tool:1"]);
    assert_eq!(
        status.naming.map(|naming| format!("{naming:?}")).as_deref(),
        Some("Plain")
    );
}
