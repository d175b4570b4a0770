//! The images that a Helm chart names, without rendering it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{add, looks_like_image, values};
use crate::decode;

/// The depth to which charts may be nested.
const DEPTH: usize = 8;
/// The most charts that are evaluated. A dependency with several names is evaluated once for each, with its own dependencies.
const CHARTS: usize = 500;
/// The most images that are reported for a chart.
const IMAGES: usize = 1000;
/// The most values in one file of a chart.
const VALUES: usize = 50_000;
/// The most values that are copied to evaluate a chart with its dependencies, which may get the same values again and again.
const COPIED: usize = 1_000_000;
/// The annotation that Helm tools read, Zarf included.
const HELM_IMAGES: &str = "helm.sh/images";
/// The annotation that Artifact Hub reads.
const HUB_IMAGES: &str = "artifacthub.io/images";

/// The parts of a chart that are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChartTexts {
    /// `Chart.yaml`.
    metadata: Value,
    /// `values.yaml`.
    values: Map<String, Value>,
    /// The templates, without those of tests.
    templates: Vec<String>,
    /// The charts in `charts/`, by directory.
    charts: BTreeMap<String, ChartTexts>,
}

impl ChartTexts {
    /// Reads a chart from `files`, by their paths below the chart's directory. The error says what is wrong with it.
    pub fn of(files: BTreeMap<String, String>) -> Result<Self, String> {
        Self::at_depth(files, DEPTH)
    }

    /// Whether a file is needed; `path` is relative to the chart's directory.
    pub fn reads(path: &str) -> bool {
        let mut inner = path;
        while let Some((_, rest)) = inner.strip_prefix("charts/").and_then(|rest| rest.split_once('/')) {
            inner = rest;
        }
        matches!(inner, "Chart.yaml" | "values.yaml")
            || inner.starts_with("templates/")
                && !inner.starts_with("templates/tests/")
                && [".yaml", ".yml", ".tpl"].iter().any(|end| inner.ends_with(end))
    }

    fn at_depth(files: BTreeMap<String, String>, depth: usize) -> Result<Self, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err("its charts are nested too deeply".to_owned());
        };
        let mut chart = Self::default();
        let mut inner: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let (mut metadata, mut own) = (None, None);
        for (path, text) in files {
            match path.as_str() {
                "Chart.yaml" => metadata = Some(text),
                "values.yaml" => own = Some(text),
                _ => match path.strip_prefix("charts/").and_then(|rest| rest.split_once('/')) {
                    Some((folder, rest)) => {
                        inner
                            .entry(folder.to_owned())
                            .or_default()
                            .insert(rest.to_owned(), text);
                    }
                    None => chart.templates.push(text),
                },
            }
        }
        let metadata = metadata.ok_or("it has no Chart.yaml")?;
        chart.metadata = bounded(&metadata, "Chart.yaml")?;
        for field in ["name", "version"] {
            if text_of(&chart.metadata[field]).is_none() {
                return Err(format!("its Chart.yaml has no {field}"));
            }
        }
        if let Some(text) = own
            && let Value::Object(fields) = bounded(&text, "values.yaml")?
        {
            chart.values = fields;
        }
        for (folder, files) in inner {
            // The directory may contain other things too.
            if files.contains_key("Chart.yaml") {
                let within = |why| format!("the chart {folder} in it: {why}");
                chart
                    .charts
                    .insert(folder.clone(), Self::at_depth(files, depth).map_err(within)?);
            }
        }
        Ok(chart)
    }
}

/// The images that `chart` names if it is installed with `values`; later ones override earlier ones.
pub fn images_of_chart(chart: &ChartTexts, values: &[Map<String, Value>]) -> Vec<String> {
    let mut over = Map::new();
    for values in values {
        values::merge(&mut over, values.clone());
    }
    let mut found = BTreeSet::new();
    let mut left = Left {
        charts: CHARTS,
        values: COPIED,
    };
    of_chart(chart, &over, &mut left, &mut found);
    found.into_iter().take(IMAGES).collect()
}

/// `left` is the number of charts that may still be evaluated.
/// What may still be evaluated of a chart. Images of the rest are not found.
struct Left {
    charts: usize,
    values: usize,
}

