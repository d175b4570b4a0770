//! Failures, invalid input and interruptions.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::catalog;
use crate::support::image::{image, noise as seeded, put};
use crate::support::operator::Operator;
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::{Workspace, shop, stderr, stdout};

#[tokio::test]
async fn every_failure_is_listed_and_the_other_images_are_copied() {
    let (source, destination) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    let repository = source.repository("shop/web");
    let document = image(&repository, "linux/amd64", seeded(8, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let folder = Workspace::new();
    let [missing, present] = ["none", "web"].map(|name| format!("{}/shop/{name}:1", source.host));
    folder.write_shop(&[
        format!("{{image: '{missing}'}}"),
        "{image: 'app:dev', source: Docker}".to_owned(),
        format!("{{image: '{present}'}}"),
    ]);
    let flags = [
        "shop.yaml",
        "--to",
        &destination.host,
        "--insecure",
        "--insecure-registry",
        &source.host,
    ];
    let output = folder.build(&[&flags[..], &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let errors = stderr(&output);
    assert_eq!(errors.matches("jackal-operator build: ").count(), 2, "{errors}");
    assert!(
        errors.contains(&format!("build: {missing} does not exist in {}", source.host)),
        "{errors}"
    );
    assert!(
        errors.contains("start it, or set DOCKER_HOST / --docker-host"),
        "{errors}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failures"][0]["reason"], "SourceNotFound");
    assert_eq!(report["failures"][0]["image"], missing);
    assert_eq!(report["failures"][1]["reason"], "SourceFailed");
    assert_eq!(report["images"][0]["image"], present);
    assert_eq!(report["digest"], Value::Null);
    assert_eq!(catalog(&destination), "shop/web", "no package of a part of the images");
}

#[tokio::test]
async fn invalid_input_and_failures_have_different_exit_codes() {
    let (source, destination) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    let repository = source.repository("shop/web");
    let document = image(&repository, "linux/amd64", seeded(9, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let folder = Workspace::new();
    let good = folder.write_shop(&[format!("{{image: '{}/shop/web:1'}}", source.host)]);
    folder.write("brackets.yaml", "a: [");
    folder.write("pod.yaml", "kind: Pod");
    folder.write("upper.yaml", shop(&["{image: 'UPPER/x:1'}".to_owned()]));
    folder.write("sauce.yaml", good.replace("{image:", "{sauce: Docker, image:"));
    folder.write("twice.yaml", format!("{good}  - {{name: web, images: []}}\n"));
    let (here, free) = (destination.host.as_str(), "127.0.0.1:1");
    let path = format!("{here}/UPPER");
    let url = format!("http://{here}");
    for (file, to, code, words) in [
        ("missing.yaml", here, 2, "cannot read missing.yaml: No such file"),
        ("brackets.yaml", here, 2, "brackets.yaml is not YAML: "),
        (
            "pod.yaml",
            here,
            2,
            "pod.yaml must contain a JackalPackage or a JackalImage; it contains Pod",
        ),
        ("upper.yaml", here, 2, "repository name must be lowercase"),
        (
            "sauce.yaml",
            here,
            2,
            "spec.components[0].images[0].sauce: unknown field",
        ),
        (
            "twice.yaml",
            here,
            2,
            "two components are called `web`; rename one of them",
        ),
        ("shop.yaml", "oci:", 2, "write oci:DIR"),
        ("shop.yaml", &path, 2, "invalid repository path UPPER"),
        ("shop.yaml", &url, 2, "for plain HTTP use --insecure"),
        (
            "shop.yaml",
            free,
            1,
            "connection refused; check that the registry is running",
        ),
        (
            "shop.yaml",
            "oci:shop.yaml",
            1,
            "cannot write to the OCI layout shop.yaml",
        ),
    ] {
        let flags = [file, "--to", to, "--insecure", "--insecure-registry", &source.host];
        for output in ["text", "json"] {
            let output = folder.build(&[&flags[..], &["--output", output]].concat());
            let errors = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{file} to {to}: {errors}");
            assert!(errors.contains(words), "{file} to {to}: {errors}");
            if !output.stdout.is_empty() {
                let report: Value = serde_json::from_slice(&output.stdout).unwrap();
                let message = report["failures"][0]["message"].as_str().unwrap();
                assert!(message.contains(words), "{report}");
            }
        }
    }
    assert_eq!(catalog(&destination), "");
    // Plain HTTP without --insecure.
    for flags in [&["--insecure"][..], &["--insecure-registry", &source.host]] {
        let output = folder.build(&[&["shop.yaml", "--to", here], flags].concat());
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("does not use TLS") && errors.contains("--insecure"),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn credentials_are_read_from_dockers_configuration() {
    let login = Options {
        login: Some(("ann", "right")),
        ..Options::default()
    };
    let source = TestRegistry::start_with(Version::V31, login);
    let repository = source.repository("shop/web");
    let document = image(&repository, "linux/amd64", seeded(10, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let folder = Workspace::new();
    folder.write_shop(&[format!("{{image: '{}/shop/web:1'}}", source.host)]);
    let flags = ["shop.yaml", "--to", "oci:out", "--insecure-registry", &source.host];
    let config = |password: &str| {
        use base64::Engine as _;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("ann:{password}"));
        format!(r#"{{"auths": {{"{}": {{"auth": "{login}"}}}}}}"#, source.host)
    };
    for written in [None, Some(config("wrong"))] {
        if let Some(text) = written {
            folder.write(".docker/config.json", &text);
        }
        let output = folder.build(&[&flags[..], &["--output", "json"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["failures"][0]["reason"], "AuthenticationFailed", "{report}");
        assert_ne!(output.status.code(), Some(0));
    }
    folder.write(".docker/config.json", config("right"));
    assert_eq!(folder.build_report(&flags)["changed"], true);
}

#[tokio::test]
async fn an_interrupted_build_is_resumed_by_the_next_run() {
    let (source, destination) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    let repository = source.repository("shop/web");
    let document = image(&repository, "linux/amd64", seeded(11, 4 << 20)).await;
    put(&repository, &document, Some("1")).await;
    let folder = Workspace::new();
    folder.write_shop(&[format!("{{image: '{}/shop/web:1'}}", source.host)]);
    let way = Throttle::to(&destination.host, 200_000);
    let file = folder.path("shop.yaml");
    let flags = [
        "build",
        file.to_str().unwrap(),
        "--to",
        &way.host,
        "--insecure",
        "--insecure-registry",
        &source.host,
    ];
    let log = folder.path("log");
    let home = folder.path(".");
    let config = [("DOCKER_CONFIG", home.to_str().unwrap())];
    let mut process = Operator::start(&flags, &config, log);
    eventually(SOON, "a blob is on its way", async || match way.sent() {
        300_000.. => Ok(()),
        sent => Err(format!("{sent} bytes")),
    })
    .await;
    process.signal("INT");
    let status = process.ends(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(130), "{}", process.log());
    assert!(
        process.log().contains("found again by the next run"),
        "{}",
        process.log()
    );
    let tags = Command::new(program("JACKAL_BIN_CRANE"))
        .args(["ls", "--insecure", &format!("{}/shop/web", destination.host)])
        .output();
    assert_eq!(stdout(&tags.unwrap()), "", "nothing is tagged");
    way.set_rate(0);
    let to = Path::new(&way.host).display().to_string();
    let report = folder.build_report(&[
        "shop.yaml",
        "--to",
        &to,
        "--insecure",
        "--insecure-registry",
        &source.host,
    ]);
    assert_eq!(report["images"][0]["digest"], document.digest().as_str());
}

#[tokio::test]
async fn a_terminal_shows_progress_bars_and_results_go_to_standard_output() {
    let (source, destination) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    // Slow enough for bars to be drawn.
    let way = Throttle::to(&destination.host, 1_000_000);
    let repository = source.repository("shop/web");
    let document = image(&repository, "linux/amd64", seeded(12, 1 << 20)).await;
    put(&repository, &document, Some("1")).await;
    let folder = Workspace::new();
    let home = folder.path(".").display().to_string();
    folder.write_shop(&[format!("{{image: '{}/shop/web:1'}}", source.host)]);
    let command = format!(
        "{} build {home}/shop.yaml --to {} --insecure --insecure-registry {} >{home}/lines",
        env!("CARGO_BIN_EXE_jackal-operator"),
        way.host,
        source.host
    );
    let shown = run("script", &["-qec", &command, "/dev/null"]);
    assert!(shown.contains("/shop/web:1") && shown.contains("MiB"), "{shown:?}");
    let lines = std::fs::read_to_string(folder.path("lines")).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(!lines.contains('\u{1b}'), "{lines:?}");
}
