//! Validates a component's manifests, charts and files. The schema of the API checks most of it too, but the command line
//! has no API server.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::v1alpha1::{ChartSpec, ComponentSpec, FileSpec, ManifestSpec};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Reference;

/// The longest name of a chart or a group of manifests in characters: Zarf's limit.
const NAME_LIMIT: usize = 40;
/// The longest name of a release in characters: Helm's limit.
const RELEASE_LIMIT: usize = 53;

/// Checks everything in `component` except its name and images. Every fault is stalled and names the part.
pub fn check(component: &ComponentSpec) -> Result<(), Fault> {
    let within = |fault: Fault| fault.with_context(format_args!("component `{}`", component.name));
    let mut names = HashSet::new();
    for manifest in &component.manifests {
        check_manifest(manifest, &mut names).map_err(within)?;
    }
    let (mut names, mut stems) = (HashSet::new(), HashSet::new());
    for chart in &component.charts {
        check_chart(chart, &mut names).map_err(within)?;
        // Charts with different names may still have the same path: `a-1` and `a`.
        if !stems.insert(super::layout::stem(chart)) {
            let what = format!(
                "two charts have the same name with version, `{}`; rename one of them",
                super::layout::stem(chart)
            );
            return Err(within(invalid(what)));
        }
    }
    for file in &component.files {
        check_file(file)
            .map_err(|fault| within(fault.with_context(format_args!("file `{}`", shortened(&file.target)))))?;
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

/// The documents of `text` that are not empty, each a Kubernetes object. The error completes a sentence about the text, such
/// as `is not YAML: …`.
pub fn manifests_of(text: &str) -> Result<Vec<Value>, String> {
    let documents = decode::yaml_documents(text).map_err(|error| format!("is not YAML: {error}"))?;
    let documents: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
    for (index, document) in documents.iter().enumerate() {
        let has = |field: &str| document[field].as_str().is_some_and(|text| !text.is_empty());
        if !has("apiVersion") || !has("kind") {
            return Err(format!(
                "contains a document without apiVersion or kind, number {}",
                index + 1
            ));
        }
    }
    match documents.is_empty() {
        true => Err("contains no manifest".to_owned()),
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
            shortened(version)
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
            shortened(release)
        ));
    }
    match chart.url.split_once("://") {
        Some(("oci", _)) => oci_reference(chart).map(drop).map_err(within),
        Some(("https" | "http", _)) => check_url(&chart.url).map_err(within),
        _ => bad(format!(
            "`{}` is not the address of a chart: write oci://registry/path/chart, or https:// and the address of a chart repository",
            shortened(&chart.url)
        )),
    }
}

/// The reference of a chart in an OCI registry. Its tag is the chart's version, with `_` instead of `+` as Helm writes it,
/// unless its address has a digest.
pub(crate) fn oci_reference(chart: &ChartSpec) -> Result<Reference, Fault> {
    let bare = chart.url.strip_prefix("oci://").unwrap_or(&chart.url);
    let bare = bare.trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    if !host.contains(['.', ':']) && host != "localhost" {
        return Err(invalid(format!(
            "`{}` names a registry without domain or port, which could be part of an image's path: write it with its domain or port",
            shortened(&chart.url)
        )));
    }
    if path.is_empty() {
        return Err(invalid(format!(
            "`{}` names a registry but no chart: write oci://registry/path/chart",
            shortened(&chart.url)
        )));
    }
    if !path.contains('@') && path.contains(':') {
        return Err(invalid(format!(
            "`{}` has a tag, but a chart's tag is its version: remove it",
            shortened(&chart.url)
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

/// Checks that a text is an `https://` or `http://` address without name and password, because an object is not secret.
fn check_url(text: &str) -> Result<(), Fault> {
    let url =
        url::Url::parse(text).map_err(|error| invalid(format!("`{}` is not an address: {error}", shortened(text))))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(format!("`{}` is not an https:// address", shortened(text))));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "its url contains a name or a password, which everybody who can read the object would know, and which are not sent: remove them"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Checks a file's path and source.
pub fn check_file(file: &FileSpec) -> Result<(), Fault> {
    let target = &file.target;
    let bad = |message: &str| Err(invalid(message.to_owned()));
    if target.is_empty() || target.len() > 1024 || target.contains('\\') || target.chars().any(char::is_control) {
        return bad("its target is not a file path; write it with '/', without '\\' and control characters");
    }
    let below = target.strip_prefix('/').unwrap_or(target);
    for part in below.split('/') {
        match part {
            ".." | "." => {
                return bad("its target contains '.' or '..'; write it without them");
            }
            "" => return bad("its target is not a file path; write it without '//', and not with '/' at its end"),
            _ => {}
        }
    }
    match (&file.url, &file.sha256, &file.inline) {
        (Some(url), Some(sha256), None) => {
            check_url(url)?;
            match digest_of_sha256(sha256) {
                Some(_) => Ok(()),
                None => bad("its sha256 is not 64 hexadecimal digits, as `sha256sum` prints them"),
            }
        }
        (Some(_), None, None) => bad("it has no sha256, so any content at its url would be accepted; add it"),
        (None, None, Some(_)) => Ok(()),
        (None, Some(_), Some(_)) => bad("sha256 applies only to files with a url; remove it"),
        _ => bad("set exactly one of url and inline"),
    }
}

/// The digest with the hexadecimal SHA-256 `sha256`.
pub(crate) fn digest_of_sha256(sha256: &str) -> Option<crate::oci::Digest> {
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
            shortened(name)
        )));
    }
    match names.insert(name) {
        true => Ok(()),
        false => Err(invalid(format!(
            "two entries have the name `{name}`, each a {what}; rename one of them"
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
        shortened(namespace)
    )))
}

fn invalid(message: String) -> Fault {
    Fault::stalled(Reason::InvalidSpec, message)
}

/// A user's text, shortened for a message.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
