//! Images from real containerds.

pub mod node;

use std::time::Duration;

use jackal_operator::fault::Reason;
use jackal_operator::oci::{Digest, Document, Index, Platform, Reference};
use jackal_operator::source::ImageChange;
use jackal_operator::source::containerd::{Client, Containerd, ContainerdEvents};
use jackal_operator::source::{Delivery, ImageSource, Method};

use self::node::Node;
use crate::docker::engines::{Image, noise, tar};
use crate::docker::indexes::build;
use crate::docker::memory_sink::MemorySink;

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// A unique name, in the form of the Kubernetes runtime interface.
fn unique(name: &str) -> String {
    format!("docker.io/jackal-test-{:012x}/{name}", fastrand::u64(..1 << 48))
}

/// An image with unique layers, because some tests delete them.
fn unique_layers(name: &str) -> Image {
    let layer = |file: &str, length: usize| tar(&[(file, noise(length)), ("name", name.as_bytes().to_vec())]);
    Image::new(name, vec![layer("a", 10), layer("b", 3 << 20), layer("c", 1000)])
}

async fn deliver(node: &Containerd, name: &str, platforms: &[&str], sink: &MemorySink) -> Delivery {
    let platforms: Vec<Platform> = platforms.iter().map(|platform| platform.parse().unwrap()).collect();
    let image = node.resolve(&reference(name), &platforms).await.unwrap();
    let delivered = node.deliver(&image, sink).await.unwrap();
    assert_eq!(image.identity.digest(), delivered.documents.last().unwrap().digest());
    delivered
}

fn root(delivered: &Delivery) -> &Digest {
    delivered.documents.last().unwrap().digest()
}

#[tokio::test]
async fn blobs_are_delivered_as_stored() {
    for node in Node::all() {
        let name = unique("app:dev");
        let image = unique_layers(&name);
        node.import(&image.archive());
        let digest = node.digest(&name);
        for (source, method) in [
            (node.folder(), Method::ContainerdContent),
            (node.socket(), Method::ContainerdApi),
        ] {
            let sink = MemorySink::default();
            let first = deliver(&source, &name, &[], &sink).await;
            assert_eq!(
                (first.method, root(&first)),
                (method, &digest),
                "{:?}",
                first.method_message
            );
            // The configuration, and each layer.
            assert_eq!(sink.taken().len(), image.layers.len() + 1);
            let again = deliver(&source, &name, &[], &sink).await;
            assert_eq!((again.documents, sink.taken()), (first.documents, vec![]));

            let short = name.strip_prefix("docker.io/").unwrap();
            let untagged = short.strip_suffix(":dev").unwrap();
            for other in [
                short.to_owned(),
                format!("{short}@{digest}"),
                // Under any name in the store.
                format!("{untagged}@{digest}"),
            ] {
                let found = source.resolve(&reference(&other), &[]).await.unwrap();
                assert_eq!(*found.identity.digest(), digest, "{other}");
            }
            let wrong = Digest::of(b"wrong");
            let fault = source.resolve(&reference(&format!("{short}@{wrong}")), &[]).await;
            let fault = fault.unwrap_err();
            assert_eq!(fault.reason, Reason::DigestMismatch);
            assert!(fault.message.contains(digest.as_str()), "{fault}");
            for none in [format!("{untagged}:none"), format!("{untagged}@{wrong}")] {
                let fault = source.resolve(&reference(&none), &[]).await.unwrap_err();
                assert_eq!(fault.reason, Reason::SourceNotFound, "{fault}");
                assert!(fault.message.contains("namespace k8s.io"), "{fault}");
            }
        }
    }
}

#[tokio::test]
async fn an_index_is_copied_completely_or_reduced_to_its_stored_platforms() {
    for node in Node::all() {
        let name = unique("index:1");
        let built = build(&name, &["linux/amd64", "linux/arm64", "linux/s390x"]);
        node.import(&built.archive(&name, None));
        for source in [node.folder(), node.socket()] {
            let sink = MemorySink::default();
            let whole = deliver(&source, &name, &[], &sink).await;
            assert_eq!(whole.documents.last().unwrap().raw, built.index.raw);
            assert_eq!((whole.documents.len(), sink.taken().len()), (4, 6));
            let sink = MemorySink::default();
            let one = deliver(&source, &name, &["linux/arm64"], &sink).await;
            assert_eq!((&one.documents[..], sink.taken().len()), (&built.manifests[1..2], 2));
            let sink = MemorySink::default();
            let two = deliver(&source, &name, &["linux/arm64", "linux/amd64"], &sink).await;
            assert_eq!((two.documents.len(), sink.taken().len()), (3, 4));
        }
        // As after a pull by the kubelet of an amd64 node.
        for at in [1, 2] {
            for content in &built.blobs[&at] {
                node.forget(&Digest::of(content));
            }
            node.forget(built.manifests[at].digest());
        }
        for source in [node.folder(), node.socket()] {
            let one = deliver(&source, &name, &[], &MemorySink::default()).await;
            assert_eq!(one.documents, built.manifests[..1]);
            let arm = ["linux/arm64".parse().unwrap()];
            let fault = source.resolve(&reference(&name), &arm).await.unwrap_err();
            assert_eq!(fault.reason, Reason::SourceNotFound, "{fault}");
            // The digest in the name is that of the index, which is incomplete here.
            let pinned = format!("{name}@{}", built.index.digest());
            let fault = source.resolve(&reference(&pinned), &[]).await.unwrap_err();
            assert_eq!(fault.reason, Reason::DigestMismatch);
            assert!(fault.message.contains("gives only"), "{fault}");
            let pinned = format!("{name}@{}", built.manifests[0].digest());
            let found = source.resolve(&reference(&pinned), &[]).await.unwrap();
            assert_eq!(found.identity.digest(), built.manifests[0].digest());
        }
    }
}

