//! Optional requests that only save work: if they fail, the result is achieved in another way.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt as _;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::registry::{MountResult, Registry};
use jackal_operator::source::RepositoryReader as _;
use jackal_operator::transfer::{Destination as _, RegistryDestination};

use super::{Case, check};
use crate::support::fault_proxy::{Action, FaultProxy, first};
use crate::support::image::{image, noise, put, stream};
use crate::support::registry::{TestRegistry, Version, plain_client};
use crate::support::scripted::RecordedRequest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_optional_request_has_a_fallback() {
    check(&[
        Case {
            report: "google/go-containerregistry#1406, containerd/containerd#14086",
            input: "a mount answered with 400, 401, 403, 404, 405, 415, 422, 500, 502 and 503",
            expected: "the blob is uploaded",
            run: || Box::pin(a_mount_that_is_refused()),
        },
        Case {
            report: "containerd/containerd#8969, distribution/distribution#1485",
            input: "HEAD of a manifest answered with 400, 403, 405, 500 and 501",
            expected: "the manifest is read with GET",
            run: || Box::pin(head_of_a_manifest()),
        },
        Case {
            report: "distribution/distribution#2055, distribution/distribution#1217",
            input: "HEAD of a blob answered with 400, 403, 405, 500 and 501",
            expected: "the size is read with GET",
            run: || Box::pin(head_of_a_blob()),
        },
        Case {
            report: "google/go-containerregistry#971",
            input: "HEAD with an invalid Docker-Content-Digest, or that of another manifest",
            expected: "the manifest is read with GET",
            run: || Box::pin(head_with_a_wrong_digest()),
        },
        Case {
            report: "RFC 9110 section 9.3.2",
            input: "HEAD of a blob with Content-Length: 0",
            expected: "the size is read with GET",
            run: || Box::pin(head_without_a_size()),
        },
        Case {
            report: "google/go-containerregistry#1691",
            input: "403, or 401 DENIED, instead of 404 for missing content",
            expected: "it is treated as absent in a destination, and is pushed",
            run: || Box::pin(forbidden_where_missing()),
        },
        Case {
            report: "ocx-sh/ocx#237",
            input: "416 for a request of more than 1.5 MiB",
            expected: "the blob is sent in smaller parts",
            run: || Box::pin(parts_that_are_too_large()),
        },
        Case {
            report: "docker/buildx#196",
            input: "404 for a PUT that carries the content",
            expected: "the content is sent with PATCH",
            run: || Box::pin(content_by_patch_alone()),
        },
        Case {
            report: "RFC 9110 section 15.5.17",
            input: "416, 400, 403 and 501 for the range that resumes a download",
            expected: "the blob is read from its beginning",
            run: || Box::pin(ranges_that_are_refused()),
        },
        Case {
            report: "containerd/containerd#12291",
            input: "206 with another range than requested",
            expected: "the blob is read from its beginning",
            run: || Box::pin(ranges_that_are_wrong()),
        },
        Case {
            report: "goharbor/harbor#18305",
            input: "the referrers API answered with 401 without a challenge, with 403 and with 500",
            expected: "the listing under the tag is read",
            run: || Box::pin(referrers_by_tag()),
        },
    ])
    .await;
}

fn client(host: &str) -> Registry {
    plain_client(host, |_| {})
}

fn empty_response(status: u16) -> Action {
    Action::Answer(status, Vec::new(), String::new())
}

async fn a_mount_that_is_refused() {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 10_000);
    let digest = Digest::of(&content);
    let from = registry.repository("from");
    let stored = from.upload(Some(&digest), Some(10_000), stream(content.clone()));
    stored.await.unwrap();
    for status in [400, 401, 403, 404, 405, 415, 422, 500, 502, 503] {
        let proxy = FaultProxy::to(&registry.host, move |request| match request.path.contains("mount=") {
            true => empty_response(status),
            false => Action::Pass,
        });
        let to = client(&proxy.host).repository(format!("to{status}"));
        let MountResult::Refused(started) = to.mount(&digest, "from").await.unwrap() else {
            panic!("{status}: it was mounted");
        };
        let stored = to
            .resume_upload(started, None, Some(&digest), Some(10_000), stream(content.clone()))
            .await;
        assert_eq!(stored.unwrap(), (digest.clone(), 10_000), "{status}");
    }
}

