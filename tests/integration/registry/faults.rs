//! Broken connections, registries that answer 429, and tokens that expire.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use jackal_operator::fault::{Disposition, Reason};
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::registry::{Credentials, Endpoint, Kind, Registry, UploadError};

use crate::support::image::{noise, stream};
use crate::support::install_tls;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::scripted::{ConnectionFault, ConnectionProxy, RecordedRequest, ScriptedServer, reply};

fn client(host: &str, idle: Duration) -> Registry {
    install_tls();
    Registry::new(Endpoint {
        plain_http: true,
        idle,
        ..Endpoint::new(host)
    })
    .unwrap()
}

const LONG: Duration = Duration::from_secs(20);

fn small_manifest() -> Document {
    let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2);
    Document::of_manifest(Manifest::new(config, Vec::new())).unwrap()
}

fn manifest_reply() -> axum::response::Response {
    reply(
        200,
        &[("content-type", media_type::OCI_MANIFEST)],
        small_manifest().raw.to_vec(),
    )
}

#[tokio::test]
async fn a_broken_download_is_resumed() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let content = noise(1, 1_000_000);
        let digest = Digest::of(&content);
        let repository = registry.repository("a");
        let stored = repository.upload(Some(&digest), Some(1_000_000), stream(content.clone()));
        stored.await.unwrap();
        let proxy = ConnectionProxy::to(&registry.host, ConnectionFault::BreakAnswer(300_000)).await;
        let repository = client(&proxy.host, LONG).repository("a");
        let got: Vec<_> = repository
            .blob(&digest, Some(1_000_000))
            .into_stream()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(got.concat(), content);
        if version == Version::V28 {
            continue;
        }
        // But not without a limit.
        let proxy = ConnectionProxy::to(&registry.host, ConnectionFault::BreakAnswer(20_000)).await;
        let repository = client(&proxy.host, LONG).repository("a");
        let got: Result<Vec<_>, _> = repository
            .blob(&digest, Some(1_000_000))
            .into_stream()
            .try_collect()
            .await;
        let error = got.unwrap_err();
        assert_eq!(error.kind(), &Kind::Interrupted);
        assert_eq!(error.into_read_fault("r/a:1").reason, Reason::SourceFailed);
    }
}

#[tokio::test]
async fn a_stalled_upload_times_out() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = ConnectionProxy::to(&registry.host, ConnectionFault::StallRequest(100_000)).await;
    let repository = client(&proxy.host, Duration::from_millis(500)).repository("a");
    // More than the kernel buffers.
    let content = noise(1, 32 << 20);
    let digest = Digest::of(&content);
    let error = repository
        .upload(Some(&digest), Some(content.len() as u64), stream(content))
        .await
        .unwrap_err();
    let UploadError::Registry(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.kind(), &Kind::TimedOut, "{error}");
    assert_eq!(error.into_push_fault("r/a").reason, Reason::TimedOut);
    assert_eq!(registry.repository("a").head_blob(&digest).await.unwrap(), None);
}

#[tokio::test]
async fn incorrect_registry_responses_are_detected() {
    let content = noise(1, 1000);
    let body = content.to_vec();
    let other = Digest::of(b"other").to_string();
    let server = ScriptedServer::start(
        move |request: &RecordedRequest| match request.path.contains("/blobs/") {
            true => reply(200, &[], body.clone()),
            false => reply(
                200,
                &[
                    ("content-type", media_type::OCI_MANIFEST),
                    ("docker-content-digest", &other),
                ],
                small_manifest().raw.to_vec(),
            ),
        },
    )
    .await;
    let repository = client(&server.host, LONG).repository("a");
    let wrong = Digest::of(b"other");
    let right = Digest::of(&content);
    for (digest, size) in [
        (&wrong, Some(1000)),
        (&right, Some(999)),
        (&right, Some(1001)),
        (&wrong, None),
    ] {
        let got: Result<Vec<_>, _> = repository.blob(digest, size).into_stream().try_collect().await;
        assert_eq!(got.unwrap_err().kind(), &Kind::DigestMismatch, "{size:?}");
    }
    // A caller that verifies the content itself gets it, with its length.
    let got = repository.unverified_blob(&wrong, 1000).into_stream();
    assert_eq!(got.try_collect::<Vec<_>>().await.unwrap().concat(), content);
    let got: Result<Vec<_>, _> = repository
        .unverified_blob(&right, 999)
        .into_stream()
        .try_collect()
        .await;
    assert_eq!(got.unwrap_err().kind(), &Kind::DigestMismatch);
    assert_eq!(repository.small_blob(&right, 1000).await.unwrap().unwrap(), content);
    assert_eq!(
        repository.small_blob(&right, 999).await.unwrap_err().kind(),
        &Kind::TooLarge
    );
    for identifier in ["1", right.as_str()] {
        let error = repository.manifest(identifier).await.unwrap_err();
        assert_eq!(error.kind(), &Kind::DigestMismatch);
        assert_eq!(error.into_read_fault("r/a:1").reason, Reason::DigestMismatch);
    }
}

