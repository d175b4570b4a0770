//! Responses with other statuses and headers than specified, which are understood.

use std::io::Write as _;

use flate2::write::GzEncoder;
use futures::TryStreamExt as _;
use jackal_operator::oci::{Descriptor, Digest, Reference, add_referrer, media_type, referrers_tag};
use jackal_operator::registry::{Registry, Repository};
use jackal_operator::source::{ImageSource as _, RegistrySource, RepositoryReader as _};
use jackal_operator::transfer::RegistryDestination;

use super::referrer_lists::{assert_verifies, signed, workspace_with_keys};
use super::{Case, check};
use crate::support::fault_proxy::{Action, FaultProxy, first};
use crate::support::image::{image, multi_platform, noise, put, stream};
use crate::support::registry::{TestRegistry, Version, plain_client};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_not_found_responses_are_understood() {
    check(&[
        Case {
            report: "andrey-pohilko/registry-cli#43, nicholas-fedor/watchtower#669",
            input: "404 for every HEAD of a manifest",
            expected: "the result of GET is used; a registry that supports HEAD gets no second request",
            run: || Box::pin(head_answers_not_found()),
        },
        Case {
            report: "crossplane/crossplane#3222",
            input: "HEAD of a manifest answered with 502, 503 and 504, and one whose connection breaks",
            expected: "the manifest is read with GET",
            run: || Box::pin(head_fails()),
        },
        Case {
            report: "GoogleContainerTools/jib#4521",
            input: "410, 400 MANIFEST_UNKNOWN and 400 NAME_UNKNOWN for missing content",
            expected: "it is treated as absent",
            run: || Box::pin(unusual_status_for_missing_content()),
        },
        Case {
            report: "google/go-containerregistry#1691",
            input: "403 for the tag of a missing signature in the source",
            expected: "the image has no signature",
            run: || Box::pin(forbidden_signature_tag()),
        },
        Case {
            report: "google/go-containerregistry#1691",
            input: "403 for attestations that an index lists and the source does not have",
            expected: "the selected images are read without them",
            run: || Box::pin(forbidden_attestations()),
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_success_responses_are_understood() {
    check(&[
        Case {
            report: "pulp/pulp_container#2199",
            input: "200, 201 and 204 instead of 202, and 200, 202 and 204 instead of 201",
            expected: "blobs and manifests are stored",
            run: || Box::pin(unusual_success_status()),
        },
        Case {
            report: "sonatype/nexus-public#967",
            input: "400 BLOB_UPLOAD_INVALID for the commit of a blob that another client just stored",
            expected: "the blob is treated as stored",
            run: || Box::pin(concurrently_stored_blob()),
        },
        Case {
            report: "distribution specification, Docker-Content-Digest",
            input: "an invalid Docker-Content-Digest in the responses to PUT",
            expected: "it is ignored",
            run: || Box::pin(invalid_digest_header()),
        },
        Case {
            report: "RFC 9110 section 5.5",
            input: "a Location with non-ASCII characters",
            expected: "it is followed",
            run: || Box::pin(location_with_non_ascii_characters()),
        },
        Case {
            report: "quay/quay#1310",
            input: "manifests and tags that the server compresses by gzip",
            expected: "they are read, and every request asks for content as it is",
            run: || Box::pin(compressed_documents()),
        },
        Case {
            report: "google/go-containerregistry#1697",
            input: "a listed referrer that is an artifact manifest, beside the signature",
            expected: "the signature is found",
            run: || Box::pin(unreadable_referrer()),
        },
        Case {
            report: "kubernetes/registry.k8s.io#333",
            input: "500 and 503 for the range that resumes a download",
            expected: "the blob is read from its beginning",
            run: || Box::pin(range_request_fails()),
        },
    ])
    .await;
}

fn client(host: &str) -> Registry {
    plain_client(host, |_| {})
}

fn is_head_of_manifest(request: &RecordedRequest) -> bool {
    request.method == "HEAD" && request.path.contains("/manifests/")
}

async fn head_answers_not_found() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    let proxy = FaultProxy::to(&registry.host, |request| match is_head_of_manifest(request) {
        true => Action::Answer(404, Vec::new(), String::new()),
        false => Action::Pass,
    });
    let repository = client(&proxy.host).repository("a");
    let found = repository.head_manifest("1").await.unwrap();
    assert_eq!(found.as_ref(), Some(&document.descriptor));
    assert_eq!(repository.head_manifest("2").await.unwrap(), None);
    let knows = FaultProxy::to(&registry.host, |_| Action::Pass);
    let repository = client(&knows.host).repository("a");
    for (tag, there) in [("1", true), ("2", false), ("3", false)] {
        assert_eq!(repository.head_manifest(tag).await.unwrap().is_some(), there);
    }
    assert_eq!(knows.count("GET", "/manifests/"), 0);
    // A manifest that was read proves it too.
    let repository = client(&knows.host).repository("a");
    repository.manifest("1").await.unwrap().unwrap();
    for tag in ["2", "3"] {
        assert_eq!(repository.head_manifest(tag).await.unwrap(), None);
    }
    assert_eq!(knows.count("GET", "/manifests/"), 1);
}

async fn head_fails() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    for status in [502, 503, 504, 0] {
        let proxy = FaultProxy::to(&registry.host, move |request| {
            match (is_head_of_manifest(request), status) {
                (true, 0) => Action::LoseAnswer,
                (true, status) => Action::Answer(status, Vec::new(), String::new()),
                (false, _) => Action::Pass,
            }
        });
        let found = client(&proxy.host).repository("a").head_manifest("1").await.unwrap();
        assert_eq!(found.as_ref(), Some(&document.descriptor), "{status}");
    }
}

async fn unusual_status_for_missing_content() {
    for (status, code) in [(410, ""), (400, "MANIFEST_UNKNOWN"), (400, "NAME_UNKNOWN")] {
        let server = ScriptedServer::start(move |request: &RecordedRequest| match request.method.as_str() {
            "HEAD" => reply(status, &[], ""),
            _ => reply(status, &[], format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#)),
        })
        .await;
        let repository = client(&server.host).repository("a");
        assert_eq!(repository.manifest("1").await.unwrap(), None, "{status}");
        let destination = RegistryDestination::new(repository);
        assert_eq!(destination.digest_of("1").await.unwrap(), None, "{status}");
        assert_eq!(destination.document("1").await.unwrap(), None, "{status}");
    }
}

/// A source that forwards to `registry` and answers 403 for missing content and for requests that match `lacks`; also
/// the reference of its image `a:1`.
fn forbidding_missing_content(
    registry: &TestRegistry,
    lacks: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
) -> (FaultProxy, Reference) {
    let proxy = FaultProxy::to(&registry.host, move |request| match lacks(request) {
        true => Action::Answer(403, Vec::new(), String::new()),
        false => Action::Status(404, 403),
    });
    let reference = format!("{}/a:1", proxy.host).parse().unwrap();
    (proxy, reference)
}

async fn forbidden_signature_tag() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    let (proxy, reference) = forbidding_missing_content(&registry, |_| false);
    let repository = RegistrySource::new(client(&proxy.host)).repository(&reference).unwrap();
    let tag = format!("sha256-{}.sig", document.digest().hex());
    assert_eq!(repository.digest_of(&tag).await.unwrap(), None);
    assert_eq!(
        repository.digest_of("1").await.unwrap().as_ref(),
        Some(document.digest())
    );
}

async fn forbidden_attestations() {
    let registry = TestRegistry::start(Version::V31);
    let (root, images) = multi_platform(&registry.repository("a"), "1").await;
    let entries = &root.index().unwrap().manifests;
    let attestations = entries.iter().filter(|entry| entry.is_attestation());
    let attestations: Vec<String> = attestations.map(|entry| entry.digest.to_string()).collect();
    assert!(!attestations.is_empty());
    let lacks =
        move |request: &RecordedRequest| attestations.iter().any(|digest| request.path.contains(digest.as_str()));
    let (proxy, reference) = forbidding_missing_content(&registry, lacks);
    let source = RegistrySource::new(client(&proxy.host));
    let platforms = ["linux/amd64", "linux/arm64"].map(|platform| platform.parse().unwrap());
    let resolved = source.resolve(&reference, &platforms).await.unwrap();
    for image in &images[..2] {
        assert!(resolved.documents.contains(image));
    }
    assert_eq!(resolved.documents.len(), 3);
}

/// Stores an image, and a blob of unknown digest, and reads them.
async fn assert_stores(repository: &Repository) {
    let document = image(repository, "linux/amd64", noise(1, 300_000)).await;
    put(repository, &document, Some("1")).await;
    assert_eq!(repository.manifest("1").await.unwrap(), Some(document));
    let content = noise(2, 300_000);
    let stored = repository.upload(None, None, stream(content.clone())).await.unwrap();
    assert_eq!(stored, (Digest::of(&content), 300_000));
    assert_eq!(repository.head_blob(&stored.0).await.unwrap(), Some(300_000));
}

async fn unusual_success_status() {
    let registry = TestRegistry::start(Version::V31);
    for (usual, other) in [(202, 200), (202, 201), (202, 204), (201, 200), (201, 202), (201, 204)] {
        let proxy = FaultProxy::to(&registry.host, move |_| Action::Status(usual, other));
        let repository = client(&proxy.host).repository(format!("a{usual}to{other}"));
        assert_stores(&repository).await;
    }
}

async fn concurrently_stored_blob() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, |request| match request.path.contains("/uploads/") {
        true => Action::Status(201, 400),
        false => Action::Pass,
    });
    let repository = client(&proxy.host).repository("a");
    for seed in 1..4 {
        let content = noise(seed, 300_000);
        let digest = Digest::of(&content);
        // With a known digest, and with one that is known only after the content.
        let known = (seed < 3).then_some(&digest);
        let stored = repository.upload(known, None, stream(content)).await;
        assert_eq!(stored.unwrap(), (digest, 300_000));
    }
}

