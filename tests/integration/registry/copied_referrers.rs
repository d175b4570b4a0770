//! Referrers are copied with an image.

use std::sync::Arc;

use jackal_operator::fault::{Disposition, Reason};
use jackal_operator::oci::{
    Compression, Descriptor, Digest, Document, Index, Location, Naming, Reference, ReferrersPolicy, referrers_tag,
};
use jackal_operator::registry::{Endpoint, Registry, Repository};
use jackal_operator::source::{Method, RegistrySource};
use jackal_operator::transfer::{Destination, DestinationState, LayoutDestination, RegistryDestination, Transfer};

use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::independent;
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};

const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SBOM: &str = "application/spdx+json";

/// The transfer of the image `app:1` of `from` to `destination`.
fn transfer(from: &Registry, destination: impl Destination + 'static) -> Transfer {
    let reference: Reference = format!("{}/app:1", from.host()).parse().unwrap();
    Transfer {
        source: Arc::new(RegistrySource::new(from.clone())),
        location: Location::new(&reference, "r:1", "in", Naming::Plain, true).unwrap(),
        reference,
        platforms: Vec::new(),
        destination: Arc::new(destination),
        compression: Compression::None,
        referrers: ReferrersPolicy::Copy,
        progress: Arc::default(),
        known: Arc::default(),
    }
}

fn client_of(proxy: &FaultProxy) -> Registry {
    let endpoint = Endpoint {
        plain_http: true,
        ..Endpoint::new(&proxy.host)
    };
    Registry::new(endpoint).unwrap()
}

async fn attach(repository: &Repository, subject: &Document, kind: &str, content: &str) -> Document {
    let referrer = referrer(repository, subject, kind, content.to_owned()).await;
    repository.attach(&referrer).await.unwrap();
    referrer
}

/// An image of several platforms with a signature, an SBOM of its first platform that is signed too, and a signature in
/// cosign's old format. Returns the subjects with their referrers, and tag and digest of the old signature.
async fn signed(repository: &Repository) -> (Vec<(Digest, Digest)>, (String, Digest)) {
    let (index, images) = multi_platform(repository, "1").await;
    let signature = attach(repository, &index, SIGNATURE, "signed").await;
    let sbom = attach(repository, &images[0], SBOM, "what is in it").await;
    let of_sbom = attach(repository, &sbom, SIGNATURE, "signed as well").await;
    let older = image(repository, "unknown/unknown", noise(9, 300)).await;
    let tag = format!("{}.sig", referrers_tag(index.digest()));
    put(repository, &older, Some(&tag)).await;
    let pairs = [(&index, &signature), (&images[0], &sbom), (&sbom, &of_sbom)];
    let pairs = pairs.map(|(subject, referrer)| (subject.digest().clone(), referrer.digest().clone()));
    (pairs.into(), (tag, older.digest().clone()))
}

async fn assert_referrers_stored(destination: &dyn Destination, pairs: &[(Digest, Digest)], older: &(String, Digest)) {
    for (subject, referrer) in pairs {
        let listed = destination.referrers(subject).await.unwrap();
        let listed: Vec<&Digest> = listed.iter().map(|entry| &entry.digest).collect();
        assert_eq!(listed, [referrer], "{}", destination.name());
        let document = destination.document(referrer.as_str()).await.unwrap().unwrap();
        for blob in document.manifest().unwrap().blobs() {
            let held = destination.holds(&blob.digest).await.unwrap();
            assert_eq!(held, Some(blob.size), "{}", destination.name());
        }
    }
    let (tag, digest) = older;
    let existing = destination.digest_of(tag).await.unwrap();
    assert_eq!(existing.as_ref(), Some(digest), "{}", destination.name());
}

