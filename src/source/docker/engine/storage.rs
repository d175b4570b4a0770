//! How an engine keeps its images, and where.

use serde::Deserialize;

/// How an engine keeps its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// Unpacked layers and configurations; manifests are not kept.
    Classic,
    /// A containerd content store: manifests and blobs as they were pulled or built.
    Containerd,
}

/// What an engine says of its storage.
#[derive(Clone, Debug)]
pub(in crate::source::docker) struct Storage {
    pub shape: StorageKind,
    /// `overlay2`, `btrfs`, ….
    pub driver: String,
    /// Whether overlay2 takes a layer's own folder for its difference to what lies below.
    pub native_diff: bool,
    /// Whether a changed mode or owner makes a file without its content in the upper layer.
    pub metacopy: bool,
    /// Where it keeps everything, as it sees its files.
    pub root: Option<String>,
    /// The socket of its containerd, as it sees its files (API 1.46 or newer).
    pub containerd: Option<String>,
    /// Where its images are in that.
    pub namespace: String,
}

/// What an engine says of itself (`GET /info`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EngineDescription {
    #[serde(default)]
    driver: Option<String>,
    #[serde(default)]
    driver_status: Option<Vec<Vec<String>>>,
    #[serde(default)]
    docker_root_dir: Option<String>,
    #[serde(default)]
    containerd: Option<Beneath>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Beneath {
    address: String,
    namespaces: Namespaces,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Namespaces {
    containers: String,
}

impl EngineDescription {
    /// The storage of an engine, which `is_local` where it is on this machine.
    pub fn storage(self, is_local: bool) -> Storage {
        let status = self.driver_status.unwrap_or_default();
        let beneath = self.containerd.unwrap_or_default();
        let says = |wanted: &str, this: &str| {
            status
                .iter()
                .any(|pair| matches!(pair.as_slice(), [key, value] if key == wanted && value == this))
        };
        Storage {
            shape: match says("driver-type", "io.containerd.snapshotter.v1") {
                true => StorageKind::Containerd,
                false => StorageKind::Classic,
            },
            driver: self.driver.unwrap_or_default(),
            native_diff: says("Native Overlay Diff", "true"),
            metacopy: says("Using metacopy", "true"),
            root: self.docker_root_dir.filter(|root| root.starts_with('/')),
            // Another machine's socket is not ours of the same name.
            containerd: Some(beneath.address).filter(|address| !address.is_empty() && is_local),
            namespace: beneath.namespaces.containers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn what_an_engine_leaves_out_is_unknown() {
        for text in [
            "{}",
            r#"{"Driver":null,"DriverStatus":null,"DockerRootDir":null,"Containerd":null}"#,
            r#"{"DriverStatus":[null,[],["a"]],"Containerd":{"Address":null,"Namespaces":null}}"#,
        ] {
            let described: EngineDescription = decode::json(text.as_bytes()).unwrap();
            let storage = described.storage(true);
            assert_eq!(
                (storage.shape, storage.native_diff),
                (StorageKind::Classic, false),
                "{text}"
            );
            assert_eq!((storage.root, storage.containerd), (None, None), "{text}");
        }
    }

    #[test]
    fn the_socket_of_another_machine_is_none() {
        let described = || -> EngineDescription {
            let text = r#"{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],
                "Containerd":{"Address":"/run/containerd.sock","Namespaces":{"Containers":"moby"}}}"#;
            decode::json(text.as_bytes()).unwrap()
        };
        let here = described().storage(true);
        assert_eq!((here.shape, here.namespace.as_str()), (StorageKind::Containerd, "moby"));
        assert_eq!(here.containerd.as_deref(), Some("/run/containerd.sock"));
        assert_eq!(described().storage(false).containerd, None);
    }
}
