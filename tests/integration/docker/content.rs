//! A docker engine with the containerd store, read from its content store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jackal_operator::fault::Reason;
use jackal_operator::oci::Descriptor;
use jackal_operator::source::docker::{ContentStores, Docker, Engine};
use jackal_operator::source::{ImageSource, Method};
use jackal_operator::transfer::{Destination, RegistryDestination};

use super::engines::{DockerEngine, Image, required};
use super::memory_sink::MemorySink;
use super::{deliver, reference};
use crate::support::copy::copy;
use crate::support::registry::{TestRegistry, Version};

/// Reads the engine's content store, in the folder that its containerd reports.
pub fn folder(engine: &DockerEngine) -> Docker {
    let nowhere = Some(PathBuf::from("/nowhere"));
    Docker::new(engine.docker.engine().clone(), nowhere).with_content(ContentStores::new(None))
}

/// Reads the same content over the socket of the engine's containerd.
pub fn socket(engine: &DockerEngine) -> Docker {
    let nowhere = Some(PathBuf::from("/nowhere"));
    Docker::new(engine.docker.engine().clone(), nowhere.clone()).with_content(ContentStores::new(nowhere))
}

fn varied(name: &str) -> (DockerEngine, Image) {
    let engine = DockerEngine::containerd();
    let image = Image::varied(&format!("jackal-test/{name}:{:012x}", fastrand::u64(..1 << 48)));
    engine.load(&image.archive());
    (engine, image)
}

// The file of a blob in the store of the engine that all tests share.
fn blob(descriptor: &Descriptor) -> PathBuf {
    let stack = PathBuf::from(required("JACKAL_STACK"));
    let root = stack.join("docker-containerd/containerd/io.containerd.content.v1.content/blobs/sha256");
    root.join(descriptor.digest.hex())
}

// The layer that only this image has: its last.
async fn own_layer(docker: &Docker, name: &str) -> Descriptor {
    let image = docker.resolve(&reference(name), &[]).await.unwrap();
    let manifest = image.documents.iter().find_map(|document| document.manifest());
    manifest.unwrap().layers.last().unwrap().clone()
}

#[tokio::test]
async fn blobs_equal_those_of_docker_push_and_are_delivered_once() {
    let (engine, image) = varied("content");
    let registry = TestRegistry::start(Version::V31);
    let pushed = format!("{}/pushed:1", registry.host);
    engine.run(&["tag", &image.name, &pushed]);
    engine.run(&["push", "--quiet", &pushed]);
    let pushed = registry.repository("pushed").head_manifest("1").await.unwrap().unwrap();

    for (docker, method) in [
        (folder(&engine), Method::ContainerdContent),
        (socket(&engine), Method::ContainerdApi),
    ] {
        let sink = MemorySink::default();
        let first = deliver(&docker, &image.name, &sink).await;
        assert_eq!(first.method, method, "{:?}", first.method_message);
        let root = first.documents.last().unwrap();
        assert_eq!(*root.digest(), pushed.digest);
        let declined = first.method_message.as_deref().unwrap_or_default();
        match method {
            Method::ContainerdContent => assert_eq!(first.method_message, None),
            _ => assert!(
                declined.contains("/nowhere does not exist") && declined.ends_with("--containerd-root"),
                "{declined}"
            ),
        }
        // A duplicate layer is delivered once; the largest is requested first.
        assert_eq!(sink.taken().len(), image.layers.len());
        let again = deliver(&docker, &image.name, &sink).await;
        assert_eq!((&again.documents, sink.taken()), (&first.documents, vec![]));
        // The manifests are known before anything is delivered, so a repeat requests no blob.
        let resolved = docker.resolve(&reference(&image.name), &[]).await.unwrap();
        assert_eq!(resolved.documents, first.documents);
        let by_api = engine.docker.resolve(&reference(&image.name), &[]).await.unwrap();
        assert_eq!(by_api.identity, resolved.identity, "the same name on every way");
    }
}

#[tokio::test]
async fn missing_content_is_reported() {
    let (engine, image) = varied("gone");
    let layer = own_layer(&folder(&engine), &image.name).await;
    std::fs::remove_file(blob(&layer)).unwrap();
    let fault = folder(&engine).resolve(&reference(&image.name), &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed);
    for part in [layer.digest.as_str(), &image.name, "`docker pull`"] {
        assert!(fault.message.contains(part), "{fault}");
    }
    // containerd itself does not notice until it is read.
    let resolved = socket(&engine).resolve(&reference(&image.name), &[]).await.unwrap();
    let sink = MemorySink::default();
    let fault = socket(&engine).deliver(&resolved, &sink).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed);
    assert!(fault.message.contains(layer.digest.as_str()), "{fault}");
}

fn alter(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = std::fs::read(file).unwrap();
    change(&mut content);
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, content).unwrap();
}

#[tokio::test]
async fn damaged_content_is_not_pushed() {
    let registry = TestRegistry::start(Version::V28);
    for (number, docker) in [folder, socket].into_iter().enumerate() {
        let (engine, image) = varied(&format!("damaged-{number}"));
        let docker = docker(&engine);
        let layer = own_layer(&folder(&engine), &image.name).await;
        alter(&blob(&layer), |content| content[1 << 20] ^= 1);
        let repository = registry.repository(&format!("damaged-{number}"));
        let destination: Arc<dyn Destination> = Arc::new(RegistryDestination::new(repository.clone()));
        let fault = copy(&docker, &image.name, &[], &*destination, "1").await.unwrap_err();
        assert_eq!(fault.reason, Reason::DigestMismatch, "{fault}");
        for part in [layer.digest.as_str(), &image.name, "damaged", "remove the image"] {
            assert!(fault.message.contains(part), "{fault}");
        }
        assert_eq!(repository.head_blob(&layer.digest).await.unwrap(), None);
        assert!(repository.head_manifest("1").await.unwrap().is_none());
    }
    let (engine, image) = varied("cut");
    let layer = own_layer(&folder(&engine), &image.name).await;
    alter(&blob(&layer), |content| content.truncate(1 << 20));
    let fault = folder(&engine).resolve(&reference(&image.name), &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::DigestMismatch, "{fault}");

    let (engine, image) = varied("document");
    let resolved = folder(&engine).resolve(&reference(&image.name), &[]).await.unwrap();
    let root = &resolved.documents.last().unwrap().descriptor;
    alter(&blob(root), |content| content[10] ^= 1);
    let fault = folder(&engine).resolve(&reference(&image.name), &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::DigestMismatch, "{fault}");
    assert!(fault.message.contains(root.digest.as_str()), "{fault}");
}

#[tokio::test]
async fn without_folder_and_socket_the_engine_exports() {
    let (engine, image) = varied("exported");
    let whole = deliver(&folder(&engine), &image.name, &MemorySink::default()).await;
    // An engine that looks like one on another machine.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    let path = engine.host.strip_prefix("unix://").unwrap().to_owned();
    let forwarder = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::UnixStream::connect(&path).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await.ok() });
        }
    });
    let engine = Engine::new(Some(&host), Duration::from_secs(20)).unwrap();
    let far = Docker::new(engine, Some(PathBuf::from("/nowhere"))).with_content(ContentStores::new(None));
    let sink = MemorySink::default();
    let exported = deliver(&far, &image.name, &sink).await;
    forwarder.abort();
    assert_eq!(exported.method, Method::DockerSave);
    assert_eq!(exported.documents, whole.documents);
    let declined = exported.method_message.unwrap();
    assert!(
        declined.contains("/nowhere/containerd/daemon does not exist") && declined.contains("--containerd-root"),
        "{declined}"
    );
}
