//! Every state of an object, produced by the real operator, and its health in kstatus and Argo CD.
//!
//! With `JACKAL_COMPAT_RECORD` naming a folder, the objects are written there, in the form of `tests/compat`.

use std::path::PathBuf;

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::{Health, package, standalone_image};
use crate::archive::Packages;
use crate::cluster::{layered, unique};
use crate::docker::engines::DockerEngine;
use crate::signing::signing_file;
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};

/// Expects the object's health in both tools, and records it.
fn assert_health(cluster: &Cluster, object: &str, state: &str, kstatus: &str, argocd: &str) {
    let yaml = cluster.kubectl(&["get", object, "--output", "yaml"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("object.yaml");
    std::fs::write(&file, &yaml).unwrap();
    let expected = Health::new(kstatus, argocd);
    assert_eq!(Health::of(&[&file]), [expected], "{state}:\n{yaml}");
    if let Some(folder) = std::env::var_os("JACKAL_COMPAT_RECORD") {
        let file = PathBuf::from(folder).join(format!("{state}.yaml"));
        std::fs::write(file, format!("# kstatus: {kstatus}\n# argocd: {argocd}\n{yaml}")).unwrap();
    }
}

/// Whether the Ready condition of the current spec has this status and reason; any reason if it is empty.
fn has_ready_condition(conditions: &[Condition], generation: Option<i64>, status: &str, reason: &str) -> Option<()> {
    let ready = condition(conditions, "Ready")?;
    let current = ready.observed_generation == generation;
    (current && ready.status == status && (reason.is_empty() || ready.reason == reason)).then_some(())
}

/// The package once its Ready condition has this status and reason.
async fn package_with_condition(cluster: &Cluster, name: &str, status: &str, reason: &str) -> JackalPackage {
    let what = format!("{status} for {reason}");
    let has_ready_condition = |package: &JackalPackage| {
        let conditions = &package.status.as_ref()?.conditions;
        has_ready_condition(conditions, package.metadata.generation, status, reason)
    };
    cluster.package_where(name, &what, has_ready_condition).await
}

/// The same for an image.
async fn image_with_condition(cluster: &Cluster, name: &str, status: &str, reason: &str) -> JackalImage {
    let what = format!("{status} for {reason}");
    let has_ready_condition = |image: &JackalImage| {
        let conditions = &image.status.as_ref()?.conditions;
        has_ready_condition(conditions, image.metadata.generation, status, reason)
    };
    cluster.image_where(name, &what, has_ready_condition).await
}

async fn stop(mut controller: Operator) {
    controller.signal("TERM");
    controller.ends(SOON).await;
}

/// Objects with every field of their specs.
const EVERY_PACKAGE_FIELD: &str = "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata:
  name: every-field
  labels: {team: a}
  annotations: {jackal.dev/requestedAt: '2026-01-01T00:00:00Z'}
spec:
  version: 1.4.0
  description: everything that the shop runs
  architecture: amd64
  components:
  - name: web
    description: what visitors see
    required: true
    images:
    - nginx:1.25
    - image: ghcr.io/stefanprodan/podinfo:6.3.3
      platforms: [linux/amd64, linux/arm64]
    - {image: 'app:dev', source: Docker, nodeName: worker-1}
    - {image: 'tool:dev', source: Containerd, nodeSelector: {disk: ssd}}
  registry:
    address: 127.0.0.1:31999
    endpoint: registry.jackal.svc:5000
    repositoryPrefix: team-a
    secretRef: {name: push}
    certSecretRef: {name: ca}
    insecure: false
  imagePullSecrets: [{name: ghcr}]
  serviceAccountName: builder
  sourceRegistries: [{host: 'registry.example.com:5000', certSecretRef: {name: source-ca}}]
  interval: 1h30m
  stallTimeout: 500ms
  suspend: true
  naming: Auto
  format: Zarf
  compression: Zstd
  deletionPolicy: Delete
  retention: {revisions: 5}
";
const EVERY_IMAGE_FIELD: &str = "apiVersion: jackal.dev/v1alpha1
kind: JackalImage
metadata:
  name: every-field
spec:
  image: app:dev
  source: Containerd
  nodeSelector: {disk: ssd}
  platforms: [linux/arm64]
  registry: {address: 127.0.0.1:31999, endpoint: 'registry.jackal.svc:5000', repositoryPrefix: team-a,
    secretRef: {name: push}, certSecretRef: {name: ca}, insecure: false}
  imagePullSecrets: [{name: ghcr}]
  serviceAccountName: builder
  sourceRegistries: [{host: 'registry.example.com:5000', certSecretRef: {name: source-ca}}]
  interval: 10s
  stallTimeout: 5m
  suspend: true
  naming: Zarf
  plainTag: false
  compression: Gzip
  deletionPolicy: Delete
";

#[tokio::test]
async fn states_from_creation_to_deletion() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let (repository, path) = (source.repository("team/app"), format!("{}/team/app", source.host));
    let large = image(&repository, "linux/amd64", noise(1, 4_000_000)).await;
    put(&repository, &large, Some("1")).await;
    let other = image(&repository, "linux/amd64", noise(2, 4_000_000)).await;
    put(&repository, &other, Some("2")).await;
    let to = Throttle::to(&registry.host, 200_000);
    let line = format!("{{image: '{path}:1'}}");
    let shop = |version: &str, more: &str| package("shop", version, &to.host, &[&line], more);

    // Before the first reconciliation.
    cluster.apply(EVERY_PACKAGE_FIELD);
    cluster.apply(EVERY_IMAGE_FIELD);
    assert_health(
        &cluster,
        "jkpkg/every-field",
        "package-every-field",
        "InProgress",
        "Progressing",
    );
    assert_health(
        &cluster,
        "jkimg/every-field",
        "image-every-field",
        "InProgress",
        "Progressing",
    );
    cluster.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=30s"]);
    let keeps = "deletionPolicy: Delete";
    cluster.apply(&shop("1.0.0", keeps));
    cluster.apply(&standalone_image("app", &format!("{path}:2"), &to.host, keeps));
    assert_health(&cluster, "jkpkg/shop", "package-created", "InProgress", "Progressing");
    assert_health(&cluster, "jkimg/app", "image-created", "InProgress", "Progressing");

    let flags = ["--insecure-registry", &source.host];
    let controller = cluster.controller(&flags);
    package_with_condition(&cluster, "shop", "Unknown", "Transferring").await;
    assert_health(
        &cluster,
        "jkpkg/shop",
        "package-transferring",
        "InProgress",
        "Progressing",
    );
    let moves = |image: &JackalImage| {
        image
            .status
            .as_ref()?
            .progress
            .as_ref()
            .filter(|far| far.done_bytes > 0)
            .map(drop)
    };
    cluster.image_where("app", "on its way", moves).await;
    assert_health(&cluster, "jkimg/app", "image-transferring", "InProgress", "Progressing");

    to.set_rate(0);
    cluster.ready("shop").await;
    cluster.image_ready("app").await;
    for (object, kind) in [("jkpkg/shop", "package"), ("jkimg/app", "image")] {
        cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", object]);
        assert_health(&cluster, object, &format!("{kind}-ready"), "Current", "Healthy");
    }

    // The existing content belongs to another owner.
    cluster.apply(&standalone_image("twin", &format!("{path}:2"), &to.host, ""));
    let twin = cluster.image_ready("twin").await.status.unwrap();
    assert!(twin.adopted);
    assert_health(&cluster, "jkimg/twin", "image-ready-adopted", "Current", "Healthy");

    let request = "reconcile.fluxcd.io/requestedAt=2026-01-02T00:00:00Z";
    let handled = Some("2026-01-02T00:00:00Z");
    cluster.kubectl(&["annotate", "jkpkg/shop", "jkimg/app", request]);
    let answered = |package: &JackalPackage| {
        (package.status.as_ref()?.last_handled_reconcile_at.as_deref() == handled).then_some(())
    };
    cluster.package_where("shop", "looked at again", answered).await;
    let answered =
        |image: &JackalImage| (image.status.as_ref()?.last_handled_reconcile_at.as_deref() == handled).then_some(());
    cluster.image_where("app", "looked at again", answered).await;
    cluster.ready("shop").await;
    assert_health(&cluster, "jkpkg/shop", "package-ready-requested", "Current", "Healthy");
    assert_health(&cluster, "jkimg/app", "image-ready-requested", "Current", "Healthy");

    let suspend = json!({ "spec": { "suspend": true } });
    cluster.patch::<JackalPackage>("shop", suspend.clone()).await;
    cluster.patch::<JackalImage>("app", suspend).await;
    package_with_condition(&cluster, "shop", "True", "Suspended").await;
    image_with_condition(&cluster, "app", "True", "Suspended").await;
    assert_health(
        &cluster,
        "jkpkg/shop",
        "package-suspended-ready",
        "Current",
        "Suspended",
    );
    assert_health(&cluster, "jkimg/app", "image-suspended-ready", "Current", "Suspended");
    let resume = json!({ "spec": { "suspend": false } });
    cluster.patch::<JackalPackage>("shop", resume.clone()).await;
    cluster.patch::<JackalImage>("app", resume).await;
    cluster.image_ready("app").await;
    package_with_condition(&cluster, "shop", "True", "Succeeded").await;

    // The next artifact is not published yet: little is sent for it, slowly enough to be observed.
    to.set_rate(1_000);
    cluster.apply(&shop("1.1.0", keeps));
    let publishes = |package: &JackalPackage| package.status.as_ref()?.publishing.clone();
    cluster.package_where("shop", "about to write", publishes).await;
    assert_health(
        &cluster,
        "jkpkg/shop",
        "package-publishing",
        "InProgress",
        "Progressing",
    );
    to.set_rate(0);
    package_with_condition(&cluster, "shop", "True", "Succeeded").await;

    // Edited and not yet reconciled: it is ready according to the last reconciliation.
    stop(controller).await;
    cluster.apply(&shop("1.2.0", keeps));
    cluster
        .patch::<JackalImage>("app", json!({ "spec": { "compression": "Gzip" } }))
        .await;
    assert_health(&cluster, "jkpkg/shop", "package-edited", "InProgress", "Progressing");
    assert_health(&cluster, "jkimg/app", "image-edited", "InProgress", "Progressing");

    // Deleted, and kept by the finalizer.
    cluster.kubectl(&["delete", "jkpkg/shop", "jkimg/app", "--wait=false"]);
    assert_health(&cluster, "jkpkg/shop", "package-deleting", "Terminating", "Progressing");
    assert_health(&cluster, "jkimg/app", "image-deleting", "Terminating", "Progressing");
    let _controller = cluster.controller(&flags);
    cluster.kubectl(&["wait", "--for=delete", "--timeout=55s", "jkpkg/shop", "jkimg/app"]);
}

#[tokio::test]
async fn states_of_failed_and_suspended_objects() {
    let cluster = Cluster::new().await;
    let registry = TestRegistry::start(Version::V28);
    let _controller = cluster.controller(&["--insecure-registry", "127.0.0.1:1"]);
    let nowhere = "127.0.0.1:1/team/app:1";
    let wrong = "Team/App:1";
    for (name, image, reason, state, kstatus) in [
        ("failing", nowhere, "", "failing", "InProgress"),
        ("stalled", wrong, "InvalidReference", "stalled", "Failed"),
    ] {
        cluster.apply(&package(
            name,
            "1",
            &registry.host,
            &[&format!("{{image: '{image}'}}")],
            "",
        ));
        cluster.apply(&standalone_image(name, image, &registry.host, ""));
        package_with_condition(&cluster, name, "False", reason).await;
        image_with_condition(&cluster, name, "False", reason).await;
        assert_health(
            &cluster,
            &format!("jkpkg/{name}"),
            &format!("package-{state}"),
            kstatus,
            "Degraded",
        );
        assert_health(
            &cluster,
            &format!("jkimg/{name}"),
            &format!("image-{state}"),
            kstatus,
            "Degraded",
        );
    }
    let suspend = "suspend: true";
    cluster.apply(&package(
        "rests",
        "1",
        &registry.host,
        &[&format!("{{image: '{nowhere}'}}")],
        suspend,
    ));
    cluster.apply(&standalone_image("rests", nowhere, &registry.host, suspend));
    package_with_condition(&cluster, "rests", "False", "Suspended").await;
    image_with_condition(&cluster, "rests", "False", "Suspended").await;
    assert_health(&cluster, "jkpkg/rests", "package-suspended", "InProgress", "Suspended");
    assert_health(&cluster, "jkimg/rests", "image-suspended", "InProgress", "Suspended");
}

#[tokio::test]
async fn states_of_images_on_nodes() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let [old, classic, _] = DockerEngine::all();
    let (one, both) = (unique("app:one"), unique("app:both"));
    old.load(&layered(&one, "one").archive());
    old.load(&layered(&both, "of n1").archive());
    classic.load(&layered(&both, "of n2").archive());
    let _controller = cluster.controller(&[]);
    let _agents = [
        cluster.agent("n1", &old.host, &["--docker-root", "/nowhere"]),
        cluster.agent("n2", &classic.host, &[]),
        // Its engine is down.
        cluster.agent("n3", "unix:///run/jackal-nobody.sock", &[]),
    ];
    for node in ["n1", "n2", "n3"] {
        let lease = format!("jackal-agent-{node}");
        eventually(SOON, &format!("the agent of {node} is registered"), async || {
            let found = cluster.api::<Lease>().get_opt(&lease).await.unwrap();
            found.map(drop).ok_or_else(|| "no lease".to_owned())
        })
        .await;
    }
    cluster.apply(&standalone_image("both", &both, &registry.host, "source: Docker"));
    let line = format!("{{image: '{both}', source: Docker}}");
    cluster.apply(&package("both", "1", &registry.host, &[&line], ""));
    let answered = |image: &JackalImage| {
        let status = image.status.as_ref()?;
        let reported = status.candidates.iter().any(|candidate| candidate.message.is_some());
        (reported && condition(&status.conditions, "Ready")?.reason == "AmbiguousSource").then_some(())
    };
    cluster
        .image_where("both", "ambiguous, and the third node has answered", answered)
        .await;
    package_with_condition(&cluster, "both", "False", "AmbiguousSource").await;
    assert_health(&cluster, "jkpkg/both", "package-ambiguous", "InProgress", "Degraded");
    assert_health(&cluster, "jkimg/both", "image-ambiguous", "InProgress", "Degraded");

    cluster.apply(&standalone_image(
        "one",
        &one,
        &registry.host,
        "source: Docker\n  nodeName: n1",
    ));
    let status = cluster.image_ready("one").await.status.unwrap();
    assert!(
        status.method_reason.is_some() && status.assignment.is_some(),
        "{status:?}"
    );
    assert_health(&cluster, "jkimg/one", "image-ready-of-a-node", "Current", "Healthy");
    for (engine, name) in [(&old, &one), (&old, &both), (&classic, &both)] {
        engine.run(&["image", "rm", "--force", name]);
    }
}

