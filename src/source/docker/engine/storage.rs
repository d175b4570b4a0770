//! How an engine stores its images, and where.

use bollard::models::SystemInfo;

/// How an engine stores its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// Unpacked layers and configurations; manifests are not kept.
    Classic,
    /// A containerd content store: manifests and blobs as they were pulled or built.
    Containerd,
}

/// The storage of an engine, as it describes it.
#[derive(Clone, Debug)]
pub(in crate::source::docker) struct Storage {
    pub kind: StorageKind,
    /// `overlay2`, `btrfs`, ….
    pub driver: String,
    /// Whether overlay2 uses the directory of a layer as its difference to the layers below.
    pub native_diff: bool,
    /// Whether a changed mode or owner creates a file without its content in the upper layer.
    pub metacopy: bool,
    /// The root directory of its files, as the engine sees it.
    pub root: Option<String>,
    /// The socket of its containerd, as the engine sees it (API 1.46 or newer).
    pub containerd: Option<String>,
    /// The namespace of its images in containerd.
    pub namespace: String,
}

impl Storage {
    /// The storage of an engine that describes itself as `info` (`GET /info`), and `is_local` where it is on this machine.
    pub fn new(info: SystemInfo, is_local: bool) -> Self {
        let status = info.driver_status.unwrap_or_default();
        let has_status = |wanted_key: &str, wanted_value: &str| {
            status
                .iter()
                .any(|pair| matches!(pair.as_slice(), [key, value] if key == wanted_key && value == wanted_value))
        };
        let containerd = info.containerd.unwrap_or_default();
        Self {
            kind: match has_status("driver-type", "io.containerd.snapshotter.v1") {
                true => StorageKind::Containerd,
                false => StorageKind::Classic,
            },
            driver: info.driver.unwrap_or_default(),
            native_diff: has_status("Native Overlay Diff", "true"),
            metacopy: has_status("Using metacopy", "true"),
            root: info.docker_root_dir.filter(|root| root.starts_with('/')),
            // A path of another machine is not one of ours.
            containerd: containerd.address.filter(|address| !address.is_empty() && is_local),
            namespace: containerd.namespaces.and_then(|all| all.containers).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_unknown() {
        for text in [
            "{}",
            r#"{"Driver":null,"DriverStatus":null,"DockerRootDir":null,"Containerd":null}"#,
            r#"{"DriverStatus":[[],["a"]],"Containerd":{"Address":null,"Namespaces":null}}"#,
        ] {
            let storage = Storage::new(serde_json::from_str(text).unwrap(), true);
            assert_eq!(
                (storage.kind, storage.native_diff),
                (StorageKind::Classic, false),
                "{text}"
            );
            assert_eq!((storage.root, storage.containerd), (None, None), "{text}");
        }
    }

    #[test]
    fn the_socket_of_another_machine_is_ignored() {
        let text = r#"{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],
            "Containerd":{"Address":"/run/containerd.sock","Namespaces":{"Containers":"moby"}}}"#;
        let storage = |is_local| Storage::new(serde_json::from_str(text).unwrap(), is_local);
        let local = storage(true);
        assert_eq!(
            (local.kind, local.namespace.as_str()),
            (StorageKind::Containerd, "moby")
        );
        assert_eq!(local.containerd.as_deref(), Some("/run/containerd.sock"));
        assert_eq!(storage(false).containerd, None);
    }
}
