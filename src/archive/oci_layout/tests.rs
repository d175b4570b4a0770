use serde_json::{Value, json};

use super::*;
use crate::archive::open::contents_of;
use crate::archive::testing::{Memory, Tar};
use crate::oci::media_type;

const NAME: &str = "registry.example.com/team/app:1";

/// A layout, blob by blob.
#[derive(Clone, Default)]
struct Layout {
    blobs: Vec<(Digest, Vec<u8>)>,
    entries: Vec<Value>,
}

impl Layout {
    fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        self.blobs.push((digest.clone(), content.to_vec()));
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    fn document(&mut self, media_type: &str, content: &Value) -> Value {
        self.blob(media_type, content.to_string().as_bytes())
    }

    /// A manifest with one layer.
    fn image(&mut self, layer: &str) -> Value {
        let layer = self.blob(media_type::OCI_LAYER, layer.as_bytes());
        let config = self.document(media_type::OCI_CONFIG, &json!({ "of": layer["digest"] }));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        self.document(media_type::OCI_MANIFEST, &manifest)
    }

    fn list(&mut self, mut entry: Value, annotations: Value) -> &mut Self {
        entry["annotations"] = annotations;
        self.entries.push(entry);
        self
    }

    /// The tar without the blob `absent`.
    fn tar(&self, absent: Option<&Value>) -> Vec<u8> {
        let index = json!({ "schemaVersion": 2, "manifests": self.entries }).to_string();
        let mut tar = Tar::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.as_bytes());
        for (digest, content) in &self.blobs {
            if absent.is_none_or(|absent| *absent != digest.as_str()) {
                tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), content);
            }
        }
        tar.end()
    }

    async fn open(&self, absent: Option<&Value>) -> Result<Archive, Fault> {
        Archive::new(contents_of(Arc::new(Memory(self.tar(absent)))).await?).await
    }

    async fn names(&self) -> Vec<Option<String>> {
        let archive = self.open(None).await.unwrap();
        let names = archive
            .images()
            .iter()
            .map(|image| image.name.as_ref().map(ToString::to_string));
        names.collect()
    }
}

#[tokio::test]
async fn names_are_read_as_every_tool_writes_them() {
    for (annotations, expected) in [
        (json!({}), None),
        // skopeo, with and without a name; podman.
        (json!({ REF_NAME: "1.2" }), None),
        (json!({ REF_NAME: "app:1" }), Some("docker.io/library/app:1")),
        (json!({ REF_NAME: "localhost/app:1" }), Some("localhost/app:1")),
        // BuildKit and docker; hauler.
        (
            json!({ CONTAINERD_NAME: "docker.io/library/app:1", REF_NAME: "1" }),
            Some("docker.io/library/app:1"),
        ),
        (
            json!({ CONTAINERD_NAME: "index.docker.io/library/app:1", REF_NAME: "library/app:1", KIND: "dev.hauler/image" }),
            Some("docker.io/library/app:1"),
        ),
        // A chart of hauler.
        (
            json!({ REF_NAME: "hauler/shop:1.0.0", KIND: "dev.hauler/image" }),
            Some("docker.io/hauler/shop:1.0.0"),
        ),
    ] {
        let mut layout = Layout::default();
        let image = layout.image("layer");
        layout.list(image, annotations.clone());
        assert_eq!(layout.names().await, [expected.map(str::to_owned)], "{annotations}");
    }
}

