//! Tags of other objects: an image does not replace a package, nor a package an image.

mod cluster;

use futures::FutureExt as _;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use serde_json::Value;

use super::workspace::Workspace;
use super::{Case, check};
use crate::support::image::{image, multi_platform, noise, push, put};
use crate::support::registry::{TestRegistry, Version};

/// A workspace in which the binary builds packages.
struct Builds {
    folder: Workspace,
    source: TestRegistry,
    registry: TestRegistry,
}

/// An address where nothing listens.
const OTHER: &str = "127.0.0.1:1";

/// The result of a build.
struct Built {
    code: Option<i32>,
    report: Value,
}

impl Builds {
    async fn new() -> Self {
        let builds = Self {
            folder: Workspace::new(),
            source: TestRegistry::start(Version::V31),
            registry: TestRegistry::start(Version::V31),
        };
        multi_platform(&builds.source.repository("shop"), "1.4.0").await;
        builds
    }

    /// Builds the package `name` of version 1.4.0 to `to`, with `images` and `more` lines of its spec.
    fn build(&self, name: &str, to: &str, images: &[&str], more: &str) -> Built {
        let images: Vec<String> = images.iter().map(|image| format!("{{image: '{image}'}}")).collect();
        let text = format!(
            "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: {name}}}\nspec:\n  \
             version: 1.4.0\n  components: [{{name: web, images: [{}]}}]\n  {more}\n",
            images.join(", ")
        );
        self.build_text(&text, to)
    }

    /// Builds the file `text` to `to`.
    fn build_text(&self, text: &str, to: &str) -> Built {
        let insecure = [self.source.host.as_str(), &self.registry.host];
        let output = self.folder.build_text(text, to, &insecure, &[]);
        let report = serde_json::from_slice(&output.stdout);
        Built {
            code: output.status.code(),
            report: report.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        }
    }

    /// The image that these packages contain, with the path and tag of the package `shop`.
    fn image(&self) -> String {
        format!("{}/shop:1.4.0", self.source.host)
    }

    /// Pushes the package `shop` of two architectures to the registry.
    async fn with_package(self) -> (Self, Document) {
        for architecture in ["amd64", "arm64"] {
            let more = format!("architecture: {architecture}");
            self.build("shop", &self.registry.host, &[], &more).succeeded();
        }
        let existing = self.stored_document().await;
        assert_eq!(existing.index().unwrap().manifests.len(), 2);
        (self, existing)
    }

    /// The document under the package's name.
    async fn stored_document(&self) -> Document {
        let repository = self.registry.repository("shop");
        repository.manifest("1.4.0").await.unwrap().expect("something stands")
    }
}

impl Built {
    fn succeeded(self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.report);
        self.report
    }

    /// Reason and message of the failure.
    fn failed(self) -> (String, String) {
        assert_ne!(self.code, Some(0), "{}", self.report);
        let failure = &self.report["failures"][0];
        let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("message"))
    }
}

async fn an_image_yields_its_plain_tag_to_a_package() {
    let (builds, package) = Builds::new().await.with_package().await;
    for changed in [true, false] {
        let report = builds
            .build("other", &builds.registry.host, &[&builds.image()], "naming: Jackal")
            .succeeded();
        assert_eq!(report["changed"], changed, "{report}");
        let omitted = &report["images"][0]["omittedTag"];
        assert_eq!(
            (&omitted["tag"], &omitted["owner"]),
            (&"1.4.0".into(), &"a package".into()),
            "{report}"
        );
        assert_eq!(builds.stored_document().await, package);
    }
    // The owner of the tag is unchanged.
    let report = builds
        .build("shop", &builds.registry.host, &[], "architecture: arm64")
        .succeeded();
    assert_eq!(report["changed"], false, "{report}");
}

async fn the_name_of_a_package_is_a_conflict() {
    let (builds, package) = Builds::new().await.with_package().await;
    let (reason, message) = builds
        .build("other", &builds.registry.host, &[&builds.image()], "naming: Plain")
        .failed();
    assert_eq!(reason, "RepositoryConflict");
    let name = format!("`{}/shop:1.4.0` is a package", builds.registry.host);
    assert!(message.contains(&name), "{message}");
    assert_eq!(builds.stored_document().await, package);
}

