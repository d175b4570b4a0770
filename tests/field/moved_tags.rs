//! Tags that move to another image while the old one is read and deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::oci::{Digest, Document, media_type};

use super::workspace::{Workspace, package_of};
use super::{Case, check};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::registry::{TestRegistry, Version};

/// The image `old` of `source`, whose tag `1` moves to `new` when `at` is first read, and whose content is then
/// missing: it is answered with `status`. `new` is copied.
async fn tag_moves_when_read(source: &TestRegistry, old: &[Document], new: &Document, at: &Digest, status: u16) {
    let gone: Vec<String> = old.iter().flat_map(contents).collect();
    let (at, moved) = (at.to_string(), Arc::new(AtomicBool::new(false)));
    let answer = new.clone();
    let proxy = FaultProxy::to(&source.host, move |request| {
        if request.method == "GET" && request.path.ends_with(&at) {
            moved.store(true, Ordering::Relaxed);
        }
        if !moved.load(Ordering::Relaxed) {
            return Action::Pass;
        }
        if request.path.ends_with("/manifests/1") {
            let digest = ("Docker-Content-Digest", answer.digest().to_string());
            let kind = ("Content-Type", answer.descriptor.media_type.clone());
            let body = match request.method.as_str() {
                "HEAD" => String::new(),
                _ => String::from_utf8(answer.raw.to_vec()).unwrap(),
            };
            return Action::Answer(200, vec![digest, kind], body);
        }
        match gone.iter().any(|digest| request.path.ends_with(digest)) {
            true => Action::Answer(status, Vec::new(), String::new()),
            false => Action::Pass,
        }
    });
    let to = TestRegistry::start(Version::V31);
    let text = package_of(&[format!("{}/app:1", proxy.host)]);
    let report = Workspace::new().text_report(&text, &to.host, &[&proxy.host], &[]);
    assert_eq!(report["images"][0]["digest"], new.digest().as_str(), "{report}");
    let existing = to.repository("app").head_manifest("1").await.unwrap();
    assert_eq!(existing.map(|existing| existing.digest).as_ref(), Some(new.digest()));
}

/// The digests of a manifest and of everything that it lists.
fn contents(document: &Document) -> Vec<String> {
    let manifest = document.manifest();
    let blobs = manifest
        .into_iter()
        .flat_map(|manifest| manifest.layers.iter().chain([&manifest.config]));
    let listed = document.index().into_iter().flat_map(|index| &index.manifests);
    let listed = blobs.chain(listed).map(|entry| entry.digest.to_string());
    [document.digest().to_string()].into_iter().chain(listed).collect()
}

fn layers_are_gone(status: u16) -> BoxFuture<'static, ()> {
    async move {
        let source = TestRegistry::start(Version::V31);
        let repository = source.repository("app");
        let old = image(&repository, "linux/amd64", noise(1, 1000)).await;
        let new = image(&repository, "linux/amd64", noise(2, 1000)).await;
        put(&repository, &old, Some("1")).await;
        put(&repository, &new, Some("2")).await;
        let layer = old.manifest().unwrap().layers[0].digest.clone();
        tag_moves_when_read(&source, std::slice::from_ref(&old), &new, &layer, status).await;
    }
    .boxed()
}

fn manifests_are_gone(status: u16) -> BoxFuture<'static, ()> {
    async move {
        let source = TestRegistry::start(Version::V31);
        let repository = source.repository("app");
        let (index, images) = multi_platform(&repository, "1").await;
        assert_eq!(index.descriptor.media_type, media_type::OCI_INDEX);
        let new = image(&repository, "linux/amd64", noise(9, 1000)).await;
        put(&repository, &new, Some("2")).await;
        let first = images[0].digest().clone();
        let old: Vec<Document> = [index].into_iter().chain(images).collect();
        tag_moves_when_read(&source, &old, &new, &first, status).await;
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_current_image_of_a_moved_tag_is_copied() {
    check(&[
        Case {
            report: "project-zot/zot#4444",
            input: "a tag that moves while its layers are read, which are then answered with 404",
            expected: "the new image of the tag is copied",
            run: || layers_are_gone(404),
        },
        Case {
            report: "sigstore/cosign#2973",
            input: "the same in a registry that answers 403 for missing content",
            expected: "the new image of the tag is copied",
            run: || layers_are_gone(403),
        },
        Case {
            report: "project-zot/zot#4444",
            input: "a tag that moves between reading its index and the manifests that it lists",
            expected: "the new image of the tag is copied",
            run: || manifests_are_gone(404),
        },
        Case {
            report: "sigstore/cosign#2973",
            input: "the same in a registry that answers 403 for missing content",
            expected: "the new image of the tag is copied",
            run: || manifests_are_gone(403),
        },
    ])
    .await;
}
