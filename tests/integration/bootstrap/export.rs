//! `bootstrap export`: the files for nodes in containerd and docker. k3s, RKE2 and k0s give their files to containerd's importer, which
//! takes the exact files here.

use std::io::Read as _;

use jackal_operator::oci::Digest;
use serde_json::Value;

use crate::archive_unpack::PackedImages;
use crate::containerd::node::Node;
use crate::docker::engines::DockerEngine;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, stdout};

/// The images of [`PackedImages`].
const IMAGES: [&str; 2] = ["multi:1", "single:2"];
/// The label that keeps the kubelet from deleting an image.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

impl PackedImages {
    /// Exports for `of`, and returns the directory.
    fn export(&self, of: &str) -> String {
        let flags = ["bootstrap", "export", "shop.tar.zst", "--for", of, "--to", of];
        self.workspace.run(&flags).succeeded();
        of.to_owned()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.workspace.path(path)).unwrap()
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.read(path)).unwrap()
    }

    /// All names that each image has on a node, with its digest.
    fn names(&self) -> Vec<(String, Digest)> {
        let mut names = Vec::new();
        for image in IMAGES {
            let digest = self.digest(image);
            let repository = image.split(':').next().unwrap();
            names.push((self.name(image), digest.clone()));
            names.push((format!("127.0.0.1:31999/{image}"), digest.clone()));
            names.push((format!("127.0.0.1:31999/{repository}@{digest}"), digest));
        }
        names
    }

    /// Expects that a node has all images under all of their names, complete for its platform.
    fn expect_images(&self, node: &Node, namespace: &str, label: &str) {
        let listed = node.ctr_in(namespace, &["images", "list"]);
        let checked = node.ctr_in(namespace, &["images", "check"]);
        for (name, digest) in self.names() {
            let row = |text: &str| {
                text.lines()
                    .find(|row| row.split_whitespace().next() == Some(&name))
                    .map(str::to_owned)
            };
            let row_listed = row(&listed).unwrap_or_else(|| panic!("no {name} in {listed}"));
            assert!(
                row_listed.contains(digest.as_str()) && row_listed.contains(label),
                "{row_listed}"
            );
            assert!(
                row(&checked).is_some_and(|row| row.contains(" complete")),
                "{name}: {checked}"
            );
        }
    }

    /// Imports `path` with `more` flags into `namespace` of `node`.
    fn import(&self, node: &Node, namespace: &str, more: &[&str], path: &str) {
        let path = self.workspace.path(path);
        // The layers of these images are no tars.
        let flags = ["images", "import", "--no-unpack"];
        node.ctr_in(namespace, &[&flags[..], more, &[path.to_str().unwrap()]].concat());
    }
}

