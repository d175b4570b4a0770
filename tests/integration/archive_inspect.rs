//! `inspect` and `diff`: what package files have.

use std::process::Output;

use serde_json::{Value, json};

use crate::sbom::put_alpine;
use crate::support::image::multi_platform;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, stdout};

/// A registry with images, and a folder for package files.
struct Files {
    workspace: Workspace,
    registry: TestRegistry,
}

impl Files {
    async fn new() -> Self {
        let registry = TestRegistry::start(Version::V31);
        for (tag, packages) in [
            ("1", &[("musl", "1.2.4-r0"), ("zlib", "1.3-r0"), ("gone", "1-r0")][..]),
            ("2", &[("musl", "1.2.5-r9"), ("zlib", "1.3-r0"), ("new", "7-r0")]),
        ] {
            put_alpine(&registry.repository("app"), tag, packages).await;
        }
        multi_platform(&registry.repository("multi"), "1").await;
        Self {
            workspace: Workspace::new(),
            registry,
        }
    }

    /// Builds the package `shop` of that version with components of these images, and packs it as `VERSION.tar.zst`.
    fn pack(&self, version: &str, components: &[(&str, &[&str])], more: &[&str]) {
        let components: Vec<Value> = components
            .iter()
            .map(|(name, images)| {
                let images: Vec<String> = images.iter().map(|image| self.name(image)).collect();
                json!({ "name": name, "images": images })
            })
            .collect();
        let package = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
            "spec": { "version": version, "format": "Zarf", "components": components },
        });
        let host = &self.registry.host;
        self.workspace.text_report(&package.to_string(), host, &[host], more);
        let reference = format!("{host}/shop:{version}");
        let file = format!("{version}.tar.zst");
        self.workspace
            .run(&["pack", &reference, "--insecure", "--output", &file])
            .succeeded();
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.host)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.workspace.run(&[arguments, &["--output", "json"]].concat());
        output.succeeded();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, arguments: &[&str]) -> Output {
        let output = self.workspace.run(arguments);
        output.succeeded();
        output
    }
}

