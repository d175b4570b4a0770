//! A registry in memory for tests. As a real one, it refuses a manifest whose blobs or children it lacks; unlike a real one,
//! it refuses mounts, loses uploads and delays writes on demand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::TryStreamExt as _;

use super::*;
use crate::oci::Manifest;
use crate::oci::media_type;
use crate::package::Plan;
use crate::source::{ByteStream, RepositoryReader};

#[derive(Default)]
pub(super) struct Registry {
    pub(super) blobs: Mutex<HashMap<(String, Digest), Bytes>>,
    pub(super) documents: Mutex<HashMap<(String, String), Document>>,
    pub(super) refuses_mounts: AtomicBool,
    pub(super) writes: AtomicU64,
    /// The number of uploads of tars that are still to be lost.
    pub(super) losses: AtomicU64,
}

pub(super) struct Repository {
    pub(super) registry: Arc<Registry>,
    pub(super) name: String,
    /// The process of the client: publications of one process wait for each other.
    pub(super) process: usize,
    /// The time that writing a tag takes.
    pub(super) delay: Duration,
}

impl Repository {
    pub(super) fn key(&self, digest: &Digest) -> (String, Digest) {
        (self.name.clone(), digest.clone())
    }

    pub(super) fn put(&self, content: &str, kind: &str) -> Descriptor {
        let content = Bytes::copy_from_slice(content.as_bytes());
        let digest = Digest::of(&content);
        let size = content.len() as u64;
        self.registry.blobs.lock().unwrap().insert(self.key(&digest), content);
        Descriptor::new(kind, digest, size)
    }

    pub(super) async fn image(&self, layers: &[&str]) -> Document {
        let config = self.put(&format!("config of {layers:?}"), media_type::OCI_CONFIG);
        let layers = layers
            .iter()
            .map(|layer| self.put(layer, media_type::OCI_LAYER))
            .collect();
        let document = Document::of_manifest(Manifest::new(config, layers)).unwrap();
        self.publish(&document, None).await.unwrap();
        document
    }

    pub(super) fn index(&self, tag: &str) -> Index {
        let documents = self.registry.documents.lock().unwrap();
        documents[&(self.name.clone(), tag.to_owned())].index().unwrap().clone()
    }
}

#[async_trait]
impl RepositoryReader for Repository {
    fn name(&self) -> String {
        // All tests share the locks of one process.
        format!("{:p}/{}/{}", Arc::as_ptr(&self.registry), self.process, self.name)
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        Ok(self
            .document(identifier)
            .await?
            .map(|document| document.digest().clone()))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        // Other tasks run here, as during a real request.
        tokio::task::yield_now().await;
        let documents = self.registry.documents.lock().unwrap();
        Ok(documents.get(&(self.name.clone(), identifier.to_owned())).cloned())
    }

    async fn blob(&self, digest: &Digest, _limit: usize) -> Result<Option<Bytes>, Fault> {
        Ok(self.registry.blobs.lock().unwrap().get(&self.key(digest)).cloned())
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let documents = self.registry.documents.lock().unwrap();
        let here = documents.iter().filter(|((repository, _), _)| *repository == self.name);
        let about = here.filter(|(_, document)| document.subject().is_some_and(|known| known.digest == *subject));
        Ok(about.filter_map(|(_, document)| document.as_referrer()).collect())
    }
}

#[async_trait]
impl Destination for Repository {
    fn repository(&self) -> &str {
        &self.name
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault> {
        let content = self.blob(&blob.digest, usize::MAX).await?;
        Ok(content.map(|content| stream::once(async move { Ok(content) }).boxed()))
    }

    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        Ok(self.blob(digest, usize::MAX).await?.map(|content| content.len() as u64))
    }

    async fn mount(&self, blob: &Descriptor, from: &str) -> Result<bool, Fault> {
        let mut blobs = self.registry.blobs.lock().unwrap();
        let Some(content) = blobs.get(&(from.to_owned(), blob.digest.clone())).cloned() else {
            return Ok(false);
        };
        if self.registry.refuses_mounts.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.registry.writes.fetch_add(1, Ordering::Relaxed);
        blobs.insert(self.key(&blob.digest), content);
        Ok(true)
    }

