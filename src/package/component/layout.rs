//! Where everything of a component stands in its tar: as Zarf's `package create` writes it
//! (`src/pkg/packager/layout/layout.go` of Zarf 0.84), and its `package deploy` reads it by the same rules, whatever the
//! definition says.

use bytes::Bytes;

use super::ComponentContent;
use crate::api::v1alpha1::{ChartSpec, ComponentSpec};
use crate::oci::Digest;
use crate::package::{Archive, Entry, EntrySource};

/// Permissions of charts, values and manifests.
const PLAIN: u32 = 0o644;
/// Permissions of files, which a deployment keeps.
const FILE: u32 = 0o600;
/// Permissions of a file that is a program.
const EXECUTABLE: u32 = 0o700;

/// The path of the `index`th text of a group of manifests, in the component's folder.
pub(super) fn manifest(name: &str, index: usize) -> String {
    format!("manifests/{name}-{index}.yaml")
}

/// What the names of all of a chart's files begin with.
pub(super) fn stem(chart: &ChartSpec) -> String {
    format!("{}-{}", chart.name, chart.version)
}

/// The path of a chart's archive.
pub(super) fn chart(chart: &ChartSpec) -> String {
    format!("charts/{}.tgz", stem(chart))
}

/// The path of the `index`th values of a chart.
pub(super) fn values(chart: &ChartSpec, index: usize) -> String {
    format!("values/{}-{index}", stem(chart))
}

/// The path of the `index`th file, which is written to `target`.
pub(super) fn file(index: usize, target: &str) -> String {
    let base = target.rsplit('/').next().unwrap_or(target);
    format!("files/{index}/{base}")
}

/// The tar of a component, or none where it has nothing but images. Its entries are in the order in which a walk of the
/// folder finds them.
pub fn archive(component: &ComponentSpec, found: &ComponentContent) -> Option<Archive> {
    let mut entries = Vec::new();
    let mut add = |path: String, mode: u32, identity: Digest, origin: std::sync::Arc<dyn EntrySource>| {
        entries.push(Entry {
            path: format!("{}/{path}", component.name),
            mode,
            identity,
            origin,
        });
    };
    let text = |content: &Bytes| -> (Digest, std::sync::Arc<dyn EntrySource>) {
        (Digest::of(content), std::sync::Arc::new(content.clone()))
    };
    for (spec, content) in component.charts.iter().zip(&found.charts) {
        add(chart(spec), PLAIN, content.digest.clone(), content.origin.clone());
        for (index, content) in content.values.iter().enumerate() {
            let (identity, origin) = text(content);
            add(values(spec, index), PLAIN, identity, origin);
        }
    }
    for (index, (spec, content)) in component.files.iter().zip(&found.files).enumerate() {
        let mode = if spec.executable { EXECUTABLE } else { FILE };
        add(
            file(index, &spec.target),
            mode,
            content.digest.clone(),
            content.origin.clone(),
        );
    }
    for (spec, texts) in component.manifests.iter().zip(&found.manifests) {
        for (index, content) in texts.iter().enumerate() {
            let (identity, origin) = text(content);
            add(manifest(&spec.name, index), PLAIN, identity, origin);
        }
    }
    entries.sort_by(|left, right| left.path.split('/').cmp(right.path.split('/')));
    (!entries.is_empty()).then(|| Archive {
        path: format!("components/{}.tar", component.name),
        entries,
    })
}

#[cfg(test)]
mod tests;