#[tokio::test]
async fn what_belongs_to_an_image_of_hauler_gets_a_name_of_its_own() {
    for prefix in KIND_PREFIXES {
        let mut layout = Layout::default();
        let names = json!({ CONTAINERD_NAME: NAME, REF_NAME: "team/app:1" });
        let of_kind = |kind: &str| {
            let mut names = names.clone();
            names[KIND] = format!("{prefix}{kind}").into();
            names
        };
        let image = layout.image("layer");
        let digest: Digest = serde_json::from_value(image["digest"].clone()).unwrap();
        let (signature, referrer) = (layout.image("signature"), layout.image("referrer"));
        let referrer_digest = referrer["digest"].as_str().unwrap().to_owned();
        layout.list(signature.clone(), of_kind("sigs"));
        layout.list(referrer, of_kind("referrers/abc"));
        layout.list(image, of_kind("image"));
        let repository = "registry.example.com/team/app";
        let expected = [
            Some(format!("{repository}:sha256-{}.sig", digest.hex())),
            Some(format!("{repository}@{referrer_digest}")),
            Some(NAME.to_owned()),
        ];
        assert_eq!(layout.names().await, expected);
        // A signature of nothing is left out.
        let mut alone = Layout::default();
        let signature = alone.image("signature");
        alone.list(signature, of_kind("sigs"));
        assert!(alone.names().await.is_empty());
    }
}

/// A layout with an index of two platforms, each attested. Returns the entries of the second platform's image.
fn two_platforms() -> (Layout, Vec<Value>) {
    let mut layout = Layout::default();
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let mut image = layout.image(architecture);
        image["platform"] = json!({ "os": "linux", "architecture": architecture });
        let mut attestation = layout.image(&format!("attestation of {architecture}"));
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"],
        });
        entries.extend([image, attestation]);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    let root = layout.document(media_type::OCI_INDEX, &index);
    layout.list(root, json!({ REF_NAME: NAME }));
    (layout, entries)
}

#[tokio::test]
async fn an_index_lists_what_is_there() {
    let (layout, entries) = two_platforms();
    let whole = layout.open(None).await.unwrap();
    assert_eq!(whole.images()[0].root.digest.as_str(), layout.entries[0]["digest"]);

    let narrowed = layout.open(Some(&entries[3]["digest"])).await.unwrap();
    let root = &narrowed.images()[0].root;
    assert_eq!(
        narrowed.blob(&root.digest).await.unwrap().unwrap().len() as u64,
        root.size
    );
    let index = narrowed.document(&root.digest).unwrap().index().unwrap();
    let listed: Vec<&str> = index.manifests.iter().map(|entry| entry.digest.as_str()).collect();
    let kept: Vec<&str> = entries[..3]
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap())
        .collect();
    assert_eq!(listed, kept);
    // Without its layer, the image and what attests it are not listed either.
    let layer = Digest::of(b"arm64");
    let narrowed = layout.open(Some(&json!(layer.as_str()))).await.unwrap();
    let index = narrowed
        .document(&narrowed.images()[0].root.digest)
        .unwrap()
        .index()
        .unwrap();
    assert_eq!(index.manifests.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let (mut layout, _) = two_platforms();
    let root = layout.entries[0].clone();
    let fault = layout.open(Some(&root["digest"])).await.err().unwrap();
    assert!(
        fault.is_stalled() && fault.message.contains("it lacks the manifest"),
        "{fault}"
    );
    let other = layout.image("other");
    layout.list(other, json!({ REF_NAME: NAME }));
    let fault = layout.open(None).await.err().unwrap();
    assert!(
        fault
            .message
            .contains("two images of the name registry.example.com/team/app:1"),
        "{fault}"
    );

    let mut layout = Layout::default();
    let image = layout.image("layer");
    layout.list(image, json!({ REF_NAME: "not a/name" }));
    let fault = layout.open(None).await.err().unwrap();
    assert!(fault.message.contains("it lists the image \"not a/name\""), "{fault}");

    // A manifest with other content, and one of 256 MiB of zeros.
    let mut layout = Layout::default();
    let image = layout.image("layer");
    layout.list(image, json!({ REF_NAME: NAME }));
    layout.blobs.last_mut().unwrap().1.push(b' ');
    let fault = layout.open(None).await.err().unwrap();
    assert!(fault.message.contains("has the digest sha256:"), "{fault}");
    layout.blobs.last_mut().unwrap().1 = vec![0; 256 << 20];
    let bomb = zstd::bulk::compress(&layout.tar(None), 1).unwrap();
    drop(layout);
    let opened = contents_of(Arc::new(Memory(bomb))).await;
    let fault = opened.err().unwrap();
    assert!(fault.message.contains("is longer than the 4194304 bytes"), "{fault}");
}
