//! The paths in a component's tar, as Zarf's `package create` writes them (`src/pkg/packager/layout/layout.go` of Zarf 0.84).
//! Zarf's `package deploy` computes them by the same rules and does not read them from the definition.

use bytes::Bytes;

use super::ComponentContent;
use crate::api::v1alpha1::{ChartSpec, ComponentSpec};
use crate::oci::Digest;
use crate::package::{Archive, Entry, EntrySource};

/// The mode of charts, values and manifests.
const TEXT_MODE: u32 = 0o644;
/// The mode of files, which a deployment preserves.
const FILE_MODE: u32 = 0o600;
/// The mode of executable files.
const EXECUTABLE_MODE: u32 = 0o700;

/// The path of the `index`th text of a group of manifests, in the component's folder.
pub(super) fn manifest(name: &str, index: usize) -> String {
    format!("manifests/{name}-{index}.yaml")
}

/// The common prefix of the names of a chart's files.
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

/// The path of the `index`th file, which a deployment writes to `target`.
pub(super) fn file(index: usize, target: &str) -> String {
    let base = target.rsplit('/').next().unwrap_or(target);
    format!("files/{index}/{base}")
}

/// The tar of a component, or `None` if it has only images. Its entries have the order of a walk of the directory.
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
        add(chart(spec), TEXT_MODE, content.digest.clone(), content.origin.clone());
        for (index, content) in content.values.iter().enumerate() {
            let (identity, origin) = text(content);
            add(values(spec, index), TEXT_MODE, identity, origin);
        }
    }
    for (index, (spec, content)) in component.files.iter().zip(&found.files).enumerate() {
        let mode = if spec.executable { EXECUTABLE_MODE } else { FILE_MODE };
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
            add(manifest(&spec.name, index), TEXT_MODE, identity, origin);
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
