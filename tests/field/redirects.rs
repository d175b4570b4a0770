//! Redirects and locations in responses to write requests, and registries with several names.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jackal_operator::oci::Digest;
use jackal_operator::registry::{Registry, Repository};

use super::{Case, check};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, noise, put, stream};
use crate::support::registry::{TestRegistry, Version, plain_client};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_follow_redirects_and_locations() {
    check(&[
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the POST that starts an upload",
            expected: "the POST is repeated at the new location",
            run: || Box::pin(redirect_once(|request| request.method == "POST")),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the PUT of a blob",
            expected: "the blob is sent again to the new location",
            run: || {
                Box::pin(redirect_once(|request| {
                    request.method == "PUT" && request.path.contains("/uploads/")
                }))
            },
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the PATCH of a blob whose digest is not known in advance",
            expected: "the content is sent again to the new location",
            run: || Box::pin(redirect_once(|request| request.method == "PATCH")),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the PUT of a manifest",
            expected: "the manifest is sent again to the new location",
            run: || {
                Box::pin(redirect_once(|request| {
                    request.method == "PUT" && request.path.contains("/manifests/")
                }))
            },
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "a redirect of a PUT to another host",
            expected: "nothing is sent there, and the message names that host",
            run: || Box::pin(redirect_to_another_host()),
        },
        Case {
            report: "distribution/distribution#479",
            input: "Location: http:// of a registry that is reached by HTTPS",
            expected: "the upload continues with HTTPS",
            run: || Box::pin(location_with_http()),
        },
        Case {
            report: "distribution, registry/client: sanitizeLocation",
            input: "Location: v2/… without the leading slash",
            expected: "it is relative to the root",
            run: || {
                Box::pin(changed_location(Vec::new(), |location| {
                    let (_, path) = location.split_once("/v2/").unwrap();
                    format!("v2/{path}")
                }))
            },
        },
        Case {
            report: "podman-container-tools/buildah#4788",
            input: "Location names the registry by the address that pods use",
            expected: "the upload goes to the endpoint",
            run: || {
                let aliases = vec!["registry.invalid:31999".to_owned()];
                Box::pin(changed_location(aliases, |location| {
                    let (_, path) = location.split_once("/v2/").unwrap();
                    format!("http://registry.invalid:31999/v2/{path}")
                }))
            },
        },
        Case {
            report: "distribution, token authentication: realm",
            input: "the realm names the registry by the address that pods use",
            expected: "the token is fetched from the endpoint",
            run: || Box::pin(a_realm_with_an_alias()),
        },
    ])
    .await;
}

fn client(host: &str, aliases: Vec<String>) -> Registry {
    plain_client(host, |endpoint| endpoint.aliases = aliases)
}

/// Stores an image and a blob whose digest is not known in advance, and reads both.
async fn assert_stores(repository: &Repository) {
    let document = image(repository, "linux/amd64", noise(1, 300_000)).await;
    put(repository, &document, Some("1")).await;
    assert_eq!(repository.manifest("1").await.unwrap(), Some(document));
    let content = noise(2, 300_000);
    let stored = repository.upload(None, None, stream(content.clone())).await.unwrap();
    assert_eq!(stored, (Digest::of(&content), 300_000));
    assert_eq!(repository.head_blob(&stored.0).await.unwrap(), Some(300_000));
}

/// A registry that redirects requests that match `when`, once each.
async fn redirect_once(when: fn(&RecordedRequest) -> bool) {
    let registry = TestRegistry::start(Version::V31);
    for status in [301, 302, 307, 308] {
        let met = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&met);
        let proxy = FaultProxy::to(&registry.host, move |request| {
            if !when(request) || request.path.contains("redirected") {
                return Action::Pass;
            }
            counted.fetch_add(1, Ordering::Relaxed);
            let separator = if request.path.contains('?') { '&' } else { '?' };
            let to = format!("{}{separator}redirected=1", request.path);
            Action::Answer(status, vec![("Location", to)], String::new())
        });
        assert_stores(&client(&proxy.host, Vec::new()).repository(format!("a{status}"))).await;
        assert!(met.load(Ordering::Relaxed) > 0, "{status}");
    }
}

async fn redirect_to_another_host() {
    let other = ScriptedServer::start(|_: &RecordedRequest| reply(201, &[], "")).await;
    let registry = TestRegistry::start(Version::V31);
    let to = format!("http://{}/x", other.host);
    let proxy = FaultProxy::to(&registry.host, move |request| match request.method.as_str() {
        "PUT" => Action::Answer(307, vec![("Location", to.clone())], String::new()),
        _ => Action::Pass,
    });
    let content = noise(1, 1000);
    let repository = client(&proxy.host, Vec::new()).repository("a");
    let sent = repository
        .upload(Some(&Digest::of(&content)), Some(1000), stream(content))
        .await;
    let message = sent.unwrap_err().to_string();
    assert!(
        message.contains(&format!(
            "the registry redirects a write request to http://{}",
            other.host
        )),
        "{message}"
    );
    assert_eq!(other.requests().len(), 0);
}

async fn location_with_http() {
    let registry = TestRegistry::start_announcing_http();
    assert_stores(&registry.repository("a")).await;
}

/// A registry with a changed Location.
async fn changed_location(aliases: Vec<String>, change: fn(&str) -> String) {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, move |_| Action::Header("location", Box::new(change)));
    assert_stores(&client(&proxy.host, aliases).repository("a")).await;
}

async fn a_realm_with_an_alias() {
    let server = ScriptedServer::start(|request: &RecordedRequest| {
        if request.path.starts_with("/service/token") {
            return reply(200, &[], r#"{"token":"t"}"#);
        }
        match request.headers.contains_key("authorization") {
            true => reply(404, &[], ""),
            false => {
                let challenge = r#"Bearer realm="http://registry.invalid:31999/service/token",service="s""#;
                reply(401, &[("www-authenticate", challenge)], "")
            }
        }
    })
    .await;
    let registry = client(&server.host, vec!["registry.invalid:31999".to_owned()]);
    assert_eq!(registry.repository("a").manifest("1").await.unwrap(), None);
}
