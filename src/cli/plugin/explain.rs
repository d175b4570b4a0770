//! `kubectl jackal explain`: why a package is not ready or was built again, and what to do.

use clap::Args;
use kube::ResourceExt as _;

use super::super::print;
use super::advice::advice;
use super::objects::{PackageState, package_state};
use super::scope::ScopeFlags;
use crate::api::v1alpha1::ImageState;

/// The most images that are explained one by one.
const SHOWN: usize = 20;

/// Explain the state of a package: why it is not ready, what to do about it, and why it was built last.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The package.
    #[arg(value_name = "PACKAGE")]
    name: String,
    #[command(flatten)]
    scope: ScopeFlags,
}

impl Explain {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        print::line(explanation(&package_state(&scope, &self.name).await?).trim_end());
        Ok(())
    }
}

/// The explanation of a package, in lines.
fn explanation(state: &PackageState) -> String {
    let mut lines = readiness(state);
    lines.extend(failures(state));
    lines.extend(additional(state));
    lines.extend(last_build(state));
    lines.iter().map(|line| print::shown(line) + "\n").collect()
}

fn readiness(state: &PackageState) -> Vec<String> {
    let name = state.package.name_any();
    let generation = state.package.metadata.generation;
    let Some(ready) = state.condition("Ready") else {
        return vec![format!(
            "{name} was not reconciled yet. If this lasts, see whether the controller runs: kubectl get pods -A -l \
             app.kubernetes.io/name=jackal-operator"
        )];
    };
    let mut lines = Vec::new();
    if ready.observed_generation != generation {
        lines.push(format!(
            "{name} was changed; the operator has not reconciled the change yet. Before the change:"
        ));
    }
    if state.package.spec.suspend {
        lines.push(format!(
            "{name} is suspended; nothing is checked or copied. Resume it: kubectl jackal resume {name}"
        ));
    }
    lines.push(match ready.status.as_str() {
        "True" => format!("{name} is ready: {}", ready.message),
        "False" => format!("{name} is not ready: {}: {}", ready.reason, ready.message),
        _ => format!("{name} is in progress: {}: {}", ready.reason, ready.message),
    });
    if ready.status == "False" {
        lines.extend(advised(&ready.reason));
        let is_stalled = state
            .condition("Stalled")
            .is_some_and(|stalled| stalled.status == "True");
        lines.push(match is_stalled {
            true => "  It is not retried before the object or what it names changes.".to_owned(),
            false => "  It is retried automatically.".to_owned(),
        });
    }
    lines
}

/// What `reason` means and what to do.
fn advised(reason: &str) -> Vec<String> {
    let Some((meaning, action)) = advice(reason) else {
        return Vec::new();
    };
    let mut lines = vec![format!("  Meaning: {meaning}.")];
    if !action.is_empty() {
        lines.push(format!("  What to do: {action}."));
    }
    lines
}

/// The images that failed.
fn failures(state: &PackageState) -> Vec<String> {
    let status = state.package.status.as_ref();
    let images = status.map(|status| status.images.as_slice()).unwrap_or_default();
    let failed: Vec<_> = images
        .iter()
        .filter(|image| image.state == ImageState::Failed)
        .collect();
    if failed.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("{} of {} images failed:", failed.len(), images.len())];
    for image in failed.iter().take(SHOWN) {
        let object = state
            .images
            .get(&image.resource)
            .and_then(|object| object.status.as_ref());
        let ready = object.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == "Ready"));
        let message = ready.map(|ready| ready.message.as_str()).or(image.message.as_deref());
        lines.push(format!(
            "- {}: {}: {}",
            image.image,
            image.reason,
            message.unwrap_or_default()
        ));
    }
    if failed.len() > SHOWN {
        lines.push(format!(
            "- and {} more: kubectl jackal status {}",
            failed.len() - SHOWN,
            state.package.name_any()
        ));
    }
    lines
}

/// Conditions that do not affect Ready, and what the package lacks.
fn additional(state: &PackageState) -> Vec<String> {
    let mut lines = Vec::new();
    for kind in ["SBOMsComplete", "Signed", "Verified"] {
        let condition = state.condition(kind).filter(|condition| condition.status != "True");
        if let Some(condition) = condition {
            lines.push(format!(
                "{kind} is {}: {}: {}",
                condition.status, condition.reason, condition.message
            ));
        }
    }
    let missing = state.package.status.iter().flat_map(|status| &status.missing_images);
    let missing: Vec<&str> = missing.map(|missing| missing.image.as_str()).collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        lines.push(format!(
            "Manifests or charts name {} images that the package lacks: {shown}",
            missing.len()
        ));
    }
    lines
}

/// Why the artifact was built last.
fn last_build(state: &PackageState) -> Vec<String> {
    let history = state
        .package
        .status
        .as_ref()
        .map(|status| status.history.as_slice())
        .unwrap_or_default();
    let Some(last) = history.first() else {
        return vec!["It was never built.".to_owned()];
    };
    let time = last.completed_at.0;
    let mut lines = vec![format!(
        "Built last at {time}: {} because {}: {}",
        last.revision, last.reason, last.message
    )];
    if history.len() > 1 {
        lines.push(format!(
            "{} earlier artifacts are in status.history.",
            history.len() - 1
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn state(status: Value) -> PackageState {
        let package = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage",
            "metadata": { "name": "shop", "generation": 2 },
            "spec": { "version": "1", "components": [] }, "status": status,
        });
        PackageState {
            package: serde_json::from_value(package).unwrap(),
            images: BTreeMap::new(),
        }
    }

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "a message", "observedGeneration": 2,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    #[test]
    fn a_failure_has_its_meaning_and_what_to_do() {
        let text = explanation(&state(json!({
            "conditions": [condition("Ready", "False", "SourceNotFound"), condition("Verified", "False", "VerificationError")],
            "images": [
                { "image": "a/web:1", "name": "c/web:1", "resource": "web", "state": "Failed", "reason": "SourceNotFound",
                  "message": "it does not exist" },
                { "image": "a/app:1", "name": "c/app:1", "resource": "app", "state": "Ready", "reason": "Succeeded" },
            ],
            "missingImages": [],
            "history": [{
                "revision": "1@sha256:1", "digest": "sha256:1", "reason": "FirstBuild", "message": "there was none",
                "completedAt": "2026-01-01T00:00:00Z",
            }],
        })));
        for line in [
            "shop is not ready: SourceNotFound: a message",
            "  Meaning: the image does not exist at its source.",
            "  What to do: push, build or load it there.",
            "  It is retried automatically.",
            "1 of 2 images failed:",
            "- a/web:1: SourceNotFound: it does not exist",
            "Verified is False: VerificationError: a message",
            "Built last at 2026-01-01T00:00:00Z: 1@sha256:1 because FirstBuild: there was none",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn other_states_are_explained() {
        let new = explanation(&state(Value::Null));
        assert!(
            new.contains("was not reconciled yet") && new.contains("never built"),
            "{new}"
        );
        let ready = explanation(&state(
            json!({ "conditions": [condition("Ready", "True", "Succeeded")] }),
        ));
        assert!(ready.starts_with("shop is ready: a message\n"), "{ready}");
        let stalled = explanation(&state(json!({
            "conditions": [condition("Ready", "False", "InvalidSpec"), condition("Stalled", "True", "InvalidSpec")],
        })));
        assert!(stalled.contains("not retried before"), "{stalled}");
    }
}
