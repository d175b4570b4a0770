//! The commands of docs/air-gap.md and of the quickstart without a cluster, run as they are printed there.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{Workspace, all_output};

const PAGE: &str = include_str!("../../docs/air-gap.md");

const README: &str = include_str!("../../README.md");

/// The commands of a page, in their order.
fn commands(page: &'static str) -> Vec<&'static str> {
    let blocks = page.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

/// Shell text in which the registries of the page are those of the test. The registries of the test have no certificates.
fn script(text: &str, connected: &TestRegistry, site: &TestRegistry) -> String {
    let program = env!("CARGO_BIN_EXE_jackal-operator");
    let hosts = text
        .replace("registry.example.com", &connected.host)
        .replace("registry.site.example", &site.host);
    format!(
        r#"set -eu
jackal-operator() {{
  case $1 in
    build) "{program}" "$@" --insecure-registry {connected} ;;
    pack) "{program}" "$@" --insecure --insecure-registry {connected} ;;
    load | inventory) "{program}" "$@" --insecure ;;
    *) "{program}" "$@" ;;
  esac
}}
mkdir -p parts
{hosts}"#,
        connected = connected.host
    )
}

/// Runs each of `commands` in `workspace`.
fn run(commands: &[&str], workspace: &Workspace, connected: &TestRegistry, site: &TestRegistry) {
    for text in commands {
        let script = script(text, connected, site);
        let shell = Path::new("/bin/bash");
        let output = workspace.command_of(shell, &["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{text}: {}", all_output(&output));
    }
}

/// The digests of the images and packages at the site, by their names.
async fn digests(site: &TestRegistry) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for repository in ["shop", "shop/web"] {
        let client = site.repository(repository);
        for tag in client.tags(100).await.unwrap().unwrap_or_default() {
            let digest = client.head_manifest(&tag).await.unwrap().unwrap().digest;
            found.insert(format!("{repository}:{tag}"), digest.to_string());
        }
    }
    found
}

#[tokio::test]
async fn every_command_of_the_air_gap_page_works() {
    let (connected, site) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let (image, _) = multi_platform(&connected.repository("shop/web"), "1.4.0").await;
    let workspace = Workspace::new();
    let commands = commands(PAGE);
    assert!(commands.len() >= 8, "{}", commands.len());
    run(&commands, &workspace, &connected, &site);
    let found = digests(&site).await;
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["shop/web:1.4.0", "shop:1.4.0", "shop:1.5.0"]);
    assert_eq!(found["shop/web:1.4.0"], image.digest().to_string());
}

#[tokio::test]
async fn the_quickstart_without_a_cluster_works() {
    let (connected, site) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let (image, _) = multi_platform(&connected.repository("shop/web"), "1.4.0").await;
    let commands = commands(README);
    assert_eq!(commands.len(), 2);
    run(&commands, &Workspace::new(), &connected, &site);
    let found = digests(&site).await;
    assert_eq!(found["shop/web:1.4.0"], image.digest().to_string());
    assert!(found.contains_key("shop:1.4.0"));
}
