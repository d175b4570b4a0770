//! A fake engine, for exports that no valid engine produces.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use jackal_operator::fault::{Fault, Reason};
use jackal_operator::oci::{Descriptor, Digest, Document, Index, Manifest, media_type};
use jackal_operator::source::docker::{Docker, Engine};
use jackal_operator::source::{Delivery, ImageSource};
use serde_json::{Value, json};

use super::engines::{Image, tar};
use super::memory_sink::MemorySink;
use super::reference;

#[derive(Clone)]
struct FakeEngine {
    api: &'static str,
    inspected: Value,
    export: Bytes,
    // Does not end the response.
    hangs: bool,
}

impl FakeEngine {
    fn classic(image: &Image, export: Vec<u8>) -> Self {
        let inspected = json!({
            "Id": Digest::of(&image.config), "Os": "linux", "Architecture": "amd64", "RepoTags": null,
            "RootFS": {"Type": "layers", "Layers": image.diff_ids()},
        });
        Self {
            api: "1.41",
            inspected,
            export: export.into(),
            hangs: false,
        }
    }

    fn containerd(root: &Descriptor, export: Vec<u8>) -> Self {
        Self {
            api: "1.48",
            inspected: json!({"Id": root.digest, "Descriptor": root, "RootFS": {}}),
            export: export.into(),
            hangs: false,
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let path = request.uri().path();
        if path.ends_with("/version") {
            return json!({"ApiVersion": self.api}).to_string().into_response();
        }
        if path.ends_with("/info") {
            return json!({"DriverStatus": [["Backing Filesystem", "extfs"]]})
                .to_string()
                .into_response();
        }
        if path.ends_with("/json") {
            return self.inspected.to_string().into_response();
        }
        if !path.ends_with("/get") {
            return StatusCode::NOT_FOUND.into_response();
        }
        let started = futures::stream::iter([Ok::<_, std::io::Error>(self.export.clone())]);
        if self.hangs {
            return Body::from_stream(started.chain(futures::stream::pending())).into_response();
        }
        Body::from_stream(started).into_response()
    }

    async fn deliver(self) -> Result<Delivery, Fault> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("tcp://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(move |request: Request| async move { self.answer(&request) });
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let docker = Docker::new(Engine::new(Some(&host), Duration::from_millis(300)).unwrap(), None);
        let image = docker.resolve(&reference("app:dev"), &[]).await?;
        let sink = MemorySink::default();
        let delivered = tokio::time::timeout(Duration::from_secs(30), docker.deliver(&image, &sink)).await;
        server.abort();
        delivered.expect("an end within 30 s")
    }

    async fn fails(self) -> Fault {
        self.deliver().await.unwrap_err()
    }
}

fn blob(content: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", Digest::of(content).hex()), content.to_vec())
}

fn image() -> Image {
    Image::new("app:dev", vec![tar(&[("a", "a")]), tar(&[("b", "b")])])
}

#[tokio::test]
async fn a_valid_export_is_accepted() {
    let image = image();
    FakeEngine::classic(&image, image.archive()).deliver().await.unwrap();
    let files = [blob(&image.config), blob(&image.layers[0]), blob(&image.layers[1])];
    FakeEngine::classic(&image, tar(&files)).deliver().await.unwrap();
}

#[tokio::test]
async fn a_classic_export_must_be_complete_and_match_its_digests() {
    let image = image();
    let [config, first, second] = [&image.config, &image.layers[0], &image.layers[1]].map(|content| blob(content));
    let wrong = |named: &(String, Vec<u8>)| (named.0.clone(), b"{wrong".to_vec());
    let stranger = ("0/layer.tar".to_owned(), tar(&[("c", "c")]));
    for (files, expected) in [
        (vec![config.clone(), first.clone()], "left the layer"),
        (vec![first.clone(), second.clone()], "left the configuration"),
        (
            vec![wrong(&config), first.clone(), second.clone()],
            "its store is damaged",
        ),
        (vec![config.clone(), wrong(&first), second.clone()], "is not"),
        (vec![config.clone(), first.clone(), stranger], "does not have"),
    ] {
        let fault = FakeEngine::classic(&image, tar(&files)).fails().await;
        assert_eq!(fault.reason, Reason::DigestMismatch, "{fault}");
        assert!(fault.message.contains(expected), "{fault}");
    }
}

#[tokio::test]
async fn a_truncated_export_is_a_source_failure() {
    let image = image();
    let whole = image.archive();
    let mut appended = whole[..1500].to_vec();
    appended.extend_from_slice(br#"{"errorDetail":{"message":"no space left"},"error":"no space left"}"#);
    let fault = FakeEngine::classic(&image, appended).fails().await;
    assert_eq!(fault.reason, Reason::SourceFailed);
    assert!(fault.message.contains("no space left"), "{fault}");

    for length in [0, 100, 512, 1000, 1536, whole.len() - 700] {
        let fault = FakeEngine::classic(&image, whole[..length].to_vec()).fails().await;
        assert_eq!(fault.reason, Reason::SourceFailed, "{length}: {fault}");
    }

    let mut hanging = FakeEngine::classic(&image, whole[..1000].to_vec());
    hanging.hangs = true;
    let fault = hanging.fails().await;
    assert!(fault.message.contains("sent nothing"), "{fault}");
}

#[tokio::test]
async fn a_containerd_export_must_contain_everything_its_root_references() {
    let image = image();
    let describe = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
    let config = describe(media_type::OCI_CONFIG, &image.config);
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| describe(media_type::OCI_LAYER, layer))
        .collect();
    let root = Document::of_manifest(Manifest::new(config.clone(), layers.clone())).unwrap();
    let mut files = vec![blob(&root.raw), blob(&image.config), blob(&image.layers[0])];
    let fake = |root: &Document, files: &[(String, Vec<u8>)]| FakeEngine::containerd(&root.descriptor, tar(files));

    let fault = fake(&root, &files).fails().await;
    assert_eq!(fault.reason, Reason::SourceFailed);
    assert!(fault.message.contains(layers[1].digest.as_str()), "{fault}");
    assert!(
        fake(&root, &files[1..])
            .fails()
            .await
            .message
            .contains(root.digest().as_str())
    );

    files.push(blob(&image.layers[1]));
    let delivered = fake(&root, &files).deliver().await.unwrap();
    assert_eq!(delivered.documents, vec![root.clone()]);

    let mut liar = layers.clone();
    liar[0].size += 1;
    let liar = Document::of_manifest(Manifest::new(config, liar)).unwrap();
    files.push(blob(&liar.raw));
    assert!(fake(&liar, &files).fails().await.message.contains("in the size"));

    files[1].1[1] = b' ';
    assert_eq!(fake(&root, &files).fails().await.reason, Reason::DigestMismatch);

    let mut nested = root;
    let mut files = Vec::new();
    for _ in 0..8 {
        nested = Document::of_index(Index::new(vec![nested.descriptor.clone()])).unwrap();
        files.push(blob(&nested.raw));
    }
    let fault = fake(&nested, &files).fails().await;
    assert_eq!(fault.reason, Reason::SourceNotFound, "{fault}");
}

// An API before 1.48 does not report which platforms of an index the engine stores.
#[tokio::test]
async fn of_an_incomplete_index_the_complete_image_is_taken() {
    let describe = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
    let mut files = Vec::new();
    let mut documents = Vec::new();
    for platform in ["linux/amd64", "linux/arm64", "linux/s390x"] {
        let (config, layer) = (format!("{{\"{platform}\"").into_bytes(), tar(&[(platform, platform)]));
        let manifest = Manifest::new(
            describe(media_type::OCI_CONFIG, &config),
            vec![describe(media_type::OCI_LAYER, &layer)],
        );
        let mut document = Document::of_manifest(manifest).unwrap();
        files.push([blob(&document.raw), blob(&config), blob(&layer)]);
        document.descriptor.platform = Some(platform.parse().unwrap());
        documents.push(document);
    }
    let entries = documents.iter().map(|document| document.descriptor.clone()).collect();
    let root = Document::of_index(Index::new(entries)).unwrap();
    let export = |held: &[usize]| {
        let mut all = vec![blob(&root.raw)];
        all.extend(held.iter().flat_map(|&at| files[at].clone()));
        // The manifests of the others are exported, but not their layers.
        all.extend(files.iter().map(|files| files[0].clone()));
        FakeEngine::containerd(&root.descriptor, tar(&all))
    };

    let whole = export(&[0, 1, 2]).deliver().await.unwrap();
    assert_eq!(whole.documents.last().unwrap().raw, root.raw);
    let one = export(&[1]).deliver().await.unwrap();
    assert_eq!(one.documents.len(), 1);
    assert_eq!(one.documents[0].raw, documents[1].raw);
    let fault = export(&[0, 2]).fails().await;
    assert!(fault.message.contains("holds linux/amd64, linux/s390x"), "{fault}");
    assert_eq!(export(&[]).fails().await.reason, Reason::SourceNotFound);
}

#[tokio::test]
async fn oversized_documents_are_rejected() {
    let filler = |at: usize| {
        let mut content = vec![b' '; 4 << 20];
        content[0] = b'{';
        content[1] = b'a' + at as u8;
        content
    };
    let files: Vec<_> = (0..17).map(|at| blob(&filler(at))).collect();
    let root = Document::of_index(Index::new(Vec::new())).unwrap();
    let fault = FakeEngine::containerd(&root.descriptor, tar(&files)).fails().await;
    assert!(fault.message.contains("more than 67108864 bytes"), "{fault}");

    let path = ("blobs/sha256/passwd", "x");
    let fault = FakeEngine::containerd(&root.descriptor, tar(&[path])).fails().await;
    assert!(fault.message.contains("which is not a blob"), "{fault}");
}
