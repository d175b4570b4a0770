//! Images from registry to registry, and to a layout.

use jackal_operator::fault::Reason;
use jackal_operator::oci::{Document, Index};
use jackal_operator::source::{Identity, ImageSource, RegistrySource, RepositoryReader as _};
use jackal_operator::transfer::{LayoutDestination, RegistryDestination};

use crate::support::copy::copy;
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{entry, image, multi_platform, noise, put};
use crate::support::independent::pull_and_verify;
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, VERSIONS, Version};

#[tokio::test]
async fn an_index_is_copied_completely() {
    for (version, other) in VERSIONS.into_iter().zip(VERSIONS.into_iter().rev()) {
        let (from, to) = (TestRegistry::start(version), TestRegistry::start(other));
        let (index, _) = multi_platform(&from.repository("lib/app"), "1").await;
        let source = RegistrySource::new(from.client());
        let destination = RegistryDestination::new(to.repository("in/app"));
        let reference = format!("{}/lib/app:1", from.host);
        let (image, moved) = copy(&source, &reference, &[], &destination, "v1").await.unwrap();
        assert_eq!(image.identity, Identity::Manifest(index.digest().clone()));
        // The index, three images and their attestations.
        assert_eq!(image.documents.len(), 7);
        assert_eq!(image.documents.last(), Some(&index));
        // One config and one layer each; the attestations share their config.
        assert_eq!(moved, 3 * 2 + 3 + 1);
        assert_eq!(to.crane("digest", "in/app:v1").trim(), index.digest().as_str());
        assert_eq!(to.crane("manifest", "in/app:v1").trim_end().as_bytes(), &index.raw[..]);
        for entry in &index.index().unwrap().manifests {
            to.crane("manifest", &format!("in/app@{}", entry.digest));
        }
        let pulled = pull_and_verify(&to.host, "in/app", "v1").await;
        assert_eq!(pulled.digest, index.digest().as_str());
        assert_eq!((pulled.manifests.len(), pulled.blobs.len()), (7, moved));
        let (_, moved) = copy(&source, &reference, &[], &destination, "v1").await.unwrap();
        assert_eq!(moved, 0, "warm work moves no blob");
        assert_eq!(
            destination.digest_of("v1").await.unwrap().as_ref(),
            Some(index.digest())
        );
    }
}

#[tokio::test]
async fn only_selected_platforms_are_copied() {
    let (from, to) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
    let (index, images) = multi_platform(&from.repository("app"), "1").await;
    let source = RegistrySource::new(from.client());
    let reference = format!("{}/app:1", from.host);
    let destination = RegistryDestination::new(to.repository("one"));
    let (one, moved) = copy(&source, &reference, &["linux/arm64/v8"], &destination, "1")
        .await
        .unwrap();
    assert_eq!((one.documents.as_slice(), moved), (&images[1..2], 2));
    assert_eq!(to.crane("digest", "one:1").trim(), images[1].digest().as_str());
    to.crane("validate", "one:1");
    let pulled = pull_and_verify(&to.host, "one", "1").await;
    assert_eq!(pulled.digest, images[1].digest().as_str());

    let destination = RegistryDestination::new(to.repository("two"));
    let chosen = ["linux/s390x", "linux/amd64"];
    let (two, _) = copy(&source, &reference, &chosen, &destination, "1").await.unwrap();
    let kept = &two.documents.last().unwrap().index().unwrap().manifests;
    let all = &index.index().unwrap().manifests;
    assert_eq!(
        *kept,
        [0, 2, 3, 5].map(|at: usize| all[at].clone()),
        "in order, with attestations"
    );
    assert_eq!(two.documents.len(), 5);
    let again = source.resolve(&two.reference, &two.platforms).await.unwrap();
    assert_eq!(again.identity, two.identity);
    to.crane("digest", "two:1");

    let fault = source
        .resolve(
            &two.reference,
            &["linux/riscv64".parse().unwrap(), "linux/amd64".parse().unwrap()],
        )
        .await
        .unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(
        fault
            .message
            .contains("no image for linux/riscv64: it is for linux/amd64, linux/arm64, linux/s390x"),
        "{fault}"
    );
}

