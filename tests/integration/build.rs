//! `build`: a package from a file, without a cluster.

mod content;
mod failures;
mod proxies;

use serde_json::Value;

use crate::containerd::node::Node;
use crate::docker::engines::{DockerEngine, Image, noise, required, tar};
use crate::support::image::{image, multi_platform, noise as seeded, put};
use crate::support::independent::pull_and_verify;
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{Workspace, stderr, stdout};

fn crane(arguments: &[&str]) -> String {
    run(program("JACKAL_BIN_CRANE"), arguments).trim().to_owned()
}

fn catalog(registry: &TestRegistry) -> String {
    crane(&["catalog", "--insecure", &registry.host])
}

async fn build_from(variable: &str) {
    let (source, older, newer) = (
        TestRegistry::start(Version::V31),
        TestRegistry::start(Version::V28),
        TestRegistry::start(Version::V31),
    );
    let (index, _) = multi_platform(&source.repository("shop/web"), "1").await;
    let engine = DockerEngine::all()
        .into_iter()
        .find(|engine| engine.host == required(variable))
        .unwrap();
    let name = format!("jackal-test-{:012x}/app:dev", fastrand::u64(..1 << 48));
    let content = tar(&[("large", noise(300_000)), ("name", name.as_bytes().to_vec())]);
    let made = Image::new(&name, vec![content]);
    engine.load(&made.archive());
    let folder = Workspace::new().set("DOCKER_HOST", &engine.host);
    let web = format!("{}/shop/web:1", source.host);
    let text = folder.write_shop(&[
        format!("{{image: '{web}'}}"),
        format!("{{image: '{name}', source: Docker}}"),
    ]);

    let first = |to: &str| {
        let report = folder.build_report(&[
            "shop.yaml",
            "--to",
            to,
            "--insecure",
            "--insecure-registry",
            &source.host,
        ]);
        assert_eq!(report["changed"], true, "{report}");
        assert_eq!(report["failures"], Value::Array(vec![]));
        assert_eq!(report["images"][0]["digest"], index.digest().as_str());
        (
            report["digest"].as_str().unwrap().to_owned(),
            report["images"][1]["digest"].clone(),
        )
    };
    let repeated = |to: &str, expected: &str| {
        let report = folder.build_report(&[
            "shop.yaml",
            "--to",
            to,
            "--insecure",
            "--insecure-registry",
            &source.host,
        ]);
        assert_eq!(
            (&report["changed"], &report["movedBytes"], report["digest"].as_str()),
            (&Value::Bool(false), &Value::from(0), Some(expected))
        );
    };
    let layout = first("oci:out");
    for registry in [&older, &newer] {
        let to = format!("{}/team", registry.host);
        assert_eq!(first(&to), layout, "the same everywhere");
        repeated(&to, &layout.0);
        let existing = crane(&["manifest", "--insecure", &format!("{to}/shop:1.4.0")]);
        assert!(existing.contains(&layout.0), "{existing}");
        let pulled = pull_and_verify(&registry.host, "team/shop", "1.4.0").await;
        assert!(pulled.manifests.contains(&layout.0), "{pulled:?}");
        let report = folder.build_report(&[
            "shop.yaml",
            "--to",
            &to,
            "--insecure",
            "--insecure-registry",
            &source.host,
        ]);
        for row in report["images"].as_array().unwrap() {
            let name = row["name"].as_str().unwrap();
            assert_eq!(crane(&["digest", "--insecure", name]), row["digest"].as_str().unwrap());
        }
    }
    check_layout(&folder, &newer, &layout.0);
    let before = folder.files("out");
    repeated("oci:out", &layout.0);
    assert!(folder.files("out") == before, "a repeat wrote to the layout");

    // The same with text output, and from standard input.
    let to = format!("{}/team", older.host);
    let arguments = ["-", "--to", &to, "--insecure", "--insecure-registry", &source.host];
    let output = folder.run_with(&[&["build"], &arguments[..]].concat(), text.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = stdout(&output);
    assert!(lines.contains(&format!("{web} -> {to}/shop/web:1-jackal-")), "{lines}");
    assert!(
        lines.ends_with(&format!("team/shop:1.4.0 is {} (0 B sent)\n", layout.0)),
        "{lines}"
    );
    assert_eq!(stderr(&output), "", "nothing but results is said without a terminal");
}

/// Every blob has the digest in its name, and crane pushes all of them to a registry.
fn check_layout(folder: &Workspace, registry: &TestRegistry, package: &str) {
    let mut blobs = 0;
    for (path, (digest, _)) in folder.files("out") {
        if let Some((_, hex)) = path.split_once("/blobs/sha256/") {
            assert_eq!(digest.hex(), hex);
            blobs += 1;
        }
    }
    assert!(blobs > 10, "{blobs} blobs");
    // One entry at a time: crane mistakes an image's manifest for the package's file with the same digest, and does not
    // push it twice.
    let out = folder.path("out");
    let index: Value = serde_json::from_slice(&std::fs::read(out.join("index.json")).unwrap()).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    for (number, entry) in entries.iter().enumerate() {
        let one = folder.path(format!("one-{number}"));
        std::fs::create_dir(&one).unwrap();
        std::os::unix::fs::symlink(out.join("blobs"), one.join("blobs")).unwrap();
        std::fs::copy(out.join("oci-layout"), one.join("oci-layout")).unwrap();
        let mut index = index.clone();
        index["manifests"] = Value::Array(vec![entry.clone()]);
        std::fs::write(one.join("index.json"), index.to_string()).unwrap();
        let to = format!("{}/pushed/all:{number}", registry.host);
        crane(&["push", "--insecure", "--index", one.to_str().unwrap(), &to]);
        let by_digest = format!("{}/pushed/all@{}", registry.host, entry["digest"].as_str().unwrap());
        crane(&["manifest", "--insecure", &by_digest]);
    }
    let by_digest = format!("{}/pushed/all@{package}", registry.host);
    assert!(crane(&["manifest", "--insecure", &by_digest]).contains("jackal"));
    assert_eq!(entries.len(), 5, "two names each of two images, and the package");
}

#[tokio::test]
async fn a_tag_policy_also_selects_the_version() {
    let (source, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    let repository = source.repository("team/app");
    for (seed, tag) in [(1, "6.0.1"), (2, "6.1.0"), (3, "7.0.0"), (4, "latest")] {
        let document = image(&repository, "linux/amd64", seeded(seed, 1000)).await;
        put(&repository, &document, Some(tag)).await;
    }
    let folder = Workspace::new();
    let app = format!("{}/team/app", source.host);
    folder.write(
        "follows.yaml",
        format!(
            "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\n\
             spec:\n  versionFrom: {{image: '{app}'}}\n  components:\n  - name: web\n    \
             images: [{{image: '{app}', policy: {{semver: {{range: '>=6.0 <7'}}}}}}]\n"
        ),
    );
    let flags = ["--insecure", "--insecure-registry", &source.host, "--to", &to.host];
    let report = folder.build_report(&[&["follows.yaml"], &flags[..]].concat());
    assert_eq!(report["version"], "6.1.0");
    assert_eq!(report["images"][0]["image"], format!("{app}:6.1.0"));
    let existing = to.repository("shop").head_manifest("6.1.0").await.unwrap();
    assert!(existing.is_some());
}

#[tokio::test]
async fn build_reads_from_docker_20() {
    build_from("JACKAL_DOCKER20").await;
}

#[tokio::test]
async fn build_reads_from_current_docker_with_the_classic_store() {
    build_from("JACKAL_DOCKER_CLASSIC").await;
}

#[tokio::test]
async fn build_reads_from_current_docker_with_the_containerd_store() {
    build_from("JACKAL_DOCKER_CONTAINERD").await;
}

#[tokio::test]
async fn build_reads_from_containerd() {
    let registry = TestRegistry::start(Version::V28);
    for node in Node::all() {
        let name = format!("docker.io/jackal-test-{:012x}/app:dev", fastrand::u64(..1 << 48));
        node.import(&Image::varied(&name).archive());
        let folder = Workspace::new();
        folder.write_shop(&[format!("{{image: '{name}', source: Containerd}}")]);
        let flags = ["--insecure", "--containerd-address", &node.address];
        let report =
            |more: &[&str]| folder.build_report(&[&["shop.yaml", "--to", &registry.host], &flags[..], more].concat());
        let row = |report: &Value| report["images"][0].clone();
        let planned = report(&["--dry-run"]);
        let first = report(&[]);
        assert_eq!(row(&first)["method"], "ContainerdContent", "{first}");
        assert_eq!(row(&first)["digest"], node.digest(&name).as_str());
        assert_eq!(
            row(&planned)["movedBytes"],
            row(&first)["movedBytes"],
            "known beforehand"
        );
        let again = report(&[]);
        assert_eq!(
            (&again["changed"], &again["movedBytes"]),
            (&Value::Bool(false), &Value::from(0))
        );
        let folder = Workspace::new();
        folder.write_shop(&[format!("{{image: '{name}', source: Containerd}}")]);
        let by_socket = [&flags[..], &["--containerd-root", "/nowhere"]].concat();
        let report = folder.build_report(&[&["shop.yaml", "--to", "oci:out"], &by_socket[..]].concat());
        assert_eq!(row(&report)["method"], "ContainerdApi", "{report}");
        assert_eq!(row(&report)["digest"], row(&first)["digest"]);
        assert_eq!(row(&report)["methodReason"], "FolderUnreadable", "{report}");
        let message = row(&report)["methodMessage"].as_str().unwrap().to_owned();
        assert!(message.contains("/nowhere does not exist"), "{message}");
    }
}

#[tokio::test]
async fn a_dry_run_reports_the_exact_transfer_size_and_writes_nothing() {
    let (source, destination) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    let repository = source.repository("shop/web");
    let document = image(&repository, "linux/amd64", seeded(7, 500_000)).await;
    put(&repository, &document, Some("1")).await;
    let folder = Workspace::new();
    folder.write_shop(&[format!("{{image: '{}/shop/web:1'}}", source.host)]);
    let blobs = document.manifest().unwrap().blobs();
    let (count, bytes) = blobs
        .iter()
        .fold((0, 0), |(count, bytes), blob| (count + 1, bytes + blob.size));
    for to in [destination.host.as_str(), "oci:out"] {
        let flags = [
            "shop.yaml",
            "--to",
            to,
            "--insecure",
            "--insecure-registry",
            &source.host,
        ];
        let report = folder.build_report(&[&flags[..], &["--dry-run"]].concat());
        assert_eq!(report["movedBytes"], bytes);
        assert_eq!(report["images"][0]["movedBlobs"], count);
        assert_eq!(report["digest"], Value::Null);
        if to == destination.host {
            assert_eq!(catalog(&destination), "");
        }
        assert!(!folder.path("out").exists());
        folder.build_report(&flags);
        let report = folder.build_report(&[&flags[..], &["--dry-run"]].concat());
        assert_eq!((&report["movedBytes"], &report["changed"]), (&0.into(), &false.into()));
        std::fs::remove_dir_all(folder.path("out")).unwrap_or_default();
    }
}
