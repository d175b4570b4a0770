//! Registries whose listings of tags and referrers are as long as they can be.

use std::fmt::Write as _;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use jackal_operator::oci::{Digest, media_type};
use serde_json::json;

use super::{Hostile, manifest_reply};
use crate::support::objects::{registry_at, standalone_image};
use crate::support::scripted::{ScriptedServer, reply};

/// Bytes of a listing.
const LISTING: usize = 16_000_000;
/// Bytes of a link to the next page.
const LINK: usize = 60_000;
/// Pages with such links.
const PAGES: usize = 8_000;

/// A text of [`LISTING`] bytes: `start`, as often as possible `entry`, and `end`.
fn long(start: &str, entry: &str, end: &str) -> Bytes {
    let mut text = start.to_owned();
    while text.len() + entry.len() + 1 + end.len() < LISTING {
        text.push_str(entry);
        text.push(',');
    }
    text.pop();
    text.push_str(end);
    text.into()
}

/// Images that follow a policy, each with the tags that `answer` lists.
async fn followed(words: &'static str, answer: impl Fn(&str) -> Response<Body> + Send + Sync + 'static) -> Hostile {
    let server = ScriptedServer::start(move |request| match request.path.contains("/tags/list") {
        true => answer(&request.path),
        false => reply(404, &[], ""),
    })
    .await;
    let objects = (0..4)
        .map(|number| {
            let name = format!("followed-{number}");
            let more = format!(
                "policy: {{semver: {{range: '>=1.0'}}}}\n  {}",
                registry_at("DESTINATION")
            );
            let object = standalone_image(&name, &format!("{}/followed-{number}", server.host), &more);
            (name, object, words)
        })
        .collect();
    Hostile { server, objects }
}

/// Tags of which all but one are the same.
pub async fn equal_tags() -> Hostile {
    let listing = long(r#"{"name":"x","tags":["1.0.0","#, r#""""#, "]}");
    let answer = move |_: &str| reply(200, &[("content-type", "application/json")], listing.clone());
    followed("has more than 50000 tags", answer).await
}

/// Pages of one tag, each with a very long link to the next.
pub async fn long_links() -> Hostile {
    let padding = "x".repeat(LINK);
    followed("Link header", move |path| {
        let page: usize = path
            .rsplit_once("page=")
            .and_then(|(_, page)| page.parse().ok())
            .unwrap_or_default();
        let listing = json!({"name": "x", "tags": [format!("{page}.0.0")]}).to_string();
        let mut link = String::new();
        let path = path.split('?').next().unwrap_or_default();
        write!(link, "<{path}?pad={padding}&page={}>; rel=\"next\"", page + 1).unwrap();
        match page < PAGES {
            true => reply(200, &[("link", &link)], listing),
            false => reply(200, &[], listing),
        }
    })
    .await
}

/// Images with millions of referrers that name nothing.
pub async fn empty_referrers() -> Hostile {
    let manifest: Bytes = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": Digest::of(b"{}"), "size": 2}})
    .to_string()
    .into();
    let start = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#,
        media_type::OCI_INDEX
    );
    let listing = long(&start, "{}", "]}");
    let server = ScriptedServer::start(move |request| {
        if request.path.contains("/referrers/") {
            return manifest_reply(listing.clone(), media_type::OCI_INDEX);
        }
        match request.path.rsplit('/').next().unwrap_or_default() {
            name if name.ends_with(".sig") || name.ends_with(".att") || name.ends_with(".sbom") => reply(404, &[], ""),
            _ if request.path.contains("/blobs/") => reply(200, &[("content-length", "2")], "{}"),
            _ => manifest_reply(manifest.clone(), media_type::OCI_MANIFEST),
        }
    })
    .await;
    let objects = (0..4)
        .map(|number| {
            let name = format!("referred-{number}");
            let object = standalone_image(
                &name,
                &format!("{}/referred-{number}:1", server.host),
                &registry_at("DESTINATION"),
            );
            (name, object, "referrers")
        })
        .collect();
    Hostile { server, objects }
}
