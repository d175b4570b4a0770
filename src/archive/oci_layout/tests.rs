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
        if self.blobs.iter().all(|(known, _)| *known != digest) {
            self.blobs.push((digest.clone(), content.to_vec()));
        }
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

    /// A manifest whose subject is `subject`.
    fn referrer(&mut self, subject: &Value) -> Value {
        let config = self.document(media_type::OCI_EMPTY, &json!({}));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [],
            "subject": { "mediaType": subject["mediaType"], "digest": subject["digest"], "size": subject["size"] },
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
        self.unended(absent).end()
    }

    fn unended(&self, absent: Option<&Value>) -> Tar {
        let index = json!({ "schemaVersion": 2, "manifests": self.entries }).to_string();
        let mut tar = Tar::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.as_bytes());
        for (digest, content) in &self.blobs {
            if absent.is_none_or(|absent| *absent != digest.as_str()) {
                tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), content);
            }
        }
        tar
    }

    async fn open(&self, absent: Option<&Value>) -> Result<Archive, Fault> {
        Archive::new(contents_of(Arc::new(Memory(self.tar(absent)))).await?).await
    }

    async fn names(&self) -> Vec<Option<String>> {
        names(&self.open(None).await.unwrap())
    }
}

fn names(archive: &Archive) -> Vec<Option<String>> {
    let images = archive.images().iter();
    images
        .map(|image| image.name.as_ref().map(ToString::to_string))
        .collect()
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

/// The entry `manifest` of an index without its annotations, as a digest.
fn digest_of(entry: &Value) -> Digest {
    serde_json::from_value(entry["digest"].clone()).unwrap()
}

#[tokio::test]
async fn images_that_only_the_list_of_docker_has_are_not_lost() {
    let of_docker = |layers: &[&[u8]]| {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let path = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
        let paths: Vec<String> = layers.iter().map(|layer| path(layer)).collect();
        let mut tar = Tar::default().file(&path(config.as_bytes()), config.as_bytes());
        for layer in layers {
            tar = tar.file(&path(layer), layer);
        }
        (
            tar,
            json!({ "Config": path(config.as_bytes()), "RepoTags": null, "Layers": paths }),
        )
    };
    // moby#47210: no image is in the index. The image has no name, because it was saved by its digest.
    let (tar, image) = of_docker(&[b"lower", b"upper"]);
    let list = json!([image]).to_string();
    let tar = tar
        .file("index.json", br#"{"schemaVersion":2,"manifests":null}"#)
        .file("manifest.json", list.as_bytes());
    let archive = Archive::new(contents_of(Arc::new(Memory(tar.end()))).await.unwrap()).await;
    let archive = archive.unwrap();
    assert_eq!(names(&archive), [None]);
    let manifest = archive
        .document(&archive.images()[0].root.digest)
        .unwrap()
        .manifest()
        .unwrap();
    assert_eq!(manifest.layers[1].digest, Digest::of(b"upper"));

    // moby#51389: one of two images is in the index.
    let mut layout = Layout::default();
    let listed = layout.image("layer");
    layout.list(listed.clone(), json!({}));
    let config = layout.blobs[1].0.clone();
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let saved = json!({ "Config": path(&config), "RepoTags": null, "Layers": [path(&layout.blobs[0].0)] });
    let absent = json!({ "Config": path(&Digest::of(b"absent")), "RepoTags": null, "Layers": [] });
    for (list, images) in [
        (json!([saved]), 1),
        (json!([saved, image, absent]), 2),
        // Another file of this name.
        (json!({ "name": "app" }), 1),
    ] {
        let (mut tar, _) = of_docker(&[b"lower", b"upper"]);
        tar = layout.unended(None).and(tar);
        let tar = tar.file("manifest.json", list.to_string().as_bytes()).end();
        let archive = Archive::new(contents_of(Arc::new(Memory(tar))).await.unwrap()).await;
        let archive = archive.unwrap();
        assert_eq!(archive.images().len(), images, "{list}");
        assert_eq!(archive.images()[0].root.digest, digest_of(&listed));
    }
}

#[tokio::test]
async fn what_belongs_to_the_only_image_is_named_with_it() {
    let name: Reference = NAME.parse().unwrap();
    // `cosign save` of version 3: no entry has a name.
    let mut layout = Layout::default();
    let (image, signature) = (layout.image("layer"), layout.image("signature"));
    let digest = digest_of(&image);
    layout.list(image, json!({ KIND: "dev.cosignproject.cosign/image" }));
    layout.list(signature, json!({ KIND: "dev.cosignproject.cosign/sigs" }));
    let archive = layout.open(None).await.unwrap();
    assert_eq!(names(&archive), [None, None]);
    let expected = [
        Some(NAME.to_owned()),
        Some(format!("registry.example.com/team/app:sha256-{}.sig", digest.hex())),
    ];
    assert_eq!(names(&archive.with_name(name.clone()).unwrap()), expected);

    // oras and regctl: the image has a tag, its referrers none, or one with its digest. The last is a referrer of a referrer.
    let mut layout = Layout::default();
    let image = layout.image("layer");
    let referrer = layout.referrer(&image);
    let second = layout.referrer(&referrer);
    let list = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [referrer] });
    let list = layout.document(media_type::OCI_INDEX, &list);
    let tag = format!("sha256-{}", digest_of(&image).hex());
    layout.list(second.clone(), json!({}));
    layout.list(referrer.clone(), json!({}));
    layout.list(list, json!({ REF_NAME: tag }));
    layout.list(image.clone(), json!({ REF_NAME: "1.0" }));
    let expected = |image: &str| {
        [
            Some(image.to_owned()),
            Some(format!("registry.example.com/team/app@{}", digest_of(&second))),
            Some(format!("registry.example.com/team/app@{}", digest_of(&referrer))),
            Some(format!("registry.example.com/team/app:{tag}")),
        ]
    };
    let archive = layout.open(None).await.unwrap();
    assert_eq!(names(&archive.with_name(name.clone()).unwrap()), expected(NAME));
    // An image with a name of its own.
    layout.entries.pop();
    layout.list(image.clone(), json!({ REF_NAME: NAME }));
    layout.entries.rotate_right(1);
    assert_eq!(layout.names().await, expected(NAME));
    let mut archive = layout.open(None).await.unwrap();
    archive = archive
        .with_name("registry.example.com/team/app:2".parse().unwrap())
        .unwrap();
    assert_eq!(names(&archive), expected("registry.example.com/team/app:2"));

    // Two images.
    let other = layout.image("other");
    layout.list(other, json!({}));
    assert!(layout.open(None).await.unwrap().with_name(name).is_err());
}

#[tokio::test]
async fn names_by_digest_are_not_names_of_other_content() {
    // Kubernetes' runtime interface gives an image of containerd three names.
    let mut layout = Layout::default();
    let image = layout.image("layer");
    let by_digest = format!("registry.example.com/team/app@{}", digest_of(&image));
    let id = Digest::of(b"configuration");
    for name in [id.as_str(), &by_digest, NAME] {
        layout.list(image.clone(), json!({ CONTAINERD_NAME: name, REF_NAME: "1" }));
    }
    assert_eq!(layout.names().await, [Some(by_digest), Some(NAME.to_owned())]);

    // The index of all platforms, of which one is there.
    let (mut layout, entries) = two_platforms();
    let root = layout.entries[0].clone();
    let by_digest = format!("registry.example.com/team/app@{}", digest_of(&root));
    layout.list(root, json!({ CONTAINERD_NAME: by_digest }));
    let archive = layout.open(Some(&entries[2]["digest"])).await.unwrap();
    assert_eq!(names(&archive), [Some(NAME.to_owned())]);
}
