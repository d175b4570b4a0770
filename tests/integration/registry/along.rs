//! What refers to an image travels along with it.

use std::sync::Arc;

use jackal_operator::fault::{Disposition, Reason};
use jackal_operator::oci::{
    Compression, Descriptor, Digest, Document, Index, Location, Naming, Reference, ReferrersPolicy, referrers_tag,
};
use jackal_operator::registry::{Endpoint, Registry, Repository};
use jackal_operator::source::{Method, RegistrySource};
use jackal_operator::transfer::{Destination, DestinationState, LayoutDestination, RegistryDestination, Transfer};

use crate::support::front::{Act, Front};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};

const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SBOM: &str = "application/spdx+json";

/// The image `app:1` of `from`, on its way to `destination`.
fn transfer(from: &Registry, destination: impl Destination + 'static) -> Transfer {
    let reference: Reference = format!("{}/app:1", from.host()).parse().unwrap();
    Transfer {
        source: Arc::new(RegistrySource::new(from.clone())),
        location: Location::of(&reference, "r:1", "in", Naming::Plain, true).unwrap(),
        reference,
        platforms: Vec::new(),
        destination: Arc::new(destination),
        compression: Compression::None,
        referrers: ReferrersPolicy::Copy,
        progress: Arc::default(),
        known: Arc::default(),
    }
}

fn behind(front: &Front) -> Registry {
    let endpoint = Endpoint {
        plain_http: true,
        ..Endpoint::new(&front.host)
    };
    Registry::new(endpoint).unwrap()
}

async fn attached(repository: &Repository, subject: &Document, kind: &str, content: &str) -> Document {
    let referrer = referrer(repository, subject, kind, content.to_owned()).await;
    repository.attach(&referrer).await.unwrap();
    referrer
}

/// An image of several platforms with a signature, an SBOM of its first platform that is signed too, and cosign's
/// elder form. Gives the subjects with what refers to each, and the last.
async fn signed(repository: &Repository) -> (Vec<(Digest, Digest)>, (String, Digest)) {
    let (index, images) = multi_platform(repository, "1").await;
    let signature = attached(repository, &index, SIGNATURE, "signed").await;
    let sbom = attached(repository, &images[0], SBOM, "what is in it").await;
    let of_sbom = attached(repository, &sbom, SIGNATURE, "signed as well").await;
    let elder = image(repository, "unknown/unknown", noise(9, 300)).await;
    let tag = format!("{}.sig", referrers_tag(index.digest()));
    put(repository, &elder, Some(&tag)).await;
    let pairs = [(&index, &signature), (&images[0], &sbom), (&sbom, &of_sbom)];
    let pairs = pairs.map(|(subject, referrer)| (subject.digest().clone(), referrer.digest().clone()));
    (pairs.into(), (tag, elder.digest().clone()))
}

async fn all_stand(destination: &dyn Destination, pairs: &[(Digest, Digest)], elder: &(String, Digest)) {
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
    let (tag, digest) = elder;
    let standing = destination.digest_of(tag).await.unwrap();
    assert_eq!(standing.as_ref(), Some(digest), "{}", destination.name());
}

#[tokio::test]
async fn from_each_way_of_listing_to_each() {
    for (from, to) in [
        (Version::V31, Version::Olareg),
        (Version::Olareg, Version::V28),
        (Version::V28, Version::V31),
    ] {
        let (from, to) = (TestRegistry::start(from), TestRegistry::start(to));
        let (pairs, elder) = signed(&from.repository("app")).await;
        let transfer = transfer(&from.client(), RegistryDestination::new(to.repository("in/app")));
        let outcome = transfer.run().await.unwrap();
        assert_eq!((outcome.published, outcome.referrers), (true, 4));
        all_stand(&*transfer.destination, &pairs, &elder).await;
        let again = transfer.run().await.unwrap();
        let expected = (Method::Unchanged, false, 0, 0);
        assert_eq!(
            (again.method, again.published, again.referrers, again.moved_blobs),
            expected
        );
    }
}

/// The digests that `text` names.
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
async fn other_tools_find_what_came_and_theirs_comes_too() {
    for (from, to) in [(Version::V31, Version::Olareg), (Version::Olareg, Version::V31)] {
        let (from, to) = (TestRegistry::start(from), TestRegistry::start(to));
        let repository = from.repository("app");
        let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &subject, Some("1")).await;
        let oras = |arguments: &[&str]| run(program("JACKAL_BIN_ORAS"), arguments);
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("note.txt");
        std::fs::write(&note, "seen by somebody").unwrap();
        let attach = ["attach", "--plain-http", "--disable-path-validation"];
        let what = [
            "--artifact-type",
            "application/vnd.example.note",
            &format!("{}/app:1", from.host),
            &format!("{}:text/plain", note.display()),
        ];
        oras(&[&attach[..], &what].concat());
        let listed = repository.referrers(subject.digest()).await.unwrap();
        assert_eq!(listed.len(), 1);
        let of_note = repository.manifest(listed[0].digest.as_str()).await.unwrap().unwrap();
        let signature = attached(&repository, &of_note, SIGNATURE, "signed").await;

        let transfer = transfer(&from.client(), RegistryDestination::new(to.repository("in/app")));
        assert_eq!(transfer.run().await.unwrap().referrers, 2);
        let there = format!("{}/in/app:1", to.host);
        let said = oras(&["discover", "--plain-http", "--format", "json", &there]);
        for digest in [&listed[0].digest, signature.digest()] {
            assert!(digests_in(&said).contains(&digest.as_str()), "{said}");
        }
        let host = format!("reg={},tls=disabled", to.host);
        let list = ["artifact", "list", "--host", &host, "--format", "{{json .}}", &there];
        let said = run(program("JACKAL_BIN_REGCTL"), &list);
        assert!(digests_in(&said).contains(&listed[0].digest.as_str()), "{said}");
    }
}

