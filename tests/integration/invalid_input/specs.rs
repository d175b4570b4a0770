//! Invalid specs written by users.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use serde_json::{Value, json};

use super::harness::{Case, Harness};
use crate::docker::engines::{DockerEngine, Image, tar};
use crate::support::cluster::Cluster;
use crate::support::image::{image, noise, put};
use crate::support::registry::{TestRegistry, Version};

/// The registry's address in pods. Nothing listens there: the operator uses the endpoint.
pub const ADDRESS: &str = "127.0.0.1:31999";

/// A package, as YAML. `spec` has at least its components; missing fields are added.
pub fn package(name: &str, endpoint: &str, mut spec: Value) -> String {
    let own = json!({ "address": ADDRESS, "endpoint": endpoint, "insecure": true });
    let fields = spec.as_object_mut().unwrap();
    fields.entry("registry").or_insert(own);
    fields.entry("version").or_insert(json!("1.0.0"));
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

/// One component with one image.
pub fn of(image: Value) -> Value {
    json!([{ "name": "main", "images": [image] }])
}

/// An image without a package, as YAML.
fn alone(name: &str, endpoint: &str, mut spec: Value) -> String {
    spec["registry"] = json!({ "address": ADDRESS, "endpoint": endpoint, "insecure": true });
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

async fn set_image(cluster: &Cluster, package: &str, image: Value) {
    cluster
        .patch::<JackalPackage>(package, json!({ "spec": { "components": of(image) } }))
        .await;
}

#[tokio::test]
async fn an_invalid_spec_is_reported_until_corrected() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/app");
    let document = image(&repository, "linux/amd64", noise(11, 10_000)).await;
    let long = "t".repeat(118);
    for tag in ["1", &long] {
        put(&repository, &document, Some(tag)).await;
    }
    let good = format!("{}/team/app:1", registry.host);
    let longest = format!("{}/team/app:{long}", registry.host);

    let [engine, ..] = DockerEngine::all();
    let local = format!("jackal-bad-{:012x}/local", fastrand::u64(..1 << 48));
    engine.load(&Image::new(&format!("{local}:dev"), vec![tar(&[("name", &local)])]).archive());

    let mut harness = Harness::new(&["--insecure-registry", &registry.host]).await;
    harness.agents(&[("n1", &engine.host)]).await;
    let cluster = &harness.cluster;
    let apply = |name: &str, components: Value| {
        cluster.apply(&package(name, &registry.host, json!({ "components": components })));
    };
    let single = |name: &str, spec: Value| cluster.apply(&alone(name, &registry.host, spec));
    let edit = |name: &'static str, spec: Value| async move {
        cluster.patch::<JackalImage>(name, json!({ "spec": spec })).await;
    };

    apply("unparsable", of(json!({ "image": "Team/App:1" })));
    for (name, image) in [
        ("misspelt", json!({ "image": good, "platfroms": ["linux/amd64"] })),
        (
            "two-nodes",
            json!({ "image": good, "source": "Docker", "nodeName": "a", "nodeSelector": { "b": "c" } }),
        ),
        ("no-node", json!({ "image": good, "nodeName": "a" })),
        (
            "no-tags",
            json!({ "image": "a/b", "source": "Docker", "policy": { "semver": { "range": "1.x" } } }),
        ),
        ("number", json!(5)),
        ("no-policy", json!({ "image": "a/b", "policy": {} })),
        (
            "odd-order",
            json!({ "image": "a/b", "policy": { "semver": { "range": "1.x" }, "order": "Numerical" } }),
        ),
    ] {
        apply(name, of(image));
    }
    let jackal = json!({ "components": of(json!({ "image": longest })), "naming": "Jackal" });
    cluster.apply(&package("too-long", &registry.host, jackal));
    single("unparsable", json!({ "image": "Team/App:1" }));
    single(
        "unparsable-local",
        json!({ "image": format!("{local}:dev@sha256:12"), "source": "Docker" }),
    );
    single("too-long", json!({ "image": longest, "naming": "Jackal" }));
    let cases = vec![
        Case::new(
            "unparsable",
            "InvalidReference",
            &[
                "component `main`",
                "`Team/App:1` is not an image reference",
                "write it as",
            ],
            Box::pin(set_image(cluster, "unparsable", json!({ "image": good }))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "misspelt",
            "InvalidSpec",
            &["spec.components[0].images[0].platfroms", "did you mean platforms?"],
            Box::pin(set_image(cluster, "misspelt", json!({ "image": good }))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "two-nodes",
            "InvalidSpec",
            &["both choose the node; set one of them"],
            Box::pin(set_image(cluster, "two-nodes", json!(good))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "no-node",
            "InvalidSpec",
            &["source: Registry reads none"],
            Box::pin(set_image(cluster, "no-node", json!(good))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "no-tags",
            "InvalidSpec",
            &["a policy needs a registry's tags"],
            Box::pin(set_image(cluster, "no-tags", json!(good))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "no-policy",
            "InvalidSpec",
            &["its policy needs one of semver and pattern"],
            Box::pin(set_image(cluster, "no-policy", json!(good))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "odd-order",
            "InvalidSpec",
            &["order applies only to pattern"],
            Box::pin(set_image(cluster, "odd-order", json!(good))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "number",
            "InvalidSpec",
            &["spec.components[0].images[0]", "expected a string or an object"],
            Box::pin(set_image(cluster, "number", json!(good))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "too-long",
            "InvalidReference",
            &[
                "component `main`",
                "registries allow only 128",
                "shorter tag",
                "naming: Plain",
            ],
            Box::pin(cluster.patch::<JackalPackage>("too-long", json!({ "spec": { "naming": "Plain" } }))),
        )
        .of_package()
        .stalled(),
        Case::new(
            "unparsable",
            "InvalidReference",
            &["`Team/App:1` is not an image reference"],
            Box::pin(edit("unparsable", json!({ "image": good }))),
        )
        .of_image()
        .stalled(),
        Case::new(
            "unparsable-local",
            "InvalidReference",
            &["is not an image reference", "write it as"],
            Box::pin(edit("unparsable-local", json!({ "image": format!("{local}:dev") }))),
        )
        .of_image()
        .stalled(),
        Case::new(
            "too-long",
            "InvalidReference",
            &["registries allow only 128", "naming: Plain"],
            Box::pin(edit("too-long", json!({ "naming": "Plain" }))),
        )
        .of_image()
        .stalled(),
    ];
    harness.run(cases).await;
}

/// The API server accepts a duration that is out of range for the operator.
#[tokio::test]
async fn an_unreadable_object_is_reported_and_blocks_no_other() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/app");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(12, 10_000)).await,
        Some("1"),
    )
    .await;
    let good = of(json!({ "image": format!("{}/team/app:1", registry.host) }));
    let harness = Harness::new(&["--insecure-registry", &registry.host]).await;
    let cluster = &harness.cluster;
    let endless = json!({ "components": good, "interval": "99999999999999999999h" });
    cluster.apply(&package("endless", &registry.host, endless));
    let stalled = ["wait", "jkpkg/endless", "--for=condition=Stalled", "--timeout=30s"];
    cluster.kubectl(&stalled);
    let message = cluster.kubectl(&[
        "get",
        "jkpkg",
        "endless",
        "-o",
        "jsonpath={.status.conditions[?(@.type=='Ready')].message}",
    ]);
    assert!(
        message.contains("cannot be read") && message.contains("Correct that field"),
        "{message}"
    );
    let version = || cluster.kubectl(&["get", "jkpkg", "endless", "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = version();
    cluster.apply(&package("sound", &registry.host, json!({ "components": good })));
    cluster.ready("sound").await;
    assert_eq!(version(), before, "nothing more is written to it");
    let text = cluster.events("endless").await;
    assert!(text.len() == 1 && text[0].starts_with("InvalidSpec: "), "{text:?}");

    cluster.kubectl(&[
        "patch",
        "jkpkg",
        "endless",
        "--type=merge",
        "--patch",
        r#"{"spec":{"interval":"1h"}}"#,
    ]);
    let ready = cluster.ready("endless").await;
    assert_eq!(ready.status.unwrap().conditions.len(), 1);
}
