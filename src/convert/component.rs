//! Converts the components of a definition.

use serde_json::{Map, Value};

use super::Conversion;
use super::fields::Fields;
use super::node::Node;
use crate::api::v1alpha1::FileSpec;
use crate::decode;
use crate::oci::Reference;
use crate::package::component::{check_file, manifests_of, merge_values};

/// The prefixes of variables that a deployment by the commands would replace.
const DEPLOYED: [&str; 4] = ["###ZARF_VAR_", "###ZARF_CONST_", "###JACKAL_VAR_", "###JACKAL_CONST_"];

/// Converts a component; `None` if it is omitted.
pub(super) fn convert(mut component: Fields, conversion: &mut Conversion<'_>) -> Option<Node> {
    let Some(name) = component.text("name", conversion) else {
        conversion.omit(component.at("name"), "it is missing: the component is omitted");
        return None;
    };
    component.set_path(format!("components[{name}]"));
    component.set_component(&name);
    if !is_included(&mut component, conversion) {
        return None;
    }
    let description = component.text("description", conversion);
    let required = component.flag("required", conversion);
    let images = images(&mut component, conversion);
    let manifests: Vec<Node> = component
        .list("manifests", conversion)
        .into_iter()
        .filter_map(|one| manifest(one, conversion))
        .collect();
    let charts = component.list("charts", conversion);
    let charts: Vec<Node> = charts.into_iter().filter_map(|one| chart(one, conversion)).collect();
    let files = component.list("files", conversion);
    let files: Vec<Node> = files.into_iter().filter_map(|one| file(one, conversion)).collect();
    component.omit_rest(conversion);
    Some(Node::fields([
        ("name", Some(Node::text(name))),
        ("description", description.map(Node::text)),
        ("required", Node::flag(required)),
        ("images", Node::list(images)),
        ("manifests", Node::list(manifests)),
        ("charts", Node::list(charts)),
        ("files", Node::list(files)),
    ]))
}

/// Whether a component belongs to the flavour and the architecture of the package. `package create` omits others too.
fn is_included(component: &mut Fields, conversion: &mut Conversion<'_>) -> bool {
    let path = component.at("only");
    let Some(mut only) = component.inner("only", conversion) else {
        return true;
    };
    if let Some(flavor) = only.text("flavor", conversion)
        && flavor != conversion.options.flavor
    {
        let why = format!("the component is of the flavour {flavor}: convert with --flavor {flavor} to include it");
        conversion.omit(path, why);
        return false;
    }
    if let Some(mut cluster) = only.inner("cluster", conversion) {
        let architecture = cluster.text("architecture", conversion);
        let package = conversion.architecture.clone().unwrap_or_else(|| "amd64".to_owned());
        if let Some(architecture) = architecture.filter(|architecture| *architecture != package) {
            let why = format!("the component is for {architecture}, but the package for {package}");
            conversion.omit(path, why);
            return false;
        }
        cluster.omit_rest(conversion);
    }
    only.omit_rest(conversion);
    true
}

fn images(component: &mut Fields, conversion: &mut Conversion<'_>) -> Vec<Node> {
    let mut images = Vec::new();
    for (path, text) in component.texts("images", conversion) {
        match text.parse::<Reference>() {
            Ok(_) => images.push(Node::text(text)),
            Err(error) => conversion.omit(path, error.to_string()),
        }
    }
    images
}

fn manifest(mut fields: Fields, conversion: &mut Conversion<'_>) -> Option<Node> {
    let Some(name) = fields.text("name", conversion) else {
        conversion.omit(fields.at("name"), "it is missing: the manifests are omitted");
        return None;
    };
    let namespace = fields.text("namespace", conversion);
    let mut texts = Vec::new();
    for (path, file) in fields.texts("files", conversion) {
        if is_remote(&file) {
            conversion.omit(path, format!("{file} is not downloaded: write its content as inline"));
            continue;
        }
        let Some(text) = conversion.text(&path, &file) else {
            continue;
        };
        match manifests_of(&text) {
            Ok(_) => {
                warn_of_variables(&path, &file, &text, conversion);
                texts.push(text);
            }
            Err(why) => conversion.omit(path, format!("{file} {why}")),
        }
    }
    fields.omit_rest(conversion);
    let inline = joined(texts)?;
    Some(Node::fields([
        ("name", Some(Node::text(name))),
        ("namespace", namespace.map(Node::text)),
        ("inline", Some(Node::text(inline))),
    ]))
}

/// Joins YAML texts to one with several documents; `None` without any.
fn joined(texts: Vec<String>) -> Option<String> {
    let mut whole: Option<String> = None;
    for text in texts {
        match &mut whole {
            None => whole = Some(text),
            Some(whole) => {
                if !whole.ends_with('\n') {
                    whole.push('\n');
                }
                if !text.trim_start().starts_with("---") {
                    whole.push_str("---\n");
                }
                whole.push_str(&text);
            }
        }
    }
    whole
}

