//! How GitOps tools evaluate our objects, with the libraries that they use: kstatus (Flux), gopher-lua (Argo CD), and
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

/// The health script in the chart.
const HEALTH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/charts/jackal-operator/files/argocd/health.lua"
);

/// The health of an object in both tools.
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

    /// The health of the objects in these files, one in each.
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

/// The output of `scripts/go/gitops`, one line for each object.
fn answers(arguments: &[&str]) -> Vec<Value> {
    let output = run(program("JACKAL_BIN_GITOPS"), arguments);
    output
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// The same if it must fail: its output.
fn refused_output(arguments: &[&str]) -> String {
    let output = output(&program("JACKAL_BIN_GITOPS"), arguments);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A package of one component that goes to the registry at `endpoint`; see [`objects::package`].
fn package(name: &str, version: &str, endpoint: &str, images: &[&str], more: &str) -> String {
    objects::package(name, version, images, &to(endpoint, more))
}

/// A standalone image for that registry; see [`objects::standalone_image`].
fn standalone_image(name: &str, image: &str, endpoint: &str, more: &str) -> String {
    objects::standalone_image(name, image, &to(endpoint, more))
}

fn to(endpoint: &str, more: &str) -> String {
    format!("{}\n  {more}", objects::registry_at(endpoint))
}