fn of_chart(chart: &ChartTexts, over: &Map<String, Value>, left: &mut Left, found: &mut BTreeSet<String>) {
    let copied = count(&chart.values) + count(over);
    let fewer = left.charts.checked_sub(1).zip(left.values.checked_sub(copied));
    let Some((charts, values)) = fewer else { return };
    *left = Left { charts, values };
    let mut values = chart.values.clone();
    values::override_values(&mut values, over);
    let mut own = values.clone();
    for folder in chart.charts.keys() {
        let name = text_of(&chart.charts[folder].metadata["name"]).unwrap_or_else(|| folder.clone());
        let dependencies = dependencies(chart, &name);
        for (key, condition) in &dependencies {
            // The values of a dependency are evaluated with it.
            own.remove(key);
            let enabled = condition
                .split(',')
                .find_map(|path| values::at(&values, path)?.as_bool());
            if enabled == Some(false) {
                continue;
            }
            let mut over = match values.get(key) {
                Some(Value::Object(over)) => over.clone(),
                _ => Map::new(),
            };
            if let Some(global) = values.get("global") {
                over.entry("global").or_insert_with(|| global.clone());
            }
            of_chart(&chart.charts[folder], &over, left, found);
        }
    }
    let app_version = text_of(&chart.metadata["appVersion"]);
    let mut named = BTreeSet::new();
    values::images(&own, app_version.as_deref(), &mut named);
    for text in &chart.templates {
        literal_images(text, &mut named);
    }
    let known: BTreeSet<String> = named.iter().filter_map(|text| last(text)).collect();
    for text in annotated(&chart.metadata, HELM_IMAGES, &values) {
        add(&text, &mut named);
    }
    // They are the chart's defaults: an image of the same name in the values replaces one.
    for text in annotated(&chart.metadata, HUB_IMAGES, &values) {
        if last(&text).is_none_or(|name| !known.contains(&name)) {
            add(&text, &mut named);
        }
    }
    found.append(&mut named);
}

/// A field of `Chart.yaml` that is a text; Helm also accepts a number.
/// The YAML of the file `name`, if it has no more than [`VALUES`] values.
fn bounded(text: &str, name: &str) -> Result<Value, String> {
    let too_many = || format!("its {name} has more than {VALUES} values");
    // JSON has more values in the same length, and is not limited by the YAML parser.
    if text.trim_start().starts_with(['{', '[']) && decode::json_values(text.as_bytes()) > 2 * VALUES {
        return Err(too_many());
    }
    let read: Value = decode::yaml(text).map_err(|error| format!("its {name} is not YAML: {error}"))?;
    match count_of(&read) > VALUES {
        true => Err(too_many()),
        false => Ok(read),
    }
}

/// The number of values in `fields`, with those in them.
fn count(fields: &Map<String, Value>) -> usize {
    fields.values().map(count_of).sum()
}

fn count_of(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => count(fields),
        Value::Array(items) => items.iter().map(count_of).sum(),
        _ => 0,
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The keys of the values under which the chart `name` is a dependency, each with its condition.
fn dependencies(chart: &ChartTexts, name: &str) -> Vec<(String, String)> {
    let all = chart.metadata["dependencies"].as_array();
    let of_name = all.into_iter().flatten().filter(|one| one["name"] == name);
    let text = |one: &Value, field: &str| one[field].as_str().map(str::to_owned);
    let found: Vec<(String, String)> = of_name
        .map(|one| {
            let key = text(one, "alias").unwrap_or_else(|| name.to_owned());
            (key, text(one, "condition").unwrap_or_default())
        })
        .collect();
    match found.is_empty() {
        true => vec![(name.to_owned(), String::new())],
        false => found,
    }
}

/// The last part of an image's path.
fn last(text: &str) -> Option<String> {
    let reference: crate::oci::Reference = text.parse().ok()?;
    reference.repository().rsplit('/').next().map(str::to_owned)
}

/// The images of an annotation: a YAML list of objects with an `image` and optionally a condition on the values.
fn annotated(metadata: &Value, key: &str, values: &Map<String, Value>) -> Vec<String> {
    let Some(text) = metadata["annotations"][key].as_str() else {
        return Vec::new();
    };
    let images: Vec<Value> = decode::yaml(text).unwrap_or_default();
    let holds = |condition: &str| values::at(values, condition) == Some(&Value::Bool(true));
    images
        .iter()
        .filter(|image| {
            image["condition"]
                .as_str()
                .is_none_or(|condition| condition.is_empty() || holds(condition))
        })
        .filter_map(|image| image["image"].as_str().map(str::to_owned))
        .collect()
}

/// The literal images of a template: lines `image: name:tag` without template expressions.
fn literal_images(template: &str, found: &mut BTreeSet<String>) {
    for line in template.lines() {
        let line = line.trim_start().trim_start_matches("- ").trim();
        let Some(text) = line.strip_prefix("image:") else {
            continue;
        };
        let text = text
            .split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .trim_matches(['"', '\'']);
        if !text.contains("{{") && looks_like_image(text) {
            add(text, found);
        }
    }
}
