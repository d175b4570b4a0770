//! Content that disappears while it is read, non-distributable layers, and charts in indexes.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::oci::{Descriptor, Digest, Document, Index, Manifest, media_type};
use jackal_operator::registry::Repository;
use serde_json::Value;

use super::workspace::{Workspace, all_output, package};
use super::{Case, check};
use crate::support::charts;
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{entry, image, noise, push, put};
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::RecordedRequest;

fn of_app(host: &str) -> String {
    package("", &[&format!("images: [{{image: '{host}/app:1'}}]")])
}

/// An image that is replaced after its first read, when its old content is deleted, of which only the manifest `older`
/// ever existed. The new image is copied.
async fn tag_moves(source: &TestRegistry, older: &Document, newer: &Document) {
    let to = TestRegistry::start(Version::V31);
    let (kind, raw) = (
        older.descriptor.media_type.clone(),
        String::from_utf8(older.raw.to_vec()).unwrap(),
    );
    let moved = AtomicBool::new(false);
    let proxy = FaultProxy::to(&source.host, move |request| {
        let first =
            request.method == "GET" && request.path.ends_with("/manifests/1") && !moved.swap(true, Ordering::Relaxed);
        match first {
            true => Action::Answer(200, vec![("Content-Type", kind.clone())], raw.clone()),
            false => Action::Pass,
        }
    });
    let report = Workspace::new().text_report(&of_app(&proxy.host), &to.host, &[&proxy.host], &[]);
    assert_eq!(report["images"][0]["digest"], newer.digest().as_str(), "{report}");
    assert_eq!(report["images"][0]["sourceDigest"], newer.digest().as_str(), "{report}");
}

fn blob_disappears() -> BoxFuture<'static, ()> {
    async {
        let source = TestRegistry::start(Version::V31);
        let repository = source.repository("app");
        let newer = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &newer, Some("1")).await;
        let gone = |content: &[u8], kind: &str| Descriptor::new(kind, Digest::of(content), content.len() as u64);
        let older = Manifest::new(
            gone(b"{}", media_type::OCI_CONFIG),
            vec![gone(b"gone", media_type::OCI_LAYER)],
        );
        tag_moves(&source, &Document::of_manifest(older).unwrap(), &newer).await;
    }
    .boxed()
}

fn child_disappears() -> BoxFuture<'static, ()> {
    async {
        let source = TestRegistry::start(Version::V31);
        let repository = source.repository("app");
        let child = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &child, None).await;
        let newer = Document::of_index(Index::new(vec![entry(&child, "linux/amd64")])).unwrap();
        put(&repository, &newer, Some("1")).await;
        let mut gone = entry(&child, "linux/amd64");
        gone.digest = Digest::of(b"gone");
        let older = Document::of_index(Index::new(vec![gone])).unwrap();
        tag_moves(&source, &older, &newer).await;
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moves_during_a_transfer_is_resolved_again() {
    check(&[
        Case {
            report: "artifact-keeper/artifact-keeper#1681",
            input: "a tag that is moved during the transfer, and a blob of the old image is deleted",
            expected: "it is resolved once more, and the new image is copied",
            run: blob_disappears,
        },
        Case {
            report: "artifact-keeper/artifact-keeper#1681",
            input: "a tag that is moved while it is resolved, and a manifest of the old index is deleted",
            expected: "it is resolved once more, and the new image is copied",
            run: child_disappears,
        },
    ])
    .await;
}

/// An image with a non-distributable layer of the type `kind`, under the tag 1; the layer exists if `there`.
async fn with_foreign_layer(repository: &Repository, kind: &str, there: bool) -> Digest {
    let content = noise(7, 5000);
    let mut copies_foreign_layer = Descriptor::new(kind, Digest::of(&content), 5000);
    if there {
        copies_foreign_layer = push(repository, kind, content).await;
    }
    // Nothing listens there, and it must not be requested.
    copies_foreign_layer.urls = vec!["http://127.0.0.1:1/layer".to_owned()];
    let own = image(repository, "windows/amd64", noise(1, 1000)).await;
    let manifest = own.manifest().unwrap();
    let layers = vec![copies_foreign_layer.clone(), manifest.layers[0].clone()];
    let document = Document::of_manifest(Manifest::new(manifest.config.clone(), layers)).unwrap();
    put(repository, &document, Some("1")).await;
    copies_foreign_layer.digest
}

/// The repository of the image of a report.
fn repository_of(to: &TestRegistry, report: &Value) -> Repository {
    let name = report["images"][0]["name"].as_str().unwrap();
    let (_, path) = name.split_once('/').unwrap();
    to.repository(path.rsplit_once(':').unwrap().0)
}