async fn head_of_a_manifest() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    for status in [400, 403, 405, 500, 501] {
        let proxy = FaultProxy::to(&registry.host, move |request| match request.method.as_str() {
            "HEAD" => empty_response(status),
            _ => Action::Pass,
        });
        let repository = client(&proxy.host).repository("a");
        let found = repository.head_manifest("1").await.unwrap();
        assert_eq!(found.as_ref(), Some(&document.descriptor), "{status}");
        assert_eq!(repository.head_manifest("2").await.unwrap(), None, "{status}");
    }
}

async fn head_of_a_blob() {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 10_000);
    let digest = Digest::of(&content);
    registry
        .repository("a")
        .upload(Some(&digest), Some(10_000), stream(content))
        .await
        .unwrap();
    for status in [400, 403, 405, 500, 501] {
        let proxy = FaultProxy::to(&registry.host, move |request| match request.method.as_str() {
            "HEAD" => empty_response(status),
            _ => Action::Pass,
        });
        let repository = client(&proxy.host).repository("a");
        assert_eq!(repository.head_blob(&digest).await.unwrap(), Some(10_000), "{status}");
        assert_eq!(
            repository.head_blob(&Digest::of(b"other")).await.unwrap(),
            None,
            "{status}"
        );
    }
}

async fn head_with_a_wrong_digest() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, None).await;
    let other = Digest::of(b"other").to_string();
    for digest in ["sha256", other.as_str()] {
        let digest = digest.to_owned();
        let proxy = FaultProxy::to(&registry.host, move |request| match request.method.as_str() {
            "HEAD" => {
                let digest = digest.clone();
                Action::Header("docker-content-digest", Box::new(move |_| digest.clone()))
            }
            _ => Action::Pass,
        });
        let found = client(&proxy.host)
            .repository("a")
            .head_manifest(document.digest().as_str())
            .await;
        assert_eq!(found.unwrap().as_ref(), Some(&document.descriptor));
    }
}

async fn head_without_a_size() {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 10_000);
    let digest = Digest::of(&content);
    registry
        .repository("a")
        .upload(Some(&digest), Some(10_000), stream(content))
        .await
        .unwrap();
    let proxy = FaultProxy::to(&registry.host, |request| match request.method.as_str() {
        "HEAD" => Action::Header("content-length", Box::new(|_| "0".to_owned())),
        _ => Action::Pass,
    });
    assert_eq!(
        client(&proxy.host).repository("a").head_blob(&digest).await.unwrap(),
        Some(10_000)
    );
}

async fn forbidden_where_missing() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, |_| Action::Status(404, 403));
    let repository = client(&proxy.host).repository("a");
    let destination = RegistryDestination::new(repository.clone());
    assert_eq!(destination.digest_of("1").await.unwrap(), None);
    assert_eq!(destination.document("1").await.unwrap(), None);
    assert_eq!(destination.holds(&Digest::of(b"x")).await.unwrap(), None);
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    destination.publish(&document, Some("1")).await.unwrap();
    assert_eq!(
        destination.digest_of("1").await.unwrap().as_ref(),
        Some(document.digest())
    );
    // Like registries that require a password.
    let denied = FaultProxy::to(&registry.host, |request| match request.method.as_str() {
        "GET" if request.path.contains("/manifests/") => {
            Action::Answer(401, Vec::new(), r#"{"errors":[{"code":"DENIED"}]}"#.to_owned())
        }
        "HEAD" => empty_response(401),
        _ => Action::Pass,
    });
    let destination = RegistryDestination::new(client(&denied.host).repository("b"));
    assert_eq!(destination.digest_of("1").await.unwrap(), None);
}

