//! `kubectl jackal tree`: a package, its images, and where they come from.

use clap::Args;
use kube::ResourceExt as _;

use super::super::print;
use super::objects::{PackageState, package_state};
use super::scope::ScopeFlags;
use super::status::size;
use crate::api::v1alpha1::{JackalImage, PackagedImage};

/// Show a package, its images, their names in the cluster, digests, sizes and origins.
#[derive(Debug, Args)]
pub(super) struct Tree {
    /// The package.
    #[arg(value_name = "PACKAGE")]
    name: String,
    #[command(flatten)]
    scope: ScopeFlags,
}

impl Tree {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        print::line(tree(&package_state(&scope, &self.name).await?).trim_end());
        Ok(())
    }
}

/// The lines of a package.
fn tree(state: &PackageState) -> String {
    let status = state.package.status.as_ref();
    let artifact = status.and_then(|status| status.artifact.as_ref());
    let about = match artifact {
        Some(artifact) => format!("{}  {}  {}", artifact.url, artifact.digest, size(artifact.size)),
        None => "not built yet".to_owned(),
    };
    let mut lines = vec![format!("{}  {about}", state.package.name_any())];
    let images = status.map(|status| status.images.as_slice()).unwrap_or_default();
    let charts = status.map(|status| status.charts.as_slice()).unwrap_or_default();
    let last = images.len() + charts.len();
    for (at, image) in images.iter().enumerate() {
        let is_last = at + 1 == last;
        let (branch, below) = if is_last { ("└─", "  ") } else { ("├─", "│ ") };
        let object = state.images.get(&image.resource);
        lines.push(format!("{branch} {}  {}", image.image, origin(image, object)));
        lines.push(format!(
            "{below}   {}  {}",
            image.name,
            image.digest.as_deref().unwrap_or("no digest yet")
        ));
    }
    for (at, chart) in charts.iter().enumerate() {
        let branch = if images.len() + at + 1 == last {
            "└─"
        } else {
            "├─"
        };
        lines.push(format!(
            "{branch} chart {} {}  {}",
            chart.name, chart.version, chart.digest
        ));
    }
    lines.iter().map(|line| print::shown(line) + "\n").collect()
}

/// The size of an image and where it was read, or why it is not there.
fn origin(image: &PackagedImage, object: Option<&JackalImage>) -> String {
    let Some(status) = object.and_then(|object| object.status.as_ref()) else {
        return image.reason.clone();
    };
    let source = object
        .map(|object| format!("{:?}", object.spec.source))
        .unwrap_or_default();
    let node = status
        .assignment
        .as_ref()
        .map(|assignment| format!(" of {}", assignment.node_name));
    let method = status.method.as_ref().map(|method| format!(" by {method}"));
    let size = status.size.map(size).unwrap_or_default();
    let parts = [node, method].into_iter().flatten().collect::<String>();
    format!("{size}  from {source}{parts}  {}", image.reason)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn images_have_their_origin() {
        let package = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
            "spec": { "version": "1", "components": [] },
            "status": {
                "images": [
                    { "image": "app:dev", "name": "c/app:dev", "resource": "app", "state": "Ready", "reason": "Succeeded",
                      "digest": "sha256:1" },
                    { "image": "a/web:1", "name": "c/web:1", "resource": "web", "state": "Waiting", "reason": "Pending" },
                ],
            },
        });
        let app = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "app" },
            "spec": { "image": "app:dev", "source": "Docker" },
            "status": { "method": "DockerGraph", "size": 5 << 20, "assignment": { "nodeName": "n1", "imageId": "sha256:2" } },
        });
        let state = PackageState {
            package: serde_json::from_value(package).unwrap(),
            images: BTreeMap::from([("app".to_owned(), serde_json::from_value(app).unwrap())]),
        };
        let text = tree(&state);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[0], "shop  not built yet");
        assert!(
            lines[1].starts_with("├─ app:dev  5") && lines[1].ends_with("from Docker of n1 by DockerGraph  Succeeded")
        );
        assert_eq!(lines[2], "│    c/app:dev  sha256:1");
        assert_eq!(lines[3..], ["└─ a/web:1  Pending", "     c/web:1  no digest yet"]);
    }
}
