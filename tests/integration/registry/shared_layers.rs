//! Images that share a layer and are transferred concurrently.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jackal_operator::fault;
use jackal_operator::oci::{
    Compression, Descriptor, Digest, Document, Location, Manifest, Naming, ReferrersPolicy, media_type,
};
use jackal_operator::registry::{Endpoint, Registry, Repository};
use jackal_operator::source::RegistrySource;
use jackal_operator::transfer::{KnownBlobs, Outcome, Progress, RegistryDestination, Transfer};
use tokio::task::JoinHandle;

use crate::support::image::{noise, put, stream};
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::scripted::{ConnectionFault, ConnectionProxy};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};

const BASE: usize = 12_000_000;
// Small enough that two of them on one connection do not count as a blob.
const OWN: usize = 200_000;

/// An image of the base and another unique layer, under `1`.
async fn make(repository: &Repository, seed: u64) -> Document {
    let push = async |kind: &str, content: Bytes| {
        let (digest, size) = (Digest::of(&content), content.len() as u64);
        let stored = repository.upload(Some(&digest), Some(size), stream(content)).await;
        stored.unwrap();
        Descriptor::new(kind, digest, size)
    };
    let config = format!(r#"{{"architecture":"amd64","os":"linux","seed":{seed}}}"#);
    let manifest = Manifest::new(
        push(media_type::OCI_CONFIG, config.into()).await,
        vec![
            push(media_type::OCI_LAYER, noise(1, BASE)).await,
            push(media_type::OCI_LAYER, noise(seed, OWN)).await,
        ],
    );
    let document = Document::of_manifest(manifest).unwrap();
    put(repository, &document, Some("1")).await;
    document
}

/// Two registries, images in the first, and a throttled proxy to the second.
struct Setup {
    from: TestRegistry,
    to: TestRegistry,
    proxy: Throttle,
    client: Registry,
    known: Arc<KnownBlobs>,
    images: [Document; 2],
}

impl Setup {
    async fn new(version: Version, rate: u64) -> Self {
        let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(version));
        let images = [
            make(&from.repository("one"), 2).await,
            make(&from.repository("two"), 3).await,
        ];
        let proxy = Throttle::to(&to.host, rate);
        let client = Registry::new(Endpoint {
            plain_http: true,
            idle: Duration::from_secs(20),
            ..Endpoint::new(&proxy.host)
        });
        Self {
            from,
            to,
            proxy,
            client: client.unwrap(),
            known: Arc::default(),
            images,
        }
    }

    fn start(&self, name: &str, to: &str) -> JoinHandle<Result<Outcome, fault::Fault>> {
        self.start_from(self.from.client(), name, to)
    }

    /// Starts copying the image `name` to the repository `to`.
    fn start_from(&self, from: Registry, name: &str, to: &str) -> JoinHandle<Result<Outcome, fault::Fault>> {
        let reference = format!("{}/{to}:{name}", self.from.host).parse().unwrap();
        let transfer = Transfer {
            source: Arc::new(RegistrySource::new(from)),
            reference: format!("{}/{name}:1", self.from.host).parse().unwrap(),
            platforms: Vec::new(),
            destination: Arc::new(RegistryDestination::new(self.client.repository(to))),
            location: Location::new(&reference, &self.to.host, "", Naming::Plain, true).unwrap(),
            compression: Compression::None,
            referrers: ReferrersPolicy::Copy,
            progress: Arc::<Progress>::default(),
            known: Arc::clone(&self.known),
        };
        tokio::spawn(async move { transfer.run().await })
    }

    /// Waits until the base is being sent, exactly once.
    async fn wait_for_base_upload(&self) {
        eventually(SOON, "the base is sent", async || match self.proxy.carrying() {
            0 => Err("nothing is sent".to_owned()),
            _ => Ok(()),
        })
        .await;
    }

    /// Waits until the image's own layer is in `repository`: only the base is then missing.
    async fn wait_for_own_layer(&self, image: usize, repository: &str) {
        let own = &self.images[image].manifest().unwrap().layers[1];
        let repository = self.to.repository(repository);
        eventually(SOON, "the own layer stands", async || {
            let held = repository.head_blob(&own.digest).await.unwrap();
            held.ok_or_else(|| "it is not there".to_owned())
        })
        .await;
    }

    async fn assert_complete(&self, image: usize, repository: &str, tag: &str) {
        let repository = self.to.repository(repository);
        let existing = repository.manifest(tag).await.unwrap().unwrap();
        assert_eq!(existing, self.images[image]);
        for blob in existing.manifest().unwrap().blobs() {
            assert_eq!(repository.head_blob(&blob.digest).await.unwrap(), Some(blob.size));
        }
    }
}

