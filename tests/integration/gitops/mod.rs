//! What GitOps tools see of us, by the libraries that they judge by: kstatus (Flux), gopher-lua (Argo CD), and
//! go-containerregistry (Flux's OCIRepository).

mod apply;
mod docs;
mod examples;
mod flux;
mod golden;
mod states;

use std::path::Path;

use serde_json::Value;

use crate::support::objects;
use crate::support::process::{output, run};
use crate::support::program;

/// The health script, as the chart ships it.
const HEALTH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/charts/jackal-operator/files/argocd/health.lua"
);

/// What tools make of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Health {
    /// Of kstatus: Current, InProgress, Failed or Terminating.
    kstatus: String,
    /// Of Argo CD: Healthy, Progressing, Degraded or Suspended.
    argocd: String,
}

impl Health {
    fn new(kstatus: &str, argocd: &str) -> Self {
        Self {
            kstatus: kstatus.to_owned(),
            argocd: argocd.to_owned(),
        }
    }

    /// What the tools say of the object in each of the files, which hold one each.
    fn of(files: &[&Path]) -> Vec<Self> {
        let files: Vec<&str> = files.iter().map(|file| file.to_str().expect("text")).collect();
        let kstatus = answers(&[&["kstatus"], &files[..]].concat());
        let argocd = answers(&[&["argocd-health", HEALTH], &files[..]].concat());
        assert_eq!((kstatus.len(), argocd.len()), (files.len(), files.len()));
        let both = kstatus.iter().zip(&argocd);
        both.map(|(kstatus, argocd)| {
            Self::new(
                kstatus["status"].as_str().expect("a status"),
                argocd["status"].as_str().expect("a health"),
            )
        })
        .collect()
    }
}

/// What `scripts/go/gitops` answers, a line for each object.
fn answers(arguments: &[&str]) -> Vec<Value> {
    let said = run(program("JACKAL_BIN_GITOPS"), arguments);
    said.lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// The same where it refuses: what it says.
fn refusal(arguments: &[&str]) -> String {
    let output = output(&program("JACKAL_BIN_GITOPS"), arguments);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A package of one component that goes to the registry at `endpoint`; see [`objects::package`].
fn package(name: &str, version: &str, endpoint: &str, images: &[&str], more: &str) -> String {
    objects::package(name, version, images, &to(endpoint, more))
}

/// An image of its own that goes there; see [`objects::standalone_image`].
fn standalone_image(name: &str, image: &str, endpoint: &str, more: &str) -> String {
    objects::standalone_image(name, image, &to(endpoint, more))
}

fn to(endpoint: &str, more: &str) -> String {
    format!("{}\n  {more}", objects::registry_at(endpoint))
}
