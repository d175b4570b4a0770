//! `garbage-collect`, beside registries that are written meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jackal_operator::oci::Digest;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::support::image::{multi_platform, noise};
use crate::support::independent::pull_and_verify;
use crate::support::install_tls;
use crate::support::process::Server;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::{CommandResult as _, Workspace};

/// A client that pushes as docker does: it asks for each blob, and uploads those that are missing.
struct Pusher {
    client: Client,
    base: String,
}

impl Pusher {
    fn to(registry: &TestRegistry, repository: &str) -> Self {
        install_tls();
        Self {
            client: Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
            base: format!("http://{}/v2/{repository}", registry.host),
        }
    }

    async fn has(&self, digest: &Digest) -> bool {
        let asked = self.client.head(format!("{}/blobs/{digest}", self.base)).send().await;
        asked.unwrap().status() == StatusCode::OK
    }

    /// Uploads the blob if it is missing. Returns whether it was.
    async fn blob(&self, content: &Bytes) -> bool {
        let digest = Digest::of(content);
        if self.has(&digest).await {
            return false;
        }
        let begun = self
            .client
            .post(format!("{}/blobs/uploads/", self.base))
            .send()
            .await
            .unwrap();
        let location = begun.headers()["location"].to_str().unwrap();
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = begun
            .url()
            .join(&format!("{location}{separator}digest={digest}"))
            .unwrap();
        let ended = self.client.put(url).body(content.clone()).send().await.unwrap();
        assert_eq!(ended.status(), StatusCode::CREATED);
        true
    }

    /// Sends the manifest. Returns the code of the error, if it is refused.
    async fn manifest(&self, manifest: &str) -> Result<(), String> {
        let digest = Digest::of(manifest.as_bytes());
        let request = self.client.put(format!("{}/manifests/{digest}", self.base));
        let request = request.header("content-type", "application/vnd.oci.image.manifest.v1+json");
        let answer = request.body(manifest.to_owned()).send().await.unwrap();
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(answer.json::<Value>().await.unwrap()["errors"][0]["code"]
                .as_str()
                .unwrap()
                .to_owned()),
        }
    }

    async fn delete(&self, manifest: &str) {
        let digest = Digest::of(manifest.as_bytes());
        let answer = self
            .client
            .delete(format!("{}/manifests/{digest}", self.base))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }
}

/// The blobs of an image, config first, and its manifest.
fn image(seed: u64, layers: usize) -> (Vec<Bytes>, String) {
    let config = Bytes::from(json!({ "architecture": "amd64", "os": "linux", "seed": seed }).to_string());
    let layers = (0..layers as u64).map(|number| noise(seed * 100 + number, 50_000));
    let blobs: Vec<Bytes> = [config].into_iter().chain(layers).collect();
    let entry = |kind: &str, content: &Bytes| json!({ "mediaType": kind, "digest": Digest::of(content).as_str(), "size": content.len() });
    let layers: Vec<Value> = blobs[1..]
        .iter()
        .map(|blob| entry("application/vnd.oci.image.layer.v1.tar", blob))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": entry("application/vnd.oci.image.config.v1+json", &blobs[0]), "layers": layers,
    });
    (blobs, manifest.to_string())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// Makes everything in the storage two hours older.
fn age(registry: &TestRegistry) {
    let then = SystemTime::now() - Duration::from_secs(7200);
    for path in files(&registry.storage().join("docker")) {
        if let Ok(file) = std::fs::File::options().append(true).open(path) {
            file.set_modified(then).unwrap();
        }
    }
}

fn space(registry: &TestRegistry) -> u64 {
    files(&registry.storage())
        .iter()
        .filter_map(|path| path.metadata().ok())
        .map(|data| data.len())
        .sum()
}

