use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::*;
use crate::fault::Reason;
use crate::transfer::LayoutDestination;

/// Notes what is called, and ends the build before its first step where `is_ended`.
#[derive(Default)]
struct TestHost {
    calls: Mutex<Vec<String>>,
    is_ended: bool,
}

impl TestHost {
    fn note(&self, call: impl Into<String>) {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call.into());
    }

    fn calls(self) -> Vec<String> {
        self.calls.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BuildHost for TestHost {
    type Error = Fault;

    const SBOMS_LATER: bool = true;

    async fn run_step<T>(&self, step: impl Future<Output = T>) -> Result<T, Fault> {
        match self.is_ended {
            true => Err(Fault::retryable(Reason::TimedOut, "the build was cancelled")),
            false => Ok(step.await),
        }
    }

    async fn verify(&self, images: &[TransferredImage]) -> Result<(), Fault> {
        self.note(format!("verify {}", images.len()));
        Ok(())
    }

    async fn contents(&self, components: &[ComponentSpec]) -> Result<Vec<ComponentContent>, Fault> {
        self.note(format!("contents of {}", components.len()));
        Ok(vec![ComponentContent::default(); components.len()])
    }

    async fn announce(&self, _: &Digest) -> Result<(), Fault> {
        self.note("announce");
        Ok(())
    }

    fn sboms_failed(&self, fault: Fault) -> Result<(), Fault> {
        Err(fault)
    }

    async fn record(&self, built: &BuiltPackage, sboms: &SbomProgress) -> Result<(), Fault> {
        assert!(matches!(sboms, SbomProgress::NotRequested));
        self.note(format!("record, changed: {}", built.published.changed));
        Ok(())
    }
}

async fn build(directory: &std::path::Path, host: &TestHost) -> Result<(BuiltPackage, SbomProgress), Fault> {
    let spec = json!({ "version": "1", "components": [{ "name": "a" }] });
    let spec: JackalPackageSpec = serde_json::from_value(spec).unwrap();
    let plan = Plan::of_package("shop", &spec, "r.example", "").unwrap();
    let repository = LayoutDestination::new(directory, "shop");
    let recipe = Recipe {
        name: "shop",
        spec: &spec,
        plan: &plan,
        images: Vec::new(),
        repository: &repository,
        url: "oci://r.example/shop:1",
        key: None,
        recorded: None,
        syft: None,
    };
    build_package(recipe, host).await
}

#[tokio::test]
async fn an_artifact_is_announced_before_it_is_recorded_and_not_again_when_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let host = TestHost::default();
    let (first, _) = build(directory.path(), &host).await.unwrap();
    let steps = ["verify 0", "contents of 1", "announce", "record, changed: true"];
    assert_eq!(host.calls(), steps);
    let host = TestHost::default();
    let (second, _) = build(directory.path(), &host).await.unwrap();
    assert_eq!(host.calls(), ["verify 0", "contents of 1", "record, changed: false"]);
    assert_eq!(first.published.manifest, second.published.manifest);
    assert_eq!(first.signed_by, None);
}

#[tokio::test]
async fn a_build_that_is_ended_records_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let host = TestHost {
        is_ended: true,
        ..TestHost::default()
    };
    assert!(build(directory.path(), &host).await.is_err());
    assert!(host.calls().is_empty());
}
