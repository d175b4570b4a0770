//! End to end: an applied package becomes images and an artifact in a registry.

use std::collections::BTreeMap;

use jackal_operator::api::v1alpha1::{Counts, JackalImage, JackalPackage, JackalPackageStatus, SourceKind};
use jackal_operator::oci::Digest;
use kube::ResourceExt;

use super::{ADDRESS, layered, package, unique};
use crate::docker::engines::{DockerEngine, Image};
use crate::support::cluster::{Cluster, required};
use crate::support::image::multi_platform;
use crate::support::independent::pull_and_verify;
use crate::support::registry::{TestRegistry, Version};

async fn copy_package_from(variable: &str) {
    let cluster = Cluster::new().await;
    let engine = DockerEngine::all()
        .into_iter()
        .find(|engine| engine.host == required(variable))
        .unwrap();
    let image = layered(&unique("app:dev"), variable);
    engine.load(&image.archive());
    let source = TestRegistry::start(Version::V31);
    let (index, _) = multi_platform(&source.repository("team/tool"), "2").await;
    let (older, newer) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let _agent = cluster.agent("n1", &engine.host, &[]);

    let tool = format!("{}/team/tool:2", source.host);
    let lines = [
        format!("{{image: '{tool}'}}"),
        format!("{{image: '{}', source: Docker}}", image.name),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    cluster.apply(&package("older", &older.host, &lines, "naming: Jackal"));
    cluster.apply(&package("newer", &newer.host, &lines, "naming: Zarf"));
    let mut digests = Vec::new();
    for (name, registry) in [("older", &older), ("newer", &newer)] {
        let package = cluster.ready(name).await;
        let status = package.status.clone().unwrap();
        // What other tools use: the condition, and the columns of `kubectl get`.
        cluster.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=5s",
            &format!("jkpkg/{name}"),
        ]);
        let shown = cluster.kubectl(&["get", "jackal", "--output", "wide"]);
        assert!(shown.contains(&status.artifact.as_ref().unwrap().revision), "{shown}");
        check_status(&package, &status);
        check_images(registry, &status, &tool, index.digest(), &image).await;
        check_artifact(registry, &package, &status).await;
        check_children(&cluster, &package, &status, &engine, &image).await;
        let events = cluster.events(name).await;
        assert!(events.len() == 1 && events[0].starts_with("Succeeded: "), "{events:?}");
        digests.push(status.images.iter().map(|row| row.digest.clone()).collect::<Vec<_>>());
    }
    assert_eq!(digests[0], digests[1], "the same images in both registries");
}

#[tokio::test]
async fn a_package_is_copied_from_docker_20() {
    copy_package_from("JACKAL_DOCKER20").await;
}

#[tokio::test]
async fn a_package_is_copied_from_current_docker_with_the_classic_store() {
    copy_package_from("JACKAL_DOCKER_CLASSIC").await;
}

#[tokio::test]
async fn a_package_is_copied_from_current_docker_with_the_containerd_store() {
    copy_package_from("JACKAL_DOCKER_CONTAINERD").await;
}

