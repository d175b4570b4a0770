//! An engine that cannot export pushes by itself.

use std::path::PathBuf;

use jackal_operator::fault::Reason;
use jackal_operator::oci::Compression;
use jackal_operator::source::Method;
use jackal_operator::source::docker::StorageKind;

use super::engines::{Image, Victim, required};
use super::{stands, transfer};
use crate::support::registry::{Options, TestRegistry, Version};

// An export is written below it first; a file in its place is a disk that takes nothing.
pub fn break_exports(name: &str) {
    let folder = PathBuf::from(required("JACKAL_STACK")).join(name).join("docker/tmp");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "").unwrap();
}

#[tokio::test]
async fn an_engine_without_room_for_an_export_pushes() {
    let login = Options {
        login: Some(("pusher", "se-cret?>")),
        ..Options::default()
    };
    let registry = TestRegistry::start_with(Version::V31, login);
    for part in ["docker20", "docker-classic"] {
        let victim = Victim::start(part, StorageKind::Classic);
        let real = &victim.real;
        let name = format!("jackal-test/{part}:1");
        let image = Image::varied(&name);
        real.load(&image.archive());
        break_exports(victim.name());

        let transfer = transfer(&real.docker, &name, &registry, "in", Compression::None);
        let outcome = transfer.run().await.unwrap();
        assert_eq!(outcome.method, Method::DockerPush);
        let declined = outcome.method_message.unwrap();
        assert!(declined.contains("the engine's directory was not read"), "{declined}");
        assert!(declined.contains("the image was not exported"), "{declined}");
        let manifest = stands(&transfer, &image).await;
        assert_eq!(manifest.digest(), &outcome.digest);

        // It stands, so nothing is pushed or exported again, and the name for the push is gone.
        let again = transfer.run().await.unwrap();
        assert_eq!((again.method, &again.digest), (Method::Unchanged, &outcome.digest));
        let names = real.output(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(names.trim(), name, "{part}");
    }
}

#[tokio::test]
async fn what_the_engine_may_not_push_either_is_told_with_both_reasons() {
    let login = Options {
        login: Some(("pusher", "secret")),
        ..Options::default()
    };
    let registry = TestRegistry::start_with(Version::V31, login);
    let victim = Victim::start("docker20", StorageKind::Classic);
    let name = "jackal-test/refused:1";
    victim.real.load(&Image::varied(name).archive());
    let transfer = transfer(&victim.real.docker, name, &registry, "in", Compression::None);
    // Somebody gave that name to another image already.
    let taken = transfer.location.to_string();
    victim.real.load(&Image::varied("jackal-test/other:1").archive());
    victim.real.run(&["tag", "jackal-test/other:1", &taken]);
    break_exports(victim.name());
    let fault = transfer.run().await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed, "{fault}");
    assert!(fault.message.contains("/docker/tmp"), "{fault}");
    assert!(fault.message.contains("another image has the name"), "{fault}");
    assert_eq!(transfer.destination.digest_of("1").await.unwrap(), None);
}