async fn compressed_documents() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    let raw = document.raw.clone();
    let server = ScriptedServer::start(move |request: &RecordedRequest| {
        let content = match request.path.contains("/tags/list") {
            true => br#"{"name":"a","tags":["1"]}"#.as_slice(),
            false => &raw,
        };
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
        // What follows is not the manifest any more.
        let longest = match request.path.ends_with("/long") {
            true => vec![b' '; 8 << 20],
            false => Vec::new(),
        };
        gzip.write_all(&[content, &longest].concat()).unwrap();
        let mut content = gzip.finish().unwrap();
        if request.path.ends_with("/cut") {
            content.truncate(50);
        }
        reply(
            200,
            &[("content-encoding", "gzip"), ("content-type", media_type::OCI_MANIFEST)],
            content,
        )
    })
    .await;
    let repository = client(&server.host).repository("a");
    assert_eq!(repository.manifest("1").await.unwrap(), Some(document));
    assert_eq!(repository.tags(10).await.unwrap(), Some(vec!["1".to_owned()]));
    for tag in ["long", "cut"] {
        let error = repository.manifest(tag).await.unwrap_err().to_string();
        assert!(
            error.contains("the response is compressed, and is damaged or longer"),
            "{error}"
        );
    }
    let asked = |request: RecordedRequest| request.headers.get("accept-encoding").cloned();
    assert!(
        server
            .requests()
            .into_iter()
            .map(asked)
            .all(|asked| asked.as_deref() == Some("identity"))
    );
}