fn check_status(package: &JackalPackage, status: &JackalPackageStatus) {
    assert_eq!(status.observed_generation, package.metadata.generation);
    let kinds: Vec<_> = status
        .conditions
        .iter()
        .map(|c| (c.type_.as_str(), c.status.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [("Ready", "True")],
        "kstatus: abnormal conditions stand only while true"
    );
    assert_eq!(status.counts, Some(Counts::new(2, 2, 0)));
    let reasons: Vec<&str> = status.history.iter().map(|entry| entry.reason.as_str()).collect();
    assert_eq!(reasons, ["FirstBuild"]);
    let artifact = status.artifact.as_ref().unwrap();
    assert_eq!(artifact.revision, format!("1.0.0@{}", artifact.digest));
    assert_eq!(status.history[0].digest, artifact.digest);
    assert_eq!(package.finalizers(), ["jackal.dev/package"]);
}

/// The images under the names that pods use.
async fn check_images(
    registry: &TestRegistry,
    status: &JackalPackageStatus,
    tool: &str,
    index: &Digest,
    image: &Image,
) {
    let suffix = |naming: &str, name: &str| format!("{naming}-{}", crc32fast::hash(name.as_bytes()));
    for row in &status.images {
        let path = row.name.strip_prefix(&format!("{ADDRESS}/")).unwrap();
        let naming = if path.contains("-jackal-") { "jackal" } else { "zarf" };
        let digest = row.digest.clone().unwrap();
        assert_eq!(registry.crane("digest", path), format!("{digest}\n"), "{path}");
        let (repository, tag) = path.rsplit_once(':').unwrap();
        assert_eq!(pull_and_verify(&registry.host, repository, tag).await.digest, digest);
        if row.image == tool {
            let name = tool.strip_suffix(":2").unwrap();
            assert_eq!(path, format!("team/tool:2-{}", suffix(naming, name)));
            assert_eq!(digest, index.as_str(), "copied from registry to registry");
            assert_eq!(
                registry.crane("digest", "team/tool:2"),
                format!("{digest}\n"),
                "the plain tag"
            );
        } else {
            let name = image.name.strip_suffix(":dev").unwrap();
            assert_eq!(
                path,
                format!("{name}:dev-{}", suffix(naming, &format!("docker.io/{name}")))
            );
            let config: serde_json::Value = serde_json::from_str(&registry.crane("config", path)).unwrap();
            let diffs: Vec<Digest> = serde_json::from_value(config["rootfs"]["diff_ids"].clone()).unwrap();
            assert_eq!(diffs, image.diff_ids());
            // Not `crane validate`, which treats every layer as gzip.
            let file = tempfile::NamedTempFile::new().unwrap();
            registry.pull(path, file.path());
            assert!(file.path().metadata().unwrap().len() > 300_000);
        }
    }
}

async fn check_artifact(registry: &TestRegistry, package: &JackalPackage, status: &JackalPackageStatus) {
    let artifact = status.artifact.as_ref().unwrap();
    let place = artifact.url.strip_prefix(&format!("oci://{ADDRESS}/")).unwrap();
    let (name, tag) = place.rsplit_once(':').unwrap();
    assert_eq!((name, tag), (package.name_any().as_str(), "1.0.0"));
    let pulled = pull_and_verify(&registry.host, name, tag).await;
    assert!(pulled.manifests.contains(&artifact.digest), "{pulled:?}");
    let repository = registry.repository(name);
    let index = repository.manifest(tag).await.unwrap().unwrap();
    let entries = &index.index().unwrap().manifests;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].digest.as_str(), artifact.digest);
    let manifest = repository.manifest(&artifact.digest).await.unwrap().unwrap();
    let manifest = manifest.manifest().unwrap();
    assert_eq!(
        repository.head_blob(&manifest.config.digest).await.unwrap(),
        Some(manifest.config.size)
    );
    let mut files = BTreeMap::new();
    for layer in &manifest.layers {
        assert_eq!(repository.head_blob(&layer.digest).await.unwrap(), Some(layer.size));
        files.insert(
            layer.annotations["org.opencontainers.image.title"].clone(),
            layer.digest.clone(),
        );
    }
    let read = async |path: &str| {
        let content = repository.small_blob(&files[path], 1 << 20).await.unwrap().unwrap();
        String::from_utf8(content.to_vec()).unwrap()
    };
    let definition = if files.contains_key("zarf.yaml") {
        "zarf.yaml"
    } else {
        "jackal.yaml"
    };
    let sums: BTreeMap<String, Digest> = read("checksums.txt")
        .await
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(sum, path)| (path.trim().to_owned(), format!("sha256:{sum}").parse().unwrap()))
        .collect();
    let summed = files
        .iter()
        .filter(|(path, _)| *path != "checksums.txt" && *path != definition);
    assert_eq!(
        sums,
        summed.map(|(path, digest)| (path.clone(), digest.clone())).collect()
    );
    let parsed: serde_json::Value = serde_saphyr::from_str(&read(definition).await).unwrap();
    assert_eq!(parsed["metadata"]["name"], package.name_any());
    assert_eq!(parsed["components"][0]["images"].as_array().unwrap().len(), 2);
    assert_eq!(
        parsed["metadata"]["aggregateChecksum"],
        files["checksums.txt"].hex(),
        "the checksum of the checksums"
    );
}

async fn check_children(
    cluster: &Cluster,
    package: &JackalPackage,
    status: &JackalPackageStatus,
    engine: &DockerEngine,
    image: &Image,
) {
    for row in &status.images {
        let child: JackalImage = cluster.api().get(&row.resource).await.unwrap();
        let owner = &child.owner_references()[0];
        assert_eq!(
            (Some(&owner.uid), owner.controller),
            (package.uid().as_ref(), Some(true))
        );
        let known = child.status.clone().unwrap();
        assert_eq!(
            (known.name.as_ref(), known.digest.as_ref()),
            (Some(&row.name), row.digest.as_ref())
        );
        assert!(known.claim.is_none() && known.progress.is_none(), "{known:?}");
        if child.spec.source == SourceKind::Docker {
            let id = engine.output(&["image", "inspect", "--format", "{{.Id}}", &image.name]);
            assert_eq!(known.source_digest.as_deref(), Some(id.trim()));
            assert_eq!(known.assignment.unwrap().node_name, "n1");
        } else {
            assert_eq!(known.source_digest, known.digest);
        }
        let events = cluster.events(&row.resource).await;
        assert!(events.len() == 1 && events[0].starts_with("Succeeded: "), "{events:?}");
    }
}
