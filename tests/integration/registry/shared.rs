//! Images that share a layer and move at the same moment.

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

use crate::support::faulty::{Fault, Way};
use crate::support::image::{noise, put, stream};
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};

const BASE: usize = 12_000_000;
// Those of two images fit one connection that does not count as carrying a blob.
const OWN: usize = 200_000;

/// An image of the base and a layer of its own, under `1`.
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

/// Two registries, images in the first, and a way to the second.
struct Scene {
    from: TestRegistry,
    to: TestRegistry,
    way: Throttle,
    client: Registry,
    known: Arc<KnownBlobs>,
    images: [Document; 2],
}

impl Scene {
    async fn new(version: Version, rate: u64) -> Self {
        let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(version));
        let images = [
            make(&from.repository("one"), 2).await,
            make(&from.repository("two"), 3).await,
        ];
        let way = Throttle::to(&to.host, rate);
        let client = Registry::new(Endpoint {
            plain_http: true,
            idle: Duration::from_secs(20),
            ..Endpoint::new(&way.host)
        });
        Self {
            from,
            to,
            way,
            client: client.unwrap(),
            known: Arc::default(),
            images,
        }
    }

    fn start(&self, name: &str, to: &str) -> JoinHandle<Result<Outcome, fault::Fault>> {
        self.start_from(self.from.client(), name, to)
    }

    /// Begins to bring the image `name` to the repository `to`.
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

    /// Waits until the base is being sent, and only once.
    async fn sending(&self) {
        eventually(SOON, "the base is sent", async || match self.way.carrying() {
            0 => Err("nothing is sent".to_owned()),
            _ => Ok(()),
        })
        .await;
    }

    /// Waits until the image's own layer stands in `repository`: what it waits for then is the base.
    async fn own_stands(&self, image: usize, repository: &str) {
        let own = &self.images[image].manifest().unwrap().layers[1];
        let repository = self.to.repository(repository);
        eventually(SOON, "the own layer stands", async || {
            let held = repository.head_blob(&own.digest).await.unwrap();
            held.ok_or_else(|| "it is not there".to_owned())
        })
        .await;
    }

    async fn whole(&self, image: usize, repository: &str, tag: &str) {
        let repository = self.to.repository(repository);
        let standing = repository.manifest(tag).await.unwrap().unwrap();
        assert_eq!(standing, self.images[image]);
        for blob in standing.manifest().unwrap().blobs() {
            assert_eq!(repository.head_blob(&blob.digest).await.unwrap(), Some(blob.size));
        }
    }
}

#[tokio::test]
async fn a_shared_layer_moves_once() {
    for version in VERSIONS {
        for places in [["a/one", "b/two"], ["same", "same"]] {
            let scene = Scene::new(version, 8_000_000).await;
            let runs = [scene.start("one", places[0]), scene.start("two", places[1])];
            let mut moved = 0;
            for run in runs {
                moved += run.await.unwrap().unwrap().moved_bytes as usize;
            }
            let once = BASE + 2 * OWN;
            assert!((once..once + 1000).contains(&moved), "{version:?} {places:?}: {moved}");
            assert!(scene.way.sent() < (once + OWN) as u64, "{}", scene.way.sent());
            scene.whole(0, places[0], "one").await;
            scene.whole(1, places[1], "two").await;
        }
    }
}

#[tokio::test]
async fn a_process_that_was_started_again_sends_nothing_that_stands() {
    let mut scene = Scene::new(Version::V31, 0).await;
    scene.start("one", "a/one").await.unwrap().unwrap();
    // What a process knows dies with it.
    scene.known = Arc::default();
    let looked = scene.start("one", "a/one").await.unwrap().unwrap();
    assert_eq!(looked.moved_bytes, 0);
    let moved = scene.start("two", "b/two").await.unwrap().unwrap().moved_bytes as usize;
    assert!((OWN..OWN + 1000).contains(&moved), "{moved}");
    scene.whole(1, "b/two", "two").await;
}

#[tokio::test]
async fn who_waits_takes_over_from_one_that_is_stopped() {
    let scene = Scene::new(Version::V31, 1_500_000).await;
    let first = scene.start("one", "a/one");
    scene.sending().await;
    let second = scene.start("two", "b/two");
    scene.own_stands(1, "b/two").await;
    assert!(scene.way.carrying() <= 1, "it does not wait");
    assert!(!second.is_finished());
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    scene.way.set_rate(0);
    let moved = second.await.unwrap().unwrap().moved_bytes as usize;
    assert!((BASE + OWN..BASE + OWN + 1000).contains(&moved), "{moved}");
    scene.whole(1, "b/two", "two").await;
}

#[tokio::test]
async fn who_waits_takes_over_from_one_that_fails() {
    let scene = Scene::new(Version::V31, 3_000_000).await;
    // Resumed several times, and given up long before the base is through.
    let broken = Way::to(&scene.from.host, Fault::BreakAnswer(1_000_000)).await;
    let from = Registry::new(Endpoint {
        plain_http: true,
        idle: Duration::from_secs(20),
        ..Endpoint::new(&broken.host)
    });
    let first = scene.start_from(from.unwrap(), "one", "a/one");
    scene.sending().await;
    let second = scene.start("two", "b/two");
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.reason, fault::Reason::SourceFailed, "{fault}");
    scene.way.set_rate(0);
    let moved = second.await.unwrap().unwrap().moved_bytes as usize;
    assert!((BASE + OWN..BASE + OWN + 1000).contains(&moved), "{moved}");
    scene.whole(1, "b/two", "two").await;
}
