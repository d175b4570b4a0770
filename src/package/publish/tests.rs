//! Against a registry in memory that, as a real one, takes no manifest before what it refers to, and that
//! shows what a real one does not on demand: a refused mount, and two writers that meet in the index.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::TryStreamExt as _;

use super::*;
use crate::oci::Manifest;
use crate::oci::media_type;
use crate::package::{Entry, EntrySource, Plan};
use crate::source::{ByteStream, RepositoryReader};

#[derive(Default)]
pub(super) struct Registry {
    blobs: Mutex<HashMap<(String, Digest), Bytes>>,
    pub(super) documents: Mutex<HashMap<(String, String), Document>>,
    refuses_mounts: AtomicBool,
    writes: AtomicU64,
    /// So many tars more are lost when they were sent.
    losses: AtomicU64,
}

pub(super) struct Repository {
    pub(super) registry: Arc<Registry>,
    pub(super) name: String,
    /// Whose client it is: those of one process wait for each other.
    pub(super) process: usize,
    /// How long a tag of its takes to get there.
    pub(super) way: Duration,
}

impl Repository {
    fn key(&self, digest: &Digest) -> (String, Digest) {
        (self.name.clone(), digest.clone())
    }

    fn put(&self, content: &str, kind: &str) -> Descriptor {
        let content = Bytes::copy_from_slice(content.as_bytes());
        let digest = Digest::of(&content);
        let size = content.len() as u64;
        self.registry.blobs.lock().unwrap().insert(self.key(&digest), content);
        Descriptor::new(kind, digest, size)
    }

    async fn image(&self, layers: &[&str]) -> Document {
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
        // The locks of all tests live in one process.
        format!("{:p}/{}/{}", Arc::as_ptr(&self.registry), self.process, self.name)
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        Ok(self
            .document(identifier)
            .await?
            .map(|document| document.digest().clone()))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        // A real registry lets others run here.
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
        // Only a tar comes without.
        assert_eq!(blob.digest.as_ref().unwrap_or(&digest), &digest);
        assert_eq!(blob.size.unwrap_or(size), size);
        if blob.size.is_none()
            && self
                .registry
                .losses
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
        {
            return Err(Fault::retryable(Reason::PushFailed, "the upload is gone").for_another_reading());
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
            tokio::time::sleep(self.way).await;
        }
        self.registry.writes.fetch_add(1, Ordering::Relaxed);
        let mut documents = self.registry.documents.lock().unwrap();
        for identifier in [document.digest().as_str()].into_iter().chain(tag) {
            documents.insert((self.name.clone(), identifier.to_owned()), document.clone());
        }
        Ok(())
    }
}

pub(super) struct Stage {
    pub(super) registry: Arc<Registry>,
    pub(super) package: Repository,
    pub(super) images: Vec<TransferredImage>,
}

impl Stage {
    /// Publishes the package for amd64 under `tag`.
    async fn publish(&self, contents: PackageContents<'_>, tag: &str) -> Result<PublishedPackage, Fault> {
        publish(&definition("amd64"), contents, &self.package, tag, unheard).await
    }

    /// The manifest of a package that was published.
    async fn manifest(&self, published: &PublishedPackage) -> Manifest {
        let document = self
            .package
            .document(published.manifest.as_str())
            .await
            .unwrap()
            .unwrap();
        document.manifest().unwrap().clone()
    }

    /// The content of the package's file `path`.
    fn file(&self, manifest: &Manifest, path: &str) -> Bytes {
        let digest = &titled(manifest, path).digest;
        self.registry.blobs.lock().unwrap()[&self.package.key(digest)].clone()
    }
}

/// The layer of the package's file `path`.
fn titled<'a>(manifest: &'a Manifest, path: &str) -> &'a Descriptor {
    let is = |layer: &&Descriptor| layer.annotations["org.opencontainers.image.title"] == path;
    manifest.layers.iter().find(is).unwrap()
}