#[tokio::test]
async fn ctr_imports_and_pins_the_file_for_containerd() {
    let packed = PackedImages::new().await;
    let directory = packed.export("containerd");
    let readme = packed.text("containerd/README.txt");
    let file = format!("{directory}/images/jackal-operator.tar");
    // The commands of README.txt, but for the address of the server.
    let import = format!("images import --label {PINNED} images/jackal-operator.tar");
    assert!(readme.contains(&import), "{readme}");
    let [old, new] = Node::all();
    packed.import(&new, "jackal-export", &["--label", PINNED], &file);
    packed.expect_images(&new, "jackal-export", PINNED);
    // The other form: a label for each name.
    packed.import(&old, "jackal-export", &["--local"], &file);
    packed.expect_images(&old, "jackal-export", "");
    let names = packed.text("containerd/names.txt");
    for name in names.lines() {
        old.ctr_in("jackal-export", &["images", "label", name, PINNED]);
    }
    packed.expect_images(&old, "jackal-export", PINNED);
    let mut expected: Vec<String> = packed.names().into_iter().map(|(name, _)| name).collect();
    let mut names: Vec<&str> = names.lines().collect();
    expected.sort();
    names.sort_unstable();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn the_importer_takes_the_file_for_k3s_and_rke2() {
    let packed = PackedImages::new().await;
    let directory = packed.export("k3s");
    let file = format!("{directory}/images/jackal-operator.tar.zst");
    let [old, new] = Node::all();
    // k3s: all platforms. containerd decompresses it by the library that k3s has.
    packed.import(&new, "jackal-k3s", &["--all-platforms"], &file);
    packed.expect_images(&new, "jackal-k3s", "");
    // Its decompressor has a window of at most 32 MiB.
    let compressed = packed.read(&file);
    let mut decoder = zstd::stream::Decoder::new(&compressed[..]).unwrap();
    decoder.window_log_max(25).unwrap();
    let mut tar = Vec::new();
    decoder.read_to_end(&mut tar).unwrap();
    packed.workspace.write("k3s.tar", &tar);
    packed.import(&old, "jackal-k3s", &["--local", "--all-platforms"], "k3s.tar");
    packed.expect_images(&old, "jackal-k3s", "");
    assert!(
        packed
            .text("k3s/README.txt")
            .contains("/var/lib/rancher/k3s/agent/images/jackal-operator.tar.zst")
    );
    // The same archive gives the same bytes.
    packed.export("rke2");
    assert!(packed.read("rke2/images/jackal-operator.tar.zst") == compressed);
    assert!(
        packed
            .text("rke2/README.txt")
            .contains("/var/lib/rancher/rke2/agent/images/jackal-operator.tar.zst")
    );
    // It is an archive for every other command, too.
    let inspected = packed.workspace.run(&["inspect", &file, "--images"]);
    inspected.succeeded();
    assert_eq!(stdout(&inspected).lines().count(), packed.names().len());
}

#[tokio::test]
async fn the_importer_takes_the_file_for_k0s() {
    let packed = PackedImages::new().await;
    let directory = packed.export("k0s");
    let file = format!("{directory}/images/jackal-operator.tar");
    let [old, new] = Node::all();
    packed.import(&old, "jackal-k0s", &["--local"], &file);
    packed.expect_images(&old, "jackal-k0s", "");
    packed.import(&new, "jackal-k0s", &["--local"], &file);
    packed.expect_images(&new, "jackal-k0s", "");
}

#[tokio::test]
async fn docker_loads_the_file_for_docker() {
    let packed = PackedImages::new().await;
    let directory = packed.export("docker");
    let file = packed.workspace.path(format!("{directory}/images/jackal-operator.tar"));
    let readme = packed.text("docker/README.txt");
    assert!(
        readme.contains("docker load --input images/jackal-operator.tar"),
        "{readme}"
    );
    for engine in DockerEngine::all() {
        engine.run(&["load", "--input", file.to_str().unwrap()]);
        for image in IMAGES {
            let id = |name: &str| engine.output(&["image", "inspect", "--format", "{{.Id}}", name]);
            let own = id(&packed.name(image));
            assert_eq!(id(&format!("127.0.0.1:31999/{image}")), own);
        }
    }
}

#[tokio::test]
async fn containerd_takes_the_settings_of_the_registry() {
    let registry = TestRegistry::start_self_signed(Version::V31, &["subjectAltName=IP:127.0.0.1"]);
    crate::support::image::multi_platform(&registry.repository("web"), "1").await;
    let packed = PackedImages::new().await;
    packed.export("containerd");
    let hosts = packed
        .text("containerd/hosts.toml")
        .replace("127.0.0.1:31999", &registry.host);
    let [_, new] = Node::all();
    let pull = |name: &str, hosts: &str| {
        packed
            .workspace
            .write(&format!("{name}/{}/hosts.toml", registry.host), hosts);
        let folder = packed.workspace.path(name);
        let image = format!("{}/web:1", registry.host);
        let arguments = [
            "--address",
            &new.address,
            "--namespace",
            "jackal-hosts",
            "content",
            "fetch",
            "--hosts-dir",
        ];
        let more = [folder.to_str().unwrap(), &image];
        let mut command = packed
            .workspace
            .command_of(&program("JACKAL_BIN_CTR"), &[&arguments[..], &more].concat());
        command.output().unwrap()
    };
    pull("with", &hosts).succeeded();
    pull("without", &hosts.replace("skip_verify = true", "skip_verify = false")).failed(1, &["certificate"]);
}

#[tokio::test]
async fn what_cannot_be_exported_is_named() {
    let packed = PackedImages::new().await;
    let export = |more: &[&str]| {
        let flags = ["bootstrap", "export", "shop.tar.zst", "--to", "nodes"];
        packed.workspace.run(&[&flags[..], more].concat())
    };
    export(&["--for", "k3s", "--platform", "linux/amd64"]).failed(2, &["--platform is for --for docker"]);
    export(&["--for", "k3s", "--image", "absent:1"])
        .failed(2, &["the archive has no image docker.io/library/absent:1"]);
    export(&["--for", "docker", "--platform", "linux/riscv64"]).failed(2, &["not for linux/riscv64"]);
    export(&["--for", "talos"]).failed(2, &["talos"]);
    packed.workspace.write("nodes", "a file");
    export(&["--for", "k3s"]).failed(1, &["cannot be made"]);
    // One image alone, and the report.
    let name = packed.name("multi:1");
    let flags = [
        "bootstrap",
        "export",
        "shop.tar.zst",
        "--to",
        "one",
        "--for",
        "k0s",
        "--image",
        &name,
        "-o",
        "json",
    ];
    let output = packed.workspace.run(&flags);
    output.succeeded();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["images"], 1);
    assert_eq!(report["files"][0]["path"], "images/jackal-operator.tar");
    let length = packed.read("one/images/jackal-operator.tar").len();
    assert_eq!(report["files"][0]["size"], length);
    let empty = Workspace::new();
    empty
        .run(&["bootstrap", "export", "absent.tar", "--for", "k0s", "--to", "x"])
        .failed(2, &["absent.tar"]);
}