#[tokio::test]
async fn the_platform_of_a_single_image_is_read_from_its_config() {
    let registry = TestRegistry::start(Version::V28);
    let repository = registry.repository("app");
    let document = image(&repository, "linux/arm64", noise(1, 100)).await;
    put(&repository, &document, Some("1")).await;
    let source = RegistrySource::new(registry.client());
    let reference = format!("{}/app:1", registry.host).parse().unwrap();
    let found = source
        .resolve(&reference, &["linux/arm64".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(found.documents, std::slice::from_ref(&document));
    let fault = source
        .resolve(&reference, &["linux/amd64".parse().unwrap()])
        .await
        .unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(fault.message.contains("it is for linux/arm64"), "{fault}");
    // An entry of an index need not state it either.
    let index = Document::of_index(Index::new(vec![document.descriptor.clone()])).unwrap();
    put(&repository, &index, Some("2")).await;
    let reference = format!("{}/app:2", registry.host).parse().unwrap();
    let found = source
        .resolve(&reference, &["linux/arm64".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(found.documents, [document]);
}

#[tokio::test]
async fn a_missing_image_is_reported() {
    let registry = TestRegistry::start(Version::V28);
    let repository = registry.repository("app");
    let (_, images) = multi_platform(&repository, "1").await;
    let source = RegistrySource::new(registry.client());
    let absent = format!("{}/app:2", registry.host).parse().unwrap();
    let fault = source.resolve(&absent, &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(fault.message.contains("/app:2 does not exist"), "{fault}");
    // A mirror that copied only one platform.
    assert!(repository.delete_manifest(images[1].digest()).await.unwrap());
    let sparse = format!("{}/app:1", registry.host).parse().unwrap();
    let fault = source.resolve(&sparse, &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    let expected = format!("a manifest for linux/arm64 ({})", images[1].digest());
    assert!(fault.message.contains(&expected), "{fault}");
    source
        .resolve(&sparse, &["linux/amd64".parse().unwrap()])
        .await
        .unwrap();
}

#[tokio::test]
async fn nested_indexes_are_copied_completely_and_in_order() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("app");
    let one = image(&repository, "linux/amd64", noise(1, 100)).await;
    put(&repository, &one, None).await;
    let mut below = one.clone();
    let mut chain = vec![one];
    for depth in 1..=5 {
        let mut entries = vec![entry(&below, "linux/amd64")];
        // Listed at every level, needed first.
        entries.push(entry(&chain[0], "linux/arm64"));
        below = Document::of_index(Index::new(entries)).unwrap();
        put(&repository, &below, Some(&format!("depth{depth}"))).await;
        chain.push(below.clone());
    }
    let source = RegistrySource::new(registry.client());
    let resolve = async |depth: usize| {
        let reference = format!("{}/app:depth{depth}", registry.host).parse().unwrap();
        source.resolve(&reference, &[]).await
    };
    assert_eq!(resolve(4).await.unwrap().documents, chain[..5]);
    let fault = resolve(5).await.unwrap_err();
    assert!(fault.message.contains("nested more than 4 levels deep"), "{fault}");
}

#[tokio::test]
async fn other_tools_can_read_a_layout() {
    let from = TestRegistry::start(Version::V28);
    let (index, images) = multi_platform(&from.repository("app"), "1").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layout");
    let source = RegistrySource::new(from.client());
    let reference = format!("{}/app:1", from.host);
    let layout = LayoutDestination::new(&path, "in/app");
    copy(&source, &reference, &[], &layout, "1").await.unwrap();
    assert_eq!(layout.digest_of("1").await.unwrap().as_ref(), Some(index.digest()));
    let crane = program("JACKAL_BIN_CRANE");
    let pushed = format!("{}/from-layout:1", from.host);
    run(
        &crane,
        &["push", "--insecure", "--index", path.to_str().unwrap(), &pushed],
    );
    // crane wraps our index in the layout's own index.
    let around = from.crane("manifest", "from-layout:1");
    assert!(around.contains(index.digest().as_str()), "{around}");
    assert!(
        around.contains(r#""org.opencontainers.image.ref.name":"in/app:1""#),
        "{around}"
    );
    for image in &images {
        from.crane("validate", &format!("from-layout@{}", image.digest()));
    }
    let (_, moved) = copy(&source, &reference, &[], &LayoutDestination::new(&path, "other"), "2")
        .await
        .unwrap();
    assert_eq!(moved, 0, "repositories of a layout share their blobs");
    let leftover = std::fs::read_dir(path.join("blobs/sha256"))
        .unwrap()
        .any(|file| file.unwrap().file_name().to_string_lossy().starts_with('.'));
    assert!(!leftover);
}

/// The other tests rely on it.
#[tokio::test]
async fn the_independent_reader_detects_corrupt_content() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("app");
    let document = image(&repository, "linux/amd64", noise(3, 1000)).await;
    put(&repository, &document, Some("1")).await;
    pull_and_verify(&registry.host, "app", "1").await;
    let corrupting = FaultProxy::to(&registry.host, |request| match request.path.contains("/blobs/") {
        true => Action::Flip(0),
        false => Action::Pass,
    });
    let host = corrupting.host.clone();
    let pulled = tokio::spawn(async move { pull_and_verify(&host, "app", "1").await }).await;
    assert!(pulled.unwrap_err().is_panic());
}