async fn a_package_without_an_index_is_recognised() {
    let builds = Builds::new().await;
    let repository = builds.registry.repository("shop");
    for config in [media_type::ZARF_CONFIG, media_type::JACKAL_CONFIG] {
        push(&repository, config, "{}".into()).await;
        let config = Descriptor::new(config, Digest::of(b"{}"), 2);
        let package = Document::of_manifest(Manifest::new(config, Vec::new())).unwrap();
        put(&repository, &package, Some("1.4.0")).await;
        let report = builds
            .build("other", &builds.registry.host, &[&builds.image()], "naming: Zarf")
            .succeeded();
        assert_eq!(report["images"][0]["omittedTag"]["tag"], "1.4.0", "{report}");
        assert_eq!(builds.stored_document().await.digest(), package.digest());
    }
}

async fn a_package_in_a_layout_keeps_its_name() {
    let builds = Builds::new().await;
    builds.build("shop", "oci:out", &[], "").succeeded();
    let names = || {
        let index = std::fs::read(builds.folder.path("out/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let package = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "shop:1.4.0");
        package.unwrap()["digest"].clone()
    };
    let package = names();
    let report = builds
        .build("other", "oci:out", &[&builds.image()], "naming: Jackal")
        .succeeded();
    assert_eq!(report["images"][0]["omittedTag"]["owner"], "a package", "{report}");
    let (reason, _) = builds
        .build("other", "oci:out", &[&builds.image()], "naming: Plain")
        .failed();
    assert_eq!((reason.as_str(), names()), ("RepositoryConflict", package));
}

async fn a_package_does_not_replace_an_image() {
    let builds = Builds::new().await;
    let repository = builds.registry.repository("shop");
    let document = image(&repository, "linux/amd64", noise(7, 1000)).await;
    put(&repository, &document, Some("1.4.0")).await;
    let (reason, message) = builds.build("shop", &builds.registry.host, &[], "").failed();
    assert_eq!(reason, "RepositoryConflict");
    assert!(message.contains("exists already and is not a package"), "{message}");
    assert_eq!(builds.stored_document().await.digest(), document.digest());
}

async fn a_package_may_contain_an_image_of_its_own_name() {
    let builds = Builds::new().await;
    for changed in [true, false] {
        let report = builds
            .build("shop", &builds.registry.host, &[&builds.image()], "naming: Jackal")
            .succeeded();
        assert_eq!(report["changed"], changed, "{report}");
        assert_eq!(
            report["images"][0]["omittedTag"]["owner"], "the package itself",
            "{report}"
        );
        let existing = builds.stored_document().await;
        assert_eq!(existing.index().unwrap().manifests[0].digest.as_str(), report["digest"]);
    }
}

/// Builds a file with several objects, each given as kind, name, namespace, and further lines of its spec.
fn build_file(builds: &Builds, objects: &[(&str, &str, &str, String)]) -> Built {
    let text = |(kind, name, namespace, spec): &(&str, &str, &str, String)| {
        format!(
            "apiVersion: jackal.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {spec}\n"
        )
    };
    let texts: Vec<String> = objects.iter().map(text).collect();
    builds.build_text(&texts.join("---\n"), &builds.registry.host)
}

async fn an_image_yields_its_plain_tag_to_a_package_of_the_same_file() {
    let builds = Builds::new().await;
    let objects = [
        (
            "JackalImage",
            "first",
            "a",
            format!("image: '{}'\n  naming: Jackal", builds.image()),
        ),
        ("JackalPackage", "shop", "a", package_with("")),
    ];
    for changed in [true, false] {
        let report = build_file(&builds, &objects).succeeded();
        assert_eq!(report["changed"], changed, "{report}");
        let omitted = &report["objects"][0]["images"][0]["omittedTag"];
        assert_eq!(
            omitted["owner"], "the JackalPackage a/shop of the same file",
            "{report}"
        );
        assert!(builds.stored_document().await.is_package());
    }
}

/// The spec of a package with these images.
fn package_with(images: &str) -> String {
    format!("version: 1.4.0\n  components: [{{name: web, images: [{images}]}}]")
}

async fn objects_of_one_file_do_not_overwrite_each_other() {
    let builds = Builds::new().await;
    let images = [builds.image(), format!("{}/shop:1.4.0", OTHER)];
    let of = |naming: &str| {
        let image = |at: usize| format!("image: '{}'\n  naming: {naming}", images[at]);
        [
            ("JackalImage", "one", "a", image(0)),
            ("JackalImage", "two", "a", image(1)),
        ]
    };
    // It is known before anything is read, so the other registry need not exist.
    let built = build_file(&builds, &of("Plain"));
    assert_ne!(built.code, Some(0), "{}", built.report);
    let failures = &built.report["failures"];
    assert_eq!(failures.as_array().unwrap().len(), 1, "{failures}");
    let message = failures[0]["message"].as_str().unwrap();
    assert_eq!(failures[0]["reason"], "RepositoryConflict");
    assert!(
        message.contains("shop:1.4.0, which belongs to the JackalImage a/one of the same file"),
        "{message}"
    );
    let existing = builds.stored_document().await;
    let twins = [
        ("JackalPackage", "shop", "a", package_with("")),
        (
            "JackalPackage",
            "shop",
            "b",
            format!("description: other\n  {}", package_with("")),
        ),
    ];
    let other = Builds::new().await;
    let (reason, message) = build_file(&other, &twins).failed();
    assert_eq!(reason, "RepositoryConflict", "{message}");
    assert!(
        message.contains("belongs to the JackalPackage a/shop of the same file"),
        "{message}"
    );
    assert!(!existing.is_package() && other.stored_document().await.is_package());
}

async fn a_package_with_an_image_of_its_name_and_tag_is_a_conflict() {
    let builds = Builds::new().await;
    let (to, prefixed) = (&builds.registry.host, format!("{}/team", builds.registry.host));
    let within = format!("{to}/shop:1.4.0");
    let below = format!("{to}/team/shop:1.4.0");
    for (to, image, naming) in [
        (to, &builds.image(), "Plain"),
        (to, &within, "Jackal"),
        (&prefixed, &below, "Zarf"),
    ] {
        let (reason, message) = builds
            .build("shop", to, &[image], &format!("naming: {naming}"))
            .failed();
        assert_eq!(reason, "RepositoryConflict", "{message}");
        let both = format!("`{image}` of component `web` and the package itself would both be");
        assert!(message.starts_with(&both), "{message}");
    }
}

/// Cases without a cluster.
const BUILDS: [Case; 9] = [
    Case {
        report: "moby/moby#2619",
        input: "an image whose plain tag is the name of a package of two architectures",
        expected: "the image is copied without its plain tag, which the report says, and a repeat writes nothing",
        run: || an_image_yields_its_plain_tag_to_a_package().boxed(),
    },
    Case {
        report: "moby/moby#2619",
        input: "an image with the same name and tag as a package",
        expected: "RepositoryConflict, and the package is kept",
        run: || the_name_of_a_package_is_a_conflict().boxed(),
    },
    Case {
        report: "helm/helm#9985",
        input: "a package under its tag without an index, as pushed by oras",
        expected: "images do not replace it",
        run: || a_package_without_an_index_is_recognised().boxed(),
    },
    Case {
        report: "moby/moby#2619",
        input: "the same two in an OCI layout",
        expected: "the package keeps its name",
        run: || a_package_in_a_layout_keeps_its_name().boxed(),
    },
    Case {
        report: "helm/helm#9985",
        input: "a package with the name and version of an image",
        expected: "RepositoryConflict, and the image is kept",
        run: || a_package_does_not_replace_an_image().boxed(),
    },
    Case {
        report: "helm/helm#9985",
        input: "a package that contains an image whose plain tag is the package's name",
        expected: "it is built, and the image has no plain tag",
        run: || a_package_may_contain_an_image_of_its_own_name().boxed(),
    },
    Case {
        report: "helm/helm#9985",
        input: "a file with an image and a package whose name is the image's plain tag",
        expected: "the package gets the tag, the image reports it, and a repeat writes nothing",
        run: || an_image_yields_its_plain_tag_to_a_package_of_the_same_file().boxed(),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "a file with two images of the same name from two registries, and one with two packages of the same name",
        expected: "RepositoryConflict that names the first, which gets the tag",
        run: || objects_of_one_file_do_not_overwrite_each_other().boxed(),
    },
    Case {
        report: "helm/helm#9985",
        input: "a package that contains an image with its own name and version",
        expected: "RepositoryConflict that names both",
        run: || a_package_with_an_image_of_its_name_and_tag_is_a_conflict().boxed(),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn build_overwrites_no_tag_of_another_object() {
    check(&BUILDS).await;
}
