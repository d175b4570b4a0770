//! What of a component's manifests, charts and files cannot be used. The schema of the API says most of it too, but the
//! command line has no API server.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::v1alpha1::{ChartSpec, ComponentSpec, FileSpec, ManifestSpec};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Reference;

/// The longest name of a chart and of a group of manifests in characters, as Zarf has it.
const NAME_LIMIT: usize = 40;
/// The longest name of a release in characters, as Helm has it.
const RELEASE_LIMIT: usize = 53;

/// Checks everything of `component` but its name and images. Every fault is stalled, and names the part.
pub fn check(component: &ComponentSpec) -> Result<(), Fault> {
    let within = |fault: Fault| fault.with_context(format_args!("component `{}`", component.name));
    let mut names = HashSet::new();
    for manifest in &component.manifests {
        check_manifest(manifest, &mut names).map_err(within)?;
    }
    let (mut names, mut stems) = (HashSet::new(), HashSet::new());
    for chart in &component.charts {
        check_chart(chart, &mut names).map_err(within)?;
        // Two charts that are called `a-1` and `a` may still have one path.
        if !stems.insert(super::layout::stem(chart)) {
            let what = format!(
                "two charts are `{}` when name and version stand together; rename one of them",
                super::layout::stem(chart)
            );
            return Err(within(invalid(what)));
        }
    }
    for file in &component.files {
        check_file(file).map_err(|fault| within(fault.with_context(format_args!("file `{}`", cut(&file.target)))))?;
    }
    Ok(())
}

fn check_manifest<'a>(manifest: &'a ManifestSpec, names: &mut HashSet<&'a str>) -> Result<(), Fault> {
    let ManifestSpec {
        name,
        namespace,
        inline,
        config_map_ref,
    } = manifest;
    check_name("group of manifests", name, names)?;
    let within = |fault: Fault| fault.with_context(format_args!("manifests `{name}`"));
    if let Some(namespace) = namespace {
        check_namespace(namespace).map_err(within)?;
    }
    match (inline, config_map_ref) {
        (Some(text), None) => manifests_of(text).map(drop).map_err(|why| {
            within(invalid(format!(
                "its inline text {why}; correct it as `kubectl apply` would take it"
            )))
        }),
        (None, Some(_)) => Ok(()),
        _ => Err(within(invalid("set exactly one of inline and configMapRef".to_owned()))),
    }
}

/// The documents of `text` that hold something, each an object of Kubernetes. The error says what the text is or does,
/// such as `is not YAML: …`.
pub fn manifests_of(text: &str) -> Result<Vec<Value>, String> {
    let documents = decode::yaml_documents(text).map_err(|error| format!("is not YAML: {error}"))?;
    let documents: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
    for (index, document) in documents.iter().enumerate() {
        let has = |field: &str| document[field].as_str().is_some_and(|text| !text.is_empty());
        if !has("apiVersion") || !has("kind") {
            return Err(format!(
                "holds a document without apiVersion or kind, number {}",
                index + 1
            ));
        }
    }
    match documents.is_empty() {
        true => Err("holds no manifest".to_owned()),
        false => Ok(documents),
    }
}

fn check_chart<'a>(chart: &'a ChartSpec, names: &mut HashSet<&'a str>) -> Result<(), Fault> {
    check_name("chart", &chart.name, names)?;
    let within = |fault: Fault| fault.with_context(format_args!("chart `{}`", chart.name));
    let bad = |message: String| Err(within(invalid(message)));
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b".+_-".contains(&byte);
    let version = &chart.version;
    if !version.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        || !version.bytes().all(word)
        || version.len() > 128
    {
        return bad(format!(
            "`{}` is not a chart's version; write it in full, such as 6.4.0",
            cut(version)
        ));
    }
    check_namespace(&chart.namespace).map_err(within)?;
    let release = chart.release_name.as_ref().unwrap_or(&chart.name);
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !release.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        || !release.bytes().all(label)
        || release.ends_with('-')
        || release.len() > RELEASE_LIMIT
    {
        return bad(format!(
            "`{}` cannot be the name of its release; set releaseName: at most {RELEASE_LIMIT} lower-case letters, digits and '-', the first a letter",
            cut(release)
        ));
    }
    match chart.url.split_once("://") {
        Some(("oci", _)) => oci_reference(chart).map(drop).map_err(within),
        Some(("https" | "http", _)) => check_url(&chart.url).map_err(within),
        _ => bad(format!(
            "`{}` is no address of a chart: write oci://registry/path/chart, or https:// and the address of a chart repository",
            cut(&chart.url)
        )),
    }
}