fn copies_foreign_layer(kind: &'static str, there: bool) -> BoxFuture<'static, ()> {
    async move {
        let (source, to) = (
            TestRegistry::start(Version::Olareg),
            TestRegistry::start(Version::Olareg),
        );
        let layer = with_foreign_layer(&source.repository("app"), kind, there).await;
        let folder = Workspace::new();
        let build = || folder.text_report(&of_app(&source.host), &to.host, &[&source.host], &[]);
        let first = build();
        let held = repository_of(&to, &first).head_blob(&layer).await.unwrap();
        assert_eq!(held, there.then_some(5000), "{first}");
        let row = first["images"][0].clone();
        let reason = row["methodMessage"].as_str().unwrap_or_default();
        assert_eq!(reason.contains(layer.as_str()), !there, "{first}");
        // The package contains the layers of its images.
        let package = to
            .repository("shop")
            .manifest(first["digest"].as_str().unwrap())
            .await
            .unwrap()
            .unwrap();
        let listed = String::from_utf8_lossy(&package.raw).contains(layer.hex());
        assert_eq!(listed, there);
        let again = build();
        assert_eq!(again["changed"], false, "{again}");
        assert_eq!(again["images"][0]["methodMessage"], row["methodMessage"], "{again}");
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_distributable_layers_are_copied_when_the_source_has_them() {
    const DOCKER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    const OCI: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    check(&[
        Case {
            report: "moby/moby#33151",
            input: "docker's foreign layer, which exists in the source",
            expected: "it is copied, also into the package",
            run: || copies_foreign_layer(DOCKER, true),
        },
        Case {
            report: "containerd/containerd#5887",
            input: "OCI's non-distributable layer, which exists in the source",
            expected: "it is copied, also into the package",
            run: || copies_foreign_layer(OCI, true),
        },
        Case {
            report: "containerd/containerd#7676",
            input: "a non-distributable layer that does not exist in the source",
            expected: "the image is copied without it, the report names it, and its urls are not requested",
            run: || copies_foreign_layer(OCI, false),
        },
        Case {
            report: "docker/hub-feedback#2132",
            input: "docker's foreign layer, which does not exist in the source",
            expected: "the image is copied without it, the report names it, and its urls are not requested",
            run: || copies_foreign_layer(DOCKER, false),
        },
    ])
    .await;
}

/// A chart `front` under `charts/front:1.2.3` of a registry, and its manifest.
async fn chart(source: &TestRegistry, name: &str) -> Document {
    let folder = tempfile::tempdir().unwrap();
    let archive = charts::package(folder.path(), name, "1.2.3", "quay.io/team/app:1", "a chart");
    charts::push(&archive, &source.host);
    let repository = source.repository(&format!("charts/{name}"));
    repository.manifest("1.2.3").await.unwrap().unwrap()
}

fn with_chart(host: &str) -> String {
    let chart = "{name: front, version: 1.2.3, namespace: web, url: 'oci://HOST/charts/front'}".replace("HOST", host);
    package("", &[&format!("charts: [{chart}]")])
}

/// Stores an index of an image and of `entries` under the tag of the chart.
async fn put_index(source: &TestRegistry, entries: Vec<Descriptor>) -> Document {
    let repository = source.repository("charts/front");
    let image = image(&repository, "linux/amd64", noise(3, 1000)).await;
    put(&repository, &image, None).await;
    let entries = [vec![entry(&image, "linux/amd64")], entries].concat();
    let index = Document::of_index(Index::new(entries)).unwrap();
    put(&repository, &index, Some("1.2.3")).await;
    index
}

/// The package contains the chart that an index references, whether or not the entry has an artifactType, and the whole
/// index if it is also listed as an image.
fn chart_in_index(called: bool) -> BoxFuture<'static, ()> {
    async move {
        let source = TestRegistry::start(Version::V31);
        let mut entry = chart(&source, "front").await.descriptor;
        if called {
            entry.artifact_type = Some("application/vnd.cncf.helm.config.v1+json".to_owned());
        }
        let index = put_index(&source, vec![entry.clone()]).await;
        let folder = Workspace::new();
        let report = folder.text_report(&with_chart(&source.host), "oci:out", &[&source.host], &[]);
        let again = folder.text_report(&with_chart(&source.host), "oci:out", &[&source.host], &[]);
        assert_eq!(
            (&again["digest"], &again["changed"]),
            (&report["digest"], &Value::Bool(false))
        );
        // The same tag as an image to copy.
        let to = TestRegistry::start(Version::V31);
        let text = package(
            "",
            &[&format!("images: [{{image: '{}/charts/front:1.2.3'}}]", source.host)],
        );
        let report = folder.text_report(&text, &to.host, &[&source.host], &[]);
        assert_eq!(report["images"][0]["digest"], index.digest().as_str());
        let there = repository_of(&to, &report)
            .manifest(entry.digest.as_str())
            .await
            .unwrap();
        assert!(there.is_some(), "{report}");
    }
    .boxed()
}

/// A chart that is read through a proxy with `rule`.
fn chart_is_read(rule: fn(&RecordedRequest) -> Action) -> BoxFuture<'static, ()> {
    async move {
        let source = TestRegistry::start(Version::V31);
        chart(&source, "front").await;
        let proxy = FaultProxy::to(&source.host, rule);
        Workspace::new().text_report(&with_chart(&proxy.host), "oci:out", &[&proxy.host], &[]);
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charts_are_found_behind_their_tags() {
    check(&[
        Case {
            report: "helm/helm#31582",
            input: "a tag that names an index of an image and a chart with an artifactType",
            expected: "the chart is found in the index",
            run: || chart_in_index(true),
        },
        Case {
            report: "helm/helm#31775",
            input: "the same without an artifactType",
            expected: "the chart is found by its manifest",
            run: || chart_in_index(false),
        },
        Case {
            report: "helm/helm#32539",
            input: "an index of two charts",
            expected: "the chart with the requested name is used",
            run: || {
                async {
                    let source = TestRegistry::start(Version::V31);
                    let (proxy, other) = (chart(&source, "front").await, chart(&source, "other").await);
                    // In one repository.
                    let (from, to) = (source.repository("charts/other"), source.repository("charts/front"));
                    for blob in other.manifest().unwrap().blobs() {
                        let content = from.small_blob(&blob.digest, 1 << 20).await.unwrap().unwrap();
                        push(&to, &blob.media_type, content).await;
                    }
                    put(&to, &other, None).await;
                    put_index(&source, vec![other.descriptor, proxy.descriptor.clone()]).await;
                    let folder = Workspace::new();
                    let report = folder.text_report(&with_chart(&source.host), "oci:out", &[&source.host], &[]);
                    put(&to, &proxy, Some("1.2.3")).await;
                    let alone = folder.text_report(&with_chart(&source.host), "oci:out", &[&source.host], &[]);
                    assert_eq!(alone["digest"], report["digest"]);
                }
                .boxed()
            },
        },
        Case {
            report: "artifact-keeper/artifact-keeper#1681",
            input: "HEAD returns the digest of the chart's tag, and GET by that digest is answered with 404",
            expected: "the chart of the tag is used",
            run: || {
                chart_is_read(|request| match request.path.contains("/manifests/sha256:") {
                    true => Action::Answer(404, Vec::new(), String::new()),
                    false => Action::Pass,
                })
            },
        },
        Case {
            report: "google/go-containerregistry#56",
            input: "HEAD returns another digest than that of the chart's manifest",
            expected: "the chart of the tag is used",
            run: || {
                chart_is_read(|request| match request.method == "HEAD" {
                    true => Action::Header(
                        "docker-content-digest",
                        Box::new(|_| format!("sha256:{}", "0".repeat(64))),
                    ),
                    false => Action::Pass,
                })
            },
        },
        Case {
            report: "helm/helm#32539",
            input: "an index of two charts, neither of which has the requested name",
            expected: "an error that names both",
            run: || {
                async {
                    let source = TestRegistry::start(Version::V31);
                    let proxy = chart(&source, "front").await;
                    let to = source.repository("charts/front");
                    let mut entries = Vec::new();
                    for name in ["one", "other"] {
                        let mut manifest = proxy.manifest().unwrap().clone();
                        manifest.annotations = [("org.opencontainers.image.title".to_owned(), name.to_owned())].into();
                        let document = Document::of_manifest(manifest).unwrap();
                        put(&to, &document, None).await;
                        entries.push(document.descriptor);
                    }
                    let digests = [entries[0].digest.to_string(), entries[1].digest.to_string()];
                    put_index(&source, entries).await;
                    let output =
                        Workspace::new().build_text(&with_chart(&source.host), "oci:out", &[&source.host], &[]);
                    assert!(!output.status.success());
                    assert!(
                        digests.iter().all(|digest| all_output(&output).contains(digest)),
                        "{}",
                        all_output(&output)
                    );
                }
                .boxed()
            },
        },
    ])
    .await;
}
