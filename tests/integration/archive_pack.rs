//! `pack` with several packages, and after an interruption.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::{CommandResult as _, Workspace, stderr};

/// Two packages with one image and one file in common.
struct Packages {
    workspace: Workspace,
    registry: TestRegistry,
}

impl Packages {
    async fn new() -> Self {
        let registry = TestRegistry::start(Version::V31);
        multi_platform(&registry.repository("team/app"), "1").await;
        let other = registry.repository("team/other");
        let content = image(&other, "linux/amd64", noise(9, 20_000_000)).await;
        put(&other, &content, Some("2")).await;
        let workspace = Workspace::new();
        let host = &registry.host;
        for (name, images) in [
            ("shop", vec![format!("{host}/team/app:1")]),
            (
                "store",
                vec![format!("{host}/team/app:1"), format!("{host}/team/other:2")],
            ),
        ] {
            let package = json!({
                "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": name },
                "spec": {
                    "version": "1.4.0", "format": "Zarf",
                    "components": [{
                        "name": "web", "images": images,
                        "files": [{ "inline": "a page\n".repeat(100_000), "target": "/srv/page.txt" }],
                    }],
                },
            });
            workspace.text_report(&package.to_string(), host, &[host], &[]);
        }
        Self { workspace, registry }
    }

    fn references(&self) -> [String; 2] {
        ["shop", "store"].map(|name| format!("{}/{name}:1.4.0", self.registry.host))
    }

    fn pack(&self, references: &[&str], file: &str) -> Output {
        let flags = ["--insecure", "--output", file];
        self.workspace.run(&[&["pack"], references, &flags[..]].concat())
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.workspace.path(file)).unwrap()
    }

    fn partial(&self, file: &str) -> PathBuf {
        self.workspace.path(format!(".{file}.partial"))
    }
}

/// The digests under every tag of the packages and their images.
fn digests(registry: &TestRegistry, prefix: &str) -> Vec<String> {
    let names = ["shop:1.4.0", "store:1.4.0", "team/app:1", "team/other:2"];
    names
        .map(|name| registry.crane("digest", &format!("{prefix}{name}")))
        .to_vec()
}

#[tokio::test]
async fn several_packages_are_in_one_file_and_shared_content_once() {
    let packages = Packages::new().await;
    let [shop, store] = packages.references();
    packages.pack(&[&shop], "shop.tar.zst").succeeded();
    packages.pack(&[&store], "store.tar.zst").succeeded();
    packages.pack(&[&shop, &store], "both.tar.zst").succeeded();
    packages.pack(&[&shop, &store], "again.tar.zst").succeeded();
    let pipe = packages.pack(&[&shop, &store], "-");
    pipe.succeeded();
    let both = packages.bytes("both.tar.zst");
    assert_eq!(Digest::of(&both), Digest::of(&packages.bytes("again.tar.zst")));
    assert_eq!(Digest::of(&both), Digest::of(&pipe.stdout));
    // The second package alone has the first's image and file too.
    let sum = packages.bytes("shop.tar.zst").len() + packages.bytes("store.tar.zst").len();
    assert!(both.len() + 90_000 < sum, "{} {sum}", both.len());

    // Other tools see the tar of the first package.
    let list = |file: &str| -> BTreeSet<String> {
        let path = packages.workspace.path(file);
        let text = run("tar", &["--zstd", "-tf", path.to_str().unwrap()]);
        text.lines().map(str::to_owned).collect()
    };
    assert_eq!(list("both.tar.zst"), list("shop.tar.zst"));

    let expected = digests(&packages.registry, "");
    for (version, input) in [(Version::V31, "both.tar.zst"), (Version::V28, "-")] {
        let to = TestRegistry::start(version);
        let arguments = ["load", input, "--to", &to.host, "--insecure", "--output", "json"];
        packages.workspace.run_with(&arguments, &both).succeeded();
        assert_eq!(digests(&to, ""), expected, "{input}");
        for image in ["team/app:1", "team/other:2"] {
            to.crane("validate", image);
        }
        // What was loaded is packed to the same bytes.
        let loaded = ["shop", "store"].map(|name| format!("{}/{name}:1.4.0", to.host));
        packages.pack(&[&loaded[0], &loaded[1]], "loaded.tar.zst").succeeded();
        assert_eq!(Digest::of(&packages.bytes("loaded.tar.zst")), Digest::of(&both));
    }
    let twice = packages.pack(&[&shop, &shop], "twice.tar.zst");
    twice.failed(2, &["is named twice"]);
}

#[tokio::test]
async fn damaged_further_packages_are_refused_before_a_tag_is_written() {
    let packages = Packages::new().await;
    let [shop, store] = packages.references();
    packages.pack(&[&shop], "shop.tar.zst").succeeded();
    packages.pack(&[&shop, &store], "both.tar.zst").succeeded();
    let sound = packages.bytes("both.tar.zst");
    let first = packages.bytes("shop.tar.zst").len();
    let to = TestRegistry::start(Version::V31);
    let step = (sound.len() - first) / 9;
    for (number, at) in (first..sound.len() - 100).step_by(step).enumerate() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        for input in ["damaged.tar.zst", "-"] {
            packages.workspace.write("damaged.tar.zst", &bytes);
            let destination = format!("{}/n{number}{}", to.host, input.len());
            let arguments = ["load", input, "--to", &destination, "--insecure"];
            let output = packages.workspace.run_with(&arguments, &bytes);
            assert!(!output.status.success(), "{at} was loaded from {input}");
            assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
            let repository = format!("n{number}{}/shop", input.len());
            let tags = to.repository(&repository).tags(10).await.unwrap();
            assert!(tags.unwrap_or_default().is_empty(), "{at} {input}");
        }
    }
}

