//! The script in docs/gitops.md and in the chart is the tested one.

use serde_json::Value;

use super::HEALTH;
use crate::support::process::run;
use crate::support::program;

const PAGE: &str = include_str!("../../../docs/gitops.md");

/// The content of the page's fenced blocks in that language.
fn fenced(language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let blocks = PAGE.split(&begin).skip(1);
    blocks
        .map(|block| block.split_once("```").expect("an end of the fence").0.to_owned())
        .collect()
}

#[test]
fn the_page_shows_the_tested_script() {
    let script = std::fs::read_to_string(HEALTH).unwrap();
    assert_eq!(
        fenced("lua"),
        [script],
        "copy charts/jackal-operator/files/argocd/health.lua to docs/gitops.md"
    );
}

#[test]
fn the_documented_examples_are_valid_yaml() {
    let blocks = fenced("yaml");
    assert!(blocks.len() >= 4, "{}", blocks.len());
    let documents = blocks.iter().flat_map(|block| block.split("---\n"));
    for document in documents {
        let object: Value = serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
        assert!(object.is_object(), "{document}");
        if object["apiVersion"] == "jackal.dev/v1alpha1" {
            let spec = object["spec"].clone();
            let read = serde_json::from_value::<jackal_operator::api::v1alpha1::JackalPackageSpec>(spec);
            assert!(read.is_ok(), "{read:?}: {document}");
        }
    }
}

#[test]
fn the_chart_includes_the_health_script_when_enabled() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/jackal-operator");
    let render = |more: &[&str]| {
        run(
            program("JACKAL_BIN_HELM"),
            &[&["template", "jackal", folder], more].concat(),
        )
    };
    assert!(!render(&[]).contains("argocd-health"), "off by default");
    let file = "templates/argocd-health.yaml";
    let rendered = render(&["--set", "argocd.health.enabled=true", "--show-only", file]);
    let object: Value = serde_saphyr::from_str(&rendered).unwrap();
    let script = std::fs::read_to_string(HEALTH).unwrap();
    for kind in ["JackalPackage", "JackalImage"] {
        let shipped = &object["data"][format!("resource.customizations.health.jackal.dev_{kind}")];
        assert_eq!(shipped.as_str().unwrap().trim(), script.trim(), "{kind}");
    }
}
