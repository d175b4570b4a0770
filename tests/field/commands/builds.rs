//! What `build` does with images, charts and files, and when it reports it.

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};

use super::{Workspace, empty, package_of, stderr, stdout};
use crate::field::{Case, check};
use crate::support::file_server::FileServer;
use crate::support::image::{image, noise, put};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::{charts, process};

/// A registry with the image `name:1` of `length` bytes.
async fn registry_with(name: &str, length: usize) -> TestRegistry {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository(name);
    let document = image(&repository, "linux/amd64", noise(31, length)).await;
    put(&repository, &document, Some("1")).await;
    registry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn build_reports_failures_and_writes_to_the_given_destination() {
    check(&[
        Case {
            report: "Azure/ARO-RP#3485",
            input: "a missing image, before a slow one",
            expected: "the failure immediately, and again in the list at the end; pure JSON on standard output",
            run: || Box::pin(failures_are_reported_immediately()),
        },
        Case {
            report: "openshift/oc-mirror#563",
            input: "--to HOST/prefix, and images that name HOST themselves",
            expected: "everything is pushed below the prefix, and what is already there is kept",
            run: || Box::pin(everything_is_pushed_below_the_prefix()),
        },
        Case {
            report: "k0sproject/k0sctl#812",
            input: "a JackalImage and a JackalPackage that fails",
            expected: "the image is copied to its own name, and the exit code is that of the failure",
            run: || Box::pin(standalone_images_are_copied()),
        },
        Case {
            report: "dotnet/docker-tools#765",
            input: "two JackalImages in one file, with the same path and tag in two registries",
            expected: "the first gets the name, and the second reports the conflict and what to do",
            run: || Box::pin(the_first_image_keeps_the_name()),
        },
    ])
    .await;
}

async fn failures_are_reported_immediately() {
    let source = registry_with("app", 2 << 20).await;
    let destination = TestRegistry::start(Version::V28);
    let way = Throttle::to(&destination.host, 20_000);
    let [present, missing] = ["app:1", "app:none"].map(|name| format!("{}/{name}", source.host));
    let folder = Workspace::with(package_of(&[present.clone(), missing.clone()]));
    let flags = [
        "--insecure",
        "--insecure-registry",
        &source.host,
        "--to",
        &way.host,
        "--output",
        "json",
    ];
    let arguments = [&["build", "shop.yaml"], &flags[..]].concat();
    let mut running = folder.command(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains(&format!("{missing} does not exist")), "{first}");
    assert!(running.try_wait().unwrap().is_none(), "the other image is on its way");
    assert!(way.sent() < 1 << 20, "{} bytes of it were sent", way.sent());
    way.set_rate(0);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["images"][0]["image"], present);
    assert_eq!(report["failures"].as_array().unwrap().len(), 1);
    assert!(lines.next().is_none(), "a failure is told once beside JSON");

    let output = folder.run(&[&["build", "shop.yaml"], &flags[..5]].concat());
    let message = stderr(&output);
    assert_eq!(message.matches(" does not exist in ").count(), 1, "{message}");
    let list = format!("JackalPackage/shop: 1 of 2 images failed:\n  {missing}: SourceNotFound\n");
    assert!(message.ends_with(&list), "{message}");
}

async fn everything_is_pushed_below_the_prefix() {
    let registry = registry_with("app", 1000).await;
    let below = registry.repository("team/own");
    put(&below, &image(&below, "linux/amd64", noise(32, 1000)).await, Some("1")).await;
    let host = &registry.host;
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/plain.key");
    let text = package_of(&[format!("{host}/app:1"), format!("{host}/team/own:1")])
        .replace("spec:\n", "spec:\n  signing: {secretRef: {name: k}, images: ['**']}\n");
    let folder = Workspace::with(text);
    let to = format!("{host}/team");
    let flags = [
        "build",
        "shop.yaml",
        "--insecure",
        "--to",
        &to,
        "--key",
        key,
        "--output",
        "json",
    ];
    let before = tags(&registry, "app");
    let output = folder.run(&flags);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["reference"], format!("{to}/shop:1.4.0"));
    let names: Vec<&str> = (0..2)
        .map(|at| report["images"][at]["name"].as_str().unwrap())
        .collect();
    assert!(names[0].starts_with(&format!("{to}/app:1")), "{names:?}");
    assert_eq!(names[1], format!("{to}/own:1"));
    let listed = process::run(program("JACKAL_BIN_CRANE"), &["catalog", "--insecure", host]);
    let repositories: Vec<&str> = listed.lines().collect();
    assert_eq!(repositories, ["app", "team/app", "team/own", "team/shop"]);
    assert_eq!(
        tags(&registry, "app"),
        before,
        "nothing is written outside of the prefix"
    );
}