fn collect(workspace: &Workspace, registry: &TestRegistry, more: &[&str]) -> Value {
    let root = registry.storage();
    let collect = [
        "garbage-collect",
        root.to_str().unwrap(),
        "--output=json",
        "--min-age=1h",
    ];
    let output = workspace.run(&[&collect[..], more].concat());
    output.succeeded();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn space_is_freed_and_can_be_filled_again() {
    for version in VERSIONS {
        let (registry, workspace) = (TestRegistry::start(version), Workspace::new());
        let pusher = Pusher::to(&registry, "team/app");
        let (index, _) = multi_platform(&registry.repository("team/kept"), "1").await;
        let (blobs, manifest) = image(7, 4);
        for blob in &blobs {
            pusher.blob(blob).await;
        }
        pusher.manifest(&manifest).await.unwrap();
        let full = space(&registry);
        assert_eq!(
            collect(&workspace, &registry, &["--quarantine=0s"])["deleted"]["blobs"],
            0
        );
        pusher.delete(&manifest).await;
        // Young blobs stay.
        assert_eq!(
            collect(&workspace, &registry, &["--quarantine=0s"])["setAside"]["blobs"],
            0
        );
        age(&registry);
        let would = collect(&workspace, &registry, &["--dry-run"]);
        assert_eq!(would["setAside"]["blobs"], 6, "{would}");
        assert!(pusher.has(&Digest::of(&blobs[1])).await);
        let report = collect(&workspace, &registry, &["--quarantine=1s"]);
        assert_eq!(
            (&report["deleted"], &report["restored"]["blobs"]),
            (&would["setAside"], &json!(0))
        );
        assert!(
            full - space(&registry) > 200_000,
            "{version:?}: {full} {}",
            space(&registry)
        );
        // The registry, which was not restarted, knows what it has.
        for blob in &blobs {
            assert!(!pusher.has(&Digest::of(blob)).await);
        }
        assert_eq!(
            pusher.manifest(&manifest).await,
            Err("MANIFEST_BLOB_UNKNOWN".to_owned())
        );
        assert_eq!(
            pull_and_verify(&registry.host, "team/kept", "1").await.digest,
            index.digest().as_str()
        );
        for blob in &blobs {
            assert!(pusher.blob(blob).await);
        }
        pusher.manifest(&manifest).await.unwrap();
        let digest = Digest::of(manifest.as_bytes());
        assert_eq!(
            pull_and_verify(&registry.host, "team/app", digest.as_str())
                .await
                .blobs
                .len(),
            5
        );
    }
}

/// Blobs that are garbage when a run begins are used by images that are pushed during the run.
#[tokio::test]
async fn an_image_that_is_pushed_during_a_run_survives() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let workspace = Workspace::new();
        let images: Vec<_> = (1..=12)
            .map(|seed| (Pusher::to(&registry, &format!("team/app-{seed}")), image(seed, 3)))
            .collect();
        for (pusher, (blobs, manifest)) in &images {
            for blob in blobs {
                pusher.blob(blob).await;
            }
            pusher.manifest(manifest).await.unwrap();
            pusher.delete(manifest).await;
        }
        age(&registry);
        let root = registry.storage();
        let log = workspace.path("log");
        let arguments = [
            "garbage-collect",
            root.to_str().unwrap(),
            "--min-age=1h",
            "--quarantine=3s",
            "--interval=1s",
            "--log=debug",
        ];
        let program = PathBuf::from(env!("CARGO_BIN_EXE_jackal-operator"));
        let _collector = Server::start(&program, &arguments, &log);
        let mut refused = 0;
        for (number, (pusher, (blobs, manifest))) in images.iter().enumerate() {
            // The client asks before the run, during it, or after the blobs were set aside.
            tokio::time::sleep(Duration::from_millis(number as u64 * 7)).await;
            let mut attempts = 0;
            loop {
                for blob in blobs {
                    pusher.blob(blob).await;
                }
                match pusher.manifest(manifest).await {
                    Ok(()) => break,
                    Err(code) => assert_eq!(code, "MANIFEST_BLOB_UNKNOWN"),
                }
                refused += 1;
                attempts += 1;
                assert!(attempts < 5, "the image cannot be pushed");
            }
        }
        // Two ends of runs: what was set aside in the first one is deleted.
        let deleted = eventually(SOON, "a run ends after the pushes", async || {
            let log = std::fs::read_to_string(&log).unwrap();
            let runs = log.matches("collected the garbage").count();
            if runs >= 2 { Ok(log) } else { Err(log) }
        })
        .await;
        for (number, (_, (blobs, manifest))) in images.iter().enumerate() {
            let digest = Digest::of(manifest.as_bytes());
            let repository = format!("team/app-{}", number + 1);
            let pulled = pull_and_verify(&registry.host, &repository, digest.as_str()).await;
            assert_eq!(pulled.blobs.len(), blobs.len());
        }
        eprintln!("{version:?}: {refused} manifests were refused once\n{deleted}");
    }
}

#[tokio::test]
async fn a_killed_run_is_continued() {
    let (registry, workspace) = (TestRegistry::start(Version::V31), Workspace::new());
    let pusher = Pusher::to(&registry, "team/app");
    let (first, second) = (image(1, 2), image(2, 2));
    for (blobs, manifest) in [&first, &second] {
        for blob in blobs {
            pusher.blob(blob).await;
        }
        pusher.manifest(manifest).await.unwrap();
        pusher.delete(manifest).await;
    }
    age(&registry);
    let root = registry.storage();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_jackal-operator"));
    let arguments = [
        "garbage-collect",
        root.to_str().unwrap(),
        "--min-age=1h",
        "--quarantine=1h",
    ];
    let killed = Server::start(&program, &arguments, &workspace.path("log"));
    eventually(SOON, "the blobs are set aside", async || {
        match pusher.has(&Digest::of(&first.0[1])).await {
            false => Ok(()),
            true => Err("it is still there".to_owned()),
        }
    })
    .await;
    killed.signal("KILL");
    drop(killed);
    // An image with the same blobs, as if the registry had checked them before the run: it gets them back.
    for blob in &second.0 {
        pusher.blob(blob).await;
    }
    pusher.manifest(&second.1).await.unwrap();
    let report = collect(&workspace, &registry, &["--quarantine=0s"]);
    assert_eq!(report["deleted"]["blobs"], 4, "{report}");
    let digest = Digest::of(second.1.as_bytes());
    pull_and_verify(&registry.host, "team/app", digest.as_str()).await;
    assert!(!pusher.has(&Digest::of(&first.0[1])).await);
    // A manifest that cannot be read may name anything.
    let content = root.join(format!(
        "docker/registry/v2/blobs/sha256/{}/{}/data",
        &digest.hex()[..2],
        digest.hex()
    ));
    std::fs::write(content, "").unwrap();
    let refused = workspace.run(&["garbage-collect", root.to_str().unwrap(), "--quarantine=0s"]);
    refused.failed(
        1,
        &[
            &format!("the manifest {digest} of team/app cannot be read"),
            "delete it",
        ],
    );
    workspace
        .run(&["garbage-collect", "/nowhere"])
        .failed(2, &["/nowhere: not a directory"]);
}
