//! Blobs and manifests are transferred unchanged, and invalid ones are not stored.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jackal_operator::fault::{Disposition, Fault, Reason};
use jackal_operator::oci::{Digest, media_type};
use jackal_operator::registry::{Kind, MountResult, Repository, UploadError};
use jackal_operator::source::ByteStream;

use crate::support::image::{image, noise, put, stream};
use crate::support::registry::{TestRegistry, VERSIONS, Version};

async fn download(repository: &Repository, digest: &Digest, size: Option<u64>) -> Bytes {
    let chunks: Vec<Bytes> = repository.blob(digest, size).into_stream().try_collect().await.unwrap();
    chunks.concat().into()
}

/// Waits until every deleted upload is gone from the registry.
async fn wait_for_no_open_uploads(registry: &TestRegistry, repository: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while registry.unfinished(repository) > 0 {
        assert!(Instant::now() < deadline, "an upload was not given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn uploaded_blobs_are_downloaded_unchanged() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let repository = registry.repository("deep/er/blobs");
        for (seed, length) in [(1, 0), (2, 1), (3, 64 * 1024), (4, 3 * 1024 * 1024 + 7)] {
            for (knows_digest, knows_size) in [(true, true), (false, true), (true, false), (false, false)] {
                let seed = seed * 10 + u64::from(knows_digest) * 2 + u64::from(knows_size);
                let content = noise(seed, length);
                let digest = Digest::of(&content);
                let size = length as u64;
                let stored = repository
                    .upload(
                        knows_digest.then_some(&digest),
                        knows_size.then_some(size),
                        stream(content.clone()),
                    )
                    .await
                    .unwrap_or_else(|error| panic!("{version:?} {length} {knows_digest} {knows_size}: {error}"));
                assert_eq!(stored, (digest.clone(), size));
                assert_eq!(repository.head_blob(&digest).await.unwrap(), Some(size));
                assert_eq!(download(&repository, &digest, Some(size)).await, content);
                assert_eq!(download(&repository, &digest, None).await, content);
            }
        }
        wait_for_no_open_uploads(&registry, "deep/er/blobs").await;
    }
}

#[tokio::test]
async fn a_blob_with_a_wrong_digest_is_not_stored() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let repository = registry.repository("wrong");
        let (content, other) = (noise(1, 300_000), Digest::of(b"other"));
        let digest = Digest::of(&content);
        for (expected, size) in [
            (Some(&other), Some(300_000)),
            (Some(&other), None),
            (Some(&digest), Some(299_999)),
            (Some(&digest), Some(300_001)),
            (None, Some(299_999)),
            (None, Some(300_001)),
        ] {
            let error = repository
                .upload(expected, size, stream(content.clone()))
                .await
                .unwrap_err();
            let UploadError::Registry(error) = error else {
                panic!("{error:?}");
            };
            assert_eq!(error.kind(), &Kind::DigestMismatch, "{expected:?} {size:?}: {error}");
            let fault = error.into_push_fault("r/wrong");
            assert_eq!(fault.reason, Reason::DigestMismatch);
            assert!(!fault.message.contains("_state"), "{}", fault.message);
        }
        for digest in [&digest, &other] {
            assert_eq!(repository.head_blob(digest).await.unwrap(), None);
        }
        // 2.8 does not delete an upload after a broken request.
        if version == Version::V31 {
            wait_for_no_open_uploads(&registry, "wrong").await;
        }
    }
}

#[tokio::test]
async fn a_source_failure_is_reported_unchanged() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("broken");
    let content = noise(1, 200_000);
    let digest = Digest::of(&content);
    let gone = Fault::retryable(Reason::SourceFailed, "the engine is gone");
    for (expected, size) in [(Some(&digest), Some(200_000)), (None, None)] {
        let broken: ByteStream = futures::stream::iter([Ok(content.slice(..150_000)), Err(gone.clone())]).boxed();
        match repository.upload(expected, size, broken).await.unwrap_err() {
            UploadError::Source(fault) => assert_eq!(fault, gone),
            other => panic!("{other}"),
        }
    }
    wait_for_no_open_uploads(&registry, "broken").await;
}

#[tokio::test]
async fn a_dropped_upload_is_deleted() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("dropped");
    let started = tokio::sync::Notify::new();
    // Polled for more, so the request has started.
    let more = futures::stream::once(async {
        started.notify_one();
        std::future::pending().await
    });
    let endless: ByteStream = stream(noise(1, 100_000)).chain(more).boxed();
    tokio::select! {
        result = repository.upload(None, None, endless) => panic!("{result:?}"),
        () = started.notified() => {}
    }
    assert!(registry.unfinished("dropped") > 0);
    wait_for_no_open_uploads(&registry, "dropped").await;
}

#[tokio::test]
async fn a_mounted_blob_is_not_transferred() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let content = noise(1, 1000);
        let digest = Digest::of(&content);
        registry
            .repository("from")
            .upload(Some(&digest), Some(1000), stream(content))
            .await
            .unwrap();
        let to = registry.repository("to");
        assert_eq!(to.head_blob(&digest).await.unwrap(), None);
        assert!(matches!(to.mount(&digest, "from").await.unwrap(), MountResult::Mounted));
        assert_eq!(to.head_blob(&digest).await.unwrap(), Some(1000));
        assert!(matches!(
            to.mount(&Digest::of(b"absent"), "from").await.unwrap(),
            MountResult::Refused(Some(_))
        ));
        wait_for_no_open_uploads(&registry, "to").await;
    }
}

#[tokio::test]
async fn manifests_keep_their_bytes() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let repository = registry.repository("manifests");
        let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
        assert_eq!(repository.manifest("v1").await.unwrap(), None);
        assert_eq!(repository.head_manifest("v1").await.unwrap(), None);
        put(&repository, &document, Some("v1")).await;
        for identifier in ["v1", document.digest().as_str()] {
            assert_eq!(repository.manifest(identifier).await.unwrap().as_ref(), Some(&document));
            let head = repository.head_manifest(identifier).await.unwrap().unwrap();
            assert_eq!(head, document.descriptor);
            assert_eq!(head.media_type, media_type::OCI_MANIFEST);
        }
        assert_eq!(
            registry.crane("digest", "manifests:v1").trim(),
            document.digest().as_str()
        );
        registry.crane("validate", "manifests:v1");
        assert!(repository.delete_manifest(document.digest()).await.unwrap());
        assert!(!repository.delete_manifest(document.digest()).await.unwrap());
        assert_eq!(repository.head_manifest("v1").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_rejected_manifest_is_terminal() {
    let registry = TestRegistry::start(Version::V28);
    let document = image(&registry.repository("tags"), "linux/amd64", noise(1, 10)).await;
    let mut misnamed = document.clone();
    misnamed.descriptor.media_type = media_type::DOCKER_MANIFEST.to_owned();
    let error = registry
        .repository("tags")
        .put_manifest(&misnamed, "1")
        .await
        .unwrap_err();
    let fault = error.into_push_fault("r/tags");
    assert_eq!(fault.reason, Reason::PushFailed);
    assert_eq!(fault.disposition, Disposition::Stalled, "{fault}");
    let error = registry
        .repository("tags")
        .put_manifest(&document, "../x")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), &Kind::Invalid);
    // A manifest whose blobs are missing can be stored once they exist.
    let error = registry
        .repository("elsewhere")
        .put_manifest(&document, "1")
        .await
        .unwrap_err();
    let fault = error.into_push_fault("r/elsewhere");
    assert_eq!(fault.disposition, Disposition::Retryable, "{fault}");
}
