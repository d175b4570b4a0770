//! Answers with other statuses and headers than the specification has, which are understood all the same.

use futures::TryStreamExt as _;
use jackal_operator::oci::{Digest, Reference};
use jackal_operator::registry::{Registry, Repository};
use jackal_operator::source::{ImageSource as _, RegistrySource, RepositoryReader as _};
use jackal_operator::transfer::RegistryDestination;

use super::{Case, check};
use crate::support::faulty::{Scripted, Seen, reply};
use crate::support::front::{Act, Front, first};
use crate::support::image::{image, multi_platform, noise, put, stream};
use crate::support::registry::{TestRegistry, Version, plain_client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_in_many_ways() {
    check(&[
        Case {
            report: "andrey-pohilko/registry-cli#43, nicholas-fedor/watchtower#669",
            input: "404 for every HEAD of a manifest",
            expected: "what GET finds is found; a registry that knows HEAD is not asked twice",
            run: || Box::pin(not_found_by_head()),
        },
        Case {
            report: "crossplane/crossplane#3222",
            input: "HEAD of a manifest answered by 502, 503 and 504, and one whose connection breaks",
            expected: "the manifest is read by GET",
            run: || Box::pin(broken_down_over_head()),
        },
        Case {
            report: "GoogleContainerTools/jib#4521",
            input: "410, 400 MANIFEST_UNKNOWN and 400 NAME_UNKNOWN for what is missing",
            expected: "it counts as absent",
            run: || Box::pin(missing_by_another_status()),
        },
        Case {
            report: "google/go-containerregistry#1691",
            input: "403 for the tag of a signature that is missing at the source",
            expected: "the image has none",
            run: || Box::pin(no_signature_to_be_read()),
        },
        Case {
            report: "google/go-containerregistry#1691",
            input: "403 for attestations that an index lists and the source lacks",
            expected: "the chosen images are read without them",
            run: || Box::pin(no_attestations_to_be_read()),
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_told_in_many_ways() {
    check(&[
        Case {
            report: "pulp/pulp_container#2199",
            input: "200, 201 and 204 in place of 202, and 200, 202 and 204 in place of 201",
            expected: "blobs and manifests are stored",
            run: || Box::pin(stored_by_another_status()),
        },
        Case {
            report: "sonatype/nexus-public#967",
            input: "400 BLOB_UPLOAD_INVALID for the commit of a blob that somebody else just stored",
            expected: "the blob counts as stored",
            run: || Box::pin(stored_by_somebody_else()),
        },
        Case {
            report: "distribution specification, Docker-Content-Digest",
            input: "a Docker-Content-Digest that is none in the answers to PUT",
            expected: "it says nothing",
            run: || Box::pin(stored_under_no_digest()),
        },
        Case {
            report: "RFC 9110 section 5.5",
            input: "a Location with characters beyond ASCII",
            expected: "it is followed",
            run: || Box::pin(led_beyond_ascii()),
        },
        Case {
            report: "kubernetes/registry.k8s.io#333",
            input: "500 and 503 for the range that resumes a download",
            expected: "the blob is read from its beginning",
            run: || Box::pin(broken_down_over_a_range()),
        },
    ])
    .await;
}

fn client(host: &str) -> Registry {
    plain_client(host, |_| {})
}

fn is_head_of_manifest(seen: &Seen) -> bool {
    seen.method == "HEAD" && seen.path.contains("/manifests/")
}

async fn not_found_by_head() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    let front = Front::to(&registry.host, |seen| match is_head_of_manifest(seen) {
        true => Act::Answer(404, Vec::new(), String::new()),
        false => Act::Pass,
    });
    let repository = client(&front.host).repository("a");
    let found = repository.head_manifest("1").await.unwrap();
    assert_eq!(found.as_ref(), Some(&document.descriptor));
    assert_eq!(repository.head_manifest("2").await.unwrap(), None);
    let knows = Front::to(&registry.host, |_| Act::Pass);
    let repository = client(&knows.host).repository("a");
    for (tag, there) in [("1", true), ("2", false), ("3", false)] {
        assert_eq!(repository.head_manifest(tag).await.unwrap().is_some(), there);
    }
    assert_eq!(knows.count("GET", "/manifests/"), 0);
    // One that was read tells that too.
    let repository = client(&knows.host).repository("a");
    repository.manifest("1").await.unwrap().unwrap();
    for tag in ["2", "3"] {
        assert_eq!(repository.head_manifest(tag).await.unwrap(), None);
    }
    assert_eq!(knows.count("GET", "/manifests/"), 1);
}

async fn broken_down_over_head() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    for status in [502, 503, 504, 0] {
        let front = Front::to(&registry.host, move |seen| match (is_head_of_manifest(seen), status) {
            (true, 0) => Act::LoseAnswer,
            (true, status) => Act::Answer(status, Vec::new(), String::new()),
            (false, _) => Act::Pass,
        });
        let found = client(&front.host).repository("a").head_manifest("1").await.unwrap();
        assert_eq!(found.as_ref(), Some(&document.descriptor), "{status}");
    }
}

async fn missing_by_another_status() {
    for (status, code) in [(410, ""), (400, "MANIFEST_UNKNOWN"), (400, "NAME_UNKNOWN")] {
        let server = Scripted::start(move |seen: &Seen| match seen.method.as_str() {
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

/// The source whose `a:1` is that of `registry`, and which answers 403 for what `registry` has not, and what `lacks` holds
/// for.
fn hiding(registry: &TestRegistry, lacks: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> (Front, Reference) {
    let front = Front::to(&registry.host, move |seen| match lacks(seen) {
        true => Act::Answer(403, Vec::new(), String::new()),
        false => Act::Status(404, 403),
    });
    let reference = format!("{}/a:1", front.host).parse().unwrap();
    (front, reference)
}

async fn no_signature_to_be_read() {
    let registry = TestRegistry::start(Version::V31);
    let document = image(&registry.repository("a"), "linux/amd64", noise(1, 1000)).await;
    put(&registry.repository("a"), &document, Some("1")).await;
    let (front, reference) = hiding(&registry, |_| false);
    let repository = RegistrySource::new(client(&front.host)).repository(&reference).unwrap();
    let tag = format!("sha256-{}.sig", document.digest().hex());
    assert_eq!(repository.digest_of(&tag).await.unwrap(), None);
    assert_eq!(
        repository.digest_of("1").await.unwrap().as_ref(),
        Some(document.digest())
    );
}

async fn no_attestations_to_be_read() {
    let registry = TestRegistry::start(Version::V31);
    let (root, images) = multi_platform(&registry.repository("a"), "1").await;
    let entries = &root.index().unwrap().manifests;
    let attestations = entries.iter().filter(|entry| entry.is_attestation());
    let attestations: Vec<String> = attestations.map(|entry| entry.digest.to_string()).collect();
    assert!(!attestations.is_empty());
    let lacks = move |seen: &Seen| attestations.iter().any(|digest| seen.path.contains(digest.as_str()));
    let (front, reference) = hiding(&registry, lacks);
    let source = RegistrySource::new(client(&front.host));
    let platforms = ["linux/amd64", "linux/arm64"].map(|platform| platform.parse().unwrap());
    let resolved = source.resolve(&reference, &platforms).await.unwrap();
    for image in &images[..2] {
        assert!(resolved.documents.contains(image));
    }
    assert_eq!(resolved.documents.len(), 3);
}

/// Stores an image, and a blob of unknown digest, and reads them.
async fn stores(repository: &Repository) {
    let document = image(repository, "linux/amd64", noise(1, 300_000)).await;
    put(repository, &document, Some("1")).await;
    assert_eq!(repository.manifest("1").await.unwrap(), Some(document));
    let content = noise(2, 300_000);
    let stored = repository.upload(None, None, stream(content.clone())).await.unwrap();
    assert_eq!(stored, (Digest::of(&content), 300_000));
    assert_eq!(repository.head_blob(&stored.0).await.unwrap(), Some(300_000));
}

async fn stored_by_another_status() {
    let registry = TestRegistry::start(Version::V31);
    for (usual, other) in [(202, 200), (202, 201), (202, 204), (201, 200), (201, 202), (201, 204)] {
        let front = Front::to(&registry.host, move |_| Act::Status(usual, other));
        let repository = client(&front.host).repository(format!("a{usual}to{other}"));
        stores(&repository).await;
    }
}

async fn stored_by_somebody_else() {
    let registry = TestRegistry::start(Version::V31);
    let front = Front::to(&registry.host, |seen| match seen.path.contains("/uploads/") {
        true => Act::Status(201, 400),
        false => Act::Pass,
    });
    let repository = client(&front.host).repository("a");
    for seed in 1..4 {
        let content = noise(seed, 300_000);
        let digest = Digest::of(&content);
        // At once, and after the content.
        let known = (seed < 3).then_some(&digest);
        let stored = repository.upload(known, None, stream(content)).await;
        assert_eq!(stored.unwrap(), (digest, 300_000));
    }
}

async fn stored_under_no_digest() {
    let registry = TestRegistry::start(Version::V31);
    for digest in ["sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let front = Front::to(&registry.host, move |seen| match seen.method.as_str() {
            "PUT" => Act::Header("docker-content-digest", Box::new(move |_| digest.to_owned())),
            _ => Act::Pass,
        });
        stores(&client(&front.host).repository("a")).await;
    }
}

async fn led_beyond_ascii() {
    let registry = TestRegistry::start(Version::V31);
    let front = Front::to(&registry.host, |_| {
        let more = |location: &str| match location.contains('?') {
            true => format!("{location}&node=süd"),
            false => location.to_owned(),
        };
        Act::Header("location", Box::new(more))
    });
    stores(&client(&front.host).repository("a")).await;
}

async fn broken_down_over_a_range() {
    let registry = TestRegistry::start(Version::V31);
    let content = noise(1, 1_000_000);
    let digest = Digest::of(&content);
    let repository = registry.repository("a");
    let stored = repository.upload(Some(&digest), Some(1_000_000), stream(content.clone()));
    stored.await.unwrap();
    for status in [500, 503] {
        let breaks = first(1, |seen: &Seen| seen.method == "GET", || Act::BreakAnswer(300_000));
        let front = Front::to(&registry.host, move |seen| match seen.headers.contains_key("range") {
            true => Act::Answer(status, Vec::new(), String::new()),
            false => breaks(seen),
        });
        let blob = client(&front.host).repository("a").blob(&digest, Some(1_000_000));
        let got: Vec<_> = blob.into_stream().try_collect().await.unwrap();
        assert!(got.concat() == content, "{status}");
    }
}