#[tokio::test]
async fn referrers_are_copied_between_the_api_and_the_tag_schema() {
    for (from, to) in [
        (Version::V31, Version::Olareg),
        (Version::Olareg, Version::V28),
        (Version::V28, Version::V31),
    ] {
        let (from, to) = (TestRegistry::start(from), TestRegistry::start(to));
        let (pairs, older) = signed(&from.repository("app")).await;
        let transfer = transfer(&from.client(), RegistryDestination::new(to.repository("in/app")));
        let outcome = transfer.run().await.unwrap();
        assert_eq!((outcome.published, outcome.referrers), (true, 4));
        assert_referrers_stored(&*transfer.destination, &pairs, &older).await;
        let pulled = independent::pull_and_verify(&to.host, "in/app", "1").await;
        assert_eq!(pulled.digest, outcome.digest.as_str());
        for (subject, referrer) in &pairs {
            let listed = independent::referrers(&to.host, "in/app", subject.as_str()).await;
            assert_eq!(listed.iter().collect::<Vec<_>>(), [referrer.as_str()], "{}", to.host);
        }
        let again = transfer.run().await.unwrap();
        let expected = (Method::Unchanged, false, 0, 0);
        assert_eq!(
            (again.method, again.published, again.referrers, again.moved_blobs),
            expected
        );
    }
}

/// The digests in `text`.
fn digests_in(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = text
        .match_indices("sha256:")
        .filter_map(|(at, _)| text.get(at..at + 71))
        .collect();
    found.sort();
    found.dedup();
    found
}

#[tokio::test]
async fn other_tools_find_copied_referrers_and_theirs_are_copied() {
    for (from, to) in [(Version::V31, Version::Olareg), (Version::Olareg, Version::V31)] {
        let (from, to) = (TestRegistry::start(from), TestRegistry::start(to));
        let repository = from.repository("app");
        let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &subject, Some("1")).await;
        let oras = |arguments: &[&str]| run(program("JACKAL_BIN_ORAS"), arguments);
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("note.txt");
        std::fs::write(&note, "seen by somebody").unwrap();
        let attach_flags = ["attach", "--plain-http", "--disable-path-validation"];
        let what = [
            "--artifact-type",
            "application/vnd.example.note",
            &format!("{}/app:1", from.host),
            &format!("{}:text/plain", note.display()),
        ];
        oras(&[&attach_flags[..], &what].concat());
        let listed = repository.referrers(subject.digest()).await.unwrap();
        assert_eq!(listed.len(), 1);
        let of_note = repository.manifest(listed[0].digest.as_str()).await.unwrap().unwrap();
        let signature = attach(&repository, &of_note, SIGNATURE, "signed").await;

        let transfer = transfer(&from.client(), RegistryDestination::new(to.repository("in/app")));
        assert_eq!(transfer.run().await.unwrap().referrers, 2);
        let there = format!("{}/in/app:1", to.host);
        let output = oras(&["discover", "--plain-http", "--format", "json", &there]);
        for digest in [&listed[0].digest, signature.digest()] {
            assert!(digests_in(&output).contains(&digest.as_str()), "{output}");
        }
        let host = format!("reg={},tls=disabled", to.host);
        let list = ["artifact", "list", "--host", &host, "--format", "{{json .}}", &there];
        let output = run(program("JACKAL_BIN_REGCTL"), &list);
        assert!(digests_in(&output).contains(&listed[0].digest.as_str()), "{output}");
    }
}

#[tokio::test]
async fn referrers_are_copied_to_a_layout() {
    let directory = tempfile::tempdir().unwrap();
    let from = TestRegistry::start(Version::V31);
    let (pairs, older) = signed(&from.repository("app")).await;
    let transfer = transfer(&from.client(), LayoutDestination::new(directory.path(), "in/app"));
    assert_eq!(transfer.run().await.unwrap().referrers, 4);
    assert_referrers_stored(&*transfer.destination, &pairs, &older).await;
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
    let (index, signature) = &pairs[0];
    let there = format!("{}@{index}", directory.path().display());
    let discover = ["discover", "--oci-layout", "--format", "json", &there];
    let output = run(program("JACKAL_BIN_ORAS"), &discover);
    assert!(digests_in(&output).contains(&signature.as_str()), "{output}");
}

