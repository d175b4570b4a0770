//! Real containerds, of the two supported versions.

use std::path::PathBuf;
use std::time::Duration;

use jackal_operator::oci::Digest;
use jackal_operator::source::containerd::{Client, Containerd, DEFAULT_NAMESPACE};

use crate::docker::engines::required;
use crate::support::process::run;
use crate::support::program;

/// A containerd that all tests share.
pub struct Node {
    /// The path of its socket.
    pub address: String,
    part: &'static str,
}

impl Node {
    /// 1.6 and 2.
    pub fn all() -> [Self; 2] {
        [
            ("JACKAL_CONTAINERD16", "containerd16"),
            ("JACKAL_CONTAINERD", "containerd"),
        ]
        .map(|(variable, part)| Self {
            address: required(variable),
            part,
        })
    }

    pub fn client(&self) -> Client {
        Client::new(&self.address, DEFAULT_NAMESPACE, Duration::from_secs(20)).unwrap()
    }

    /// Read from its folder, as reported by containerd.
    pub fn folder(&self) -> Containerd {
        Containerd::new(self.client(), None)
    }

    /// Read only over its socket.
    pub fn socket(&self) -> Containerd {
        Containerd::new(self.client(), Some(PathBuf::from("/nowhere")))
    }

    /// Runs `ctr`.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        self.ctr_in(DEFAULT_NAMESPACE, arguments)
    }

    /// The same in another namespace.
    pub fn ctr_in(&self, namespace: &str, arguments: &[&str]) -> String {
        let node = ["--address", &self.address, "--namespace", namespace];
        run(program("JACKAL_BIN_CTR"), &[&node, arguments].concat())
    }

    /// Imports a tar completely, like `ctr images import`, k3s and RKE2.
    pub fn import(&self, archive: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), archive).unwrap();
        let path = file.path().to_str().unwrap();
        self.ctr(&["images", "import", "--local", "--no-unpack", "--all-platforms", path]);
    }

    /// The digest under `name`.
    pub fn digest(&self, name: &str) -> Digest {
        let listed = self.ctr(&["images", "list", &format!("name=={name}")]);
        let row = listed.lines().nth(1).unwrap_or_else(|| panic!("no {name}"));
        row.split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    /// Deletes content, as if it was never pulled, or discarded and collected.
    pub fn forget(&self, digest: &Digest) {
        self.ctr(&["content", "rm", digest.as_str()]);
        let _ = std::fs::remove_file(self.blob(digest));
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let root = PathBuf::from(required("JACKAL_STACK")).join(self.part);
        let blobs = root.join("containerd/io.containerd.content.v1.content/blobs/sha256");
        blobs.join(digest.hex())
    }
}
