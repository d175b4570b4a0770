//! Reads the space on the file systems of nodes.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;
use serde::Deserialize;

use super::super::facts::{Disk, Read, Unread};
use super::super::read::Reader;
use super::CONCURRENCY;
use crate::decode;

/// The most nodes that are asked.
const ASKED: usize = 500;

/// The part of a kubelet's `stats/summary` that tells about file systems.
#[derive(Deserialize)]
struct Summary {
    node: NodeSummary,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct NodeSummary {
    fs: Option<FileSystem>,
    runtime: Option<RuntimeSummary>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct RuntimeSummary {
    image_fs: Option<FileSystem>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FileSystem {
    available_bytes: Option<u64>,
    capacity_bytes: Option<u64>,
}

impl FileSystem {
    fn disk(self) -> Option<Disk> {
        Some(Disk {
            available: self.available_bytes?,
            capacity: self.capacity_bytes?,
        })
    }
}

/// The file system with the least space of each node: that of pods, or that of images.
pub(super) async fn of_nodes(reader: &Reader, names: &[String]) -> BTreeMap<String, Read<Disk>> {
    let mut found = BTreeMap::new();
    // Who may not ask one node may ask none.
    let Some((first, others)) = names.split_first() else {
        return found;
    };
    let disk = of_node(reader, first).await;
    let is_forbidden = disk.as_ref().err() == Some(&Unread::Forbidden);
    found.insert(first.clone(), disk);
    if is_forbidden {
        return found;
    }
    let asked = others
        .iter()
        .take(ASKED)
        .map(|name| async move { (name.clone(), of_node(reader, name).await) });
    let asked: Vec<_> = stream::iter(asked).buffer_unordered(CONCURRENCY).collect().await;
    found.extend(asked);
    found
}

async fn of_node(reader: &Reader, name: &str) -> Read<Disk> {
    let path = format!("/api/v1/nodes/{name}/proxy/stats/summary?only_cpu_and_memory=false");
    let body = reader.of_node(&path).await?;
    disk_of(&body)
}

fn disk_of(body: &[u8]) -> Read<Disk> {
    let summary: Summary = decode::json(body).map_err(|error| Unread::Failed(error.to_string()))?;
    let images = summary.node.runtime.and_then(|runtime| runtime.image_fs);
    let disks = [summary.node.fs, images].into_iter().flatten();
    let disks = disks.filter_map(FileSystem::disk);
    let least = disks.min_by_key(|disk| disk.available);
    least.ok_or_else(|| Unread::Failed("the kubelet reports no file system".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_file_system_counts() {
        let body = br#"{"node": {"nodeName": "node1", "cpu": {"time": "x"},
            "fs": {"time": "2026-01-01T00:00:00Z", "availableBytes": 50, "capacityBytes": 100, "usedBytes": 50},
            "runtime": {"imageFs": {"availableBytes": 20, "capacityBytes": 200}, "containerFs": null}}, "pods": []}"#;
        let disk = disk_of(body).unwrap();
        assert_eq!((disk.available, disk.capacity), (20, 200));
        let body = br#"{"node": {"fs": {"availableBytes": 50, "capacityBytes": 100}}}"#;
        assert_eq!(disk_of(body).unwrap().available, 50);
        for body in [
            &br#"{"node": {"fs": {"availableBytes": 50}}}"#[..],
            b"{}",
            b"no",
            br#"{"node": {}}"#,
        ] {
            assert!(disk_of(body).is_err());
        }
    }
}