#[tokio::test]
async fn a_later_signature_is_copied_without_the_image() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = from.repository("app");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    let (source, proxy) = (
        FaultProxy::to(&from.host, |_| Action::Pass),
        FaultProxy::to(&to.host, |_| Action::Pass),
    );
    let transfer = transfer(
        &client_of(&source),
        RegistryDestination::new(client_of(&proxy).repository("in/app")),
    );
    assert_eq!(transfer.run().await.unwrap().referrers, 0);

    // The cost of a check without changes: the manifest, a listing and a HEAD at the source, a HEAD at the destination.
    let before = (source.requests().len(), proxy.requests().len());
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
    let asked: Vec<String> = source.requests()[before.0..]
        .iter()
        .map(|request| request.method.clone())
        .collect();
    let mut sorted = asked.clone();
    sorted.sort();
    assert_eq!(sorted, ["GET", "GET", "HEAD"], "{asked:?}");
    assert_eq!(proxy.requests().len() - before.1, 1);

    let late = attach(&repository, &subject, SIGNATURE, "signed later").await;
    let started = proxy.requests().len();
    let outcome = transfer.run().await.unwrap();
    assert_eq!((outcome.published, outcome.referrers), (false, 1));
    let puts = |part: &str| {
        let requests = proxy.requests().split_off(started);
        let such = requests.iter().filter(|request| request.method == "PUT");
        such.filter(|request| request.path.contains(part)).count()
    };
    assert_eq!(puts("/manifests/1"), 0, "the image's tag is not written again");
    assert_eq!(puts("/manifests/"), 2, "the signature, and the listing of it");
    let listed = transfer.destination.referrers(subject.digest()).await.unwrap();
    assert_eq!(listed, [late.as_referrer().unwrap()]);
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
}

#[tokio::test]
async fn mislisted_referrers_are_skipped_and_missing_ones_fail_the_transfer() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::Olareg));
    let repository = from.repository("app");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    let other = image(&repository, "linux/arm64", noise(2, 1000)).await;
    put(&repository, &other, Some("2")).await;
    let honest = attach(&repository, &subject, SBOM, "what is in it").await;
    let liar = attach(&repository, &other, SIGNATURE, "of something else").await;
    let unrelated = other.clone();
    // The registry rejects a listing of missing content, so it is deleted afterwards.
    let gone = attach(&repository, &subject, SIGNATURE, "gone").await;
    let listing: Vec<Descriptor> = [&honest, &liar, &unrelated, &gone]
        .into_iter()
        .map(|document| document.descriptor.clone())
        .collect();
    let tag = referrers_tag(subject.digest());
    let list = async |entries: &[Descriptor]| {
        let listing = Document::of_index(Index::new(entries.to_vec())).unwrap();
        put(&repository, &listing, Some(&tag)).await;
    };
    list(&listing).await;
    repository.delete_manifest(gone.digest()).await.unwrap();
    let transfer = transfer(&from.client(), RegistryDestination::new(to.repository("in/app")));
    let fault = transfer.run().await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    for part in [gone.digest().as_str(), "referrers: Ignore"] {
        assert!(fault.message.contains(part), "{fault}");
    }
    assert_eq!(transfer.run().await.unwrap_err(), fault, "the same in each try");
    list(&listing[..3]).await;
    assert_eq!(transfer.run().await.unwrap().referrers, 1);
    let listed = transfer.destination.referrers(subject.digest()).await.unwrap();
    assert_eq!(listed, [honest.as_referrer().unwrap()]);
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
}

#[tokio::test]
async fn a_referrer_that_cannot_be_copied_prevents_the_tag() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = from.repository("app");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    attach(&repository, &subject, SBOM, "what is in it").await;
    let blob = Digest::of(b"what is in it");
    let broken = FaultProxy::to(&from.host, move |request| {
        match request.method == "GET" && request.path.contains(blob.as_str()) {
            true => Action::Answer(404, Vec::new(), String::new()),
            false => Action::Pass,
        }
    });
    let mut transfer = transfer(&client_of(&broken), RegistryDestination::new(to.repository("in/app")));
    let fault = transfer.run().await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound, "{fault}");
    assert_eq!(fault.disposition, Disposition::Retryable);
    let output = format!(
        "cannot copy the referrers of {}/app:1 (referrers: Ignore omits them): ",
        broken.host
    );
    assert!(fault.message.starts_with(&output), "{fault}");
    assert_eq!(transfer.run().await.unwrap_err(), fault, "the same in each try");
    assert_eq!(transfer.destination.digest_of("1").await.unwrap(), None);
    transfer.referrers = ReferrersPolicy::Ignore;
    let outcome = transfer.run().await.unwrap();
    assert_eq!((outcome.published, outcome.referrers), (true, 0));
    let listed = transfer.destination.referrers(subject.digest()).await.unwrap();
    assert_eq!(listed, []);
}