    async fn upload(&self, blob: Upload<'_>) -> Result<(Digest, u64), Fault> {
        let content: Bytes = blob
            .bytes
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            })
            .await?
            .into();
        let digest = Digest::of(&content);
        let size = content.len() as u64;
        // Only tars are uploaded without digest.
        assert_eq!(blob.digest.as_ref().unwrap_or(&digest), &digest);
        assert_eq!(blob.size.unwrap_or(size), size);
        if blob.size.is_none()
            && self
                .registry
                .losses
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
        {
            return Err(Fault::retryable(Reason::PushFailed, "the upload is gone").with_reread());
        }
        self.registry.writes.fetch_add(1, Ordering::Relaxed);
        self.registry.blobs.lock().unwrap().insert(self.key(&digest), content);
        Ok((digest, size))
    }

    async fn attach(&self, referrer: &Document) -> Result<(), Fault> {
        match self.digest_of(referrer.digest().as_str()).await? {
            Some(_) => Ok(()),
            None => self.publish(referrer, None).await,
        }
    }

    async fn publish(&self, document: &Document, tag: Option<&str>) -> Result<(), Fault> {
        match &document.content {
            Content::Manifest(manifest) => {
                let blobs = self.registry.blobs.lock().unwrap();
                for blob in manifest.blobs() {
                    assert!(
                        blobs.contains_key(&self.key(&blob.digest)),
                        "{} is unknown",
                        blob.digest
                    );
                }
            }
            Content::Index(index) => {
                for child in &index.manifests {
                    assert!(
                        self.digest_of(child.digest.as_str()).await?.is_some(),
                        "{} is unknown",
                        child.digest
                    );
                }
            }
        }
        if tag.is_some() {
            tokio::time::sleep(self.delay).await;
        }
        self.registry.writes.fetch_add(1, Ordering::Relaxed);
        let mut documents = self.registry.documents.lock().unwrap();
        for identifier in [document.digest().as_str()].into_iter().chain(tag) {
            documents.insert((self.name.clone(), identifier.to_owned()), document.clone());
        }
        Ok(())
    }
}

pub(super) struct Setup {
    pub(super) registry: Arc<Registry>,
    pub(super) package: Repository,
    pub(super) images: Vec<TransferredImage>,
}

impl Setup {
    /// Publishes the package for amd64 under `tag`.
    pub(super) async fn publish(&self, contents: PackageContents<'_>, tag: &str) -> Result<PublishedPackage, Fault> {
        publish(&definition("amd64"), contents, &self.package, tag, silent).await
    }

    /// The manifest of a package that was published.
    pub(super) async fn manifest(&self, published: &PublishedPackage) -> Manifest {
        let document = self
            .package
            .document(published.manifest.as_str())
            .await
            .unwrap()
            .unwrap();
        document.manifest().unwrap().clone()
    }

    /// The content of the package's file `path`.
    pub(super) fn file(&self, manifest: &Manifest, path: &str) -> Bytes {
        let digest = &layer_of(manifest, path).digest;
        self.registry.blobs.lock().unwrap()[&self.package.key(digest)].clone()
    }
}

/// The layer of the package's file `path`.
pub(super) fn layer_of<'a>(manifest: &'a Manifest, path: &str) -> &'a Descriptor {
    let is = |layer: &&Descriptor| layer.annotations["org.opencontainers.image.title"] == path;
    manifest.layers.iter().find(is).unwrap()
}

/// Two images that share a layer, one of them an index, in a registry of their own.
pub(super) async fn setup() -> Setup {
    let registry = Arc::<Registry>::default();
    let repository = |name: &str| Repository {
        registry: Arc::clone(&registry),
        name: name.to_owned(),
        process: 0,
        delay: Duration::ZERO,
    };
    let (nginx, app) = (repository("library/nginx"), repository("x/app"));
    let single = nginx.image(&["base", "nginx"]).await;
    let child = app.image(&["base", "app"]).await;
    let entry = Descriptor {
        platform: Some("linux/amd64".parse().unwrap()),
        ..child.descriptor.clone()
    };
    let list = Document::of_index(Index::new(vec![entry])).unwrap();
    app.publish(&list, Some("1")).await.unwrap();
    let image = |reference: &str, root: &Document, destination: Repository| TransferredImage {
        reference: reference.parse().unwrap(),
        digest: root.digest().clone(),
        destination: Arc::new(destination),
        documents: Vec::new(),
        origin: None,
    };
    Setup {
        package: repository("podinfo"),
        images: vec![image("nginx:1", &single, nginx), image("ghcr.io/x/app:1", &list, app)],
        registry: Arc::clone(&registry),
    }
}

pub(super) fn definition(architecture: &str) -> Definition {
    let spec = serde_json::from_value(serde_json::json!({
        "version": "1.0.0", "naming": "Zarf", "architecture": architecture,
        "components": [{"name": "web", "images": [{"image": "nginx:1"}, {"image": "ghcr.io/x/app:1"}]}],
    }))
    .unwrap();
    Definition::of("podinfo", &spec, &Plan::of(&spec, "127.0.0.1:31999", "").unwrap()).unwrap()
}

pub(super) async fn silent(_: &Digest) -> Result<(), Fault> {
    Ok(())
}