async fn parts_that_are_too_large() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, |request| {
        let length = request
            .headers
            .get("content-length")
            .and_then(|length| length.parse().ok());
        match length.unwrap_or(0) > 1536 * 1024_u64 {
            true => Action::Answer(416, Vec::new(), "the request body is too large".to_owned()),
            false => Action::Pass,
        }
    });
    let content = noise(1, 6 << 20);
    let (digest, size) = (Digest::of(&content), content.len() as u64);
    let repository = client(&proxy.host).repository("a");
    let stored = repository.upload(Some(&digest), Some(size), stream(content)).await;
    assert_eq!(stored.unwrap(), (digest, size));
}

async fn content_by_patch_alone() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, |request| {
        let carries = request
            .headers
            .get("content-length")
            .is_some_and(|length| length != "0");
        match request.method == "PUT" && request.path.contains("/uploads/") && carries {
            true => Action::Answer(404, Vec::new(), r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#.to_owned()),
            false => Action::Pass,
        }
    });
    let repository = client(&proxy.host).repository("a");
    for seed in 1..4 {
        let content = noise(seed, 300_000);
        let digest = Digest::of(&content);
        let stored = repository.upload(Some(&digest), Some(300_000), stream(content)).await;
        assert_eq!(stored.unwrap(), (digest, 300_000));
    }
    assert_eq!(
        proxy.count("POST", "/uploads/"),
        4,
        "what is refused once is not tried again"
    );
}

/// Reads a blob whose first response breaks off, with `act` applied to the range requests that follow.
async fn assert_resumed(act: impl Fn() -> Action + Send + Sync + 'static) {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 1_000_000);
    let digest = Digest::of(&content);
    let repository = registry.repository("a");
    let stored = repository.upload(Some(&digest), Some(1_000_000), stream(content.clone()));
    stored.await.unwrap();
    let breaks = first(
        1,
        |request: &RecordedRequest| request.method == "GET",
        || Action::BreakAnswer(300_000),
    );
    let asked = AtomicUsize::new(0);
    let proxy = FaultProxy::to(&registry.host, move |request| {
        match request.headers.contains_key("range") {
            true => {
                asked.fetch_add(1, Ordering::Relaxed);
                act()
            }
            false => breaks(request),
        }
    });
    let blob = client(&proxy.host).repository("a").blob(&digest, Some(1_000_000));
    let got: Vec<_> = blob.into_stream().try_collect().await.unwrap();
    assert!(got.concat() == content);
    assert_eq!(proxy.count("GET", "/blobs/"), 3, "the first, the range, and all of it");
}

async fn ranges_that_are_refused() {
    for status in [416, 400, 403, 501] {
        assert_resumed(move || empty_response(status)).await;
    }
}

async fn ranges_that_are_wrong() {
    for range in ["bytes 0-999999/1000000", "bytes */1000000", ""] {
        assert_resumed(move || Action::Header("content-range", Box::new(move |_| range.to_owned()))).await;
    }
}

async fn referrers_by_tag() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("a");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    let content = b"{}";
    let config = Digest::of(content);
    repository
        .upload(Some(&config), Some(2), stream(content.to_vec()))
        .await
        .unwrap();
    let mut referrer = Manifest::new(Descriptor::new(media_type::OCI_CONFIG, config, 2), Vec::new());
    referrer.subject = Some(subject.descriptor.clone());
    let referrer = Document::of_manifest(referrer).unwrap();
    repository.attach(&referrer).await.unwrap();
    for status in [401, 403, 500] {
        let proxy = FaultProxy::to(&registry.host, move |request| {
            match request.path.contains("/referrers/") {
                true => empty_response(status),
                false => Action::Pass,
            }
        });
        let found = client(&proxy.host)
            .repository("a")
            .referrers(subject.digest())
            .await
            .unwrap();
        let found: Vec<_> = found.into_iter().map(|entry| entry.digest).collect();
        assert_eq!(found, [referrer.digest().clone()], "{status}");
    }
}
