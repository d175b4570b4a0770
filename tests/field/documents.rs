//! JSON and YAML as Go programs write them: `null`, missing, unknown and duplicate fields.

use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::FutureExt as _;
use jackal_operator::oci::{Descriptor, Digest, media_type};
use jackal_operator::source::RegistrySource;
use jackal_operator::transfer::{Destination as _, LayoutDestination};

use super::workspace::{Workspace, package_of};
use super::{Case, check};
use crate::docker::engines::tar;
use crate::support::charts;
use crate::support::copy::copy;
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::file_server::FileServer;
use crate::support::image::{image, noise, push, put};
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::RecordedRequest;

/// The configuration of [`Blobs`].
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// The blobs of an image in a registry.
struct Blobs {
    registry: TestRegistry,
    config: Descriptor,
    layer: Descriptor,
}

impl Blobs {
    async fn start() -> Self {
        let registry = TestRegistry::start(Version::V31);
        let repository = registry.repository("app");
        let config = push(&repository, media_type::OCI_CONFIG, CONFIG.into()).await;
        let layer = push(&repository, media_type::OCI_LAYER, noise(1, 1000)).await;
        Self {
            registry,
            config,
            layer,
        }
    }

    /// Serves `manifest` as `app:1` and under its digest, because no registry stores every such manifest.
    fn serve(&self, manifest: &str, kind: &'static str) -> FaultProxy {
        self.serve_without(manifest, kind, Vec::new())
    }

    /// The same from a registry without the blobs `lost`.
    fn serve_without(&self, manifest: &str, kind: &'static str, lost: Vec<Digest>) -> FaultProxy {
        let manifest = manifest.to_owned();
        let digest = Digest::of(manifest.as_bytes()).to_string();
        let paths = ["/v2/app/manifests/1".to_owned(), format!("/v2/app/manifests/{digest}")];
        FaultProxy::to(&self.registry.host, move |request: &RecordedRequest| {
            match paths.contains(&request.path) {
                true => Action::Answer(
                    200,
                    vec![
                        ("Content-Type", kind.to_owned()),
                        (
                            "Docker-Content-Digest",
                            digest.to_uppercase().replace("SHA256", "sha256"),
                        ),
                    ],
                    manifest.clone(),
                ),
                false if lost.iter().any(|lost| request.path.ends_with(lost.as_str())) => {
                    Action::Answer(404, Vec::new(), String::new())
                }
                false => Action::Pass,
            }
        })
    }

    fn repository(&self, proxy: &FaultProxy) -> jackal_operator::registry::Repository {
        let endpoint = jackal_operator::registry::Endpoint {
            host: proxy.host.clone(),
            ..self.registry.endpoint()
        };
        jackal_operator::registry::Registry::new(endpoint)
            .unwrap()
            .repository("app")
    }
}

/// Copies an image whose blobs are missing in the registry but embedded in the manifest, or well known.
async fn copies_without_embedded_blobs(embedded: bool) {
    let blobs = Blobs::start().await;
    let written = |content: &[u8], kind: &str| {
        let data = match embedded {
            true => format!(r#","data":"{}""#, BASE64_STANDARD.encode(content)),
            false => String::new(),
        };
        let digest = Digest::of(content);
        let entry = format!(
            r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}{data}}}"#,
            content.len()
        );
        (entry, digest, content.len() as u64)
    };
    let layer = noise(1, 1000);
    let (config, layer) = match embedded {
        true => (
            written(CONFIG.as_bytes(), media_type::OCI_CONFIG),
            written(&layer, media_type::OCI_LAYER),
        ),
        false => (
            written(b"{}", media_type::OCI_EMPTY),
            written(b"", "application/vnd.example.nothing"),
        ),
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"application/vnd.example","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        config.0,
        layer.0
    );
    let lost = vec![config.1.clone(), layer.1.clone()];
    let proxy = blobs.serve_without(&manifest, media_type::OCI_MANIFEST, lost);
    let folder = tempfile::tempdir().unwrap();
    let layout = LayoutDestination::new(folder.path(), "app");
    let source = RegistrySource::new(blobs.repository(&proxy).registry().clone());
    let platforms: &[&str] = if embedded { &["linux/amd64"] } else { &[] };
    copy(&source, &format!("{}/app:1", proxy.host), platforms, &layout, "1")
        .await
        .unwrap();
    for (_, digest, size) in [config, layer] {
        assert_eq!(layout.holds(&digest).await.unwrap(), Some(size), "{digest}");
    }
}

