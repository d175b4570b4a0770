//! The images of the scenario.

use std::time::Duration;

use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use serde_json::{Value, json};

use crate::docker::engines::{DockerEngine, Image, tar};
use crate::support::image::{noise, stream};
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::eventually;

/// How long a killed engine may be down.
const ENGINE_RESTART: Duration = Duration::from_secs(90);

/// Two images that share a layer. All runs have the same images, so that their digests are equal.
pub struct Images {
    pub source: TestRegistry,
    prefix: String,
    /// The engine's image, in its first and second build.
    app: [Image; 2],
}

impl Images {
    /// An image in two versions in a registry, and one in two builds for an engine. All share a layer, and those with
    /// the same name share another one of some megabytes.
    pub async fn make() -> Self {
        let prefix = format!("jackal-crash-{:012x}", fastrand::u64(..1 << 48));
        let base = tar(&[("base", noise(11, 400_000))]);
        let (tool, app) = (
            tar(&[("tool", noise(12, 3_000_000))]),
            tar(&[("app", noise(13, 4_000_000))]),
        );
        let source = TestRegistry::start(Version::V31);
        for version in ["1", "2"] {
            let last = tar(&[("version", version)]);
            let image = Image::new("tool", vec![base.clone(), tool.clone(), last]);
            push(&source, &image, version).await;
        }
        let built = |number: u64| {
            let last = tar(&[("build", noise(number, 200_000))]);
            Image::new(
                &format!("{prefix}/app:build{number}"),
                vec![base.clone(), app.clone(), last],
            )
        };
        let app = [built(1), built(2)];
        Self { source, prefix, app }
    }

    /// Loads both builds into an engine.
    pub fn load(&self, engine: &DockerEngine) {
        for image in &self.app {
            engine.load(&image.archive());
        }
    }

    fn app(&self) -> String {
        format!("{}/app:dev", self.prefix)
    }

    /// Simulates a build: the name gets another image.
    pub async fn build(&self, engine: &DockerEngine, number: usize) {
        let (from, to) = (&self.app[number].name, self.app());
        let images: String = format!("the engine tags {to}");
        // Not `DockerEngine::run`, which panics on a failure: the engine may just be down.
        eventually(ENGINE_RESTART, &images, async || {
            let program = crate::support::program("JACKAL_BIN_DOCKER");
            let tagged = crate::support::process::output(&program, &["--host", &engine.host, "tag", from, &to]);
            match tagged.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&tagged.stderr).into_owned()),
            }
        })
        .await;
    }

    /// The package of both images.
    pub fn package(&self, version: &str) -> Value {
        json!({
            "apiVersion": "jackal.dev/v1alpha1",
            "kind": "JackalPackage",
            "metadata": { "name": "app" },
            "spec": {
                // An image whose layers have known digests before they are read: none may be sent twice.
                "compression": "None",
                "version": format!("{version}.0.0"),
                "deletionPolicy": "Delete",
                "components": [{ "name": "main", "required": true, "images": [
                    { "image": format!("{}/crash/tool:{version}", self.source.host) },
                    { "image": self.app(), "source": "Docker" },
                ]}],
            },
        })
    }
}

/// Pushes `image` with uncompressed layers, so that they equal those of an engine.
async fn push(registry: &TestRegistry, image: &Image, tag: &str) {
    let repository = registry.repository("crash/tool");
    let mut blobs = Vec::new();
    let contents = image.layers.iter().map(|layer| (media_type::OCI_LAYER, layer));
    for (kind, content) in contents.chain([(media_type::OCI_CONFIG, &image.config)]) {
        let (digest, length) = (Digest::of(content), content.len() as u64);
        let stored = repository
            .upload(Some(&digest), Some(length), stream(content.clone()))
            .await;
        stored.expect("a blob");
        blobs.push(Descriptor::new(kind, digest, length));
    }
    let config = blobs.pop().expect("the configuration");
    let manifest = Document::of_manifest(Manifest::new(config, blobs)).expect("a manifest");
    repository.put_manifest(&manifest, tag).await.expect("the manifest");
}
