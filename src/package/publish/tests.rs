use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::fake::{Registry, Repository, definition, layer_of, setup, silent};
use super::*;
use crate::package::{Entry, EntrySource};
use crate::source::{ByteStream, RepositoryReader as _};

#[test]
fn publish_is_send() {
    fn sent<T: Send>(_: T) {}
    let (definition, repository) = (definition("amd64"), Arc::<Registry>::default());
    let repository = Repository {
        registry: repository,
        name: String::new(),
        process: 0,
        delay: Duration::ZERO,
    };
    sent(publish(
        &definition,
        PackageContents::default(),
        &repository,
        "1",
        silent,
    ));
}

#[tokio::test]
async fn layers_are_mounted_and_only_generated_files_are_sent() {
    let setup = setup().await;
    let published = setup.publish(setup.images[..].into(), "1.0.0").await.unwrap();
    assert!(published.changed);
    let index = setup.package.index("1.0.0");
    assert_eq!(index.manifests.len(), 1);
    assert_eq!(index.manifests[0].digest, published.manifest);
    let manifest = setup.manifest(&published).await;
    // The two configs and the three layers are mounted, everything else is sent.
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
        assert!(setup.package.holds(&layer.digest).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_repeat_writes_nothing() {
    let setup = setup().await;
    let first = setup.publish(setup.images[..].into(), "1.0.0").await.unwrap();
    let writes = setup.registry.writes.load(Ordering::Relaxed);
    let mut images = setup.images.clone();
    images.reverse();
    let unexpected = async |digest: &Digest| panic!("{digest} is announced, but nothing should be written");
    let again = publish(
        &definition("amd64"),
        images[..].into(),
        &setup.package,
        "1.0.0",
        unexpected,
    )
    .await
    .unwrap();
    assert_eq!(setup.registry.writes.load(Ordering::Relaxed), writes);
    assert_eq!(
        again,
        PublishedPackage {
            changed: false,
            moved_bytes: 0,
            ..first
        }
    );
    // A new version of the same images writes the documents only.
    let other = setup.publish(images[..].into(), "1.0.1").await.unwrap();
    assert_eq!((other.changed, other.manifest), (true, again.manifest));
    assert_eq!(setup.registry.writes.load(Ordering::Relaxed), writes + 2);
}

#[tokio::test]
async fn a_refused_mount_falls_back_to_upload() {
    let setup = setup().await;
    setup.registry.refuses_mounts.store(true, Ordering::Relaxed);
    let published = setup.publish(setup.images[..].into(), "1.0.0").await.unwrap();
    assert!(published.moved_bytes > published.size);
}

#[tokio::test]
async fn a_tag_that_is_not_a_package_is_not_replaced() {
    let setup = setup().await;
    let image = setup.package.image(&["mine"]).await;
    setup.package.publish(&image, Some("1.0.0")).await.unwrap();
    let writes = setup.registry.writes.load(Ordering::Relaxed);
    let fault = setup.publish(setup.images[..].into(), "1.0.0").await.unwrap_err();
    assert!(fault.message.contains("exists already and is not a package"), "{fault}");
    assert_eq!(setup.registry.writes.load(Ordering::Relaxed), writes);
}

#[tokio::test]
async fn a_missing_image_is_named_in_the_fault() {
    let setup = setup().await;
    let mut images = setup.images.clone();
    images[0].digest = Digest::of(b"deleted");
    let fault = setup.publish(images[..].into(), "1.0.0").await.unwrap_err();
    assert_eq!(fault.disposition, crate::fault::Disposition::Retryable);
    assert!(fault.message.contains("image `docker.io/library/nginx:1`"), "{fault}");
    assert_eq!(setup.package.document("1.0.0").await.unwrap(), None);
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
async fn a_proven_tar_is_reused() {
    let setup = setup().await;
    let archives = |content| {
        let (archive, opened) = component("components/web.tar", content);
        ([archive], opened)
    };
    let (first, opened) = archives("a: 1");
    let contents = PackageContents {
        images: &setup.images,
        archives: &first,
        ..PackageContents::default()
    };
    let published = setup.publish(contents, "1.0.0").await.unwrap();
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let manifest = setup.manifest(&published).await;
    let layer = layer_of(&manifest, "components/web.tar");
    assert_eq!(layer.annotations["dev.jackal.inputs"], first[0].inputs().to_string());
    let checksums = setup.file(&manifest, "checksums.txt");
    let line = format!("{} components/web.tar\n", layer.digest.hex());
    assert!(std::str::from_utf8(&checksums).unwrap().contains(&line));

    // A repeat reads and writes nothing if the artifact is recorded.
    let writes = setup.registry.writes.load(Ordering::Relaxed);
    let (again, opened) = archives("a: 1");
    let known = async |recorded: Option<&Digest>| {
        let read = ReusableTars::read(&setup.package, "1.0.0", "amd64", recorded, None).await;
        read.unwrap()
    };
    let own = known(Some(&published.manifest)).await;
    let contents = PackageContents {
        archives: &again,
        known: Some(&own),
        ..contents
    };
    let repeated = setup.publish(contents, "1.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), repeated.changed), (0, false));
    assert_eq!(setup.registry.writes.load(Ordering::Relaxed), writes);

    // An artifact that is not recorded is compared with the content, and nothing is sent.
    let unproven = known(None).await;
    let compared = PackageContents {
        known: Some(&unproven),
        ..contents
    };
    let repeated = setup.publish(compared, "1.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), repeated.changed), (1, false));
    assert_eq!(setup.registry.writes.load(Ordering::Relaxed), writes);
    opened.store(0, Ordering::Relaxed);

    // Another version reuses the tar.
    let newer = setup.publish(contents, "2.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), newer.changed), (0, true));

    // Other content is read, and again if the registry loses the upload.
    setup.registry.losses.store(2, Ordering::Relaxed);
    let (other, opened) = archives("a: 2");
    let contents = PackageContents {
        archives: &other,
        ..contents
    };
    let changed = setup.publish(contents, "2.0.0").await.unwrap();
    assert_eq!((opened.load(Ordering::Relaxed), changed.changed), (3, true));
    assert_ne!(changed.manifest, newer.manifest);
}

#[tokio::test]
async fn a_forged_tar_under_the_tag_is_not_packed() {
    let setup = setup().await;
    let (archive, opened) = component("components/web.tar", "a: 1");
    let archives = [archive];
    let evil = setup.package.put("a: evil", "application/vnd.zarf.layer.v1.blob");
    let mut layer = evil.clone();
    layer.annotations = [
        ("org.opencontainers.image.title", "components/web.tar".to_owned()),
        ("dev.jackal.inputs", archives[0].inputs().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let honest = setup.publish(setup.images[..].into(), "1.0.0").await.unwrap();
    let mut manifest = setup.manifest(&honest).await;
    manifest.layers.push(layer);
    let forged = Document::of_manifest(manifest).unwrap();
    setup.package.publish(&forged, None).await.unwrap();
    let mut index = setup.package.index("1.0.0");
    index.manifests[0].digest = forged.digest().clone();
    index.manifests[0].size = forged.descriptor.size;
    setup
        .package
        .publish(&Document::of_index(index).unwrap(), Some("1.0.0"))
        .await
        .unwrap();

    let known = ReusableTars::read(&setup.package, "1.0.0", "amd64", None, None)
        .await
        .unwrap();
    let contents = PackageContents {
        images: &setup.images,
        archives: &archives,
        known: Some(&known),
        ..PackageContents::default()
    };
    let published = setup.publish(contents, "1.0.0").await.unwrap();
    let manifest = setup.manifest(&published).await;
    let layer = layer_of(&manifest, "components/web.tar");
    assert_ne!(layer.digest, evil.digest);
    assert_eq!(opened.load(Ordering::Relaxed), 2, "measured, and sent");
}

#[tokio::test]
async fn the_signature_is_for_the_definition_in_the_artifact() {
    let setup = setup().await;
    let sign: &SignDefinition = &|yaml| Ok(("zarf.bundle.sig".to_owned(), Digest::of(yaml).to_string().into()));
    let contents = PackageContents {
        images: &setup.images,
        sign: Some(sign),
        ..PackageContents::default()
    };
    let published = setup.publish(contents, "1.0.0").await.unwrap();
    let manifest = setup.manifest(&published).await;
    let blob = |path: &str| setup.file(&manifest, path);
    assert_eq!(blob("zarf.bundle.sig"), Digest::of(&blob("zarf.yaml")).to_string());
    // The checksums, whose digest is in the definition, do not list signatures.
    assert!(
        !std::str::from_utf8(&blob("checksums.txt"))
            .unwrap()
            .contains("bundle.sig")
    );
}
