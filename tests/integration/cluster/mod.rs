//! The operator in a cluster: real API server, real docker engines, real registries, the real binary.

mod archived;
mod containerd;
mod content;
mod deletion;
mod differential;
mod end_to_end;
mod following;
mod http_endpoints;
mod image_policy;
mod leader;
mod lifecycle;
mod load;
mod memory;
mod nodes;
mod rebuilt;
mod replicas;
mod unchanged;
mod undecodable;
mod unwritten_status;

use crate::docker::engines::{Image, noise, tar};
use crate::support::objects::{self, ADDRESS, registry_at};

/// Held by tests that measure times and by tests that keep the whole machine busy.
static TIMING_LOCK: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A package of one component that goes to the registry at `endpoint`; see [`objects::package`].
fn package(name: &str, endpoint: &str, images: &[&str], more: &str) -> String {
    let registry = registry_at(endpoint);
    objects::package(name, "1.0.0", images, &format!("{registry}\n  {more}"))
}

/// An image of several layers with unique content, of some hundred kilobytes.
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

/// A unique name for an image in an engine that all tests share.
pub(crate) fn unique(name: &str) -> String {
    format!("jackal-test-{:012x}/{name}", fastrand::u64(..1 << 48))
}