fn tags(registry: &TestRegistry, repository: &str) -> String {
    process::run(
        program("JACKAL_BIN_CRANE"),
        &["ls", "--insecure", &format!("{}/{repository}", registry.host)],
    )
}

async fn standalone_images_are_copied() {
    let source = registry_with("team/app", 1000).await;
    let destination = TestRegistry::start(Version::V31);
    let image = format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalImage\nmetadata: {{name: app}}\n\
         spec: {{image: '{}/team/app:1', naming: Zarf, plainTag: false}}\n",
        source.host
    );
    let package = package_of(&[format!("{}/team/none:1", source.host)]);
    let folder = Workspace::with(format!("{package}---\n{image}"));
    let flags = [
        "--insecure",
        "--insecure-registry",
        &source.host,
        "--to",
        &destination.host,
        "--output",
        "json",
    ];
    let output = folder.run(&[&["build", "shop.yaml"], &flags[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["objects"][0]["failures"][0]["reason"], "SourceNotFound");
    assert_eq!(report["objects"][1]["object"], "JackalImage/app");
    let tags = tags(&destination, "team/app");
    assert!(tags.starts_with("1-zarf-") && tags.lines().count() == 1, "{tags}");
    let listed = process::run(
        program("JACKAL_BIN_CRANE"),
        &["catalog", "--insecure", &destination.host],
    );
    assert_eq!(listed.trim(), "team/app", "an image has no artifact");
}

async fn the_first_image_keeps_the_name() {
    let (first, second) = (
        registry_with("team/app", 1000).await,
        registry_with("team/app", 2000).await,
    );
    let destination = TestRegistry::start(Version::V31);
    let image = |name: &str, registry: &TestRegistry, more: &str| {
        format!(
            "apiVersion: jackal.dev/v1alpha1\nkind: JackalImage\nmetadata: {{name: {name}}}\n\
             spec: {{image: '{}/team/app:1'{more}}}\n---\n",
            registry.host
        )
    };
    let hosts = format!("{},{}", first.host, second.host);
    let build = |text: &str, more: &[&str]| {
        let folder = Workspace::with(text);
        let flags = [
            "build",
            "shop.yaml",
            "--insecure",
            "--insecure-registry",
            &hosts,
            "--to",
            &destination.host,
        ];
        folder.run(&[&flags[..], more].concat())
    };
    let text = image("one", &first, "") + &image("two", &second, "");
    for more in [&["--dry-run"][..], &[]] {
        let output = build(&text, more);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let message = stderr(&output);
        assert!(
            message.contains("JackalImage/two: `")
                && message.contains("belongs to the JackalImage one of the same file"),
            "{message}"
        );
    }
    let existing = destination
        .repository("team/app")
        .head_manifest("1")
        .await
        .unwrap()
        .unwrap();
    let expected = first.repository("team/app").head_manifest("1").await.unwrap().unwrap();
    assert_eq!(existing.digest, expected.digest, "the first image is there");
    // With unique names only the plain tag is used by the first alone.
    let text = image("one", &first, ", naming: Zarf") + &image("two", &second, ", naming: Zarf");
    let output = build(&text, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("the plain tag 1 belongs to the JackalImage one of the same file"),
        "{}",
        stdout(&output)
    );
    assert_eq!(tags(&destination, "team/app").lines().count(), 3);
}

/// The result of `build --check` for `shop.yaml`: exit code and output.
fn checked(text: &str, hosts: &str) -> (Option<i32>, String) {
    let output = Workspace::with(text).run(&["build", "shop.yaml", "--check", "--insecure-registry", hosts]);
    (output.status.code(), stderr(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_requests_every_source() {
    check(&[
        Case {
            report: "openshift/oc-mirror#360",
            input: "images with a tag, a digest and a repository that do not exist, and one that exists",
            expected: "each is named, exit code 1",
            run: || {
                Box::pin(async {
                    let registry = registry_with("app", 1000).await;
                    let host = &registry.host;
                    let digest = format!("sha256:{}", "0".repeat(64));
                    let missing = ["app:2".to_owned(), format!("app@{digest}"), "none:1".to_owned()];
                    let missing = missing.map(|name| format!("{host}/{name}"));
                    let present = format!("{host}/app:1");
                    let text = package_of(&[&[present.clone()][..], &missing].concat());
                    let (code, message) = checked(&text, host);
                    assert_eq!(code, Some(1), "{message}");
                    for name in missing {
                        assert!(
                            message.contains(&format!("build: {name} does not exist")),
                            "{name}: {message}"
                        );
                    }
                    let platform = format!("{{image: '{present}', platforms: [linux/s390x]}}");
                    let (code, message) = checked(&package_of(&[platform]), host);
                    assert_eq!(code, Some(1), "{message}");
                    assert!(message.contains("linux/s390x"), "{message}");
                    assert_eq!(checked(&package_of(&[present]), host), (Some(0), String::new()));
                })
            },
        },
        Case {
            report: "opencontainers/distribution-spec, \"Pulling manifests\"",
            input: "charts in a registry and a repository, and a file, that do not exist",
            expected: "each is named, exit code 1",
            run: || Box::pin(charts_and_files_are_requested()),
        },
        Case {
            report: "docker reference, \"DOCKER_HOST\"",
            input: "an image of a docker engine on a machine that has none",
            expected: "a note that it is not checked, and no failure: engines are on the nodes",
            run: || {
                Box::pin(async {
                    let text = empty("shop") + "    images:\n    - {image: app:dev, source: Docker}\n";
                    let (code, message) = checked(&text, "none.example");
                    assert_eq!(code, Some(0), "{message}");
                    assert!(message.contains("app:dev is not checked: "), "{message}");
                })
            },
        },
    ])
    .await;
}

async fn charts_and_files_are_requested() {
    let (registry, file_server) = (TestRegistry::start(Version::V31), FileServer::new().await);
    let folder = Workspace::new();
    let archive = charts::package(&folder.path("."), "front", "1.2.3", "quay.io/team/front:1", "first");
    charts::push(&archive, &registry.host);
    let file = noise(33, 1000);
    let url = file_server.put("/tool", file.clone());
    let sha256 = jackal_operator::oci::Digest::of(&file).hex().to_owned();
    let chart = |name: &str, version: &str, url: String| json!({"name": name, "version": version, "namespace": "web", "url": url});
    let oci = format!("oci://{}/charts/front", registry.host);
    let components = |chart: Value, file: Value| json!([{"name": "web", "charts": [chart], "files": [file]}]);
    let text = |components: Value| {
        let spec = json!({"version": "1.4.0", "components": components});
        json!({"apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": {"name": "shop"}, "spec": spec}).to_string()
    };
    let hosts = format!("{},{}", registry.host, file_server.host);
    let there = json!({"target": "/tool", "url": url, "sha256": sha256});
    let missing = json!({"target": "/tool", "url": format!("http://{}/none", file_server.host), "sha256": sha256});
    let good = chart("front", "1.2.3", oci.clone());
    for (chart, file, words) in [
        (
            chart("front", "9.9.9", oci),
            &there,
            "charts/front:9.9.9 does not exist",
        ),
        (
            chart("back", "1.0.0", format!("http://{}/charts", file_server.host)),
            &there,
            "/charts/index.yaml",
        ),
        (good, &missing, "/none"),
    ] {
        let (code, message) = checked(&text(components(chart, file.clone())), &hosts);
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains("component `web`") && message.contains(words),
            "{words}: {message}"
        );
    }
    let before = file_server.asked().len();
    let (_, message) = checked(&text(json!([{"name": "web", "files": [there]}])), &hosts);
    assert_eq!(message, "");
    assert_eq!(file_server.asked().len(), before + 1, "it is asked for once");
}
