//! What registries and token services answer to who does not prove yet who asks.

use axum::response::Response;
use jackal_operator::fault::Reason;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::registry::{Credentials, Kind, MountResult, Registry};

use super::{Case, check};
use crate::support::faulty::{Scripted, Seen, reply};
use crate::support::image::{noise, stream};
use crate::support::registry::plain_client;

/// Of jackal with the password s3cret.
const BASIC: &str = "Basic amFja2FsOnMzY3JldA==";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn challenges_are_answered() {
    check(&[
        Case {
            report: "IBM/portieris#51",
            input: "Basic beside Bearer, whose token service answers 404",
            expected: "Basic is answered",
            run: || Box::pin(a_token_service_that_is_not_there()),
        },
        Case {
            report: "goharbor/harbor#18856",
            input: "a token that allows too little is answered by a Basic challenge",
            expected: "Basic is answered",
            run: || Box::pin(basic_after_a_token()),
        },
        Case {
            report: "GoogleContainerTools/jib#2134",
            input: "401 without a challenge for a manifest, and a Bearer challenge for /v2/",
            expected: "the challenge of /v2/ is answered",
            run: || Box::pin(a_challenge_only_at_the_root()),
        },
        Case {
            report: "RFC 9110 section 11.6.1",
            input: "401 without any challenge, and a password is known",
            expected: "the password is sent as Basic",
            run: || Box::pin(no_challenge_at_all()),
        },
        Case {
            report: "project-zot/zot#4033",
            input: "a realm that is a path: /zot/auth/token",
            expected: "the token is fetched from the registry",
            run: || Box::pin(a_realm_of_the_registry()),
        },
        Case {
            report: "RFC 6750 section 3.1",
            input: "403 insufficient_scope with a Bearer challenge that names another scope",
            expected: "a token of that scope is fetched",
            run: || Box::pin(a_token_that_allows_too_little()),
        },
        Case {
            report: "google/go-containerregistry#1747",
            input: "Bearer for one repository and Basic for another, asked at once",
            expected: "each is asked for once, and answered from then on",
            run: || Box::pin(two_ways_at_once()),
        },
        Case {
            report: "containerd/containerd#12822",
            input: "a token service that answers 404 with HTML",
            expected: "the token service is named; the image does not count as missing",
            run: || Box::pin(a_missing_token_service_is_no_missing_image()),
        },
        Case {
            report: "RFC 9110 section 11.2",
            input: "parameters without quotes or in single ones, a scope of several actions without quotes among them",
            expected: "they are read",
            run: || {
                Box::pin(async {
                    asked_by("Bearer realm=http://HOST/token,scope=repository:a:pull,push,service=s").await;
                    asked_by("Bearer realm='http://HOST/token', service='s'").await;
                })
            },
        },
        Case {
            report: "distribution, token authentication: realm",
            input: "a realm without a scheme",
            expected: "that of the registry is taken",
            run: || Box::pin(asked_by(r#"Bearer realm="HOST/token",service="s""#)),
        },
        Case {
            report: "containerd/containerd#11709",
            input: "a token service that refuses the two scopes of a mount with 400",
            expected: "the blob is uploaded",
            run: || Box::pin(a_refused_scope_of_a_mount()),
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_fetched_and_read() {
    check(&[
        Case {
            report: "distribution/distribution#1746",
            input: r#"{"token": "t", "expires_in": "300"}"#,
            expected: "the token is used",
            run: || Box::pin(a_token(r#"{"token":"t","expires_in":"300"}"#)),
        },
        Case {
            report: "RFC 8259 section 4",
            input: "duplicate fields and fields of other types",
            expected: "the token is used",
            run: || {
                Box::pin(a_token(
                    r#"{"token":"x","token":"t","access_token":7,"expires_in":null,"scope":[]}"#,
                ))
            },
        },
        Case {
            report: "containerd/containerd#2381",
            input: "an identity token, which the token service takes by POST alone",
            expected: "it is exchanged for an access token",
            run: || Box::pin(an_identity_token()),
        },
        Case {
            report: "distribution, registry/client/auth: registrytoken",
            input: "an access token in docker's config.json",
            expected: "it is sent as it is",
            run: || Box::pin(a_registry_token()),
        },
        Case {
            report: "moby/moby#33558, cesanta/docker_auth#240",
            input: "a token that ends while a blob is sent",
            expected: "the blob is committed with another token, and not sent again",
            run: || Box::pin(a_token_that_ends_on_the_way()),
        },
        Case {
            report: "containerd/containerd#2170",
            input: "a token service that answers an identity token by 401, and a password is known",
            expected: "the password is sent by GET",
            run: || Box::pin(a_password_beside_an_identity_token()),
        },
        Case {
            report: "distribution, OAuth2 token authentication",
            input: "a token service that answers GET by 405",
            expected: "the password is sent by POST",
            run: || Box::pin(a_password_by_post()),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "a token service that redirects within its origin by 301, 302, 303, 307 and 308",
            expected: "the redirect is followed with the credentials",
            run: || Box::pin(a_redirected_token_service()),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "a token service that redirects to another host",
            expected: "no credentials go there",
            run: || Box::pin(a_token_service_that_leads_away()),
        },
    ])
    .await;
}

fn manifest() -> Document {
    let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2);
    Document::of_manifest(Manifest::new(config, Vec::new())).unwrap()
}

fn found() -> Response {
    let raw = manifest().raw.to_vec();
    reply(200, &[("content-type", media_type::OCI_MANIFEST)], raw)
}

fn authorization(seen: &Seen) -> &str {
    seen.headers.get("authorization").map_or("", String::as_str)
}

fn asks(challenges: &[&str]) -> Response {
    let headers: Vec<_> = challenges
        .iter()
        .map(|challenge| ("www-authenticate", *challenge))
        .collect();
    reply(401, &headers, "")
}

fn bearer(seen: &Seen) -> String {
    format!(r#"Bearer realm="http://{}/token",service="s""#, seen.headers["host"])
}

/// A client of who gives `credentials`.
fn client(host: &str, credentials: Option<Credentials>) -> Registry {
    plain_client(host, |endpoint| endpoint.credentials = credentials)
}

fn password() -> Option<Credentials> {
    Some(Credentials::new("jackal", "s3cret"))
}

/// Reads a manifest of the repository `a`.
async fn reads(server: &Scripted, credentials: Option<Credentials>) {
    let repository = client(&server.host, credentials).repository("a");
    assert_eq!(repository.manifest("1").await.unwrap(), Some(manifest()));
}

fn is_token(seen: &Seen) -> bool {
    seen.path.starts_with("/token")
}

async fn a_token_service_that_is_not_there() {
    for status in [400, 404, 405, 500] {
        let server = Scripted::start(move |seen: &Seen| match authorization(seen) {
            _ if is_token(seen) => reply(status, &[], "<html><title>Nothing</title>"),
            BASIC => found(),
            _ => asks(&[&format!(r#"Basic realm="r", {}"#, bearer(seen))]),
        })
        .await;
        reads(&server, password()).await;
    }
}

async fn basic_after_a_token() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        _ if is_token(seen) => reply(200, &[], r#"{"token":"t"}"#),
        BASIC => found(),
        "" => asks(&[&bearer(seen)]),
        _ => asks(&[r#"Basic realm="harbor""#]),
    })
    .await;
    reads(&server, password()).await;
}

async fn a_challenge_only_at_the_root() {
    let server = Scripted::start(|seen: &Seen| match (authorization(seen), seen.path.as_str()) {
        _ if is_token(seen) => reply(200, &[], r#"{"token":"t"}"#),
        ("Bearer t", _) => found(),
        (_, "/v2/") => asks(&[&bearer(seen)]),
        _ => reply(401, &[], ""),
    })
    .await;
    reads(&server, None).await;
}

async fn no_challenge_at_all() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        BASIC => found(),
        _ => reply(401, &[], "Unauthorized"),
    })
    .await;
    reads(&server, password()).await;
    let error = client(&server.host, None)
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), &Kind::Unauthorized);
    assert!(
        error.to_string().ends_with("the registry answered 401 Unauthorized"),
        "{error}"
    );
}

async fn a_realm_of_the_registry() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        BASIC if seen.path.starts_with("/zot/auth/token?") => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => found(),
        _ => asks(&[r#"Bearer realm="/zot/auth/token",service="zot""#]),
    })
    .await;
    reads(&server, password()).await;
}

async fn a_token_that_allows_too_little() {
    let server = Scripted::start(|seen: &Seen| {
        let challenge = format!(r#"{},scope="artifact:a:read",error="insufficient_scope""#, bearer(seen));
        match authorization(seen) {
            _ if is_token(seen) && seen.path.contains("artifact%3Aa%3Aread") => reply(200, &[], r#"{"token":"wide"}"#),
            _ if is_token(seen) => reply(200, &[], r#"{"token":"narrow"}"#),
            "Bearer wide" => found(),
            "Bearer narrow" => reply(403, &[("www-authenticate", challenge.as_str())], ""),
            _ => asks(&[&bearer(seen)]),
        }
    })
    .await;
    reads(&server, None).await;
}

async fn two_ways_at_once() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        _ if is_token(seen) => reply(200, &[], r#"{"token":"t","expires_in":300}"#),
        "Bearer t" if seen.path.starts_with("/v2/token/") => found(),
        BASIC if seen.path.starts_with("/v2/password/") => found(),
        _ if seen.path.starts_with("/v2/token/") => asks(&[&bearer(seen)]),
        _ => asks(&["Basic realm=x"]),
    })
    .await;
    let registry = client(&server.host, password());
    let read = |name: &str| {
        let repository = registry.repository(name);
        async move { assert!(repository.manifest("1").await.unwrap().is_some()) }
    };
    read("token/a").await;
    read("password/a").await;
    let before = server.seen().len();
    let names = ["token/a", "password/a"];
    futures::future::join_all((0..20).map(|at| read(names[at % 2]))).await;
    let seen = server.seen();
    let later = &seen[before..];
    assert_eq!(later.len(), 20, "none is refused and asked again: {later:#?}");
}

async fn a_missing_token_service_is_no_missing_image() {
    let server = Scripted::start(|seen: &Seen| match is_token(seen) {
        true => reply(404, &[], "<!DOCTYPE html><html><head><title>Page not found</title>"),
        false => asks(&[&bearer(seen)]),
    })
    .await;
    let error = client(&server.host, password())
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    let fault = error.into_read_fault("r/a:1");
    assert_eq!(fault.reason, Reason::AuthenticationFailed, "{fault}");
    let said = format!(
        "http://{}/token: the token service answered 404 Page not found",
        server.host
    );
    assert!(fault.message.contains(&said), "{fault}");
}

async fn a_refused_scope_of_a_mount() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        _ if is_token(seen) && (seen.path.contains("from") || seen.method == "POST") => {
            reply(400, &[], r#"{"error":"invalid_scope"}"#)
        }
        _ if is_token(seen) => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => reply(202, &[("location", "/v2/to/blobs/uploads/1")], ""),
        _ => asks(&[&bearer(seen)]),
    })
    .await;
    let repository = client(&server.host, password()).repository("to");
    let mounted = repository.mount(&Digest::of(b"x"), "from").await.unwrap();
    assert!(matches!(mounted, MountResult::Refused(None)));
}

async fn a_token(answer: &'static str) {
    let server = Scripted::start(move |seen: &Seen| match authorization(seen) {
        _ if is_token(seen) => reply(200, &[], answer),
        "Bearer t" => found(),
        _ => asks(&[&bearer(seen)]),
    })
    .await;
    reads(&server, None).await;
}

async fn an_identity_token() {
    let server = Scripted::start(|seen: &Seen| {
        let form = seen.headers.get("content-type").map(String::as_str);
        match authorization(seen) {
            "" if is_token(seen) && seen.method == "POST" && form == Some("application/x-www-form-urlencoded") => {
                reply(200, &[], r#"{"access_token":"t"}"#)
            }
            _ if is_token(seen) => reply(401, &[], ""),
            "Bearer t" => found(),
            _ => asks(&[&bearer(seen)]),
        }
    })
    .await;
    reads(&server, Some(Credentials::identity_token("", "refresh"))).await;
}

/// Reads what is let in by a token of the service that `challenge` names, where HOST is the registry's.
async fn asked_by(challenge: &'static str) {
    let server = Scripted::start(move |seen: &Seen| match authorization(seen) {
        BASIC if seen.path.starts_with("/token?service=s&scope=") => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => found(),
        _ => asks(&[&challenge.replace("HOST", &seen.headers["host"])]),
    })
    .await;
    reads(&server, password()).await;
}

async fn a_password_beside_an_identity_token() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        BASIC if is_token(seen) && seen.method == "GET" => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => found(),
        _ if is_token(seen) => reply(401, &[], ""),
        _ => asks(&[&bearer(seen)]),
    })
    .await;
    let mut credentials = Credentials::new("jackal", "s3cret");
    credentials.identity_token = Some("refresh".into());
    reads(&server, Some(credentials)).await;
}

async fn a_token_that_ends_on_the_way() {
    let server = Scripted::start(|seen: &Seen| {
        let path = "/v2/a/blobs/uploads/1";
        let renewed = authorization(seen) == "Bearer later";
        match (seen.method.as_str(), authorization(seen)) {
            _ if is_token(seen) => {
                let token = if seen.before < 3 { "early" } else { "later" };
                reply(200, &[], format!(r#"{{"token":"{token}","expires_in":300}}"#))
            }
            (_, "") => asks(&[&bearer(seen)]),
            ("POST", _) => reply(202, &[("location", path)], ""),
            ("PATCH", _) => reply(202, &[("location", path), ("range", "0-299999")], ""),
            ("GET", _) if renewed => reply(204, &[("location", path), ("range", "0-299999")], ""),
            ("PUT", _) if renewed => reply(201, &[], ""),
            _ => asks(&[&bearer(seen)]),
        }
    })
    .await;
    let content = noise(1, 300_000);
    let repository = client(&server.host, None).repository("a");
    let stored = repository.upload(None, None, stream(content.clone())).await;
    assert_eq!(stored.unwrap(), (Digest::of(&content), 300_000));
    let sent = server.seen().iter().filter(|seen| seen.method == "PATCH").count();
    assert_eq!(sent, 1);
}

async fn a_registry_token() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        _ if is_token(seen) => reply(401, &[], ""),
        "Bearer given" => found(),
        _ => asks(&[&bearer(seen)]),
    })
    .await;
    reads(&server, Some(Credentials::registry_token("given"))).await;
}

async fn a_password_by_post() {
    let server = Scripted::start(|seen: &Seen| match authorization(seen) {
        _ if is_token(seen) && seen.method == "POST" => reply(200, &[], r#"{"access_token":"t"}"#),
        _ if is_token(seen) => reply(405, &[], ""),
        "Bearer t" => found(),
        _ => asks(&[&bearer(seen)]),
    })
    .await;
    reads(&server, password()).await;
}

async fn a_redirected_token_service() {
    for status in [301, 302, 303, 307, 308] {
        let server = Scripted::start(move |seen: &Seen| match authorization(seen) {
            BASIC if seen.path.starts_with("/token?") => {
                let to = seen.path.replacen("/token", "/token/v2", 1);
                reply(status, &[("location", to.as_str())], "")
            }
            BASIC if seen.path.starts_with("/token/v2?service=s&scope=") => reply(200, &[], r#"{"token":"t"}"#),
            "Bearer t" => found(),
            _ if is_token(seen) => reply(401, &[], ""),
            _ => asks(&[&bearer(seen)]),
        })
        .await;
        reads(&server, password()).await;
    }
}

async fn a_token_service_that_leads_away() {
    let other = Scripted::start(|_: &Seen| reply(200, &[], r#"{"token":"t"}"#)).await;
    let to = format!("http://{}/token", other.host);
    let server = Scripted::start(move |seen: &Seen| match is_token(seen) {
        true => reply(307, &[("location", to.as_str())], ""),
        false => asks(&[&bearer(seen)]),
    })
    .await;
    let error = client(&server.host, password())
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    let said = format!("the token service redirects to http://{}", other.host);
    assert!(error.to_string().contains(&said), "{error}");
    assert_eq!(other.seen().len(), 0);
}