#[tokio::test]
async fn temporary_failures_are_retried() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match request.before {
        0 => reply(503, &[], ""),
        1 => reply(429, &[("retry-after", "0")], ""),
        _ => manifest_reply(),
    })
    .await;
    let repository = client(&server.host, LONG).repository("a");
    assert_eq!(repository.manifest("1").await.unwrap(), Some(small_manifest()));
    // Without a digest in the response to HEAD it is computed.
    let head = repository.head_manifest("1").await.unwrap().unwrap();
    assert_eq!(head, small_manifest().descriptor);

    let down = ScriptedServer::start(|_: &RecordedRequest| reply(502, &[], "<html>")).await;
    let error = client(&down.host, LONG)
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    assert_eq!(
        error.clone().into_read_fault("r/a:1").reason,
        Reason::RegistryUnavailable
    );
    assert_eq!(down.requests().len(), 4);
}

#[tokio::test]
async fn a_retry_after_header_is_reported() {
    let server = ScriptedServer::start(|_: &RecordedRequest| reply(429, &[("retry-after", "120")], "")).await;
    let error = client(&server.host, LONG)
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    let fault = error.into_read_fault("r/a:1");
    assert_eq!(fault.reason, Reason::RateLimited);
    let after = Duration::from_secs(120);
    assert_eq!(fault.disposition, Disposition::Waiting { after });
    assert_eq!(server.requests().len(), 1, "nobody hammers");
}

/// A registry that requires tokens, which it issues itself; each is valid for `uses` requests.
async fn token_registry(uses: usize) -> ScriptedServer {
    let (given, used) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    ScriptedServer::start(move |request: &RecordedRequest| {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        if request.path.starts_with("/token?") {
            // base64 of jackal:s3cret
            if header("authorization") != Some("Basic amFja2FsOnMzY3JldA==") {
                return reply(401, &[], r#"{"details":"incorrect username or password"}"#);
            }
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            used.store(0, Ordering::SeqCst);
            return reply(200, &[], format!(r#"{{"token":"t{number}","expires_in":300}}"#));
        }
        let current = format!("Bearer t{}", given.load(Ordering::SeqCst));
        if header("authorization") == Some(&current) && used.fetch_add(1, Ordering::SeqCst) < uses {
            return manifest_reply();
        }
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="s v",scope="repository:a:pull""#,
            header("host").unwrap_or_default()
        );
        reply(401, &[("www-authenticate", &challenge)], "")
    })
    .await
}

fn with_login(host: &str, password: &str) -> Registry {
    install_tls();
    Registry::new(Endpoint {
        plain_http: true,
        credentials: Some(Credentials::new("jackal", password)),
        ..Endpoint::new(host)
    })
    .unwrap()
}

fn tokens_fetched(server: &ScriptedServer) -> Vec<String> {
    let requests = server.requests().into_iter();
    requests
        .filter(|request| request.path.starts_with("/token"))
        .map(|request| request.path)
        .collect()
}

#[tokio::test]
async fn concurrent_requests_share_one_token() {
    let server = token_registry(usize::MAX).await;
    let registry = with_login(&server.host, "s3cret");
    let reads = (0..20).map(|_| {
        let repository = registry.repository("a");
        async move { repository.manifest("1").await }
    });
    for read in futures::future::join_all(reads).await {
        assert!(read.unwrap().is_some());
    }
    assert_eq!(
        tokens_fetched(&server),
        ["/token?service=s+v&scope=repository%3Aa%3Apull"]
    );
    assert!(registry.repository("b").manifest("1").await.unwrap().is_some());
    assert_eq!(tokens_fetched(&server).len(), 2, "another repository is another scope");
    for request in server.requests() {
        let basic = request
            .headers
            .get("authorization")
            .is_some_and(|value| value.starts_with("Basic"));
        assert!(
            !basic || request.path.starts_with("/token"),
            "the password went to {}",
            request.path
        );
    }
}

#[tokio::test]
async fn an_expired_token_is_renewed_once() {
    let server = token_registry(1).await;
    let repository = with_login(&server.host, "s3cret").repository("a");
    for _ in 0..3 {
        assert!(repository.manifest("1").await.unwrap().is_some());
    }
    assert_eq!(tokens_fetched(&server).len(), 3);
    let never = token_registry(0).await;
    let error = with_login(&never.host, "s3cret")
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), &Kind::Unauthorized);
    assert_eq!(never.requests().len(), 3, "asked, token, asked");
}

