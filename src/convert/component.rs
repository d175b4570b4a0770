//! A component of a definition.

use serde_json::{Map, Value};

use super::Notes;
use super::fields::Fields;
use super::node::Node;
use crate::api::v1alpha1::FileSpec;
use crate::decode;
use crate::oci::Reference;
use crate::package::component::{check_file, manifests_of, merge_values};

/// What a deployment would put into texts from variables that a JackalPackage has not.
const DEPLOYED: [&str; 4] = ["###ZARF_VAR_", "###ZARF_CONST_", "###JACKAL_VAR_", "###JACKAL_CONST_"];

/// Converts a component; nothing where it is not part of the package that is wanted.
pub(super) fn convert(mut component: Fields, notes: &mut Notes<'_>) -> Option<Node> {
    let Some(name) = component.text("name", notes) else {
        notes.leave(component.at("name"), "it is missing: the component is left out");
        return None;
    };
    component.rename(format!("components[{name}]"));
    component.of_component(&name);
    if !is_wanted(&mut component, notes) {
        return None;
    }
    let description = component.text("description", notes);
    let required = component.flag("required", notes);
    let images = images(&mut component, notes);
    let manifests: Vec<Node> = component
        .list("manifests", notes)
        .into_iter()
        .filter_map(|one| manifest(one, notes))
        .collect();
    let charts = component.list("charts", notes);
    let charts: Vec<Node> = charts.into_iter().filter_map(|one| chart(one, notes)).collect();
    let files = component.list("files", notes);
    let files: Vec<Node> = files.into_iter().filter_map(|one| file(one, notes)).collect();
    component.leave_rest(notes);
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

/// Whether a component belongs to the flavour and the architecture of the package. Those of others are left out of what
/// `package create` makes too.
fn is_wanted(component: &mut Fields, notes: &mut Notes<'_>) -> bool {
    let path = component.at("only");
    let Some(mut only) = component.inner("only", notes) else {
        return true;
    };
    if let Some(flavor) = only.text("flavor", notes)
        && flavor != notes.wanted.flavor
    {
        let why = format!("the component is of the flavour {flavor}: convert with --flavor {flavor} to have it");
        notes.leave(path, why);
        return false;
    }
    if let Some(mut cluster) = only.inner("cluster", notes) {
        let architecture = cluster.text("architecture", notes);
        let package = notes.architecture.clone().unwrap_or_else(|| "amd64".to_owned());
        if let Some(architecture) = architecture.filter(|architecture| *architecture != package) {
            let why = format!("the component is for {architecture}, and the package for {package}");
            notes.leave(path, why);
            return false;
        }
        cluster.leave_rest(notes);
    }
    only.leave_rest(notes);
    true
}

fn images(component: &mut Fields, notes: &mut Notes<'_>) -> Vec<Node> {
    let mut images = Vec::new();
    for (path, text) in component.texts("images", notes) {
        match text.parse::<Reference>() {
            Ok(_) => images.push(Node::text(text)),
            Err(error) => notes.leave(path, error.to_string()),
        }
    }
    images
}

fn manifest(mut fields: Fields, notes: &mut Notes<'_>) -> Option<Node> {
    let Some(name) = fields.text("name", notes) else {
        notes.leave(fields.at("name"), "it is missing: the manifests are left out");
        return None;
    };
    let namespace = fields.text("namespace", notes);
    let mut texts = Vec::new();
    for (path, file) in fields.texts("files", notes) {
        if is_remote(&file) {
            notes.leave(path, format!("{file} is not fetched: write its content as inline"));
            continue;
        }
        let Some(text) = notes.text(&path, &file) else { continue };
        match manifests_of(&text) {
            Ok(_) => {
                warn_of_variables(&path, &file, &text, notes);
                texts.push(text);
            }
            Err(why) => notes.leave(path, format!("{file} {why}")),
        }
    }
    fields.leave_rest(notes);
    let inline = joined(texts)?;
    Some(Node::fields([
        ("name", Some(Node::text(name))),
        ("namespace", namespace.map(Node::text)),
        ("inline", Some(Node::text(inline))),
    ]))
}

/// Several texts of YAML as one.
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

fn chart(mut fields: Fields, notes: &mut Notes<'_>) -> Option<Node> {
    let (path, name) = (fields.at("name"), fields.text("name", notes));
    let (url, version) = (fields.text("url", notes), fields.text("version", notes));
    let namespace = fields.text("namespace", notes);
    let (Some(name), Some(url), Some(version), Some(namespace)) = (name, url, version, namespace) else {
        notes.leave(
            path.trim_end_matches(".name"),
            "charts come from a registry or a chart repository, with a version and a namespace; push a local one by `helm push`: it is left out",
        );
        return None;
    };
    let path = format!(
        "{}[{name}]",
        path.rsplit_once('[').map_or(path.as_str(), |(list, _)| list)
    );
    fields.rename(path.clone());
    let in_registry = url.starts_with("oci://");
    if !in_registry && (!is_remote(&url) || is_git(&url)) {
        notes.leave(
            path,
            format!("{url} is a git repository: push the chart by `helm push`; it is left out"),
        );
        return None;
    }
    let mut release = fields.text("releaseName", notes);
    let mut called = name.clone();
    match fields.text("repoName", notes) {
        // The name by which the repository knows it; the commands call the release after the other.
        Some(own) if !in_registry && own != name => {
            release = release.or(Some(name));
            called = own;
        }
        _ => {}
    }
    let values = values(&mut fields, notes);
    fields.leave_rest(notes);
    Some(Node::fields([
        ("name", Some(Node::text(called))),
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

/// The values of a chart's files, later ones over earlier ones.
fn values(fields: &mut Fields, notes: &mut Notes<'_>) -> Map<String, Value> {
    let mut values = Map::new();
    for (path, file) in fields.texts("valuesFiles", notes) {
        if is_remote(&file) {
            notes.leave(path, format!("{file} is not fetched: write its content as values"));
            continue;
        }
        let Some(text) = notes.text(&path, &file) else { continue };
        match decode::yaml(&text) {
            Ok(Value::Object(over)) => {
                warn_of_variables(&path, &file, &text, notes);
                merge_values(&mut values, over);
            }
            Ok(Value::Null) => {}
            _ => notes.leave(path, format!("{file} is not the YAML of a chart's values")),
        }
    }
    values
}

fn file(mut fields: Fields, notes: &mut Notes<'_>) -> Option<Node> {
    let path = fields.at("source");
    let whole = path.trim_end_matches(".source").to_owned();
    let (source, target) = (fields.text("source", notes), fields.text("target", notes));
    let (Some(source), Some(target)) = (source, target) else {
        notes.leave(whole, "it has no source or no target: it is left out");
        return None;
    };
    let sha256 = fields.text("shasum", notes).map(|digest| digest.to_ascii_lowercase());
    let executable = fields.flag("executable", notes);
    let extracted = fields.text("extractPath", notes).is_some();
    fields.leave_rest(notes);
    if extracted {
        notes.leave(
            whole,
            "archives are not unpacked: give the url of the file itself; it is left out",
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
            notes.leave(
                path,
                format!("{source} has no shasum, without which nothing is fetched: it is left out"),
            );
            return None;
        };
        (spec.url, spec.sha256) = (Some(source), Some(sha256));
    } else {
        let text = notes.text(&path, &source)?;
        let found = crate::oci::Digest::of(text.as_bytes());
        if sha256.is_some_and(|sha256| sha256 != found.hex()) {
            notes.leave(
                path,
                format!("{source} has another SHA-256 than its shasum: it is left out"),
            );
            return None;
        }
        warn_of_variables(&path, &source, &text, notes);
        spec.inline = Some(text);
    }
    if let Err(fault) = check_file(&spec) {
        notes.leave(whole, format!("{}; it is left out", fault.message));
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

/// Whether the commands would clone it.
fn is_git(url: &str) -> bool {
    let bare = url.rsplit_once('@').map_or(url, |(bare, _)| bare);
    bare.ends_with(".git")
}

fn warn_of_variables(path: &str, file: &str, text: &str, notes: &mut Notes<'_>) {
    let found = DEPLOYED.iter().find_map(|template| {
        let rest = &text[text.find(template)?..];
        rest.get(3..)?.find("###").map(|end| rest[..end + 6].to_owned())
    });
    if let Some(found) = found {
        notes.leave(
            path,
            format!(
                "{file} is carried with {found}, which nothing fills in when the package is deployed: write it out"
            ),
        );
    }
}
