//! Error messages: the registry's own reason, and advice that fits the request.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use jackal_operator::fault::{Disposition, Fault, Reason};
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::registry::Registry;

use super::referrer_lists::workspace_with_keys;
use super::workspace::{CommandResult as _, Workspace, package_of, stderr};
use super::{Case, check};
use crate::support::registry::{Options, TestRegistry, Version, plain_client};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_error_messages_are_reported() {
    check(&[
        Case {
            report: "goharbor/harbor#11508",
            input: "403 DENIED with a message about the project's quota",
            expected: "the message, and the advice to free space",
            run: || {
                let body = r#"{"errors":[{"code":"DENIED","message":"The quota has been exceeded: adding 2.0 MiB of storage resource, which when updated to current usage of 99.0 MiB will exceed the configured upper limit of 100.0 MiB."}]}"#;
                Box::pin(assert_push_error(403, body, Reason::PushFailed, &["upper limit of 100.0 MiB", "free space"]))
            },
        },
        Case {
            report: "distribution/distribution#4896",
            input: "500 UNKNOWN whose detail is a storage error of number 28",
            expected: "no space left on device, and the advice to free space",
            run: || {
                let body = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"DriverName":"filesystem","Enclosed":{"Op":"mkdir","Path":"/var/lib/registry","Err":28}}}]}"#;
                Box::pin(assert_push_error(500, body, Reason::PushFailed, &["no space left on device", "free space"]))
            },
        },
        Case {
            report: "distribution/distribution#4896",
            input: "507 without a body",
            expected: "the advice to free space",
            run: || Box::pin(assert_push_error(507, "", Reason::PushFailed, &["answered 507; free space"])),
        },
        Case {
            report: "moby/buildkit#3776",
            input: "400 TAG_INVALID: the repository is immutable",
            expected: "the message, and the advice to push another tag; it is retried",
            run: || {
                let body = r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists in the 'a' repository and cannot be overwritten because the repository is immutable."}]}"#;
                Box::pin(assert_push_error(400, body, Reason::PushFailed, &["the repository is immutable.; push another tag"]))
            },
        },
        Case {
            report: "goharbor/harbor#22353",
            input: "413 with the HTML page of nginx",
            expected: "the page's title",
            run: || {
                let body = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body><center><h1>413 Request Entity Too Large</h1></center><hr><center>nginx/1.18.0</center></body></html>";
                Box::pin(assert_push_error(413, body, Reason::PushFailed, &["answered 413 Request Entity Too Large;"]))
            },
        },
        Case {
            report: "containers/image#1007",
            input: "405 with the text Method not allowed",
            expected: "the text, and that the registry may be read-only",
            run: || Box::pin(assert_push_error(405, "Method not allowed\n", Reason::PushFailed, &["Method not allowed", "not read-only"])),
        },
        Case {
            report: "kubernetes/k8s.io#4214",
            input: "403 with the XML of S3, whose RequestId differs each time",
            expected: "code and message, equal each time",
            run: || Box::pin(denied_by_storage()),
        },
        Case {
            report: "distribution specification, Error Codes: detail",
            input: "401 UNAUTHORIZED with a detail that names repository and action",
            expected: "both are shown",
            run: || {
                let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Type":"repository","Class":"","Name":"team/a","Action":"push"}]}]}"#;
                Box::pin(assert_push_error(401, body, Reason::AuthenticationFailed, &["Name team/a", "Action push"]))
            },
        },
        Case {
            report: "RFC 9457 section 3",
            input: "403 with problem details",
            expected: "title and detail, and that the permission to push is missing",
            run: || {
                let body = r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The plan of this organisation ended"}"#;
                let expected = &["Forbidden: The plan of this organisation ended", "the permission to push is missing"];
                Box::pin(assert_push_error(403, body, Reason::AuthenticationFailed, expected))
            },
        },
        Case {
            report: "GoogleContainerTools/jib#3057",
            input: "400 from a repository with immutable names",
            expected: "the message, and the advice to push another tag",
            run: || {
                let body = r#"{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"blob upload invalid","detail":"Repository does not allow updating assets: docker"}]}"#;
                Box::pin(assert_push_error(400, body, Reason::PushFailed, &["does not allow updating assets: docker; push another tag"]))
            },
        },
        Case {
            report: "minio/minio#6376",
            input: "500 of a registry whose storage is full",
            expected: "the message, and the advice to free space",
            run: || {
                let body = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"DriverName":"s3aws","Enclosed":{},"Detail":"XMinioStorageFull: Storage backend has reached its minimum free disk threshold. Please delete a few objects to proceed."}}]}"#;
                Box::pin(assert_push_error(500, body, Reason::PushFailed, &["minimum free disk threshold", "free space"]))
            },
        },
        Case {
            report: "moby/buildkit#2559",
            input: "403 from a repository with the maximum number of images",
            expected: "the message, and the advice to free space",
            run: || {
                let body = r#"{"errors":[{"code":"DENIED","message":"The repository with name 'a' in registry with id '1' already has the maximum allowed number of images which is '10000'"}]}"#;
                Box::pin(assert_push_error(403, body, Reason::PushFailed, &["maximum allowed number of images", "free space"]))
            },
        },
        Case {
            report: "Artifact Registry, quotas",
            input: "403 about a quota of requests per minute",
            expected: "the message, and no advice about space",
            run: || Box::pin(a_quota_of_requests()),
        },
        Case {
            report: "apache/trafficcontrol#1737",
            input: "403 with a gzip body, with and without a header that says so",
            expected: "the message in the body",
            run: || Box::pin(compressed_error_bodies()),
        },
        Case {
            report: "RFC 9110 section 8.3.2",
            input: "403 with a text in Latin-1",
            expected: "the text",
            run: || Box::pin(async {
                let fault = put(403, &b"Zugriff auf das Projekt verweigert f\xfcr a"[..]).await;
                assert!(fault.message.contains("403 Zugriff auf das Projekt verweigert f"), "{fault}");
            }),
        },
        Case {
            report: "RFC 8259 section 2",
            input: "403 with JSON of 100,000 characters, and with two JSON values",
            expected: "the first message",
            run: || Box::pin(oversized_error_bodies()),
        },
        Case {
            report: "Cloud Storage, XML error responses",
            input: "403 with the XML of Google's storage, which has Details",
            expected: "the details too",
            run: || {
                let body = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code><Message>Access denied.</Message><Details>robot@p.iam does not have storage.objects.create access</Details></Error>";
                Box::pin(assert_push_error(403, body, Reason::AuthenticationFailed, &["Access denied.: robot@p.iam does not have storage.objects.create"]))
            },
        },
        Case {
            report: "Apigee, fault rules",
            input: "JSON with fields that no registry uses",
            expected: "the texts in it",
            run: || {
                let body = r#"{"fault":{"faultstring":"Rate limit policy refused team","detail":{"errorcode":"policies.Refused"}}}"#;
                Box::pin(assert_push_error(403, body, Reason::AuthenticationFailed, &["Rate limit policy refused team", "policies.Refused"]))
            },
        },
        Case {
            report: "ECMA-48 section 5.4",
            input: "a message with escape sequences, a bidirectional override and 100,000 characters",
            expected: "one line of limited length without them",
            run: || Box::pin(escape_sequences_are_removed()),
        },
        Case {
            report: "distribution specification, Listing Tags",
            input: "405, 404 and 403 for tags/list",
            expected: "advice about tags and the repository, not about writing",
            run: || Box::pin(tag_listing_errors()),
        },
        Case {
            report: "this operator, before its first release",
            input: "418 for the manifest of an image that `verify` and `pack` read",
            expected: "the message says that it cannot be read, not that it cannot be pushed",
            run: || Box::pin(reading_is_not_pushing()),
        },
        Case {
            report: "RFC 5280 section 6.1",
            input: "build to a registry with a certificate of an unknown authority",
            expected: "only our own message on standard error",
            run: || Box::pin(only_our_own_message()),
        },
    ])
    .await;
}

