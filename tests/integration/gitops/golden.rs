//! Objects of earlier versions in `tests/compat`: tools report the same health, and the current API server accepts
//! them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Health;
use crate::support::cluster::Cluster;

/// The files of the set, by name.
fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compat/v1alpha1");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    assert!(files.len() >= 20, "the set has {} objects", files.len());
    files
}

/// The value of a line `# KEY: VALUE` of a file.
fn noted(file: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("# ")?.strip_prefix(key)?.strip_prefix(": "));
    value
        .unwrap_or_else(|| panic!("{} has no line `# {key}: ...`", file.display()))
        .to_owned()
}

#[test]
fn objects_of_earlier_versions_keep_their_health() {
    let files = files();
    let names: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    for (file, verdict) in files.iter().zip(Health::of(&names)) {
        let expected = Health::new(&noted(file, "kstatus"), &noted(file, "argocd"));
        assert_eq!(verdict, expected, "{}", file.display());
    }
}

#[tokio::test]
async fn objects_of_earlier_versions_are_accepted_unchanged() {
    let cluster = Cluster::new().await;
    for file in files() {
        let object: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let shown = file.display();
        let kind = object["kind"].as_str().unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let mut fresh = serde_json::json!({
            "apiVersion": object["apiVersion"], "kind": kind, "metadata": { "name": name }, "spec": object["spec"],
        });
        cluster
            .try_apply_with(&fresh.to_string(), &["--dry-run=server"])
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        // No operator runs in this namespace, so the objects do not change.
        cluster.apply(&fresh.to_string());
        fresh["status"] = object["status"].clone();
        cluster
            .try_apply_with(&fresh.to_string(), &["--subresource=status", "--validate=strict"])
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let existing = cluster.kubectl(&[
            "get",
            &format!("{}.jackal.dev", kind.to_lowercase()),
            name,
            "--output",
            "json",
        ]);
        let existing: Value = serde_json::from_str(&existing).unwrap();
        assert_eq!(existing["spec"], object["spec"], "{shown}");
        assert_eq!(existing["status"], object["status"], "{shown}");
    }
}
