//! Several writers of one index.

use super::tests::{Repository, definition, stage, unheard};
use super::*;

const ARCHITECTURES: [&str; 4] = ["amd64", "arm64", "riscv64", "s390x"];

#[tokio::test]
async fn architectures_share_a_tag() {
    let stage = stage().await;
    let definitions = ARCHITECTURES.map(definition);
    let runs = definitions
        .iter()
        .map(|definition| publish(definition, stage.images[..].into(), &stage.package, "1.0.0", unheard));
    let published = futures::future::try_join_all(runs).await.unwrap();
    let index = stage.package.index("1.0.0");
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

    // Another content of one architecture replaces its entry, and one whose manifest is gone is dropped.
    let gone = published[3].manifest.to_string();
    stage
        .registry
        .documents
        .lock()
        .unwrap()
        .remove(&("podinfo".to_owned(), gone));
    let newer = publish(
        &definitions[0],
        stage.images[..1].into(),
        &stage.package,
        "1.0.0",
        unheard,
    )
    .await
    .unwrap();
    let digests: Vec<Digest> = stage
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

/// The writes of processes that do not wait for each other get there in any order, and each takes its time.
#[tokio::test(start_paused = true)]
async fn architectures_of_several_processes_share_a_tag() {
    for ways in [[0; 4], [0, 20, 40, 60], [60, 40, 20, 0], [0, 90, 0, 90]] {
        let stage = stage().await;
        let definitions = ARCHITECTURES.map(definition);
        let process = |(process, way)| Repository {
            registry: Arc::clone(&stage.registry),
            name: "podinfo".to_owned(),
            process,
            way: Duration::from_millis(way),
        };
        let processes: Vec<Repository> = ways.into_iter().enumerate().map(process).collect();
        let runs = definitions
            .iter()
            .zip(&processes)
            .map(|(definition, process)| publish(definition, stage.images[..].into(), process, "1.0.0", unheard));
        futures::future::try_join_all(runs).await.unwrap();
        let index = stage.package.index("1.0.0");
        let found: Vec<&str> = index
            .manifests
            .iter()
            .map(|entry| entry.platform.as_ref().unwrap().architecture.as_str())
            .collect();
        assert_eq!(found, ARCHITECTURES, "{ways:?}");
    }
}