#[tokio::test]
async fn an_interrupted_pack_continues() {
    let packages = Packages::new().await;
    let [shop, store] = packages.references();
    let references = [shop.as_str(), store.as_str()];
    packages.pack(&references, "whole.tar.zst").succeeded();
    let whole = packages.bytes("whole.tar.zst");
    let length = whole.len();

    // Each length at which a process may be killed; behind it, zeros that a file system may show after a crash.
    let mut lengths: Vec<usize> = (0..length).step_by(length / 12).collect();
    lengths.extend([1, 7, 8, 9, length - 1, length]);
    for (number, kept) in lengths.into_iter().enumerate() {
        let zeros = if number % 2 == 0 { 0 } else { 100_000 };
        let partial = [&whole[..kept], &vec![0; zeros]].concat();
        std::fs::write(packages.partial("resumed.tar.zst"), partial).unwrap();
        let output = packages.pack(&references, "resumed.tar.zst");
        output.succeeded();
        assert!(packages.bytes("resumed.tar.zst") == whole, "{kept}");
        assert!(!packages.partial("resumed.tar.zst").exists());
    }

    // One that is damaged in the middle of a layer that is there to its end, and one that is not a package file.
    let mut damaged = whole[..length - 100].to_vec();
    damaged[length / 2] ^= 1;
    for partial in [damaged, packages.bytes("whole.tar.zst")[100..].to_vec()] {
        std::fs::write(packages.partial("resumed.tar.zst"), partial).unwrap();
        packages.pack(&references, "resumed.tar.zst").succeeded();
        assert!(packages.bytes("resumed.tar.zst") == whole);
    }
    std::fs::copy(
        packages.workspace.path("whole.tar.zst"),
        packages.partial("one.tar.zst"),
    )
    .unwrap();
    packages.pack(&[&store], "one.tar.zst").succeeded();
    packages.pack(&[&store], "other.tar.zst").succeeded();
    assert!(packages.bytes("one.tar.zst") == packages.bytes("other.tar.zst"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pack_reads_only_the_rest() {
    let packages = Packages::new().await;
    let [_, store] = packages.references();
    packages.pack(&[&store], "whole.tar.zst").succeeded();
    let manifest: Value = serde_json::from_str(&packages.registry.crane("manifest", "team/other:2")).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let wanted = layer.clone();
    // The largest layer stops in its middle.
    let proxy = FaultProxy::to(&packages.registry.host, move |request| {
        match request.method == "GET" && request.path.contains(&wanted) {
            true => Action::Trickle(10_000_000, Duration::from_secs(1)),
            false => Action::Pass,
        }
    });
    let reference = format!("{}/store:1.4.0", proxy.host);
    let mut child = Command::new(env!("CARGO_BIN_EXE_jackal-operator"))
        .args(["pack", &reference, "--insecure", "--output", "killed.tar.zst"])
        .current_dir(packages.workspace.path("."))
        .env("HOME", packages.workspace.path("."))
        .spawn()
        .unwrap();
    let partial = packages.partial("killed.tar.zst");
    eventually(SOON, "the layer arrives", async || {
        let length = std::fs::metadata(&partial).map_or(0, |file| file.len());
        (length > 8 << 20).then_some(()).ok_or(length.to_string())
    })
    .await;
    // Nobody else may write it.
    let second = packages.pack(&[&reference], "killed.tar.zst");
    second.failed(1, &["another pack writes killed.tar.zst"]);
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.disable();
    let before = proxy.requests().len();
    packages.pack(&[&reference], "killed.tar.zst").succeeded();
    assert!(packages.bytes("killed.tar.zst") == packages.bytes("whole.tar.zst"));
    let requests = proxy.requests();
    let blobs = requests[before..]
        .iter()
        .filter(|request| request.method == "GET" && request.path.contains("/blobs/"))
        .map(|request| request.path.clone());
    let blobs: BTreeSet<String> = blobs.collect();
    assert!(blobs.iter().any(|path| path.contains(&layer)), "{blobs:?}");
    // What is before it in the file is not read again, but for the manifests, which come first.
    let whole = packages.workspace.path("whole.tar.zst");
    let whole = whole.to_str().unwrap();
    let sum = run(
        "sh",
        &["-c", &format!("tar --zstd -xOf {whole} components/web.tar | sha256sum")],
    );
    let mut before = vec![sum.split(' ').next().unwrap().to_owned()];
    let paths = run("tar", &["--zstd", "-tf", whole]);
    let layers = paths.lines().skip_while(|path| *path != "components/web.tar").skip(1);
    let layers = layers.map(|path| path.rsplit('/').next().unwrap().to_owned());
    before.extend(layers.take_while(|hex| !layer.contains(hex.as_str())));
    for hex in before {
        assert!(!blobs.iter().any(|path| path.contains(&hex)), "{hex} of {blobs:?}");
    }
}
