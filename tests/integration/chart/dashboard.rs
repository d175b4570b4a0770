//! The dashboard uses existing metrics.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{find, render};

/// The metrics that docs/metrics.md lists, with the names that Prometheus uses for histograms.
fn listed() -> BTreeSet<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let mut names = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `jackal_")) {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next().unwrap().trim_matches('`');
        match cells.next().unwrap() {
            "histogram" => names.extend(["bucket", "count", "sum"].map(|end| format!("{name}_{end}"))),
            _ => drop(names.insert(name.to_owned())),
        }
    }
    names
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" || key == "query" || key == "definition" => {
                        found.push(text.clone())
                    }
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_documentation_list_the_same_metrics() {
    let objects = render(&json!({ "dashboard": { "enabled": true } }));
    let map = find(&objects, "ConfigMap", "shop-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value = serde_json::from_str(map["data"]["jackal-operator.json"].as_str().unwrap()).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() >= 10, "{found:?}");
    let words = |text: &str| {
        let letters = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
        let words = text.split(letters).filter(|word| word.starts_with("jackal_"));
        words.map(str::to_owned).collect::<Vec<String>>()
    };
    let asked: BTreeSet<String> = found.iter().flat_map(|text| words(text)).collect();
    let listed = listed();
    let unknown: Vec<_> = asked.difference(&listed).collect();
    assert!(unknown.is_empty(), "docs/metrics.md does not list {unknown:?}");
    // One of a histogram's three metrics is enough.
    let stem = |name: &String| {
        let ends = ["_bucket", "_count", "_sum"];
        ends.iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name)
            .to_owned()
    };
    let shown: BTreeSet<String> = asked.iter().map(stem).collect();
    let unseen: Vec<String> = listed.iter().map(stem).filter(|name| !shown.contains(name)).collect();
    assert!(unseen.is_empty(), "the dashboard shows nothing of {unseen:?}");
}