async fn unreadable_referrer() {
    let folder = workspace_with_keys();
    let (registry, document) = signed(&folder, Version::V31).await;
    let repository = registry.repository("app");
    let artifact = r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"a/b","blobs":[]}"#;
    let entry = Descriptor::new(
        "application/vnd.oci.artifact.manifest.v1+json",
        Digest::of(artifact.as_bytes()),
        1,
    );
    let tag = referrers_tag(document.digest());
    let listing = repository.manifest(&tag).await.unwrap();
    let listing = add_referrer(listing.as_ref(), &entry).unwrap().unwrap();
    let listing = String::from_utf8(listing.raw.to_vec()).unwrap();
    // The registry stores neither of them.
    let proxy = FaultProxy::to(&registry.host, move |request| {
        let answer =
            |kind: &str, body: &str| Action::Answer(200, vec![("Content-Type", kind.to_owned())], body.to_owned());
        match request.path.rsplit_once('/') {
            Some((_, name)) if name == tag => answer(media_type::OCI_INDEX, &listing),
            Some((_, name)) if name == entry.digest.as_str() => answer(&entry.media_type, artifact),
            _ => Action::Pass,
        }
    });
    assert_verifies(&folder, &proxy.host);
}

async fn invalid_digest_header() {
    let registry = TestRegistry::start(Version::V31);
    for digest in ["sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let proxy = FaultProxy::to(&registry.host, move |request| match request.method.as_str() {
            "PUT" => Action::Header("docker-content-digest", Box::new(move |_| digest.to_owned())),
            _ => Action::Pass,
        });
        assert_stores(&client(&proxy.host).repository("a")).await;
    }
}

async fn location_with_non_ascii_characters() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = FaultProxy::to(&registry.host, |_| {
        let more = |location: &str| match location.contains('?') {
            true => format!("{location}&node=süd"),
            false => location.to_owned(),
        };
        Action::Header("location", Box::new(more))
    });
    assert_stores(&client(&proxy.host).repository("a")).await;
}

async fn range_request_fails() {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 1_000_000);
    let digest = Digest::of(&content);
    let repository = registry.repository("a");
    let stored = repository.upload(Some(&digest), Some(1_000_000), stream(content.clone()));
    stored.await.unwrap();
    for status in [500, 503] {
        let breaks = first(
            1,
            |request: &RecordedRequest| request.method == "GET",
            || Action::BreakAnswer(300_000),
        );
        let proxy = FaultProxy::to(&registry.host, move |request| {
            match request.headers.contains_key("range") {
                true => Action::Answer(status, Vec::new(), String::new()),
                false => breaks(request),
            }
        });
        let blob = client(&proxy.host).repository("a").blob(&digest, Some(1_000_000));
        let got: Vec<_> = blob.into_stream().try_collect().await.unwrap();
        assert!(got.concat() == content, "{status}");
    }
}