/// Two images that share a layer, one of them an index, in a registry of their own.
pub(super) async fn stage() -> Stage {
    let registry = Arc::<Registry>::default();
    let repository = |name: &str| Repository {
        registry: Arc::clone(&registry),
        name: name.to_owned(),
        process: 0,
        way: Duration::ZERO,
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
    Stage {
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

pub(super) async fn unheard(_: &Digest) -> Result<(), Fault> {
    Ok(())
}

#[test]
fn may_run_on_any_thread() {
    fn sent<T: Send>(_: T) {}
    let (definition, repository) = (definition("amd64"), Arc::<Registry>::default());
    let repository = Repository {
        registry: repository,
        name: String::new(),
        process: 0,
        way: Duration::ZERO,
    };
    sent(publish(
        &definition,
        PackageContents::default(),
        &repository,
        "1",
        unheard,
    ));
}

#[tokio::test]
async fn mounts_layers_and_sends_only_what_it_makes() {
    let stage = stage().await;
    let published = stage.publish(stage.images[..].into(), "1.0.0").await.unwrap();
    assert!(published.changed);
    let index = stage.package.index("1.0.0");
    assert_eq!(index.manifests.len(), 1);
    assert_eq!(index.manifests[0].digest, published.manifest);
    let manifest = stage.manifest(&published).await;
    // The two configs and the three layers are mounted: all else is sent.
    let mounted: u64 = [
        "base",
        "nginx",
        "app",
        "config of [\"base\", \"nginx\"]",
        "config of [\"base\", \"app\"]",
    ]
    .iter()
    .map(|content| content.len() as u64)
    .sum();
    let size = manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config.size;
    let index_size = Document::of_index(index).unwrap().descriptor.size;
    let manifest_size = published.size - size;
    assert_eq!(published.moved_bytes, size - mounted + manifest_size + index_size);
    for layer in &manifest.layers {
        assert!(stage.package.holds(&layer.digest).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_repeat_writes_nothing() {
    let stage = stage().await;
    let first = stage.publish(stage.images[..].into(), "1.0.0").await.unwrap();
    let writes = stage.registry.writes.load(Ordering::Relaxed);
    let mut images = stage.images.clone();
    images.reverse();
    let silent = async |digest: &Digest| panic!("{digest} is announced, and nothing is to be written");
    let again = publish(&definition("amd64"), images[..].into(), &stage.package, "1.0.0", silent)
        .await
        .unwrap();
    assert_eq!(stage.registry.writes.load(Ordering::Relaxed), writes);
    assert_eq!(
        again,
        PublishedPackage {
            changed: false,
            moved_bytes: 0,
            ..first
        }
    );
    // A new version of the same images writes the documents only.
    let other = stage.publish(images[..].into(), "1.0.1").await.unwrap();
    assert_eq!((other.changed, other.manifest), (true, again.manifest));
    assert_eq!(stage.registry.writes.load(Ordering::Relaxed), writes + 2);
}

#[tokio::test]
async fn sends_what_the_registry_does_not_mount() {
    let stage = stage().await;
    stage.registry.refuses_mounts.store(true, Ordering::Relaxed);
    let published = stage.publish(stage.images[..].into(), "1.0.0").await.unwrap();
    assert!(published.moved_bytes > published.size);
}

#[tokio::test]
async fn leaves_what_is_no_package_alone() {
    let stage = stage().await;
    let image = stage.package.image(&["mine"]).await;
    stage.package.publish(&image, Some("1.0.0")).await.unwrap();
    let writes = stage.registry.writes.load(Ordering::Relaxed);
    let fault = stage.publish(stage.images[..].into(), "1.0.0").await.unwrap_err();
    assert!(fault.message.contains("is there already and is no package"), "{fault}");
    assert_eq!(stage.registry.writes.load(Ordering::Relaxed), writes);
}

#[tokio::test]
async fn says_which_image_is_not_there() {
    let stage = stage().await;
    let mut images = stage.images.clone();
    images[0].digest = Digest::of(b"deleted");
    let fault = stage.publish(images[..].into(), "1.0.0").await.unwrap_err();
    assert_eq!(fault.disposition, crate::fault::Disposition::Retryable);
    assert!(fault.message.contains("image `docker.io/library/nginx:1`"), "{fault}");
    assert_eq!(stage.package.document("1.0.0").await.unwrap(), None);
}

/// A tar of one file, and how often the file was read.
fn component(path: &str, content: &'static str) -> (Archive, Arc<AtomicU64>) {
    struct Counted(&'static str, Arc<AtomicU64>);
    #[async_trait]
    impl EntrySource for Counted {
        async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Bytes::from_static(self.0.as_bytes()).open().await
        }
    }
    let opened = Arc::<AtomicU64>::default();
    let entry = Entry {
        path: "web/manifests/a.yaml".to_owned(),
        mode: 0o644,
        identity: Digest::of(content.as_bytes()),
        origin: Arc::new(Counted(content, Arc::clone(&opened))),
    };
    let archive = Archive {
        path: path.to_owned(),
        entries: vec![entry],
    };
    (archive, opened)
}

#[tokio::test]
async fn a_tar_is_made_once_for_the_same_content() {
    let stage = stage().await;
    let archives = |content| {
        let (archive, opened) = component("components/web.tar", content);
        ([archive], opened)
    };
    let (first, opened) = archives("a: 1");
    let contents = PackageContents {
        images: &stage.images,
        archives: &first,
        ..PackageContents::default()
    };
    let published = stage.publish(contents, "1.0.0").await.unwrap();
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let manifest = stage.manifest(&published).await;
    let layer = titled(&manifest, "components/web.tar");
    assert_eq!(layer.annotations["dev.jackal.inputs"], first[0].inputs().to_string());
    let checksums = stage.file(&manifest, "checksums.txt");
    let line = format!("{} components/web.tar\n", layer.digest.hex());
    assert!(std::str::from_utf8(&checksums).unwrap().contains(&line));

    // The same again reads nothing where the artifact is known for its own, and writes nothing.
    let writes = stage.registry.writes.load(Ordering::Relaxed);
    let (again, opened) = archives("a: 1");
    let known = async |recorded: Option<&Digest>| {
        let read = ReusableTars::read(&stage.package, "1.0.0", "amd64", recorded, None).await;
        read.unwrap()
    };
    let own = known(Some(&published.manifest)).await;
    let contents = PackageContents {
        archives: &again,
        known: Some(&own),
        ..contents
    };
    let repeated = stage.publish(contents, "1.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), repeated.changed), (0, false));
    assert_eq!(stage.registry.writes.load(Ordering::Relaxed), writes);

    // What somebody put under the tag is read again, and compared: nothing is sent.
    let anybodys = known(None).await;
    let compared = PackageContents {
        known: Some(&anybodys),
        ..contents
    };
    let repeated = stage.publish(compared, "1.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), repeated.changed), (1, false));
    assert_eq!(stage.registry.writes.load(Ordering::Relaxed), writes);
    opened.store(0, Ordering::Relaxed);

    // Another version reads nothing, which is told where to look.
    let newer = stage.publish(contents, "2.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), newer.changed), (0, true));

    // Other content does, also when the registry loses it on the way.
    stage.registry.losses.store(2, Ordering::Relaxed);
    let (other, opened) = archives("a: 2");
    let contents = PackageContents {
        archives: &other,
        ..contents
    };
    let changed = stage.publish(contents, "2.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), changed.changed), (3, true));
    assert_ne!(changed.manifest, newer.manifest);
}

#[tokio::test]
async fn a_tar_that_somebody_laid_under_the_tag_is_not_packed() {
    let stage = stage().await;
    let (archive, opened) = component("components/web.tar", "a: 1");
    let archives = [archive];
    let evil = stage.package.put("a: evil", "application/vnd.zarf.layer.v1.blob");
    let mut layer = evil.clone();
    layer.annotations = [
        ("org.opencontainers.image.title", "components/web.tar".to_owned()),
        ("dev.jackal.inputs", archives[0].inputs().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let honest = stage.publish(stage.images[..].into(), "1.0.0").await.unwrap();
    let mut manifest = stage.manifest(&honest).await;
    manifest.layers.push(layer);
    let forged = Document::of_manifest(manifest).unwrap();
    stage.package.publish(&forged, None).await.unwrap();
    let mut index = stage.package.index("1.0.0");
    index.manifests[0].digest = forged.digest().clone();
    index.manifests[0].size = forged.descriptor.size;
    stage
        .package
        .publish(&Document::of_index(index).unwrap(), Some("1.0.0"))
        .await
        .unwrap();

    let known = ReusableTars::read(&stage.package, "1.0.0", "amd64", None, None)
        .await
        .unwrap();
    let contents = PackageContents {
        images: &stage.images,
        archives: &archives,
        known: Some(&known),
        ..PackageContents::default()
    };
    let published = stage.publish(contents, "1.0.0").await.unwrap();
    let manifest = stage.manifest(&published).await;
    let layer = titled(&manifest, "components/web.tar");
    assert_ne!(layer.digest, evil.digest);
    assert_eq!(opened.load(Ordering::Relaxed), 2, "measured, and sent");
}

#[tokio::test]
async fn the_definition_is_signed_as_it_stands_in_the_artifact() {
    let stage = stage().await;
    let sign: &SignDefinition = &|yaml| Ok(("zarf.bundle.sig".to_owned(), Digest::of(yaml).to_string().into()));
    let contents = PackageContents {
        images: &stage.images,
        sign: Some(sign),
        ..PackageContents::default()
    };
    let published = stage.publish(contents, "1.0.0").await.unwrap();
    let manifest = stage.manifest(&published).await;
    let blob = |path: &str| stage.file(&manifest, path);
    assert_eq!(blob("zarf.bundle.sig"), Digest::of(&blob("zarf.yaml")).to_string());
    // Of signatures nothing stands in the checksums, which the definition names.
    assert!(
        !std::str::from_utf8(&blob("checksums.txt"))
            .unwrap()
            .contains("bundle.sig")
    );
}
