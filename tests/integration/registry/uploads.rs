//! Uploads are resumed after faults, and use what was learned about a registry.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jackal_operator::oci::{Descriptor, Digest};
use jackal_operator::registry::{Endpoint, Kind, Registry, Repository, UploadError};
use jackal_operator::transfer::{Destination, RegistryDestination, Upload};

use crate::support::fault_proxy::{Action, FaultProxy, first};
use crate::support::image::{noise, stream};
use crate::support::install_tls;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};
use crate::support::wait::{SOON, eventually};

fn client(host: &str) -> Registry {
    install_tls();
    Registry::new(Endpoint {
        plain_http: true,
        idle: Duration::from_secs(20),
        ..Endpoint::new(host)
    })
    .unwrap()
}

fn carries_content(request: &RecordedRequest) -> bool {
    matches!(request.method.as_str(), "PUT" | "PATCH")
        && request.headers.get("content-length").is_none_or(|length| length != "0")
}

async fn assert_stored(repository: &Repository, digest: &Digest, size: usize) {
    let content = repository.small_blob(digest, size).await.unwrap().unwrap();
    assert_eq!(Digest::of(&content), *digest);
}

async fn wait_for_no_open_uploads(registry: &TestRegistry, repository: &str) {
    eventually(SOON, "every upload is committed or given up", async || {
        match registry.uploads(repository) {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_broken_upload_is_resumed_at_the_registrys_offset() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        for (number, (knows_digest, knows_size)) in [(true, true), (true, false), (false, true), (false, false)]
            .into_iter()
            .enumerate()
        {
            let what = format!("{version:?} {knows_digest} {knows_size}");
            let name = format!("broken{number}");
            let proxy = FaultProxy::to(
                &registry.host,
                first(2, carries_content, || Action::BreakRequest(1_000_000)),
            );
            let content = noise(number as u64, 3_000_000);
            let digest = Digest::of(&content);
            let repository = client(&proxy.host).repository(&name);
            let stored = repository.upload(
                knows_digest.then_some(&digest),
                knows_size.then_some(3_000_000),
                stream(content),
            );
            let stored = stored.await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(stored, (digest.clone(), 3_000_000), "{what}");
            assert_stored(&registry.repository(&name), &digest, 3_000_000).await;
            let started = proxy.count("POST", "/uploads/");
            match version {
                // It loses the stored bytes.
                Version::V28 => assert_eq!(started, 3, "{what}"),
                Version::V31 | Version::Olareg => {
                    assert_eq!(started, 1, "{what}");
                    wait_for_no_open_uploads(&registry, &name).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_copy_within_one_registry_is_not_blocked_by_its_own_limits() {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 3_000_000);
    let digest = Digest::of(&content);
    let from = registry.repository("from");
    from.upload(Some(&digest), Some(3_000_000), stream(content))
        .await
        .unwrap();
    // The status is requested and, once it is lost, the blob and a new upload.
    for lost in [false, true] {
        let broken = first(1, carries_content, || Action::BreakRequest(1_000_000));
        let proxy = FaultProxy::to(&registry.host, move |request| {
            match lost && request.method == "GET" && request.path.contains("/uploads/") {
                true => Action::Answer(404, Vec::new(), String::new()),
                false => broken(request),
            }
        });
        let client = Registry::new(Endpoint {
            plain_http: true,
            connections: 1,
            ..Endpoint::new(&proxy.host)
        });
        let client = client.unwrap();
        let to = client.repository(format!("to-{lost}"));
        let content = client
            .repository("from")
            .unverified_blob(&digest, 3_000_000)
            .into_stream();
        let copied = to.upload(Some(&digest), Some(3_000_000), content);
        let copied = tokio::time::timeout(SOON, copied)
            .await
            .expect("nobody waits for himself");
        copied.unwrap();
        assert_stored(&registry.repository(to.name()), &digest, 3_000_000).await;
    }
}

#[tokio::test]
async fn after_a_lost_response_the_stored_content_is_checked() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let proxy = FaultProxy::to(
            &registry.host,
            first(1, |request| request.method == "PUT", || Action::LoseAnswer),
        );
        let content = noise(1, 100_000);
        let digest = Digest::of(&content);
        let repository = client(&proxy.host).repository("lost");
        let stored = repository.upload(Some(&digest), Some(100_000), stream(content)).await;
        assert_eq!(stored.unwrap(), (digest.clone(), 100_000));
        assert_stored(&registry.repository("lost"), &digest, 100_000).await;
        assert_eq!(proxy.count("PUT", "/uploads/"), 1, "{version:?}");
    }
}

#[tokio::test]
async fn content_beyond_the_replay_buffer_is_read_again() {
    let registry = TestRegistry::start(Version::V31);
    let lost = AtomicUsize::new(0);
    let proxy = FaultProxy::to(&registry.host, move |request| {
        if request.method == "PUT" && lost.load(Ordering::Relaxed) == 0 {
            lost.store(1, Ordering::Relaxed);
            return Action::BreakRequest(30 << 20);
        }
        let status = request.method == "GET" && request.path.contains("/uploads/");
        match status && lost.fetch_add(1, Ordering::Relaxed) == 1 {
            true => Action::Answer(404, Vec::new(), String::new()),
            false => Action::Pass,
        }
    });
    let content = noise(1, 40 << 20);
    let digest = Digest::of(&content);
    let repository = client(&proxy.host).repository("late");
    let error = repository
        .upload(Some(&digest), Some(40 << 20), stream(content))
        .await
        .unwrap_err();
    let UploadError::Lost(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.kind(), &Kind::Interrupted, "{error}");
    wait_for_no_open_uploads(&registry, "late").await;
}

#[tokio::test]
async fn an_upload_size_limit_is_learned_once() {
    let registry = TestRegistry::start(Version::V31);
    let refused = Arc::new(AtomicUsize::new(0));
    let refusing = Arc::clone(&refused);
    let proxy = FaultProxy::to(&registry.host, move |request| {
        let length = request
            .headers
            .get("content-length")
            .and_then(|length| length.parse().ok());
        if length.unwrap_or(0) > 2_000_000 {
            refusing.fetch_add(1, Ordering::Relaxed);
            return Action::Answer(413, Vec::new(), String::new());
        }
        Action::Pass
    });
    let registry_client = client(&proxy.host);
    for (seed, refusals) in [(1, 2), (2, 2)] {
        let content = noise(seed, 5_000_000);
        let digest = Digest::of(&content);
        let repository = registry_client.repository("parts");
        repository
            .upload(Some(&digest), Some(5_000_000), stream(content))
            .await
            .unwrap();
        assert_stored(&registry.repository("parts"), &digest, 5_000_000).await;
        assert_eq!(refused.load(Ordering::Relaxed), refusals);
    }
    assert_eq!(proxy.count("POST", "/uploads/"), 2);
    assert_eq!(
        proxy.count("PATCH", "/uploads/"),
        1 + 2 * 4,
        "5 MB, then 2.5 MB were refused; 1.25 MB pass"
    );
    wait_for_no_open_uploads(&registry, "parts").await;
}

#[tokio::test]
async fn a_refused_mount_falls_back_to_its_upload() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let proxy = FaultProxy::to(&registry.host, |_| Action::Pass);
        let destination = RegistryDestination::new(client(&proxy.host).repository("to"));
        let content = noise(1, 100_000);
        let blob = Descriptor::new("application/octet-stream", Digest::of(&content), 100_000);
        assert!(!destination.mount(&blob, "from").await.unwrap());
        let upload = Upload {
            digest: Some(blob.digest.clone()),
            size: Some(100_000),
            bytes: stream(content),
        };
        destination.upload(upload).await.unwrap();
        assert_stored(&registry.repository("to"), &blob.digest, 100_000).await;
        assert_eq!(proxy.count("POST", "/uploads/"), 1, "{version:?}");
        // An unused upload is deleted with the destination.
        let other = Descriptor::new("application/octet-stream", Digest::of(b"other"), 5);
        assert!(!destination.mount(&other, "from").await.unwrap());
        assert!(registry.unfinished("to") > 0);
        drop(destination);
        wait_for_no_open_uploads(&registry, "to").await;
    }
}

#[tokio::test]
async fn the_request_rate_of_a_registry_is_limited() {
    install_tls();
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, |_| Action::Pass);
    let limited = Registry::new(Endpoint {
        plain_http: true,
        rate: NonZeroU32::new(10),
        ..Endpoint::new(&proxy.host)
    })
    .unwrap();
    let begin = Instant::now();
    let heads = (0..20).map(|_| async {
        let missing = limited.repository("rate").head_blob(&Digest::of(b"missing")).await;
        assert_eq!(missing.unwrap(), None);
    });
    // Each starts an upload and commits it.
    let uploads = (0u8..4).map(|number| {
        let content = noise(number.into(), 1000);
        let digest = Digest::of(&content);
        let repository = limited.repository("rate");
        async move {
            let sent = repository.upload(Some(&digest), Some(1000), stream(content)).await;
            sent.unwrap();
            assert_stored(&repository, &digest, 1000).await;
        }
    });
    futures::join!(futures::future::join_all(heads), futures::future::join_all(uploads));
    let counted = ["HEAD", "GET", "POST", "PUT"].map(|method| proxy.count(method, "/rate/"));
    let (requests, took) = (counted.iter().sum::<usize>(), begin.elapsed());
    assert_eq!(requests, 20 + 4 * 3);
    // Ten at once, then one every 100 ms.
    assert!(took >= Duration::from_millis(2100), "{requests} requests in {took:?}");
}

#[tokio::test]
async fn a_retry_after_applies_to_every_client_of_the_registry() {
    for status in [429, 503] {
        let server =
            ScriptedServer::start(move |_: &RecordedRequest| reply(status, &[("retry-after", "120")], "")).await;
        let registry = client(&server.host);
        let first = registry.repository("a").manifest("1").await.unwrap_err();
        let second = registry
            .clone()
            .repository("b")
            .head_blob(&Digest::of(b"b"))
            .await
            .unwrap_err();
        let content = noise(1, 1000);
        let third = registry
            .repository("c")
            .upload(None, None, stream(content))
            .await
            .unwrap_err();
        let UploadError::Registry(third) = third else {
            panic!("{third:?}");
        };
        assert_eq!(server.requests().len(), 1, "{status}");
        for error in [first, second, third] {
            let Kind::RateLimited { after: Some(after) } = error.kind() else {
                panic!("{error:?}");
            };
            assert!(*after <= Duration::from_secs(120) && *after > Duration::from_secs(60));
            assert!(
                error
                    .to_string()
                    .ends_with(&format!(": the registry answered {status}")),
                "{error}"
            );
        }
    }
}