/// The error message for an invalid manifest.
async fn refused(manifest: &'static str, kind: &'static str) -> String {
    let blobs = Blobs::start().await;
    let proxy = blobs.serve(manifest, kind);
    blobs.repository(&proxy).manifest("1").await.unwrap_err().to_string()
}

/// Copies `app:1` with `manifest`, and verifies that it is copied unchanged with both blobs.
async fn copies_unchanged(manifest: impl Fn(&Blobs) -> String, kind: &'static str, platforms: &[&str]) {
    let blobs = Blobs::start().await;
    let manifest = manifest(&blobs);
    let proxy = blobs.serve(&manifest, kind);
    let registry = jackal_operator::registry::Registry::new(jackal_operator::registry::Endpoint {
        host: proxy.host.clone(),
        ..blobs.registry.endpoint()
    });
    let folder = tempfile::tempdir().unwrap();
    let layout = LayoutDestination::new(folder.path(), "app");
    let source = RegistrySource::new(registry.unwrap());
    let reference = format!("{}/app:1", proxy.host);
    let (image, _) = copy(&source, &reference, platforms, &layout, "1").await.unwrap();
    let whole = image
        .documents
        .iter()
        .find(|document| document.raw == manifest.as_bytes());
    assert!(whole.is_some() || !platforms.is_empty(), "{manifest}");
    for blob in [&blobs.config, &blobs.layer] {
        let held = layout.holds(&blob.digest).await.unwrap();
        assert_eq!(held, Some(blob.size), "{manifest}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_with_unusual_json_are_copied() {
    check(&[
        Case {
            report: "encoding/json, func Unmarshal (null)",
            input: "annotations, subject, urls and platform of a manifest are null",
            expected: "copied unchanged",
            run: || {
                let manifest = |blobs: &Blobs| {
                    format!(
                        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{},"annotations":null,"platform":null}},"layers":[{{"mediaType":"{}","digest":"{}","size":{},"urls":null,"annotations":null}}],"subject":null,"annotations":null,"artifactType":null}}"#,
                        media_type::OCI_MANIFEST,
                        media_type::OCI_CONFIG,
                        blobs.config.digest,
                        blobs.config.size,
                        media_type::OCI_LAYER,
                        blobs.layer.digest,
                        blobs.layer.size
                    )
                };
                async move { copies_unchanged(manifest, media_type::OCI_MANIFEST, &[]).await }.boxed()
            },
        },
        Case {
            report: "OCI image specification, Descriptors",
            input: "a configuration without media type, a null layer, a size as 1e3",
            expected: "copied unchanged",
            run: || {
                let manifest = |blobs: &Blobs| {
                    format!(
                        r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{}}},"layers":[null,{{"digest":"{}","size":1e3}}]}}"#,
                        blobs.config.digest, blobs.config.size, blobs.layer.digest
                    )
                };
                async move { copies_unchanged(manifest, media_type::OCI_MANIFEST, &[]).await }.boxed()
            },
        },
        Case {
            report: "encoding/json, func Unmarshal (duplicate names)",
            input: "duplicate fields, of which the last counts; a byte order mark before, a newline after",
            expected: "copied unchanged",
            run: || {
                let manifest = |blobs: &Blobs| {
                    let config = format!(r#""config":{{"digest":"{}","size":{}}}"#, blobs.config.digest, blobs.config.size);
                    let layer = format!(
                        r#"{{"digest":"{}","size":1,"size":{}}}"#,
                        blobs.layer.digest, blobs.layer.size
                    );
                    format!(
                        "\u{feff}{{\"schemaVersion\":2,{config},\"layers\":[],{config},\"layers\":[{layer}]}}\n"
                    )
                };
                async move { copies_unchanged(manifest, media_type::OCI_MANIFEST, &[]).await }.boxed()
            },
        },
        Case {
            report: "opencontainers/image-spec#292",
            input: "digests in upper case, in the manifest and in Docker-Content-Digest",
            expected: "copied unchanged",
            run: || {
                let manifest = |blobs: &Blobs| {
                    let [config, layer] = [&blobs.config, &blobs.layer].map(|blob| {
                        let hex = blob.digest.hex().to_uppercase();
                        format!(r#"{{"mediaType":"{}","digest":"sha256:{hex}","size":{}}}"#, blob.media_type, blob.size)
                    });
                    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#)
                };
                async move { copies_unchanged(manifest, media_type::OCI_MANIFEST, &[]).await }.boxed()
            },
        },
        Case {
            report: "dotnet/sdk-container-builds#567",
            input: "a manifest without mediaType that is served as an index",
            expected: "copied unchanged",
            run: || {
                let manifest = |blobs: &Blobs| {
                    format!(
                        r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{}}},"layers":[{{"digest":"{}","size":{}}}]}}"#,
                        blobs.config.digest, blobs.config.size, blobs.layer.digest, blobs.layer.size
                    )
                };
                async move { copies_unchanged(manifest, media_type::OCI_INDEX, &[]).await }.boxed()
            },
        },
        Case {
            report: "OCI image specification, Image Index",
            input: "an index whose manifests are null, without media type",
            expected: "copied unchanged",
            run: || {
                async {
                    let blobs = Blobs::start().await;
                    let proxy = blobs.serve(r#"{"schemaVersion":2,"manifests":null}"#, "application/json");
                    let endpoint = jackal_operator::registry::Endpoint {
                        host: proxy.host.clone(),
                        ..blobs.registry.endpoint()
                    };
                    let repository = jackal_operator::registry::Registry::new(endpoint).unwrap().repository("app");
                    let index = repository.manifest("1").await.unwrap().unwrap();
                    assert!(index.index().is_some_and(|index| index.manifests.is_empty()));
                }
                .boxed()
            },
        },
        Case {
            report: "containerd/containerd#8076",
            input: "a configuration and a layer embedded in the manifest (`data`), which do not exist as blobs",
            expected: "copied, and the platform is read from the configuration",
            run: || async { copies_without_embedded_blobs(true).await }.boxed(),
        },
        Case {
            report: "project-zot/zot#2977",
            input: "the empty configuration `{}` and an empty layer, which the registry does not return",
            expected: "copied",
            run: || async { copies_without_embedded_blobs(false).await }.boxed(),
        },
        Case {
            report: "google/go-containerregistry#377",
            input: "a signed manifest of docker's schema 1, served by its own type, as JSON and as schema 2",
            expected: "the message says so",
            run: || {
                async {
                    const SIGNED: &str = r#"{"schemaVersion":1,"name":"app","tag":"1","architecture":"amd64","fsLayers":[{"blobSum":"sha256:a"}],"history":[{}],"signatures":[{}]}"#;
                    for kind in [
                        "application/vnd.docker.distribution.manifest.v1+prettyjws",
                        "application/json",
                        media_type::DOCKER_MANIFEST,
                    ] {
                        let message = refused(SIGNED, kind).await;
                        assert!(message.contains("docker's schema 1"), "{kind}: {message}");
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "containers/image#367",
            input: "a manifest that mixes docker's and OCI's types, in another letter case, as text/plain",
            expected: "copied unchanged",
            run: || {
                let manifest = |blobs: &Blobs| {
                    format!(
                        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"Application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"{}","size":{}}}]}}"#,
                        media_type::DOCKER_MANIFEST.replace("application", "Application"),
                        media_type::OCI_CONFIG,
                        blobs.config.digest,
                        blobs.config.size,
                        blobs.layer.digest,
                        blobs.layer.size
                    )
                };
                async move { copies_unchanged(manifest, "text/plain; charset=utf-8", &[]).await }.boxed()
            },
        },
        Case {
            report: "encoding/json, func Unmarshal (case-insensitive match)",
            input: "field names in another letter case, in a manifest that is declared as an index",
            expected: "copied unchanged, with its blobs",
            run: || {
                let manifest = |blobs: &Blobs| {
                    format!(
                        r#"{{"SchemaVersion":2,"MediaType":"{}","Config":{{"MediaType":"{}","Digest":"{}","Size":{}}},"LAYERS":[{{"digest":"{}","SIZE":{}}}]}}"#,
                        media_type::OCI_INDEX,
                        media_type::OCI_CONFIG,
                        blobs.config.digest,
                        blobs.config.size,
                        blobs.layer.digest,
                        blobs.layer.size
                    )
                };
                async move { copies_unchanged(manifest, "application/json", &[]).await }.boxed()
            },
        },
        Case {
            report: "OCI image specification, Descriptors",
            input: "a manifest without the digest of its configuration",
            expected: "the message names the field and its path",
            run: || {
                async {
                    let blobs = Blobs::start().await;
                    let proxy = blobs.serve(r#"{"schemaVersion":2,"config":{"size":2},"layers":[]}"#, media_type::OCI_MANIFEST);
                    let endpoint = jackal_operator::registry::Endpoint {
                        host: proxy.host.clone(),
                        ..blobs.registry.endpoint()
                    };
                    let repository = jackal_operator::registry::Registry::new(endpoint).unwrap().repository("app");
                    let error = repository.manifest("1").await.unwrap_err().to_string();
                    assert!(error.contains("config: missing field `digest`"), "{error}");
                }
                .boxed()
            },
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_yaml_is_accepted() {
    check(&[
        Case {
            report: "openshift/console#13963",
            input: "an index of charts with null entries, null fields and duplicate fields",
            expected: "the chart is found",
            run: || async { a_chart_of_an_index_with_null_entries().await }.boxed(),
        },
        Case {
            report: "helm/helm#2609",
            input: "an index of charts as JSON with tabs, broken entries, a token in the url, and a Chart.yaml of numbers",
            expected: "the chart is found, and the token is also sent for the archive",
            run: || async { a_chart_of_an_index_in_json().await }.boxed(),
        },
        Case {
            report: "net/http, type Transport (DisableCompression)",
            input: "an index of charts that the server stores compressed and always sends so",
            expected: "the chart is found",
            run: || async { a_compressed_index_of_charts().await }.boxed(),
        },
        Case {
            report: "sigs.k8s.io/yaml, func YAMLToJSON (duplicate keys)",
            input: "manifests with a duplicate field, and an anchor",
            expected: "accepted as by kubectl",
            run: || async { manifests_with_fields_twice().await }.boxed(),
        },
        Case {
            report: "Kubernetes API conventions, Optional vs. Required",
            input: "platforms: null, charts: null and nodeSelector: null in a package",
            expected: "they are treated as absent",
            run: || async { null_in_a_package().await }.boxed(),
        },
    ])
    .await;
}

async fn a_chart_of_an_index_with_null_entries() {
    let (registry, file_server) = (TestRegistry::start(Version::V31), FileServer::new().await);
    let folder = Workspace::new();
    let archive = charts::package(&folder.path("."), "front", "1.0.0", "a/b:1", "note");
    file_server.put("/stable/front-1.0.0.tgz", Bytes::from(std::fs::read(&archive).unwrap()));
    let digest = Digest::of(&std::fs::read(&archive).unwrap());
    file_server.put(
        "/stable/index.yaml",
        format!(
            "apiVersion: v1\nentries:\n  other:\n  empty: null\n  front:\n  - null\n  - version: 2.0.0\n    urls: null\n    keywords: null\n  - name: front\n    version: 0.0.1\n    version: 1.0.0\n    created: null\n    digest: {}\n    urls:\n    - ~\n    - front-1.0.0.tgz\n  -\n",
            digest.hex().to_uppercase()
        ),
    );
    let web = image(&registry.repository("web"), "linux/amd64", noise(1, 100)).await;
    put(&registry.repository("web"), &web, Some("1")).await;
    let yaml = format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\nspec:\n  version: 1.0.0\n  components:\n  - name: web\n    charts:\n    - {{name: front, version: 1.0.0, namespace: web, url: 'http://{}/stable'}}\n",
        file_server.host
    );
    folder.text_report(&yaml, &registry.host, &[&registry.host, &file_server.host], &[]);
}

/// A chart archive of these files, which Helm itself would write differently.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    gzip(&tar(files))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

async fn a_chart_of_an_index_in_json() {
    let (registry, file_server) = (TestRegistry::start(Version::V31), FileServer::new().await);
    let folder = Workspace::new();
    let content = archive(&[
        (
            "front/Chart.yaml",
            "apiVersion: v2\nname: front\nversion: 1\nappVersion: 2\ndependencies: [~]\n",
        ),
        ("front/values.yaml", "image: ~\n"),
    ]);
    let proxy = FaultProxy::to(&file_server.host, |request: &RecordedRequest| {
        match request.path.contains("token=t") {
            true => Action::Pass,
            false => Action::Answer(403, Vec::new(), String::new()),
        }
    });
    file_server.put("/stable/front-1.tgz", Bytes::from(content));
    file_server.put(
        "/stable/index.yaml",
        "{\n\t\"apiVersion\": \"v1\",\n\t\"entries\": {\n\t\t\"other\": null,\n\t\t\"front\": [null, {\"version\": null}, {\"version\": \"1\", \"urls\": []}, {\"version\": \"1\", \"urls\": [\"front-1.tgz\"], \"digest\": null}]\n\t}\n}\n".to_owned(),
    );
    let yaml = format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\nspec:\n  version: 1.0.0\n  components:\n  - name: web\n    charts:\n    - {{name: front, version: '1', namespace: web, url: 'http://{}/stable?token=t'}}\n",
        proxy.host
    );
    folder.text_report(&yaml, &registry.host, &[&registry.host, &proxy.host], &[]);
}

async fn a_compressed_index_of_charts() {
    let (registry, file_server) = (TestRegistry::start(Version::V31), FileServer::new().await);
    let folder = Workspace::new();
    let content = archive(&[("front/Chart.yaml", "apiVersion: v2\nname: front\nversion: 1.0.0\n")]);
    file_server.put("/stable/front-1.0.0.tgz", Bytes::from(content));
    let index = "entries: {front: [{version: 1.0.0, urls: [front-1.0.0.tgz]}]}\n";
    file_server.put("/stable/index.yaml", gzip(index.as_bytes()));
    let yaml = format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\nspec:\n  version: 1.0.0\n  components:\n  - name: web\n    charts:\n    - {{name: front, version: 1.0.0, namespace: web, url: 'http://{}/stable'}}\n",
        file_server.host
    );
    folder.text_report(&yaml, &registry.host, &[&registry.host, &file_server.host], &[]);
}

async fn manifests_with_fields_twice() {
    let registry = TestRegistry::start(Version::V31);
    let inline = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, name: b}\ndata: {x: &y z, y: *y}\n---\n\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    let object = serde_json::json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": {"name": "shop"},
        "spec": {"version": "1.0.0", "components": [
            {"name": "web", "manifests": [{"name": "all", "namespace": "web", "inline": inline}]},
        ]},
    });
    Workspace::new().text_report(&object.to_string(), &registry.host, &[&registry.host], &[]);
}

async fn null_in_a_package() {
    let registry = TestRegistry::start(Version::V31);
    let web = image(&registry.repository("web"), "linux/amd64", noise(1, 100)).await;
    put(&registry.repository("web"), &web, Some("1")).await;
    let image = format!(
        "{{image: '{}/web:1', platforms: null, nodeSelector: null}}",
        registry.host
    );
    let yaml = package_of(&[image]).replace("  components:", "  verify: null\n  components:");
    let yaml = format!("{yaml}    charts: null\n    manifests:\n");
    Workspace::new().text_report(&yaml, &registry.host, &[], &[]);
}