#[tokio::test]
async fn a_shared_layer_is_uploaded_once() {
    for version in VERSIONS {
        for places in [["a/one", "b/two"], ["same", "same"]] {
            let setup = Setup::new(version, 8_000_000).await;
            let runs = [setup.start("one", places[0]), setup.start("two", places[1])];
            let mut moved = 0;
            for run in runs {
                moved += run.await.unwrap().unwrap().moved_bytes as usize;
            }
            let once = BASE + 2 * OWN;
            assert!((once..once + 1000).contains(&moved), "{version:?} {places:?}: {moved}");
            assert!(setup.proxy.sent() < (once + OWN) as u64, "{}", setup.proxy.sent());
            setup.assert_complete(0, places[0], "one").await;
            setup.assert_complete(1, places[1], "two").await;
        }
    }
}

#[tokio::test]
async fn a_restarted_process_uploads_no_existing_blob() {
    let mut setup = Setup::new(Version::V31, 0).await;
    setup.start("one", "a/one").await.unwrap().unwrap();
    // The state of a process ends with it.
    setup.known = Arc::default();
    let looked = setup.start("one", "a/one").await.unwrap().unwrap();
    assert_eq!(looked.moved_bytes, 0);
    let moved = setup.start("two", "b/two").await.unwrap().unwrap().moved_bytes as usize;
    assert!((OWN..OWN + 1000).contains(&moved), "{moved}");
    setup.assert_complete(1, "b/two", "two").await;
}

#[tokio::test]
async fn a_waiting_upload_takes_over_from_a_cancelled_one() {
    let setup = Setup::new(Version::V31, 1_500_000).await;
    let first = setup.start("one", "a/one");
    setup.wait_for_base_upload().await;
    let second = setup.start("two", "b/two");
    setup.wait_for_own_layer(1, "b/two").await;
    assert!(setup.proxy.carrying() <= 1, "it does not wait");
    assert!(!second.is_finished());
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    setup.proxy.set_rate(0);
    let moved = second.await.unwrap().unwrap().moved_bytes as usize;
    assert!((BASE + OWN..BASE + OWN + 1000).contains(&moved), "{moved}");
    setup.assert_complete(1, "b/two", "two").await;
}

#[tokio::test]
async fn a_waiting_upload_takes_over_from_a_failed_one() {
    let setup = Setup::new(Version::V31, 3_000_000).await;
    // Resumed several times, and aborted long before the end of the base.
    let broken = ConnectionProxy::to(&setup.from.host, ConnectionFault::BreakAnswer(1_000_000)).await;
    let from = Registry::new(Endpoint {
        plain_http: true,
        idle: Duration::from_secs(20),
        ..Endpoint::new(&broken.host)
    });
    let first = setup.start_from(from.unwrap(), "one", "a/one");
    setup.wait_for_base_upload().await;
    let second = setup.start("two", "b/two");
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.reason, fault::Reason::SourceFailed, "{fault}");
    setup.proxy.set_rate(0);
    let moved = second.await.unwrap().unwrap().moved_bytes as usize;
    assert!((BASE + OWN..BASE + OWN + 1000).contains(&moved), "{moved}");
    setup.assert_complete(1, "b/two", "two").await;
}