#[tokio::test]
async fn platforms_are_selected_in_a_nested_index() {
    for node in Node::all() {
        let name = unique("nested:1");
        let mut built = build(&name, &["linux/amd64", "linux/arm64"]);
        let outer = Document::of_index(Index::new(vec![built.index.descriptor.clone()])).unwrap();
        built.outer = Some(outer.clone());
        node.import(&built.archive(&name, None));
        for source in [node.folder(), node.socket()] {
            let one = deliver(&source, &name, &["linux/arm64"], &MemorySink::default()).await;
            assert_eq!(one.documents, built.manifests[1..]);
            for all in [&[][..], &["linux/amd64", "linux/arm64"]] {
                let whole = deliver(&source, &name, all, &MemorySink::default()).await;
                assert_eq!((root(&whole), whole.documents.len()), (outer.digest(), 4));
            }
        }
    }
}

#[tokio::test]
async fn discarded_or_missing_layers_are_reported() {
    for node in Node::all() {
        let (discarded, lost) = (unique("discarded:1"), unique("lost:1"));
        let image = unique_layers(&discarded);
        node.import(&image.archive());
        for layer in image.diff_ids().iter().collect::<std::collections::BTreeSet<_>>() {
            node.forget(layer);
        }
        let other = unique_layers(&lost);
        node.import(&other.archive());
        let layer = other.diff_ids().pop().unwrap();
        node.forget(&layer);
        for source in [node.folder(), node.socket()] {
            let fault = source.resolve(&reference(&discarded), &[]).await.unwrap_err();
            assert_eq!(fault.reason, Reason::SourceFailed);
            assert!(fault.message.contains("discard_unpacked_layers = false"), "{fault}");
            let fault = source.resolve(&reference(&lost), &[]).await.unwrap_err();
            assert_eq!(fault.reason, Reason::SourceFailed);
            assert!(!fault.message.contains("discard"), "{fault}");
            for part in [layer.as_str(), "pull or import it there again"] {
                assert!(fault.message.contains(part), "{fault}");
            }
        }
    }
}

async fn until(events: &mut ContainerdEvents, what: &str, wanted: impl Fn(&ImageChange) -> bool) {
    let found = async { while !wanted(&events.next().await) {} };
    let ended = tokio::time::timeout(Duration::from_secs(30), found).await;
    assert!(ended.is_ok(), "no notice: {what}");
}

#[tokio::test]
async fn every_change_of_an_image_is_detected() {
    for node in Node::all() {
        let name = unique("changing:1");
        let short = name.strip_prefix("docker.io/").unwrap().to_owned();
        let tagged = name.replace(":1", ":2");
        let mut events = ContainerdEvents::new(node.client());
        assert_eq!(events.next().await, ImageChange::Resync);
        let named = |short: String| {
            move |notice: &ImageChange| {
                *notice
                    == ImageChange::Changed {
                        name: Some(short.clone()),
                    }
            }
        };
        node.import(&unique_layers(&name).archive());
        until(&mut events, "import", named(short.clone())).await;
        node.ctr(&["images", "tag", "--local", &name, &tagged]);
        until(&mut events, "tag", named(short.replace(":1", ":2"))).await;
        node.import(&Image::new(&name, vec![vec![0; 1024]]).archive());
        until(&mut events, "import of another", named(short.clone())).await;
        node.ctr(&["images", "rm", &name]);
        until(&mut events, "rm", named(short)).await;
    }
}

#[tokio::test]
async fn an_absent_containerd_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("{}/none.sock", folder.path().display());
    let client = Client::new(&address, "k8s.io", Duration::from_secs(1)).unwrap();
    let mut events = ContainerdEvents::new(client.clone());
    let ImageChange::Lost(fault) = events.next().await else {
        panic!("not lost")
    };
    assert_eq!(fault.reason, Reason::SourceFailed);
    let expected = format!("there is no containerd at unix://{address}");
    assert!(fault.message.starts_with(&expected), "{fault}");
    let again = tokio::time::timeout(Duration::from_secs(2), events.next()).await;
    assert!(again.is_err(), "{again:?}");
    let source = Containerd::new(client, None);
    let fault = source.resolve(&reference("app:dev"), &[]).await.unwrap_err();
    assert!(fault.message.starts_with(&expected), "{fault}");
}
