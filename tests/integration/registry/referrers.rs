//! Referrers: listed by the referrers API, or under a tag if the registry does not have it.

use futures::future::join_all;
use jackal_operator::oci::{Descriptor, Digest, Document, Index, referrers_tag};
use jackal_operator::registry::{Endpoint, Registry, Repository};
use jackal_operator::transfer::{Destination, LayoutDestination, RegistryDestination};

use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, noise, put, referrer};
use crate::support::registry::{TestRegistry, Version};

const ALL: [Version; 3] = [Version::V28, Version::V31, Version::Olareg];

fn digests(listed: &[Descriptor]) -> Vec<Digest> {
    let mut digests: Vec<Digest> = listed.iter().map(|entry| entry.digest.clone()).collect();
    digests.sort();
    digests
}

/// An image under the tag `1`, and `count` referrers of it, of which only the blobs are pushed.
async fn subject(repository: &Repository, count: usize) -> (Document, Vec<Document>) {
    let subject = image(repository, "linux/amd64", noise(1, 1000)).await;
    put(repository, &subject, Some("1")).await;
    let mut referrers = Vec::new();
    for at in 0..count {
        referrers.push(
            referrer(
                repository,
                &subject,
                "application/vnd.example.note",
                format!("note {at}"),
            )
            .await,
        );
    }
    referrers.sort_by(|one, other| one.digest().cmp(other.digest()));
    (subject, referrers)
}

#[tokio::test]
async fn attached_referrers_are_listed_by_api_and_tag() {
    for version in ALL {
        let registry = TestRegistry::start(version);
        let repository = registry.repository("lib/app");
        let (subject, referrers) = subject(&repository, 3).await;
        assert_eq!(repository.referrers(subject.digest()).await.unwrap(), [], "{version:?}");
        for referrer in &referrers {
            repository.attach(referrer).await.unwrap();
        }
        // Another client, which does not know the registry yet.
        for repository in [&repository, &registry.repository("lib/app")] {
            let mut listed = repository.referrers(subject.digest()).await.unwrap();
            listed.sort_by(|one, other| one.digest.cmp(&other.digest));
            let expected: Vec<_> = referrers.iter().filter_map(Document::as_referrer).collect();
            assert_eq!(listed, expected, "{version:?}");
        }
        let tag = referrers_tag(subject.digest());
        let tagged = repository.head_manifest(&tag).await.unwrap().is_some();
        assert_eq!(tagged, version != Version::Olareg, "{version:?}");
        let nowhere = registry.repository("nowhere").referrers(subject.digest()).await;
        assert_eq!(nowhere.unwrap(), [], "{version:?}");
    }
}

#[tokio::test]
async fn concurrently_attached_referrers_are_all_listed() {
    for version in ALL {
        let registry = TestRegistry::start(version);
        let repository = registry.repository("lib/app");
        let (subject, referrers) = subject(&repository, 12).await;
        // Two clients, as for two credentials, in one process.
        let clients = [repository.clone(), registry.repository("lib/app")];
        let attached = referrers.iter().zip(clients.iter().cycle());
        for result in join_all(attached.map(|(referrer, client)| client.attach(referrer))).await {
            result.unwrap();
        }
        let listed = repository.referrers(subject.digest()).await.unwrap();
        let expected: Vec<_> = referrers.iter().map(|one| one.digest().clone()).collect();
        assert_eq!(digests(&listed), expected, "{version:?}");
    }
}

#[tokio::test]
async fn existing_referrers_are_not_written_again() {
    for (version, requests) in [
        (Version::V28, vec!["GET", "HEAD"]),
        (Version::V31, vec!["GET", "HEAD"]),
        (Version::Olareg, vec!["GET"]),
    ] {
        let registry = TestRegistry::start(version);
        let proxy = FaultProxy::to(&registry.host, |_| Action::Pass);
        let endpoint = Endpoint {
            plain_http: true,
            ..Endpoint::new(&proxy.host)
        };
        let repository = Registry::new(endpoint).unwrap().repository("lib/app");
        let (subject, referrers) = subject(&repository, 1).await;
        repository.attach(&referrers[0]).await.unwrap();
        let before = proxy.requests().len();
        repository.attach(&referrers[0]).await.unwrap();
        let after = proxy.requests().split_off(before);
        let methods: Vec<_> = after.iter().map(|request| request.method.as_str()).collect();
        assert_eq!(methods, requests, "{version:?}");
        // Once the kind of listing is known, a listing is one request.
        let before = proxy.requests().len();
        repository.referrers(subject.digest()).await.unwrap();
        assert_eq!(proxy.requests().len(), before + 1, "{version:?}");
    }
}

#[tokio::test]
async fn a_missing_referrers_tag_is_restored() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("lib/app");
    let (subject, referrers) = subject(&repository, 2).await;
    // The state after a killed process: the manifests are stored but not listed.
    for referrer in &referrers {
        repository.attach(referrer).await.unwrap();
    }
    let tag = referrers_tag(subject.digest());
    let empty = Document::of_index(Index::new(Vec::new())).unwrap();
    put(&repository, &empty, Some(&tag)).await;
    let repository = registry.repository("lib/app");
    repository.attach(&referrers[1]).await.unwrap();
    let listed = repository.referrers(subject.digest()).await.unwrap();
    assert_eq!(digests(&listed), [referrers[1].digest().clone()]);
}

#[tokio::test]
async fn an_image_under_the_referrers_tag_is_not_a_listing() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("lib/app");
    let (subject, referrers) = subject(&repository, 1).await;
    put(&repository, &subject, Some(&referrers_tag(subject.digest()))).await;
    assert_eq!(repository.referrers(subject.digest()).await.unwrap(), []);
    let error = repository.attach(&referrers[0]).await.unwrap_err().to_string();
    assert!(error.contains("a single manifest instead of an index"), "{error}");
}

#[tokio::test]
async fn destinations_store_referrers() {
    let directory = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(Version::V28);
    let repository = registry.repository("lib/app");
    let (subject, referrers) = subject(&repository, 2).await;
    let layout = LayoutDestination::new(directory.path(), "lib/app");
    let destinations: [&dyn Destination; 2] = [&RegistryDestination::new(repository), &layout];
    for destination in destinations {
        for referrer in &referrers {
            destination.attach(referrer).await.unwrap();
        }
        let listed = destination.referrers(subject.digest()).await.unwrap();
        let expected: Vec<_> = referrers.iter().map(|one| one.digest().clone()).collect();
        assert_eq!(digests(&listed), expected);
    }
}
