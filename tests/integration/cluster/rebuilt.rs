//! Images that are rebuilt on a node.

use std::time::{Duration, Instant};

use super::{TIMING_LOCK, layered, package, unique};
use crate::docker::engines::{DockerEngine, tar};
use crate::support::cluster::Cluster;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::scaled_by_load;

/// How long it may take until a rebuilt image is in the registry.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Builds `name` with `build`, called with 1 and then 2, and expects the second image in the registry within the limit.
async fn assert_pushed_promptly(engine: &DockerEngine, name: &str, build: impl Fn(u32)) {
    let _guard = TIMING_LOCK.lock().await;
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&[]);
    let _agent = cluster.agent("n1", &engine.host, &[]);
    build(1);
    let line = format!("{{image: '{name}', source: Docker}}");
    cluster.apply(&package("app", &registry.host, &[&line], ""));
    let first = cluster.ready("app").await;
    let before = first.status.clone().unwrap();

    let (path, tag) = name.split_once(':').unwrap();
    let repository = registry.repository(path);
    let existing = repository.head_manifest(tag).await.unwrap().unwrap().digest;
    build(2);
    let (built, limit) = (Instant::now(), scaled_by_load(MAX_DELAY));
    let digest = loop {
        let digest = repository.head_manifest(tag).await.unwrap().unwrap().digest;
        if digest != existing {
            break digest;
        }
        assert!(
            built.elapsed() < limit,
            "{name} on {} is not in the registry {limit:?} after its build",
            engine.host
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    println!("{} on {}: {:?} after its build", name, engine.host, built.elapsed());
    let config: serde_json::Value = serde_json::from_str(&registry.crane("config", name)).unwrap();
    let id = engine.output(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", name]);
    let layers: serde_json::Value = serde_json::from_str(&id).unwrap();
    assert_eq!(
        config["rootfs"]["diff_ids"], layers,
        "it is the image of the second build"
    );

    let package = cluster
        .package_where("app", "built again", |package| {
            (package.status.as_ref()?.history.len() > 1).then_some(())
        })
        .await;
    let status = package.status.unwrap();
    assert_ne!(
        status.artifact.as_ref().unwrap().digest,
        before.artifact.unwrap().digest
    );
    assert_eq!(status.history.len(), 2);
    assert_eq!(status.history[0].reason, "ImagesChanged");
    assert_eq!(status.history[0].message, format!("{name} changed"));
    assert_eq!(status.history[1], before.history[0]);
    assert_eq!(status.images[0].digest.as_deref(), Some(digest.as_str()));
    let ready = cluster.ready("app").await;
    assert_eq!(
        ready.metadata.generation, first.metadata.generation,
        "nobody touched the package"
    );
}

#[tokio::test]
async fn an_image_rebuilt_by_docker_20_is_pushed_at_once() {
    let [engine, ..] = DockerEngine::all();
    let name = unique("app:dev");
    assert_pushed_promptly(&engine, &name, |version| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("Dockerfile"),
            "FROM scratch\nCOPY content /\nCMD [\"/content\"]\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("content"), format!("{name} {version}")).unwrap();
        engine.run(&["build", "--quiet", "--tag", &name, folder.path().to_str().unwrap()]);
    })
    .await;
}

#[tokio::test]
async fn a_reloaded_image_is_pushed_at_once() {
    let [_, classic, containerd] = DockerEngine::all();
    for engine in [classic, containerd] {
        let name = unique("app:dev");
        assert_pushed_promptly(&engine, &name, |version| {
            engine.load(&layered(&name, &version.to_string()).archive())
        })
        .await;
    }
}

#[tokio::test]
async fn a_retagged_image_is_pushed_at_once() {
    let [_, classic, containerd] = DockerEngine::all();
    for engine in [classic, containerd] {
        let name = unique("app:dev");
        for version in [1, 2] {
            engine.load(&layered(&format!("{name}-{version}"), &version.to_string()).archive());
        }
        assert_pushed_promptly(&engine, &name, |version| {
            engine.run(&["tag", &format!("{name}-{version}"), &name])
        })
        .await;
    }
}

#[tokio::test]
async fn a_reimported_image_is_pushed_at_once() {
    for engine in DockerEngine::all() {
        let name = unique("app:dev");
        assert_pushed_promptly(&engine, &name, |version| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("root.tar");
            std::fs::write(&file, tar(&[("content", format!("{name} {version}"))])).unwrap();
            engine.run(&["import", file.to_str().unwrap(), &name]);
        })
        .await;
    }
}
