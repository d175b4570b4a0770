use std::path::Path;

use serde_json::json;

use super::*;
use crate::oci::Digest;

/// A storage with the files that distribution writes.
struct Storage(tempfile::TempDir);

impl Storage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn settings(&self) -> Settings {
        Settings {
            root: self.root().to_owned(),
            min_age: Duration::ZERO,
            quarantine: Duration::from_millis(50),
            dry_run: false,
        }
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.root().join("docker/registry/v2").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn blob(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let hex = digest.hex();
        self.write(&format!("blobs/sha256/{}/{hex}/data", &hex[..2]), content);
        digest
    }

    fn layer(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = self.blob(content);
        self.write(
            &format!("repositories/{repository}/_layers/sha256/{}/link", digest.hex()),
            digest.as_str().as_bytes(),
        );
        digest
    }

    /// The digest of a manifest that names the digests.
    fn manifest(&self, repository: &str, names: &[&Digest]) -> Digest {
        let layers: Vec<_> = names
            .iter()
            .map(|digest| json!({ "digest": digest.as_str() }))
            .collect();
        self.link(
            repository,
            json!({ "layers": layers, "a": repository }).to_string().as_bytes(),
        )
    }

    fn link(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = self.blob(content);
        self.write(&revision(repository, &digest), digest.as_str().as_bytes());
        digest
    }

    fn has(&self, digest: &Digest) -> bool {
        Store::of(self.root()).blob(digest).join("data").exists()
    }
}

fn revision(repository: &str, digest: &Digest) -> String {
    format!(
        "repositories/{repository}/_manifests/revisions/sha256/{}/link",
        digest.hex()
    )
}

async fn run(settings: &Settings) -> Report {
    collect(settings, &CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn only_what_no_manifest_names_is_deleted() {
    let storage = Storage::new();
    let (used, shared, unused) = (
        storage.layer("a/b", b"used"),
        storage.layer("a/b", b"shared"),
        storage.layer("c", b"unused"),
    );
    let (deep, child) = (storage.layer("c", b"deep"), json!({ "config": {} }));
    let first = storage.manifest("a/b", &[&used, &shared]);
    // A manifest that an index lists counts, even when its repository does not have it any more.
    let child = storage.blob(
        json!({ "layers": [{ "digest": deep.as_str() }], "child": child })
            .to_string()
            .as_bytes(),
    );
    let index = storage.link(
        "c",
        json!({ "manifests": [{ "digest": child.as_str() }] })
            .to_string()
            .as_bytes(),
    );
    let deleted = storage.manifest("c", &[&unused, &shared]);
    std::fs::remove_file(storage.root().join("docker/registry/v2").join(revision("c", &deleted))).unwrap();
    let dry = Settings {
        dry_run: true,
        ..storage.settings()
    };
    let would = run(&dry).await;
    assert_eq!((would.set_aside.blobs, would.manifests, would.blobs), (2, 2, 8));
    assert!(storage.has(&unused) && last_run(storage.root()).is_none());
    let report = run(&storage.settings()).await;
    assert_eq!(report.deleted, would.set_aside);
    assert_eq!((report.deleted.blobs, report.restored.blobs), (2, 0));
    for kept in [&used, &shared, &deep, &first, &child, &index] {
        assert!(storage.has(kept), "{kept}");
    }
    assert!(!storage.has(&unused) && !storage.has(&deleted));
    assert!(last_run(storage.root()).is_some());
    assert_eq!(
        std::fs::read_dir(storage.root().join("jackal-garbage"))
            .unwrap()
            .count(),
        1
    );
    assert_eq!(run(&storage.settings()).await.set_aside.blobs, 0);
}

#[tokio::test]
async fn a_young_blob_and_a_blob_with_a_young_link_stay() {
    let storage = Storage::new();
    let (old, mounted, young) = (
        storage.layer("a", b"old"),
        storage.layer("a", b"mounted"),
        storage.blob(b"young"),
    );
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let age = |path: &Path| {
        std::fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap()
    };
    for digest in [&old, &mounted] {
        age(&Store::of(storage.root()).blob(digest).join("data"));
        age(&storage.root().join(format!(
            "docker/registry/v2/repositories/a/_layers/sha256/{}/link",
            digest.hex()
        )));
    }
    // Another repository mounted it.
    storage.layer("b/c", b"mounted");
    age(&Store::of(storage.root()).blob(&mounted).join("data"));
    let settings = Settings {
        min_age: Duration::from_secs(3600),
        ..storage.settings()
    };
    assert_eq!(run(&settings).await.deleted.blobs, 1);
    assert_eq!(
        [&old, &mounted, &young].map(|digest| storage.has(digest)),
        [false, true, true]
    );
}

#[tokio::test]
async fn a_manifest_that_is_stored_meanwhile_gets_its_blobs_back() {
    let storage = Storage::new();
    let (blob, other) = (storage.layer("a", b"blob"), storage.layer("a", b"other"));
    let settings = Settings {
        quarantine: Duration::from_secs(3600),
        ..storage.settings()
    };
    let stop = CancellationToken::new();
    let ((marks, moved), report) = begin(&settings, &stop).unwrap();
    assert!(moved && report.set_aside.blobs == 2 && !storage.has(&blob));
    // The registry had checked the blob before it was moved.
    storage.manifest("a", &[&blob]);
    let (_, report) = watch(settings.root.clone(), marks, &stop).unwrap();
    assert_eq!(report.restored.blobs, 1);
    assert!(storage.has(&blob) && !storage.has(&other));
    // A process that begins later does the same, also for a blob that a client has uploaded again.
    storage.manifest("b", &[&other]);
    storage.blob(b"other");
    let (_, report) = begin(&settings, &stop).unwrap();
    assert_eq!((report.restored.blobs, report.deleted.blobs), (0, 0));
    assert!(storage.has(&other));
    assert_eq!(
        Quarantine::of(storage.root())
            .blobs(&other)
            .unwrap()
            .iter()
            .filter(|path| path.exists())
            .count(),
        0
    );
}

#[tokio::test]
async fn an_interrupted_run_is_continued() {
    let storage = Storage::new();
    let blob = storage.layer("a", b"blob");
    let stop = CancellationToken::new();
    let ((_, moved), _) = begin(&storage.settings(), &stop).unwrap();
    assert!(moved);
    // Not due yet.
    let settings = Settings {
        quarantine: Duration::from_secs(3600),
        ..storage.settings()
    };
    assert_eq!(run(&settings).await.deleted.blobs, 0);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(run(&storage.settings()).await.deleted.blobs, 1);
    assert!(!storage.has(&blob));
    stop.cancel();
    storage.blob(b"more");
    let stopped = collect(&storage.settings(), &stop).await.unwrap_err();
    assert!(
        stopped.message.contains("the next run continues"),
        "{}",
        stopped.message
    );
}

#[tokio::test]
async fn nothing_is_deleted_while_a_manifest_cannot_be_read() {
    let storage = Storage::new();
    let blob = storage.blob(b"blob");
    let broken = storage.link("team/app", b"");
    let error = collect(&storage.settings(), &CancellationToken::new())
        .await
        .unwrap_err();
    let words = format!("the manifest {broken} of team/app cannot be read: it is not JSON");
    assert!(error.message.contains(&words), "{}", error.message);
    assert!(storage.has(&blob));
    // A link without content is no manifest.
    std::fs::remove_dir_all(Store::of(storage.root()).blob(&broken)).unwrap();
    assert_eq!(run(&storage.settings()).await.deleted.blobs, 1);
}