#[tokio::test]
async fn to_a_layout() {
    let directory = tempfile::tempdir().unwrap();
    let from = TestRegistry::start(Version::V31);
    let (pairs, elder) = signed(&from.repository("app")).await;
    let transfer = transfer(&from.client(), LayoutDestination::new(directory.path(), "in/app"));
    assert_eq!(transfer.run().await.unwrap().referrers, 4);
    all_stand(&*transfer.destination, &pairs, &elder).await;
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
    let (index, signature) = &pairs[0];
    let there = format!("{}@{index}", directory.path().display());
    let discover = ["discover", "--oci-layout", "--format", "json", &there];
    let said = run(program("JACKAL_BIN_ORAS"), &discover);
    assert!(digests_in(&said).contains(&signature.as_str()), "{said}");
}

#[tokio::test]
async fn a_signature_that_comes_later_comes_alone() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = from.repository("app");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    let (source, front) = (Front::to(&from.host, |_| Act::Pass), Front::to(&to.host, |_| Act::Pass));
    let transfer = transfer(
        &behind(&source),
        RegistryDestination::new(behind(&front).repository("in/app")),
    );
    assert_eq!(transfer.run().await.unwrap().referrers, 0);

    // What a look costs when there is nothing to do: the manifest, a listing and a HEAD at the source, a HEAD here.
    let before = (source.seen().len(), front.seen().len());
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
    let asked: Vec<String> = source.seen()[before.0..]
        .iter()
        .map(|seen| seen.method.clone())
        .collect();
    let mut sorted = asked.clone();
    sorted.sort();
    assert_eq!(sorted, ["GET", "GET", "HEAD"], "{asked:?}");
    assert_eq!(front.seen().len() - before.1, 1);

    let late = attached(&repository, &subject, SIGNATURE, "signed later").await;
    let begun = front.seen().len();
    let outcome = transfer.run().await.unwrap();
    assert_eq!((outcome.published, outcome.referrers), (false, 1));
    let puts = |part: &str| {
        let seen = front.seen().split_off(begun);
        let such = seen.iter().filter(|seen| seen.method == "PUT");
        such.filter(|seen| seen.path.contains(part)).count()
    };
    assert_eq!(puts("/manifests/1"), 0, "the image's tag is not written again");
    assert_eq!(puts("/manifests/"), 2, "the signature, and the listing of it");
    let listed = transfer.destination.referrers(subject.digest()).await.unwrap();
    assert_eq!(listed, [late.as_referrer().unwrap()]);
    assert!(matches!(transfer.check().await.unwrap(), DestinationState::Current(_)));
}

#[tokio::test]
async fn what_is_not_what_it_is_listed_as_is_passed_over_and_what_is_gone_is_a_failure() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::Olareg));
    let repository = from.repository("app");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    let other = image(&repository, "linux/arm64", noise(2, 1000)).await;
    put(&repository, &other, Some("2")).await;
    let honest = attached(&repository, &subject, SBOM, "what is in it").await;
    let liar = attached(&repository, &other, SIGNATURE, "of something else").await;
    let unrelated = other.clone();
    // The registry lets nobody list what it lacks, so it is taken away afterwards.
    let gone = attached(&repository, &subject, SIGNATURE, "gone").await;
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
async fn a_referrer_that_cannot_be_brought_holds_the_tag_back() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = from.repository("app");
    let subject = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &subject, Some("1")).await;
    attached(&repository, &subject, SBOM, "what is in it").await;
    let blob = Digest::of(b"what is in it");
    let broken = Front::to(&from.host, move |seen| {
        match seen.method == "GET" && seen.path.contains(blob.as_str()) {
            true => Act::Answer(404, Vec::new(), String::new()),
            false => Act::Pass,
        }
    });
    let mut transfer = transfer(&behind(&broken), RegistryDestination::new(to.repository("in/app")));
    let fault = transfer.run().await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound, "{fault}");
    assert_eq!(fault.disposition, Disposition::Retryable);
    let said = format!(
        "cannot copy the referrers of {}/app:1 (referrers: Ignore omits them): ",
        broken.host
    );
    assert!(fault.message.starts_with(&said), "{fault}");
    assert_eq!(transfer.run().await.unwrap_err(), fault, "the same in each try");
    assert_eq!(transfer.destination.digest_of("1").await.unwrap(), None);
    transfer.referrers = ReferrersPolicy::Ignore;
    let outcome = transfer.run().await.unwrap();
    assert_eq!((outcome.published, outcome.referrers), (true, 0));
    let listed = transfer.destination.referrers(subject.digest()).await.unwrap();
    assert_eq!(listed, []);
}
