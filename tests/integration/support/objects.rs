//! The objects that tests apply, as YAML.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The registry's address in pods. Nothing listens there: the operator uses the endpoint.
pub const ADDRESS: &str = "127.0.0.1:31999";

/// A line of a spec: pods call the registry [`ADDRESS`], and it is reached at `endpoint` over plain HTTP.
pub fn registry_at(endpoint: &str) -> String {
    format!("registry: {{address: '{ADDRESS}', endpoint: '{endpoint}', insecure: true}}")
}

/// A package of one component, as YAML. `images` are entries such as `{image: a/b:1, source: Docker}`; `more` are
/// further lines of the spec.
pub fn package(name: &str, version: &str, images: &[&str], more: &str) -> String {
    let images = format!("[{}]", images.join(", "));
    format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {{name: {name}}}
spec:
  version: '{version}'
  components:
  - name: main
    required: true
    images: {images}
  {more}
"
    )
}

/// An image without a package, as YAML; `more` are further lines of the spec.
pub fn standalone_image(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalImage
metadata: {{name: {name}}}
spec:
  image: '{image}'
  {more}
"
    )
}

/// A node port that no other test of this process uses. The API server assigns each port of the cluster once, and other
/// tests check whether the registry's default port, 31999, would be accepted.
pub fn node_port() -> u16 {
    const FIRST: u16 = 30_000;
    const COUNT: u16 = 1_999;
    // If several runs share a stack, each begins with another port.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..COUNT)));
    FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT
}
