//! Responses of registries and token services to unauthenticated clients.

use axum::response::Response;
use jackal_operator::fault::Reason;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::registry::{Credentials, Kind, MountResult, Registry};

use super::{Case, check};
use crate::support::image::{noise, stream};
use crate::support::registry::plain_client;
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};

/// User jackal with the password s3cret.
const BASIC: &str = "Basic amFja2FsOnMzY3JldA==";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authentication_challenges_are_answered() {
    check(&[
        Case {
            report: "IBM/portieris#51",
            input: "Basic and Bearer, whose token service answers 404",
            expected: "Basic is used",
            run: || Box::pin(a_missing_token_service()),
        },
        Case {
            report: "goharbor/harbor#18856",
            input: "an insufficient token is answered with a Basic challenge",
            expected: "Basic is used",
            run: || Box::pin(basic_after_a_token()),
        },
        Case {
            report: "GoogleContainerTools/jib#2134",
            input: "401 without a challenge for a manifest, and a Bearer challenge for /v2/",
            expected: "the challenge of /v2/ is used",
            run: || Box::pin(a_challenge_only_for_the_base_url()),
        },
        Case {
            report: "RFC 9110 section 11.6.1",
            input: "401 without any challenge, with a known password",
            expected: "the password is sent as Basic",
            run: || Box::pin(no_challenge_at_all()),
        },
        Case {
            report: "project-zot/zot#4033",
            input: "a realm that is a path: /zot/auth/token",
            expected: "the token is fetched from the registry",
            run: || Box::pin(a_relative_realm()),
        },
        Case {
            report: "RFC 6750 section 3.1",
            input: "403 insufficient_scope with a Bearer challenge that names another scope",
            expected: "a token of that scope is fetched",
            run: || Box::pin(an_insufficient_scope()),
        },
        Case {
            report: "google/go-containerregistry#1747",
            input: "Bearer for one repository and Basic for another, requested concurrently",
            expected: "each is challenged once, and authenticated from then on",
            run: || Box::pin(two_schemes_concurrently()),
        },
        Case {
            report: "containerd/containerd#12822",
            input: "a token service that answers 404 with HTML",
            expected: "the token service is named; the image is not reported as missing",
            run: || Box::pin(a_missing_token_service_is_reported()),
        },
        Case {
            report: "RFC 9110 section 11.2",
            input: "parameters without quotes or with single quotes, including a scope with several actions without quotes",
            expected: "they are parsed",
            run: || {
                Box::pin(async {
                    challenge_is_answered("Bearer realm=http://HOST/token,scope=repository:a:pull,push,service=s").await;
                    challenge_is_answered("Bearer realm='http://HOST/token', service='s'").await;
                })
            },
        },
        Case {
            report: "distribution, token authentication: realm",
            input: "a realm without a scheme",
            expected: "the scheme of the registry is used",
            run: || Box::pin(challenge_is_answered(r#"Bearer realm="HOST/token",service="s""#)),
        },
        Case {
            report: "containerd/containerd#11709",
            input: "a token service that rejects the two scopes of a mount with 400",
            expected: "the blob is uploaded",
            run: || Box::pin(a_refused_mount_scope()),
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_responses_are_understood() {
    check(&[
        Case {
            report: "distribution/distribution#1746",
            input: r#"{"token": "t", "expires_in": "300"}"#,
            expected: "the token is used",
            run: || Box::pin(token_response(r#"{"token":"t","expires_in":"300"}"#)),
        },
        Case {
            report: "RFC 8259 section 4",
            input: "duplicate fields and fields of unexpected types",
            expected: "the token is used",
            run: || {
                Box::pin(token_response(
                    r#"{"token":"x","token":"t","access_token":7,"expires_in":null,"scope":[]}"#,
                ))
            },
        },
        Case {
            report: "containerd/containerd#2381",
            input: "an identity token, which the token service accepts only by POST",
            expected: "it is exchanged for an access token",
            run: || Box::pin(an_identity_token()),
        },
        Case {
            report: "distribution, registry/client/auth: registrytoken",
            input: "an access token in docker's config.json",
            expected: "it is sent unchanged",
            run: || Box::pin(a_configured_registry_token()),
        },
        Case {
            report: "moby/moby#33558, cesanta/docker_auth#240",
            input: "a token that expires while a blob is sent",
            expected: "the blob is committed with another token, and not sent again",
            run: || Box::pin(a_token_expires_during_an_upload()),
        },
        Case {
            report: "containerd/containerd#2170",
            input: "a token service that answers an identity token with 401, with a known password",
            expected: "the password is sent by GET",
            run: || Box::pin(a_password_after_a_refused_identity_token()),
        },
        Case {
            report: "distribution, OAuth2 token authentication",
            input: "a token service that answers GET with 405",
            expected: "the password is sent by POST",
            run: || Box::pin(a_password_by_post()),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "a token service that redirects within its origin with 301, 302, 303, 307 and 308",
            expected: "the redirect is followed with the credentials",
            run: || Box::pin(a_redirected_token_service()),
        },
        Case {
            report: "RFC 9110 section 15.4",
            input: "a token service that redirects to another host",
            expected: "no credentials are sent there",
            run: || Box::pin(a_token_service_redirects_to_another_host()),
        },
    ])
    .await;
}

fn manifest() -> Document {
    let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2);
    Document::of_manifest(Manifest::new(config, Vec::new())).unwrap()
}

fn manifest_response() -> Response {
    let raw = manifest().raw.to_vec();
    reply(200, &[("content-type", media_type::OCI_MANIFEST)], raw)
}

fn authorization(request: &RecordedRequest) -> &str {
    request.headers.get("authorization").map_or("", String::as_str)
}

fn unauthorized(challenges: &[&str]) -> Response {
    let headers: Vec<_> = challenges
        .iter()
        .map(|challenge| ("www-authenticate", *challenge))
        .collect();
    reply(401, &headers, "")
}

fn bearer(request: &RecordedRequest) -> String {
    format!(r#"Bearer realm="http://{}/token",service="s""#, request.headers["host"])
}

/// A client with `credentials`.
fn client(host: &str, credentials: Option<Credentials>) -> Registry {
    plain_client(host, |endpoint| endpoint.credentials = credentials)
}

fn password() -> Option<Credentials> {
    Some(Credentials::new("jackal", "s3cret"))
}

/// Reads a manifest of the repository `a`.
async fn assert_manifest_is_read(server: &ScriptedServer, credentials: Option<Credentials>) {
    let repository = client(&server.host, credentials).repository("a");
    assert_eq!(repository.manifest("1").await.unwrap(), Some(manifest()));
}

fn is_token(request: &RecordedRequest) -> bool {
    request.path.starts_with("/token")
}

async fn a_missing_token_service() {
    for status in [400, 404, 405, 500] {
        let server = ScriptedServer::start(move |request: &RecordedRequest| match authorization(request) {
            _ if is_token(request) => reply(status, &[], "<html><title>Nothing</title>"),
            BASIC => manifest_response(),
            _ => unauthorized(&[&format!(r#"Basic realm="r", {}"#, bearer(request))]),
        })
        .await;
        assert_manifest_is_read(&server, password()).await;
    }
}

async fn basic_after_a_token() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        _ if is_token(request) => reply(200, &[], r#"{"token":"t"}"#),
        BASIC => manifest_response(),
        "" => unauthorized(&[&bearer(request)]),
        _ => unauthorized(&[r#"Basic realm="harbor""#]),
    })
    .await;
    assert_manifest_is_read(&server, password()).await;
}

async fn a_challenge_only_for_the_base_url() {
    let server =
        ScriptedServer::start(
            |request: &RecordedRequest| match (authorization(request), request.path.as_str()) {
                _ if is_token(request) => reply(200, &[], r#"{"token":"t"}"#),
                ("Bearer t", _) => manifest_response(),
                (_, "/v2/") => unauthorized(&[&bearer(request)]),
                _ => reply(401, &[], ""),
            },
        )
        .await;
    assert_manifest_is_read(&server, None).await;
}

async fn no_challenge_at_all() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        BASIC => manifest_response(),
        _ => reply(401, &[], "Unauthorized"),
    })
    .await;
    assert_manifest_is_read(&server, password()).await;
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

async fn a_relative_realm() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        BASIC if request.path.starts_with("/zot/auth/token?") => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => manifest_response(),
        _ => unauthorized(&[r#"Bearer realm="/zot/auth/token",service="zot""#]),
    })
    .await;
    assert_manifest_is_read(&server, password()).await;
}

async fn an_insufficient_scope() {
    let server = ScriptedServer::start(|request: &RecordedRequest| {
        let challenge = format!(
            r#"{},scope="artifact:a:read",error="insufficient_scope""#,
            bearer(request)
        );
        match authorization(request) {
            _ if is_token(request) && request.path.contains("artifact%3Aa%3Aread") => {
                reply(200, &[], r#"{"token":"wide"}"#)
            }
            _ if is_token(request) => reply(200, &[], r#"{"token":"narrow"}"#),
            "Bearer wide" => manifest_response(),
            "Bearer narrow" => reply(403, &[("www-authenticate", challenge.as_str())], ""),
            _ => unauthorized(&[&bearer(request)]),
        }
    })
    .await;
    assert_manifest_is_read(&server, None).await;
}

async fn two_schemes_concurrently() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        _ if is_token(request) => reply(200, &[], r#"{"token":"t","expires_in":300}"#),
        "Bearer t" if request.path.starts_with("/v2/token/") => manifest_response(),
        BASIC if request.path.starts_with("/v2/password/") => manifest_response(),
        _ if request.path.starts_with("/v2/token/") => unauthorized(&[&bearer(request)]),
        _ => unauthorized(&["Basic realm=x"]),
    })
    .await;
    let registry = client(&server.host, password());
    let read = |name: &str| {
        let repository = registry.repository(name);
        async move { assert!(repository.manifest("1").await.unwrap().is_some()) }
    };
    read("token/a").await;
    read("password/a").await;
    let before = server.requests().len();
    let names = ["token/a", "password/a"];
    futures::future::join_all((0..20).map(|at| read(names[at % 2]))).await;
    let requests = server.requests();
    let later = &requests[before..];
    assert_eq!(later.len(), 20, "none is refused and asked again: {later:#?}");
}

async fn a_missing_token_service_is_reported() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match is_token(request) {
        true => reply(404, &[], "<!DOCTYPE html><html><head><title>Page not found</title>"),
        false => unauthorized(&[&bearer(request)]),
    })
    .await;
    let error = client(&server.host, password())
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    let fault = error.into_read_fault("r/a:1");
    assert_eq!(fault.reason, Reason::AuthenticationFailed, "{fault}");
    let expected = format!(
        "http://{}/token: the token service answered 404 Page not found",
        server.host
    );
    assert!(fault.message.contains(&expected), "{fault}");
}

async fn a_refused_mount_scope() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        _ if is_token(request) && (request.path.contains("from") || request.method == "POST") => {
            reply(400, &[], r#"{"error":"invalid_scope"}"#)
        }
        _ if is_token(request) => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => reply(202, &[("location", "/v2/to/blobs/uploads/1")], ""),
        _ => unauthorized(&[&bearer(request)]),
    })
    .await;
    let repository = client(&server.host, password()).repository("to");
    let mounted = repository.mount(&Digest::of(b"x"), "from").await.unwrap();
    assert!(matches!(mounted, MountResult::Refused(None)));
}

async fn token_response(answer: &'static str) {
    let server = ScriptedServer::start(move |request: &RecordedRequest| match authorization(request) {
        _ if is_token(request) => reply(200, &[], answer),
        "Bearer t" => manifest_response(),
        _ => unauthorized(&[&bearer(request)]),
    })
    .await;
    assert_manifest_is_read(&server, None).await;
}

async fn an_identity_token() {
    let server = ScriptedServer::start(|request: &RecordedRequest| {
        let form = request.headers.get("content-type").map(String::as_str);
        match authorization(request) {
            "" if is_token(request)
                && request.method == "POST"
                && form == Some("application/x-www-form-urlencoded") =>
            {
                reply(200, &[], r#"{"access_token":"t"}"#)
            }
            _ if is_token(request) => reply(401, &[], ""),
            "Bearer t" => manifest_response(),
            _ => unauthorized(&[&bearer(request)]),
        }
    })
    .await;
    assert_manifest_is_read(&server, Some(Credentials::identity_token("", "refresh"))).await;
}

/// Reads with a token of the service that `challenge` names, in which HOST is replaced by the registry's host.
async fn challenge_is_answered(challenge: &'static str) {
    let server = ScriptedServer::start(move |request: &RecordedRequest| match authorization(request) {
        BASIC if request.path.starts_with("/token?service=s&scope=") => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => manifest_response(),
        _ => unauthorized(&[&challenge.replace("HOST", &request.headers["host"])]),
    })
    .await;
    assert_manifest_is_read(&server, password()).await;
}

async fn a_password_after_a_refused_identity_token() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        BASIC if is_token(request) && request.method == "GET" => reply(200, &[], r#"{"token":"t"}"#),
        "Bearer t" => manifest_response(),
        _ if is_token(request) => reply(401, &[], ""),
        _ => unauthorized(&[&bearer(request)]),
    })
    .await;
    let mut credentials = Credentials::new("jackal", "s3cret");
    credentials.identity_token = Some("refresh".into());
    assert_manifest_is_read(&server, Some(credentials)).await;
}

async fn a_token_expires_during_an_upload() {
    let server = ScriptedServer::start(|request: &RecordedRequest| {
        let path = "/v2/a/blobs/uploads/1";
        let renewed = authorization(request) == "Bearer later";
        match (request.method.as_str(), authorization(request)) {
            _ if is_token(request) => {
                let token = if request.before < 3 { "early" } else { "later" };
                reply(200, &[], format!(r#"{{"token":"{token}","expires_in":300}}"#))
            }
            (_, "") => unauthorized(&[&bearer(request)]),
            ("POST", _) => reply(202, &[("location", path)], ""),
            ("PATCH", _) => reply(202, &[("location", path), ("range", "0-299999")], ""),
            ("GET", _) if renewed => reply(204, &[("location", path), ("range", "0-299999")], ""),
            ("PUT", _) if renewed => reply(201, &[], ""),
            _ => unauthorized(&[&bearer(request)]),
        }
    })
    .await;
    let content = noise(1, 300_000);
    let repository = client(&server.host, None).repository("a");
    let stored = repository.upload(None, None, stream(content.clone())).await;
    assert_eq!(stored.unwrap(), (Digest::of(&content), 300_000));
    let sent = server
        .requests()
        .iter()
        .filter(|request| request.method == "PATCH")
        .count();
    assert_eq!(sent, 1);
}

async fn a_configured_registry_token() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        _ if is_token(request) => reply(401, &[], ""),
        "Bearer given" => manifest_response(),
        _ => unauthorized(&[&bearer(request)]),
    })
    .await;
    assert_manifest_is_read(&server, Some(Credentials::registry_token("given"))).await;
}

async fn a_password_by_post() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match authorization(request) {
        _ if is_token(request) && request.method == "POST" => reply(200, &[], r#"{"access_token":"t"}"#),
        _ if is_token(request) => reply(405, &[], ""),
        "Bearer t" => manifest_response(),
        _ => unauthorized(&[&bearer(request)]),
    })
    .await;
    assert_manifest_is_read(&server, password()).await;
}

async fn a_redirected_token_service() {
    for status in [301, 302, 303, 307, 308] {
        let server = ScriptedServer::start(move |request: &RecordedRequest| match authorization(request) {
            BASIC if request.path.starts_with("/token?") => {
                let to = request.path.replacen("/token", "/token/v2", 1);
                reply(status, &[("location", to.as_str())], "")
            }
            BASIC if request.path.starts_with("/token/v2?service=s&scope=") => reply(200, &[], r#"{"token":"t"}"#),
            "Bearer t" => manifest_response(),
            _ if is_token(request) => reply(401, &[], ""),
            _ => unauthorized(&[&bearer(request)]),
        })
        .await;
        assert_manifest_is_read(&server, password()).await;
    }
}

async fn a_token_service_redirects_to_another_host() {
    let other = ScriptedServer::start(|_: &RecordedRequest| reply(200, &[], r#"{"token":"t"}"#)).await;
    let to = format!("http://{}/token", other.host);
    let server = ScriptedServer::start(move |request: &RecordedRequest| match is_token(request) {
        true => reply(307, &[("location", to.as_str())], ""),
        false => unauthorized(&[&bearer(request)]),
    })
    .await;
    let error = client(&server.host, password())
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    let expected = format!("the token service redirects to http://{}", other.host);
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(other.requests().len(), 0);
}