/// The reference of a chart that lies in an OCI registry: its version is the tag, where a registry takes no `+` (Helm
/// writes `_`), unless its address has a digest.
pub(crate) fn oci_reference(chart: &ChartSpec) -> Result<Reference, Fault> {
    let bare = chart.url.strip_prefix("oci://").unwrap_or(&chart.url);
    let bare = bare.trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    if !host.contains(['.', ':']) && host != "localhost" {
        return Err(invalid(format!(
            "`{}` names the registry by a name that an image could begin with: write it with its domain or port",
            cut(&chart.url)
        )));
    }
    if path.is_empty() {
        return Err(invalid(format!(
            "`{}` names a registry and no chart in it: write oci://registry/path/chart",
            cut(&chart.url)
        )));
    }
    if !path.contains('@') && path.contains(':') {
        return Err(invalid(format!(
            "`{}` has a tag, and a chart's tag is its version: remove it",
            cut(&chart.url)
        )));
    }
    let whole = match path.contains('@') {
        true => bare.to_owned(),
        false => format!("{bare}:{}", chart.version.replace('+', "_")),
    };
    whole
        .parse()
        .map_err(|error: crate::oci::ReferenceError| Fault::stalled(Reason::InvalidReference, error.to_string()))
}

/// Fails on what is no `https://` or `http://` address, or has a name and password in it: what an object says is no
/// secret.
fn check_url(text: &str) -> Result<(), Fault> {
    let url = url::Url::parse(text).map_err(|error| invalid(format!("`{}` is no address: {error}", cut(text))))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(format!("`{}` is no https:// address", cut(text))));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "its url holds a name or a password; everybody who reads the object would have them, and they are not sent: remove them"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Checks a file: its path, and where its content comes from.
pub fn check_file(file: &FileSpec) -> Result<(), Fault> {
    let target = &file.target;
    let bad = |message: &str| Err(invalid(message.to_owned()));
    if target.is_empty() || target.len() > 1024 || target.contains('\\') || target.chars().any(char::is_control) {
        return bad("its target is no path of a file; write it with '/', without '\\' and control characters");
    }
    let below = target.strip_prefix('/').unwrap_or(target);
    for part in below.split('/') {
        match part {
            ".." | "." => {
                return bad("its target leads elsewhere than it says; write it without '.' and '..'");
            }
            "" => return bad("its target is no path of a file; write it without '//', and not with '/' at its end"),
            _ => {}
        }
    }
    match (&file.url, &file.sha256, &file.inline) {
        (Some(url), Some(sha256), None) => {
            check_url(url)?;
            match digest_of(sha256) {
                Some(_) => Ok(()),
                None => bad("its sha256 is not 64 hexadecimal digits, as `sha256sum` prints them"),
            }
        }
        (Some(_), None, None) => bad("it has no sha256, without which whatever is at its url would be taken; add it"),
        (None, None, Some(_)) => Ok(()),
        (None, Some(_), Some(_)) => bad("sha256 is for what is fetched from a url; remove it"),
        _ => bad("set exactly one of url and inline"),
    }
}

/// The digest that `sha256` means.
pub(crate) fn digest_of(sha256: &str) -> Option<crate::oci::Digest> {
    format!("sha256:{sha256}").parse().ok()
}

fn check_name<'a>(what: &str, name: &'a str, names: &mut HashSet<&'a str>) -> Result<(), Fault> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !ends(name.bytes().next())
        || !ends(name.bytes().next_back())
        || !name.bytes().all(word)
        || name.len() > NAME_LIMIT
    {
        return Err(invalid(format!(
            "`{}` is not the name of a {what}: write at most {NAME_LIMIT} letters, digits, '.', '_' and '-', with a letter or digit at both ends",
            cut(name)
        )));
    }
    match names.insert(name) {
        true => Ok(()),
        false => Err(invalid(format!(
            "it has two of the name `{name}`, each a {what}; rename one of them"
        ))),
    }
}

fn check_namespace(namespace: &str) -> Result<(), Fault> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !namespace.is_empty()
        && namespace.len() <= 63
        && namespace.bytes().all(word)
        && !namespace.starts_with('-')
        && !namespace.ends_with('-')
    {
        return Ok(());
    }
    Err(invalid(format!(
        "`{}` is not a namespace: write at most 63 lower-case letters, digits and '-'",
        cut(namespace)
    )))
}

fn invalid(message: String) -> Fault {
    Fault::stalled(Reason::InvalidSpec, message)
}

/// A text of a user's in a message.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
