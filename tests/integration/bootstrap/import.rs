//! `import-images` and real containerds.

use std::collections::HashMap;

use bytes::Bytes;
use jackal_operator::oci::{Descriptor, Digest};
use jackal_operator::source::ByteStream;
use jackal_operator::source::containerd::ImageWriter;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::archive::Layout;
use crate::containerd::node::Node;
use crate::docker::engines::noise;
use crate::support::image::stream;
use crate::support::workspace::{CommandResult as _, Workspace};

/// One import at a time: the containerds are shared, and a test looks for leases that are left.
static IMPORTS: Mutex<()> = Mutex::const_new(());

/// A layout with the image `name`, whose layer is several messages long and unique.
fn layout(workspace: &Workspace, name: &str) -> Vec<u8> {
    let content = noise(3 << 20);
    Layout::new(&workspace.path("layout"))
        .image(
            name,
            &json!({}),
            &[("a", content.clone()), ("name", name.as_bytes().to_vec())],
        )
        .finish();
    content
}

fn import(workspace: &Workspace, node: &Node) -> Value {
    let arguments = [
        "import-images",
        "layout",
        "--socket",
        &node.address,
        "--pin",
        "--output",
        "json",
    ];
    let output = workspace.run(&arguments);
    output.succeeded();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn images_are_imported_pinned_and_kept() {
    let _alone = IMPORTS.lock().await;
    for node in Node::all() {
        let workspace = Workspace::new();
        let name = format!("127.0.0.1:31999/test-{:012x}/app:1", fastrand::u64(..1 << 48));
        layout(&workspace, &name);
        let report = import(&workspace, &node);
        let digest = report[0]["digest"].as_str().unwrap();
        let by_digest = format!("{}@{digest}", name.strip_suffix(":1").unwrap());
        assert_eq!(report[0]["names"], json!([name, by_digest]));
        assert!(report[0]["sentBytes"].as_u64().unwrap() > 3 << 20);
        for name in [&name, &by_digest] {
            assert_eq!(node.digest(name).as_str(), digest);
            let listed = node.ctr(&["images", "list", &format!("name=={name}")]);
            assert!(listed.contains("io.cri-containerd.pinned=pinned"), "{listed}");
        }
        let check = node.ctr(&["images", "check", &format!("name=={name}")]);
        assert!(check.contains("complete"), "{check}");
        // The lease is gone, and a collection keeps the content of the images.
        let leases = node.ctr(&["leases", "list", "--quiet"]);
        assert!(!leases.contains("jackal-import-"), "{leases}");
        collect(&node);
        let check = node.ctr(&["images", "check", &format!("name=={by_digest}")]);
        assert!(check.contains("complete"), "{check}");
        // A repetition sends nothing.
        assert_eq!(import(&workspace, &node)[0]["sentBytes"], 0);
        // What was lost is sent again.
        let index: Value =
            serde_json::from_slice(&std::fs::read(workspace.path("layout/index.json")).unwrap()).unwrap();
        let manifest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
        node.forget(&manifest);
        assert!(import(&workspace, &node)[0]["sentBytes"].as_u64().unwrap() > 0);
        let check = node.ctr(&["images", "check", &format!("name=={name}")]);
        assert!(check.contains("complete"), "{check}");
    }
}

/// Collects garbage, as the end of a synchronous lease does.
fn collect(node: &Node) {
    let id = format!("collect-{:08x}", fastrand::u32(..));
    node.ctr(&["leases", "create", "--id", &id]);
    node.ctr(&["leases", "delete", "--sync", &id]);
}

#[tokio::test]
async fn damaged_content_is_refused_and_can_be_replaced() {
    let _alone = IMPORTS.lock().await;
    for node in Node::all() {
        let workspace = Workspace::new();
        let name = format!("127.0.0.1:31999/test-{:012x}/app:1", fastrand::u64(..1 << 48));
        layout(&workspace, &name);
        // The layer is the largest blob.
        let blobs = std::fs::read_dir(workspace.path("layout/blobs/sha256")).unwrap();
        let blobs = blobs.map(|entry| entry.unwrap().path());
        let layer = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let whole = std::fs::read(&layer).unwrap();
        let mut damaged = whole.clone();
        damaged[2_000_000] ^= 1;
        std::fs::write(&layer, damaged).unwrap();
        let arguments = ["import-images", "layout", "--socket", &node.address];
        workspace
            .run(&arguments)
            .failed(1, &[&name, "unexpected commit digest"]);
        assert!(!node.ctr(&["images", "list", "--quiet"]).contains(&name));
        std::fs::write(&layer, whole).unwrap();
        import(&workspace, &node);
        let check = node.ctr(&["images", "check", &format!("name=={name}")]);
        assert!(check.contains("complete"), "{check}");
    }
}

#[tokio::test]
async fn content_that_exists_already_is_not_collected_during_an_import() {
    let _alone = IMPORTS.lock().await;
    for node in Node::all() {
        let content = Bytes::from(format!("content {:x}", fastrand::u64(..)));
        let blob = Descriptor::new("text/plain", Digest::of(&content), content.len() as u64);
        let read = |offset: u64| -> ByteStream<'static> { stream(content.slice(usize::try_from(offset).unwrap()..)) };
        let client = node.client();
        let (first, second) = (ImageWriter::open(&client).await, ImageWriter::open(&client).await);
        let (first, second) = (first.unwrap(), second.unwrap());
        let stored = first.store(&blob, HashMap::new(), read).await.unwrap();
        assert_eq!(stored, content.len() as u64);
        assert_eq!(second.store(&blob, HashMap::new(), read).await.unwrap(), 0);
        // No image has the content, and the process that sent it is gone.
        first.finish().await.unwrap();
        collect(&node);
        assert!(node.blob(&blob.digest).exists());
        second.finish().await.unwrap();
        collect(&node);
        assert!(!node.blob(&blob.digest).exists());
    }
}

#[tokio::test]
async fn a_containerd_that_is_not_there_is_named() {
    let workspace = Workspace::new();
    layout(&workspace, "127.0.0.1:31999/app:1");
    let arguments = ["import-images", "layout", "--socket", "/nowhere/containerd.sock"];
    workspace
        .run(&arguments)
        .failed(1, &["there is no containerd at unix:///nowhere/containerd.sock"]);
}
