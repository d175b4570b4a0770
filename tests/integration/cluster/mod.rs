//! The operator in a cluster: real API server, real docker engines, real registries, the real binary.

mod containerd;
mod deletion;
mod leader;
mod lifecycle;
mod listen;
mod load;
mod memory;
mod nodes;
mod rebuilt;
mod replicas;
mod unchanged;
mod undecodable;
mod whole;

use crate::docker::engines::{Image, noise, tar};

/// Held by who measures times and by who keeps the whole machine busy.
static QUIET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What pods call the registry. Nothing listens there: the operator goes to the endpoint.
const ADDRESS: &str = "127.0.0.1:31999";

/// A package of one component, to apply. `images` are lines such as `{image: a/b:1, source: Docker}`; `more` are
/// further lines of the spec.
fn package(name: &str, endpoint: &str, images: &[&str], more: &str) -> String {
    let images: String = images.iter().map(|image| format!("\n    - {image}")).collect();
    format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {{name: {name}}}
spec:
  version: 1.0.0
  registry: {{address: '{ADDRESS}', endpoint: '{endpoint}', insecure: true}}
  components:
  - name: main
    required: true
    images:{images}
  {more}
"
    )
}

/// An image of several layers that no other test has, of some hundred kilobytes.
pub(crate) fn layered(name: &str, content: &str) -> Image {
    let base = tar(&[("d/", ""), ("d/a", "first")]);
    let large = tar(&[
        ("large", noise(300_000)),
        ("name", name.as_bytes().to_vec()),
        ("content", content.as_bytes().to_vec()),
    ]);
    let last = tar(&[("d/", ""), ("d/.wh.a", ""), ("content", content)]);
    Image::new(name, vec![base, large, last])
}

/// A name for an image in an engine that all tests share.
pub(crate) fn unique(name: &str) -> String {
    format!("jackal-test-{:012x}/{name}", fastrand::u64(..1 << 48))
}
