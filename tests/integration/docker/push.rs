//! An engine that cannot export pushes the image itself.

use std::path::PathBuf;

use jackal_operator::fault::Reason;
use jackal_operator::oci::Compression;
use jackal_operator::source::Method;
use jackal_operator::source::docker::StorageKind;

use super::engines::{DedicatedEngine, Image, required};
use super::{stored_image, transfer};
use crate::support::registry::{Options, TestRegistry, Version};

// An export is first written below this folder; a file in its place acts like a full disk.
pub fn break_exports(name: &str) {
    let folder = PathBuf::from(required("JACKAL_STACK")).join(name).join("docker/tmp");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "").unwrap();
}

#[tokio::test]
async fn an_engine_without_disk_space_for_an_export_pushes() {
    let login = Options {
        login: Some(("pusher", "se-cret?>")),
        ..Options::default()
    };
    let registry = TestRegistry::start_with(Version::V31, login);
    for part in ["docker20", "docker-classic"] {
        let dedicated = DedicatedEngine::start(part, StorageKind::Classic);
        let engine = &dedicated.engine;
        let name = format!("jackal-test/{part}:1");
        let image = Image::varied(&name);
        engine.load(&image.archive());
        break_exports(dedicated.name());

        let transfer = transfer(&engine.docker, &name, &registry, "in", Compression::None);
        let outcome = transfer.run().await.unwrap();
        assert_eq!(outcome.method, Method::DockerPush);
        let declined = outcome.method_message.unwrap();
        assert!(declined.contains("the engine's directory was not read"), "{declined}");
        assert!(declined.contains("the image was not exported"), "{declined}");
        let manifest = stored_image(&transfer, &image).await;
        assert_eq!(manifest.digest(), &outcome.digest);

        // The image exists, so nothing is pushed or exported again, and the temporary name is removed.
        let again = transfer.run().await.unwrap();
        assert_eq!((again.method, &again.digest), (Method::Unchanged, &outcome.digest));
        let names = engine.output(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(names.trim(), name, "{part}");
    }
}

#[tokio::test]
async fn a_failed_engine_push_is_reported_with_the_export_failure() {
    let login = Options {
        login: Some(("pusher", "secret")),
        ..Options::default()
    };
    let registry = TestRegistry::start_with(Version::V31, login);
    let dedicated = DedicatedEngine::start("docker20", StorageKind::Classic);
    let name = "jackal-test/refused:1";
    dedicated.engine.load(&Image::varied(name).archive());
    let transfer = transfer(&dedicated.engine.docker, name, &registry, "in", Compression::None);
    // Another image already has that name.
    let taken = transfer.location.to_string();
    dedicated.engine.load(&Image::varied("jackal-test/other:1").archive());
    dedicated.engine.run(&["tag", "jackal-test/other:1", &taken]);
    break_exports(dedicated.name());
    let fault = transfer.run().await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed, "{fault}");
    assert!(fault.message.contains("/docker/tmp"), "{fault}");
    assert!(fault.message.contains("another image has the name"), "{fault}");
    assert_eq!(transfer.destination.digest_of("1").await.unwrap(), None);
}
