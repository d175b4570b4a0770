//! Where answers to requests that write lead, and by which of its names a registry calls itself.

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
            input: "301, 302, 307 and 308 for the POST that begins an upload",
            expected: "the POST is sent again where they lead",
            run: || Box::pin(redirected(|request| request.method == "POST")),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the PUT of a blob",
            expected: "the blob is sent again where they lead",
            run: || {
                Box::pin(redirected(|request| {
                    request.method == "PUT" && request.path.contains("/uploads/")
                }))
            },
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the PATCH of a blob whose digest is not known before",
            expected: "the content is sent again where they lead",
            run: || Box::pin(redirected(|request| request.method == "PATCH")),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "301, 302, 307 and 308 for the PUT of a manifest",
            expected: "the manifest is sent again where they lead",
            run: || {
                Box::pin(redirected(|request| {
                    request.method == "PUT" && request.path.contains("/manifests/")
                }))
            },
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "a redirect of a PUT to another host",
            expected: "nothing is sent there, and the message names that host",
            run: || Box::pin(led_away()),
        },
        Case {
            report: "distribution/distribution#479",
            input: "Location: http:// of a registry that is reached by HTTPS",
            expected: "the upload goes on by HTTPS",
            run: || Box::pin(announced_by_http()),
        },
        Case {
            report: "distribution, registry/client: sanitizeLocation",
            input: "Location: v2/… without its first slash",
            expected: "it is read from the root",
            run: || {
                Box::pin(relocated(Vec::new(), |location| {
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
                Box::pin(relocated(aliases, |location| {
                    let (_, path) = location.split_once("/v2/").unwrap();
                    format!("http://registry.invalid:31999/v2/{path}")
                }))
            },
        },
        Case {
            report: "distribution, token authentication: realm",
            input: "the realm names the registry by the address that pods use",
            expected: "the token is fetched from the endpoint",
            run: || Box::pin(a_realm_by_another_name()),
        },
    ])
    .await;
}

fn client(host: &str, aliases: Vec<String>) -> Registry {
    plain_client(host, |endpoint| endpoint.aliases = aliases)
}

/// Stores an image and a blob whose digest is not known before, and reads both.
async fn stores(repository: &Repository) {
    let document = image(repository, "linux/amd64", noise(1, 300_000)).await;
    put(repository, &document, Some("1")).await;
    assert_eq!(repository.manifest("1").await.unwrap(), Some(document));
    let content = noise(2, 300_000);
    let stored = repository.upload(None, None, stream(content.clone())).await.unwrap();
    assert_eq!(stored, (Digest::of(&content), 300_000));
    assert_eq!(repository.head_blob(&stored.0).await.unwrap(), Some(300_000));
}

/// A registry that redirects what `when` holds for, once each.
async fn redirected(when: fn(&RecordedRequest) -> bool) {
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
        stores(&client(&proxy.host, Vec::new()).repository(format!("a{status}"))).await;
        assert!(met.load(Ordering::Relaxed) > 0, "{status}");
    }
}

async fn led_away() {
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
    let said = sent.unwrap_err().to_string();
    assert!(
        said.contains(&format!("the registry redirects to http://{}", other.host)),
        "{said}"
    );
    assert_eq!(other.requests().len(), 0);
}

async fn announced_by_http() {
    let registry = TestRegistry::start_announcing_http();
    stores(&registry.repository("a")).await;
}

/// A registry whose Location is made another.
async fn relocated(aliases: Vec<String>, change: fn(&str) -> String) {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, move |_| Action::Header("location", Box::new(change)));
    stores(&client(&proxy.host, aliases).repository("a")).await;
}

async fn a_realm_by_another_name() {
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
