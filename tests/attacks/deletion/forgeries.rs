//! Attacks with forged statuses and owner references.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{Setup, operator};
use crate::support::cluster::{Cluster, image_stalled};
use crate::support::image::multi_platform;
use crate::support::objects::{ADDRESS, package, standalone_image};
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::wait_for_next_second;
use crate::tenancy::EXCLUSIVE;

pub async fn a_forged_image_status() {
    let setup = Setup::open("any").await;
    let (index, _) = multi_platform(&setup.operator_registry.repository("theirs/app"), "1").await;
    let more = "deletionPolicy: Delete\n  suspend: true";
    setup.tenant.apply(&standalone_image("app", &setup.image(), more));
    let status = json!({ "status": {
        "name": format!("{ADDRESS}/theirs/app:1"), "digest": index.digest(), "naming": "Plain", "observedGeneration": 1,
        "registry": { "address": ADDRESS, "repository": "theirs/app" },
    } });
    let api = setup.tenant.api::<JackalImage>();
    let patch = Patch::Merge(status);
    api.patch_status("app", &PatchParams::default(), &patch).await.unwrap();
    // Waits for the finalizer. A forged status that exists from the beginning would have the same effect.
    let finalized = |image: &JackalImage| image.metadata.finalizers.as_ref().map(|_| ());
    setup
        .tenant
        .image_where("app", "kept until it is cleared", finalized)
        .await;
    setup.delete("jkimg", "app").await;
    assert_eq!(
        setup.digest_in_registry("theirs/app:1").await.as_ref(),
        Some(index.digest())
    );
    setup
        .wait_for_event("app", "the object's spec leads to another name now")
        .await;
}

pub async fn a_forged_package_history() {
    let setup = Setup::open("namespace").await;
    let (victim, _operator) = setup.victim().await;
    victim.apply(&package("shop", "1", &[&setup.line()], ""));
    let theirs = victim.ready("shop").await.status.unwrap().artifact.unwrap();
    let path = format!("{}/shop", victim.namespace);
    let more = "deletionPolicy: Delete\n  suspend: true";
    setup.tenant.apply(&package("shop", "1", &[&setup.line()], more));
    let status = json!({ "status": {
        "history": [{ "revision": theirs.revision, "digest": theirs.digest, "reason": "", "completedAt": "2026-01-01T00:00:00Z" }],
        "registry": { "address": ADDRESS, "repository": path },
    } });
    let finalized = |package: &JackalPackage| package.metadata.finalizers.as_ref().map(|_| ());
    setup
        .tenant
        .package_where("shop", "kept until it is cleared", finalized)
        .await;
    let api = setup.tenant.api::<JackalPackage>();
    let patch = Patch::Merge(status);
    api.patch_status("shop", &PatchParams::default(), &patch).await.unwrap();
    setup.delete("jkpkg", "shop").await;
    assert!(setup.digest_in_registry(&format!("{path}:1")).await.is_some());
    victim.ready("shop").await;
}

/// One operator watches both, and the victim names its registry differently.
pub async fn a_forged_history_with_a_registry_alias() {
    let _guard = EXCLUSIVE.lock().await;
    let victim = Cluster::exclusive().await;
    let tenant = victim.another_namespace().await;
    let [operator_registry, source] = [Version::V31, Version::V28].map(TestRegistry::start);
    multi_platform(&source.repository("team/app"), "1").await;
    let _operator = operator(&victim, &operator_registry, &source, "any");
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    let otherwise = format!("registry: {{address: '{}', insecure: true}}", operator_registry.host);
    victim.apply(&package("shop", "1", &[&line], &otherwise));
    let theirs = victim.ready("shop").await.status.unwrap().artifact.unwrap();
    let more = "deletionPolicy: Delete\n  suspend: true";
    tenant.apply(&package("shop", "2", &[&line], more));
    let finalized = |package: &JackalPackage| package.metadata.finalizers.as_ref().map(|_| ());
    tenant
        .package_where("shop", "kept until it is cleared", finalized)
        .await;
    let status = json!({ "status": {
        "history": [{ "revision": theirs.revision, "digest": theirs.digest, "reason": "", "completedAt": "2026-01-01T00:00:00Z" }],
        "registry": { "address": ADDRESS, "repository": "shop" },
    } });
    let api = tenant.api::<JackalPackage>();
    let patch = Patch::Merge(status);
    api.patch_status("shop", &PatchParams::default(), &patch).await.unwrap();
    tenant.kubectl(&["delete", "jkpkg", "shop", "--timeout=60s"]);
    let existing = operator_registry.repository("shop").head_manifest("1").await.unwrap();
    assert!(existing.is_some(), "the victim's artifact");
    victim.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=60s"]);
}

pub async fn a_forged_owner_reference() {
    let _guard = EXCLUSIVE.lock().await;
    let victim = Cluster::exclusive().await;
    let tenant = victim.another_namespace().await;
    let [operator_registry, source] = [Version::V31, Version::V28].map(TestRegistry::start);
    multi_platform(&source.repository("team/app"), "1").await;
    let _operator = operator(&victim, &operator_registry, &source, "any");
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    victim.apply(&package("shop", "1", &[&line], ""));
    let theirs = victim.ready("shop").await;
    let uid = theirs.metadata.uid.clone().unwrap();
    let before = operator_registry.crane("digest", "team/app:1");
    wait_for_next_second().await;
    // Other content for the same tag.
    let owned = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage",
        "metadata": {
            "name": "app",
            "labels": { "jackal.dev/package-uid": uid, "jackal.dev/package-name": "shop", "app.kubernetes.io/managed-by": "jackal-operator" },
            "ownerReferences": [{ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "name": "shop", "uid": uid, "controller": true }],
        },
        "spec": { "image": format!("{}/team/app:1", source.host), "platforms": ["linux/arm64"], "deletionPolicy": "Delete" },
    });
    tenant.apply(&owned.to_string());
    let message = image_stalled(&tenant, "app", "RepositoryConflict").await;
    assert!(message.contains("belongs to the older image"), "{message}");
    assert_eq!(operator_registry.crane("digest", "team/app:1"), before);
    for cluster in [&tenant, &victim] {
        cluster.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=60s"]);
    }
}
