//! Storage classes and sizes.

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::{Facts, Status, archive, expect, kubeadm, object};
use crate::bootstrap::preflight::facts::{Unread, Wanted};
use crate::bootstrap::preflight::judge;
use crate::bootstrap::preflight::report::Check;

pub(super) fn class(name: &str, provisioner: &str, is_default: bool) -> StorageClass {
    object(json!({
        "metadata": { "name": name, "annotations": { "storageclass.kubernetes.io/is-default-class": is_default.to_string() } },
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer",
    }))
}

fn check(facts: &Facts, wanted: &Wanted, name: &str) -> Check {
    judge(facts, Some(&archive()), wanted).check(name).unwrap().clone()
}

fn named(name: &str) -> Wanted {
    Wanted {
        storage_class: Some(name.to_owned()),
        ..Wanted::default()
    }
}

#[test]
fn the_default_class_or_the_named_one() {
    let mut facts = kubeadm();
    expect(
        &facts,
        "storage-class",
        Status::Ok,
        &[
            "standard, provisioner ebs.csi.aws.com",
            "when the registry's pod is scheduled",
        ],
    );
    facts.storage_classes = Ok(vec![class("slow", "nfs.csi.k8s.io", false)]);
    expect(
        &facts,
        "storage-class",
        Status::Failure,
        &["no default storage class; there are: slow", "--storage-class"],
    );
    assert_eq!(check(&facts, &named("slow"), "storage-class").status, Status::Ok);
    let absent = check(&facts, &named("fast"), "storage-class");
    assert_eq!(absent.status, Status::Failure);
    assert!(
        absent.found.contains("no storage class fast; there are: slow"),
        "{absent:?}"
    );
    facts.storage_classes = Ok(Vec::new());
    expect(&facts, "storage-class", Status::Failure, &["there are: none"]);
    facts.storage_classes = Err(Unread::Forbidden);
    expect(
        &facts,
        "storage-class",
        Status::Warning,
        &["may not read storageclasses"],
    );
    let ephemeral = Wanted {
        ephemeral: true,
        ..Wanted::default()
    };
    assert_eq!(check(&facts, &ephemeral, "storage-class").status, Status::Warning);
    // Of several default classes, the API server takes the newest.
    let mut old = class("old", "a.example", true);
    let mut new = class("new", "b.example", true);
    for (class, time) in [(&mut old, "2025-01-01T00:00:00Z"), (&mut new, "2026-01-01T00:00:00Z")] {
        class.metadata.creation_timestamp = Some(object(json!(time)));
    }
    facts.storage_classes = Ok(vec![new, old]);
    expect(&facts, "storage-class", Status::Ok, &["new, provisioner b.example"]);
}

#[test]
fn provisioners_that_make_no_volumes() {
    let mut facts = kubeadm();
    facts.storage_classes = Ok(vec![class("gp2", "kubernetes.io/aws-ebs", true)]);
    expect(&facts, "storage-class", Status::Ok, &["gp2"]);
    facts.drivers = Ok(Vec::new());
    expect(
        &facts,
        "storage-class",
        Status::Failure,
        &["needs the CSI driver ebs.csi.aws.com", "install ebs.csi.aws.com"],
    );
    facts.drivers = Err(Unread::Forbidden);
    expect(&facts, "storage-class", Status::Ok, &["gp2"]);
    facts.storage_classes = Ok(vec![class("local-path", "rancher.io/local-path", true)]);
    expect(
        &facts,
        "storage-class",
        Status::Warning,
        &["folders of one node", "cannot move"],
    );
    facts.storage_classes = Ok(vec![class("manual", "kubernetes.io/no-provisioner", true)]);
    expect(
        &facts,
        "storage-class",
        Status::Failure,
        &["no volume of it is available", "make a PersistentVolume"],
    );
    let volume = |class: &str, phase: &str, size: &str| {
        object(json!({
            "metadata": { "name": "disk1" },
            "spec": { "storageClassName": class, "capacity": { "storage": size } },
            "status": { "phase": phase },
        }))
    };
    for (class, phase, size, status) in [
        ("manual", "Available", "20Gi", Status::Ok),
        ("manual", "Available", "10Gi", Status::Failure),
        ("manual", "Bound", "20Gi", Status::Failure),
        ("other", "Available", "20Gi", Status::Failure),
    ] {
        facts.volumes = Ok(vec![volume(class, phase, size)]);
        expect(&facts, "storage-class", status, &["manual"]);
    }
    // A class may exist only in volumes.
    facts.storage_classes = Ok(Vec::new());
    facts.volumes = Ok(vec![volume("manual", "Available", "30Gi")]);
    assert_eq!(check(&facts, &named("manual"), "storage-class").status, Status::Ok);
}

#[test]
fn the_claim_and_the_archive() {
    let facts = kubeadm();
    for (size, status) in [
        (None, Status::Ok),
        (Some(4 << 30), Status::Ok),
        (Some((3 << 30) + 1), Status::Warning),
        (Some(2 << 30), Status::Failure),
    ] {
        let wanted = Wanted {
            storage_size: size,
            ..Wanted::default()
        };
        let check = check(&facts, &wanted, "claim-size");
        assert_eq!(check.status, status, "{check:?}");
    }
}