#[tokio::test]
async fn a_rejected_password_is_not_reported_as_a_missing_image() {
    let server = token_registry(usize::MAX).await;
    let error = with_login(&server.host, "guessed")
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    let fault = error.into_read_fault("r/a:1");
    assert_eq!(fault.reason, Reason::AuthenticationFailed);
    assert!(
        fault
            .message
            .contains("/token: the token service answered 401 incorrect username or password"),
        "{fault}"
    );
}

#[tokio::test]
async fn redirects_to_another_host_omit_the_password() {
    let content = noise(1, 1000);
    let (digest, body) = (Digest::of(&content), content.to_vec());
    let storage = ScriptedServer::start(move |_: &RecordedRequest| reply(200, &[], body.clone())).await;
    let location = format!("http://{}/bucket/x?signature=s3cret", storage.host);
    let server = ScriptedServer::start(
        move |request: &RecordedRequest| match request.headers.get("authorization") {
            Some(_) => reply(307, &[("location", &location)], ""),
            None => reply(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
        },
    )
    .await;
    let repository = with_login(&server.host, "s3cret").repository("a");
    assert_eq!(repository.small_blob(&digest, 1000).await.unwrap().unwrap(), content);
    let requests = storage.requests();
    assert_eq!(requests.len(), 1);
    assert!(!requests[0].headers.contains_key("authorization"));

    let endless = ScriptedServer::start(|_: &RecordedRequest| reply(302, &[("location", "/v2/again")], "")).await;
    let error = client(&endless.host, LONG)
        .repository("a")
        .manifest("1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), &Kind::Protocol);
    assert_eq!(endless.requests().len(), 6);
}

#[tokio::test]
async fn an_upload_to_another_host_omits_the_password() {
    let storage = ScriptedServer::start(|_: &RecordedRequest| reply(201, &[], "")).await;
    let location = format!("http://{}/upload/1?state=2", storage.host);
    let server = ScriptedServer::start(
        move |request: &RecordedRequest| match request.headers.get("authorization") {
            Some(_) => reply(202, &[("location", &location)], ""),
            None => reply(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
        },
    )
    .await;
    let repository = with_login(&server.host, "s3cret").repository("a");
    let digest = Digest::of(b"abc");
    repository.upload(Some(&digest), Some(3), stream("abc")).await.unwrap();
    let requests = storage.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        requests[0].path,
        format!("/upload/1?state=2&digest=sha256%3A{}", digest.hex())
    );
    assert_eq!(requests[0].headers.get("content-length").map(String::as_str), Some("3"));
    assert!(!requests[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn responses_are_read_up_to_a_limit() {
    let server = ScriptedServer::start(|request: &RecordedRequest| match request.path.starts_with("/token") {
        true => reply(200, &[], vec![b' '; 65 * 1024]),
        false if request.path.contains("/a/") => reply(200, &[], vec![b' '; 5 << 20]),
        false if request.path.contains("/b/") => reply(400, &[], vec![b' '; 5 << 20]),
        false => {
            let challenge = format!(r#"Bearer realm="http://{}/token""#, request.headers["host"]);
            reply(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let registry = client(&server.host, LONG);
    let read = async |name: &str| registry.repository(name).manifest("1").await.unwrap_err();
    assert_eq!(read("a").await.kind(), &Kind::TooLarge);
    assert_eq!(read("b").await.kind(), &Kind::Status(400));
    assert_eq!(read("c").await.kind(), &Kind::TooLarge);
}