fn client(host: &str) -> Registry {
    plain_client(host, |_| {})
}

/// The failure of storing a manifest with this response, equal for two attempts.
async fn put(status: u16, body: impl Into<Bytes>) -> Fault {
    let body = body.into();
    let server = ScriptedServer::start(move |_: &RecordedRequest| reply(status, &[], body.clone())).await;
    let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2);
    let document = Document::of_manifest(Manifest::new(config, Vec::new())).unwrap();
    let repository = client(&server.host).repository("a");
    let try_it = || async {
        repository
            .put_manifest(&document, "1")
            .await
            .unwrap_err()
            .into_push_fault("r/a")
    };
    let first = try_it().await;
    assert_eq!(first, try_it().await);
    first
}

async fn assert_push_error(status: u16, body: &'static str, reason: Reason, expected: &'static [&'static str]) {
    let fault = put(status, body).await;
    assert_eq!(fault.reason, reason, "{fault}");
    assert_ne!(fault.disposition, Disposition::Stalled, "{fault}");
    for expected in expected {
        assert!(fault.message.contains(expected), "{fault}");
    }
}

async fn a_quota_of_requests() {
    let body = r#"{"errors":[{"code":"DENIED","message":"Quota exceeded for quota metric 'Requests per project per user per minute'"}]}"#;
    let fault = put(403, body).await;
    assert!(fault.message.contains("Requests per project"), "{fault}");
    assert!(!fault.message.contains("free space"), "{fault}");
}

async fn compressed_error_bodies() {
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed
        .write_all(br#"{"errors":[{"code":"DENIED","message":"the project is archived"}]}"#)
        .unwrap();
    let fault = put(403, packed.finish().unwrap()).await;
    assert!(
        fault.message.contains("403 DENIED: the project is archived;"),
        "{fault}"
    );
}

async fn oversized_error_bodies() {
    let error = r#"{"errors":[{"code":"DENIED","message":"the project is \u0061rchived"#;
    for body in [
        format!("{error}{}\"}}]}}", " x".repeat(50_000)),
        format!("{error}\"}}]}}\n{{\"errors\":[{{\"code\":\"UNKNOWN\"}}]}}"),
    ] {
        let fault = put(403, body).await;
        assert!(fault.message.contains("403 DENIED: the project is archived"), "{fault}");
    }
}

async fn denied_by_storage() {
    let server = ScriptedServer::start(|request: &RecordedRequest| {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message><RequestId>{:016X}</RequestId></Error>",
            request.before
        );
        reply(403, &[("content-type", "application/xml")], body)
    })
    .await;
    let repository = client(&server.host).repository("a");
    let read = || async { repository.manifest("1").await.unwrap_err().into_read_fault("r/a:1") };
    let first = read().await;
    assert!(
        first.message.contains("answered 403 AccessDenied: Access Denied;"),
        "{first}"
    );
    assert!(first.message.contains("permission to pull"), "{first}");
    assert_eq!(first, read().await);
}

async fn escape_sequences_are_removed() {
    let message = format!("\\u001b[2J\\u001b]0;x\\u0007\\u202ered{}", "x".repeat(100_000));
    for body in [
        format!(
            r#"{{"errors":[{{"code":"DENIED","message":"{}"}}]}}"#,
            &message[..10_000]
        ),
        format!("\u{1b}[2J\u{202e}red{}", "y".repeat(100_000)),
    ] {
        let fault = put(403, body).await;
        assert!(fault.message.chars().count() < 600, "{fault}");
        assert!(fault.message.contains("red"), "{fault}");
        let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}');
        assert!(!fault.message.chars().any(acts), "{:?}", fault.message);
    }
}

