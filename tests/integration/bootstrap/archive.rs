//! Archives with the operator's image and a registry's, as small as possible.

use std::path::Path;

use jackal_operator::oci::{Descriptor, Digest, Document, Index, Manifest, media_type};
use serde_json::json;

use crate::docker::engines::tar;
use crate::support::process::run;
use crate::support::program;

/// An OCI layout with images.
pub struct Layout {
    folder: std::path::PathBuf,
    entries: Vec<Descriptor>,
}

impl Layout {
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        Self {
            folder: folder.to_owned(),
            entries: Vec::new(),
        }
    }

    fn blob(&self, kind: &str, content: &[u8]) -> Descriptor {
        let digest = Digest::of(content);
        std::fs::write(self.folder.join("blobs/sha256").join(digest.hex()), content).unwrap();
        Descriptor::new(kind, digest, content.len() as u64)
    }

    /// Adds an image for linux/amd64 with one layer.
    pub fn image(mut self, name: &str, labels: &serde_json::Value, files: &[(&str, Vec<u8>)]) -> Self {
        let layer = tar(files);
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).as_str()]},
        });
        let config = self.blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let layer = self.blob(media_type::OCI_LAYER, &layer);
        let manifest = Document::of_manifest(Manifest::new(config, vec![layer])).unwrap();
        let mut entry = self.blob(media_type::OCI_MANIFEST, &manifest.raw);
        entry
            .annotations
            .insert("org.opencontainers.image.ref.name".to_owned(), name.to_owned());
        self.entries.push(entry);
        self
    }

    pub fn finish(self) {
        let index = Document::of_index(Index::new(self.entries)).unwrap();
        std::fs::write(self.folder.join("index.json"), &index.raw).unwrap();
        std::fs::write(self.folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// The chart as scripts/image renders it.
pub fn manifests() -> Vec<u8> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"));
    let rendered = run(
        program("JACKAL_BIN_HELM"),
        &[
            "template",
            "jackal-operator",
            &format!("{root}/charts/jackal-operator"),
            "--namespace=jackal-system",
            "--skip-tests",
            "--no-hooks",
            "--values",
            &format!("{root}/scripts/install/values.yaml"),
        ],
    );
    rendered.into_bytes()
}

/// The labels of the operator's image.
pub fn labels(version: &str) -> serde_json::Value {
    json!({"dev.jackal.install": "1", "dev.jackal.registry": "docker.io/library/registry:3.1.2", "org.opencontainers.image.version": version})
}

/// An archive with an operator of that version. Different versions have different images.
pub fn write(folder: &Path, version: &str) {
    let files = [
        ("jackal-operator", version.as_bytes().to_vec()),
        ("jackal-seed", b"seed".to_vec()),
        ("install/nodeport.yaml", manifests()),
        ("install/nodeproxy.yaml", manifests()),
    ];
    Layout::new(folder)
        .image(
            &format!("ghcr.io/jackal-dev/jackal-operator:{version}"),
            &labels(version),
            &files,
        )
        .image(
            "docker.io/library/registry:3.1.2",
            &json!({}),
            &[("registry", b"registry".to_vec())],
        )
        .image("example.com/team/app:1", &json!({}), &[("app", b"app".to_vec())])
        .finish();
}
