//! Concurrent writers of one index.

use super::fake::{Repository, definition, setup, silent};
use super::*;

const ARCHITECTURES: [&str; 4] = ["amd64", "arm64", "riscv64", "s390x"];

#[tokio::test]
async fn architectures_share_a_tag() {
    let setup = setup().await;
    let definitions = ARCHITECTURES.map(definition);
    let runs = definitions
        .iter()
        .map(|definition| publish(definition, setup.images[..].into(), &setup.package, "1.0.0", silent));
    let published = futures::future::try_join_all(runs).await.unwrap();
    let index = setup.package.index("1.0.0");
    let found: Vec<(&str, &Digest)> = index
        .manifests
        .iter()
        .map(|entry| (entry.platform.as_ref().unwrap().architecture.as_str(), &entry.digest))
        .collect();
    let expected: Vec<(&str, &Digest)> = ARCHITECTURES
        .into_iter()
        .zip(published.iter().map(|published| &published.manifest))
        .collect();
    assert_eq!(found, expected);

    // Other content for an architecture replaces its entry, and an entry whose manifest is deleted is removed.
    let gone = published[3].manifest.to_string();
    setup
        .registry
        .documents
        .lock()
        .unwrap()
        .remove(&("podinfo".to_owned(), gone));
    let newer = publish(
        &definitions[0],
        setup.images[..1].into(),
        &setup.package,
        "1.0.0",
        silent,
    )
    .await
    .unwrap();
    let digests: Vec<Digest> = setup
        .package
        .index("1.0.0")
        .manifests
        .into_iter()
        .map(|entry| entry.digest)
        .collect();
    assert_eq!(
        digests,
        [
            newer.manifest,
            published[1].manifest.clone(),
            published[2].manifest.clone()
        ]
    );
}

/// Processes do not wait for each other, so their writes arrive in any order and take any time.
#[tokio::test(start_paused = true)]
async fn architectures_of_several_processes_share_a_tag() {
    for delays in [[0; 4], [0, 20, 40, 60], [60, 40, 20, 0], [0, 90, 0, 90]] {
        let setup = setup().await;
        let definitions = ARCHITECTURES.map(definition);
        let process = |(process, delay)| Repository {
            registry: Arc::clone(&setup.registry),
            name: "podinfo".to_owned(),
            process,
            delay: Duration::from_millis(delay),
        };
        let processes: Vec<Repository> = delays.into_iter().enumerate().map(process).collect();
        let runs = definitions
            .iter()
            .zip(&processes)
            .map(|(definition, process)| publish(definition, setup.images[..].into(), process, "1.0.0", silent));
        futures::future::try_join_all(runs).await.unwrap();
        let index = setup.package.index("1.0.0");
        let found: Vec<&str> = index
            .manifests
            .iter()
            .map(|entry| entry.platform.as_ref().unwrap().architecture.as_str())
            .collect();
        assert_eq!(found, ARCHITECTURES, "{delays:?}");
    }
}