async fn tag_listing_errors() {
    for (status, expected) in [
        (405, "cannot list tags"),
        (404, "check the name of the repository"),
        (403, "the permission to list tags is missing"),
    ] {
        let server = ScriptedServer::start(move |_: &RecordedRequest| reply(status, &[], "")).await;
        let repository = client(&server.host).repository("a");
        // A repository without tags is not an error when tags are only listed.
        let error = match repository.tags(10).await {
            Err(error) => error,
            Ok(_) => continue,
        };
        let fault = error.into_read_fault("r/a");
        assert!(fault.message.contains(expected), "{fault}");
        assert!(!fault.message.contains("read-only"), "{fault}");
    }
}

async fn reading_is_not_pushing() {
    let server = ScriptedServer::start(|_: &RecordedRequest| reply(418, &[], "")).await;
    let (folder, image) = (workspace_with_keys(), format!("{}/app:1", server.host));
    for arguments in [
        ["verify", &image, "--key", "cosign.pub"],
        ["pack", &image, "--output", "app.tar.zst"],
    ] {
        let output = folder.run(&[&arguments[..], &["--insecure"]].concat());
        output.failed(1, &[&format!("cannot read {}/app", server.host), "418"]);
        assert!(!stderr(&output).contains("push to"), "{}", stderr(&output));
    }
}

async fn only_our_own_message() {
    let options = Options { login: None, tls: true };
    let registry = TestRegistry::start_with(Version::V31, options);
    let folder = Workspace::with(package_of(&[format!("{}/a:1", registry.host)]));
    let output = folder.run(&["build", "shop.yaml", "--to", &registry.host]);
    output.failed(1, &["certificate signed by unknown authority"]);
    let expected = stderr(&output);
    for raw in ["WARN", "ERROR", "rustls", "hyper", "reqwest", "BadCertificate"] {
        assert!(!expected.contains(raw), "{expected}");
    }
}