/// The flags by which `build` makes SBOMs.
fn syft(workspace: &Workspace) -> Vec<String> {
    let scratch = workspace.path("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let syft = program("JACKAL_BIN_SYFT");
    [
        "--syft",
        syft.to_str().unwrap(),
        "--sbom-scratch",
        scratch.to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn a_package_file_is_described() {
    let files = Files::new().await;
    let syft = syft(&files.workspace);
    let syft: Vec<&str> = syft.iter().map(String::as_str).collect();
    files.pack(
        "1.4.0",
        &[("web", &["app:1", "multi:1"]), ("tools", &["app:2", "app:1"])],
        &syft,
    );
    let found = files.json(&["inspect", "1.4.0.tar.zst"]);
    let package = &found["packages"][0];
    assert_eq!(package["name"], "shop");
    assert_eq!(package["version"], "1.4.0");
    assert_eq!(package["architecture"], "amd64");
    assert_eq!(package["signature"], "unsigned");
    assert_eq!(package["components"][0]["name"], "web");
    assert_eq!(package["components"][1]["images"].as_array().unwrap().len(), 2);

    let image = |name: &str| {
        let name = json!([files.name(name)]);
        let images = found["images"].as_array().unwrap();
        images.iter().find(|image| image["names"] == name).unwrap().clone()
    };
    for (name, platforms, sboms) in [
        ("app:1", json!(["linux/amd64"]), 1),
        ("app:2", json!(["linux/amd64"]), 1),
        ("multi:1", json!(["linux/amd64", "linux/arm64", "linux/s390x"]), 3),
    ] {
        let image = image(name);
        assert_eq!(image["digest"], files.registry.crane("digest", name).trim());
        assert_eq!(image["platforms"], platforms);
        assert_eq!(image["sboms"].as_array().unwrap().len(), sboms, "{image}");
        let (size, unique) = (image["size"].as_u64().unwrap(), image["uniqueSize"].as_u64().unwrap());
        // The two images of app have nothing in common, and the platforms of the other have everything for themselves.
        assert!(size == unique && size > 500, "{image}");
    }
    let manifest: Value = serde_json::from_str(&files.registry.crane("manifest", "app:1")).unwrap();
    let blobs = manifest["config"]["size"].as_u64().unwrap() + manifest["layers"][0]["size"].as_u64().unwrap();
    let raw = files.registry.crane("manifest", "app:1").len() as u64;
    assert_eq!(image("app:1")["size"], blobs + raw);
    assert_eq!(found["shared"], json!({ "count": 0, "size": 0, "saved": 0 }));
    assert_eq!(found["sboms"]["count"], 5);
    let file = std::fs::metadata(files.workspace.path("1.4.0.tar.zst")).unwrap().len();
    assert!(found["content"]["size"].as_u64().unwrap() > file / 2);

    let text = stdout(&files.text(&["inspect", "1.4.0.tar.zst"]));
    for words in [
        "Package shop 1.4.0 (amd64), unsigned",
        "component tools, 2 images",
        "SBOMs: 5 documents",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let mut names: Vec<String> = stdout(&files.text(&["inspect", "1.4.0.tar.zst", "--images"]))
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, ["app:1", "app:2", "multi:1"].map(|image| files.name(image)));
}

#[tokio::test]
async fn who_signed_a_package_is_shown() {
    let files = Files::new().await;
    let cosign = ["generate-key-pair"];
    let mut command = files.workspace.command_of(&program("JACKAL_BIN_COSIGN"), &cosign);
    command.output().unwrap().succeeded();
    files.pack("1.4.0", &[("web", &["app:1"])], &["--key", "cosign.key"]);
    let found = files.json(&["inspect", "1.4.0.tar.zst"]);
    assert_eq!(found["packages"][0]["signature"], "key");
}

#[tokio::test]
async fn two_versions_of_a_package_are_compared() {
    let files = Files::new().await;
    let syft = syft(&files.workspace);
    let syft: Vec<&str> = syft.iter().map(String::as_str).collect();
    files.pack("1.4.0", &[("web", &["app:1", "multi:1"]), ("old", &[])], &syft);
    files.pack("1.5.0", &[("web", &["app:2", "multi:1"]), ("new", &[])], &syft);
    let found = files.json(&["diff", "1.4.0.tar.zst", "1.5.0.tar.zst"]);
    let package = &found["packages"][0];
    assert_eq!(package["change"], "changed");
    assert_eq!(
        (&package["oldVersion"], &package["newVersion"]),
        (&json!("1.4.0"), &json!("1.5.0"))
    );
    let components = json!([
        { "change": "added", "name": "new" },
        { "change": "removed", "name": "old" },
        { "change": "changed", "name": "web" },
    ]);
    assert_eq!(package["components"], components);
    let digest = |image: &str| files.registry.crane("digest", image).trim().to_owned();
    let images = json!([{
        "change": "changed",
        "oldName": files.name("app:1"), "newName": files.name("app:2"),
        "oldDigest": digest("app:1"), "newDigest": digest("app:2"),
    }]);
    assert_eq!(found["images"], images);
    let layer = |image: &str| -> Value {
        let manifest: Value = serde_json::from_str(&files.registry.crane("manifest", image)).unwrap();
        json!({ "count": 1, "size": manifest["layers"][0]["size"] })
    };
    assert_eq!(found["layers"]["onlyOld"], layer("app:1"));
    assert_eq!(found["layers"]["onlyNew"], layer("app:2"));
    // The layers of three platforms and of their attestations.
    assert_eq!(found["layers"]["shared"]["count"], 6);
    let packages = json!([
        { "change": "removed", "type": "apk", "name": "gone", "oldVersions": ["1-r0"] },
        { "change": "changed", "type": "apk", "name": "musl", "oldVersions": ["1.2.4-r0"], "newVersions": ["1.2.5-r9"] },
        { "change": "added", "type": "apk", "name": "new", "newVersions": ["7-r0"] },
    ]);
    assert_eq!(
        found["sboms"],
        json!([{ "image": files.name("app:2"), "packages": packages }])
    );

    let text = stdout(&files.text(&["diff", "1.4.0.tar.zst", "1.5.0.tar.zst"]));
    let expected = format!("~ image {} -> {}", files.name("app:1"), files.name("app:2"));
    for words in [
        "~ package shop (amd64) 1.4.0 -> 1.5.0",
        &expected,
        "  ~ musl 1.2.4-r0 -> 1.2.5-r9",
        "  + new 7-r0",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let codes = [("1.5.0.tar.zst", 3), ("1.4.0.tar.zst", 0)];
    for (new, code) in codes {
        let output = files.workspace.run(&["diff", "1.4.0.tar.zst", new, "--exit-code"]);
        assert_eq!(output.status.code(), Some(code), "{}", stdout(&output));
    }
    let same = stdout(&files.text(&["diff", "1.4.0.tar.zst", "1.4.0.tar.zst"]));
    assert_eq!(same, "no difference\n");
    files
        .workspace
        .run(&["diff", "1.4.0.tar.zst", "absent.tar.zst", "--exit-code"])
        .failed(2, &["absent.tar.zst"]);
}