#[tokio::test]
async fn states_of_planned_deletions() {
    let (cluster, source) = (Cluster::new().await, TestRegistry::start(Version::V31));
    multi_platform(&source.repository("team/app"), "1").await;
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    // It deletes nothing.
    let registry = TestRegistry::start_keeping(Version::V31);
    let one = "retention: {revisions: 1}";
    let shop = |version: &str, more: &str| package("shop", version, &registry.host, &[&line], more);
    let flags = |delay| ["--insecure-registry", &source.host, "--garbage-delay", delay];

    let controller = cluster.controller(&flags("1h"));
    cluster.apply(&shop("1", one));
    cluster.ready("shop").await;
    cluster.apply(&shop("2", one));
    let planned = |package: &JackalPackage| package.status.as_ref()?.garbage.first()?.delete_after.clone();
    cluster.package_where("shop", "in possession of a plan", planned).await;
    cluster.ready("shop").await;
    assert_health(&cluster, "jkpkg/shop", "package-garbage-planned", "Current", "Healthy");
    stop(controller).await;

    let _controller = cluster.controller(&flags("0s"));
    cluster.apply(&shop("3", one));
    let kept = |package: &JackalPackage| {
        package
            .status
            .as_ref()?
            .garbage
            .iter()
            .find_map(|entry| entry.kept.clone())
    };
    cluster
        .package_where("shop", "told that nothing is deleted", kept)
        .await;
    cluster.ready("shop").await;
    assert_health(&cluster, "jkpkg/shop", "package-garbage-kept", "Current", "Healthy");

    // Deleted with its artifacts kept, and applied again: the existing content is not its own. Then it moves.
    cluster.kubectl(&["delete", "jkpkg/shop", "--timeout=30s"]);
    cluster.apply(&shop("3", ""));
    cluster.ready("shop").await;
    cluster.apply(&shop("4", "").replace("insecure: true", "insecure: true, repositoryPrefix: moved"));
    let status = package_with_condition(&cluster, "shop", "True", "Succeeded")
        .await
        .status
        .unwrap();
    let [_, before] = &status.history[..] else {
        panic!("{:?}", status.history)
    };
    assert!(before.adopted && before.repository.is_some(), "{before:?}");
    assert_health(&cluster, "jkpkg/shop", "package-moved", "Current", "Healthy");
}

#[tokio::test]
async fn states_of_a_package_from_an_archive() {
    let packages = Packages::new().await;
    let (workspace, source) = (&packages.workspace, &packages.registry.host);
    std::fs::copy(signing_file("cosign.key"), workspace.path("cosign.key")).unwrap();
    let text = std::fs::read_to_string(workspace.path("package.yaml")).unwrap();
    workspace.text_report(&text, source, &[source], &["--key", "cosign.key"]);
    let (cluster, target) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", source]);
    let key = std::fs::read_to_string(signing_file("cosign.pub")).unwrap();
    let package = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
        "spec": {
            "from": { "archive": { "oci": packages.reference } },
            "architecture": "amd64", "naming": "Plain",
            "registry": { "address": target.host, "insecure": true },
            "verify": [{ "publicKeys": [{ "inline": key }] }],
        },
    });
    cluster.apply(&package.to_string());
    let status = cluster.ready("shop").await.status.unwrap();
    assert_health(&cluster, "jkpkg/shop", "package-archive", "Current", "Healthy");
    let image = format!("jkimg/{}", status.images[0].resource);
    assert_health(&cluster, &image, "image-archive", "Current", "Healthy");
}