fn chart(mut fields: Fields, conversion: &mut Conversion<'_>) -> Option<Node> {
    let (path, name) = (fields.at("name"), fields.text("name", conversion));
    let (url, version) = (fields.text("url", conversion), fields.text("version", conversion));
    let namespace = fields.text("namespace", conversion);
    let (Some(name), Some(url), Some(version), Some(namespace)) = (name, url, version, namespace) else {
        conversion.omit(
            path.trim_end_matches(".name"),
            "charts must be in a registry or a chart repository, with a version and a namespace; push a local one with `helm push`: it is omitted",
        );
        return None;
    };
    let path = format!(
        "{}[{name}]",
        path.rsplit_once('[').map_or(path.as_str(), |(list, _)| list)
    );
    fields.set_path(path.clone());
    let in_registry = url.starts_with("oci://");
    if !in_registry && (!is_remote(&url) || is_git(&url)) {
        conversion.omit(
            path,
            format!("{url} is a git repository: push the chart with `helm push`; it is omitted"),
        );
        return None;
    }
    let mut release = fields.text("releaseName", conversion);
    let mut chart_name = name.clone();
    match fields.text("repoName", conversion) {
        // The chart's name in the repository; the commands name the release after `name`.
        Some(own) if !in_registry && own != name => {
            release = release.or(Some(name));
            chart_name = own;
        }
        _ => {}
    }
    let values = values(&mut fields, conversion);
    fields.omit_rest(conversion);
    Some(Node::fields([
        ("name", Some(Node::text(chart_name))),
        ("version", Some(Node::text(version))),
        ("namespace", Some(Node::text(namespace))),
        ("releaseName", release.map(Node::text)),
        ("url", Some(Node::text(url))),
        (
            "values",
            (!values.is_empty()).then_some(Node::Value(Value::Object(values))),
        ),
    ]))
}

/// The values of a chart's files; later ones override earlier ones.
fn values(fields: &mut Fields, conversion: &mut Conversion<'_>) -> Map<String, Value> {
    let mut values = Map::new();
    for (path, file) in fields.texts("valuesFiles", conversion) {
        if is_remote(&file) {
            conversion.omit(path, format!("{file} is not downloaded: write its content as values"));
            continue;
        }
        let Some(text) = conversion.text(&path, &file) else {
            continue;
        };
        match decode::yaml(&text) {
            Ok(Value::Object(over)) => {
                warn_of_variables(&path, &file, &text, conversion);
                merge_values(&mut values, over);
            }
            Ok(Value::Null) => {}
            _ => conversion.omit(path, format!("{file} is not YAML with a chart's values")),
        }
    }
    values
}

fn file(mut fields: Fields, conversion: &mut Conversion<'_>) -> Option<Node> {
    let path = fields.at("source");
    let whole = path.trim_end_matches(".source").to_owned();
    let (source, target) = (fields.text("source", conversion), fields.text("target", conversion));
    let (Some(source), Some(target)) = (source, target) else {
        conversion.omit(whole, "it has no source or no target: it is omitted");
        return None;
    };
    let sha256 = fields
        .text("shasum", conversion)
        .map(|digest| digest.to_ascii_lowercase());
    let executable = fields.flag("executable", conversion);
    let extracted = fields.text("extractPath", conversion).is_some();
    fields.omit_rest(conversion);
    if extracted {
        conversion.omit(
            whole,
            "archives are not unpacked: give the url of the file itself; it is omitted",
        );
        return None;
    }
    let mut spec = FileSpec {
        target,
        url: None,
        sha256: None,
        inline: None,
        executable,
    };
    if is_remote(&source) {
        let Some(sha256) = sha256 else {
            conversion.omit(
                path,
                format!("{source} has no shasum, which a download needs: it is omitted"),
            );
            return None;
        };
        (spec.url, spec.sha256) = (Some(source), Some(sha256));
    } else {
        let text = conversion.text(&path, &source)?;
        let found = crate::oci::Digest::of(text.as_bytes());
        if sha256.is_some_and(|sha256| sha256 != found.hex()) {
            conversion.omit(
                path,
                format!("{source} has another SHA-256 than its shasum: it is omitted"),
            );
            return None;
        }
        warn_of_variables(&path, &source, &text, conversion);
        spec.inline = Some(text);
    }
    if let Err(fault) = check_file(&spec) {
        conversion.omit(whole, format!("{}; it is omitted", fault.message));
        return None;
    }
    Some(Node::fields([
        ("target", Some(Node::text(spec.target))),
        ("url", spec.url.map(Node::text)),
        ("sha256", spec.sha256.map(Node::text)),
        ("inline", spec.inline.map(Node::text)),
        ("executable", Node::flag(executable)),
    ]))
}

fn is_remote(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// Whether the commands would clone it as a git repository.
fn is_git(url: &str) -> bool {
    let bare = url.rsplit_once('@').map_or(url, |(bare, _)| bare);
    bare.ends_with(".git")
}

fn warn_of_variables(path: &str, file: &str, text: &str, conversion: &mut Conversion<'_>) {
    let found = DEPLOYED.iter().find_map(|template| {
        let rest = &text[text.find(template)?..];
        rest.get(3..)?.find("###").map(|end| rest[..end + 6].to_owned())
    });
    if let Some(found) = found {
        conversion.omit(
            path,
            format!("{file} contains {found}, which is not replaced when the package is deployed: write the value"),
        );
    }
}
