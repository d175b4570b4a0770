//! An engine that cannot export pushes by itself.

use std::path::PathBuf;
use std::sync::Arc;

use jackal_operator::fault::Reason;
use jackal_operator::oci::{Compression, Digest, Location, Naming};
use jackal_operator::source::Method;
use jackal_operator::source::docker::Shape;
use jackal_operator::transfer::{Progress, RegistryDestination, Transfer};

use super::engines::{Image, Real, Victim, required};
use super::{reference, unpacked};
use crate::support::registry::{Options, TestRegistry, Version};

fn transfer(real: &Real, name: &str, registry: &TestRegistry) -> Transfer {
    let location = Location::of(&reference(name), &registry.host, "in", Naming::Plain, true).unwrap();
    Transfer {
        source: Arc::new(real.docker.clone()),
        reference: reference(name),
        platforms: Vec::new(),
        destination: Arc::new(RegistryDestination::new(registry.repository(&location.repository))),
        location,
        compression: Compression::None,
        progress: Arc::<Progress>::default(),
        known: Arc::default(),
    }
}

// An export is written below it first; a file in its place is a disk that takes nothing.
fn break_exports(name: &str) {
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
        let victim = Victim::start(part, Shape::Classic);
        let real = &victim.real;
        let name = format!("jackal-test/{part}:1");
        let image = Image::varied(&name);
        real.load(&image.archive());
        break_exports(victim.name());

        let transfer = transfer(real, &name, &registry);
        let outcome = transfer.run().await.unwrap();
        assert_eq!(outcome.method, Method::DockerPush);
        let declined = outcome.declined.unwrap();
        assert!(declined.contains("the engine's folder was not read"), "{declined}");
        assert!(declined.contains("the image was not exported"), "{declined}");
        let document = transfer.destination.document("1").await.unwrap().unwrap();
        assert_eq!(document.digest(), &outcome.digest);
        let manifest = document.manifest().unwrap();
        assert_eq!(manifest.config.digest, Digest::of(&image.config));
        for (layer, diff_id) in manifest.layers.iter().zip(image.diff_ids()) {
            let stored = transfer
                .destination
                .blob(&layer.digest, 8 << 20)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(unpacked(&layer.media_type, &stored), diff_id);
        }

        // It stands, so nothing is pushed or exported again, and the name for the push is gone.
        let again = transfer.run().await.unwrap();
        assert_eq!((again.method, &again.digest), (Method::Unchanged, &outcome.digest));
        let gone = async {
            while real
                .output(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])
                .trim()
                != name
            {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), gone).await;
        assert!(waited.is_ok(), "{part}: the name is still there");
    }
}

#[tokio::test]
async fn what_the_engine_may_not_push_either_is_told_with_both_reasons() {
    let login = Options {
        login: Some(("pusher", "secret")),
        ..Options::default()
    };
    let registry = TestRegistry::start_with(Version::V31, login);
    let victim = Victim::start("docker20", Shape::Classic);
    let name = "jackal-test/refused:1";
    victim.real.load(&Image::varied(name).archive());
    let transfer = transfer(&victim.real, name, &registry);
    // Somebody gave that name to another image already.
    let taken = transfer.location.to_string();
    victim.real.load(&Image::varied("jackal-test/other:1").archive());
    victim.real.run(&["tag", "jackal-test/other:1", &taken]);
    break_exports(victim.name());
    let fault = transfer.run().await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed, "{fault}");
    assert!(fault.message.contains("/docker/tmp"), "{fault}");
    assert!(fault.message.contains("it has another image under the name"), "{fault}");
    assert_eq!(transfer.destination.digest_of("1").await.unwrap(), None);
}
