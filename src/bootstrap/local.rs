//! What this machine knows of installations that are not finished: which archive goes to which cluster.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;

/// The longest record in bytes.
const LIMIT: u64 = 4096;

/// An installation that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The UID of the namespace kube-system of the cluster.
    pub cluster: String,
    /// The address of the API server, for messages.
    pub server: String,
}

/// The records in a folder, one for each archive.
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records in `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, archive: &str) -> PathBuf {
        self.folder
            .join(Digest::of(archive.as_bytes()).hex())
            .with_extension("json")
    }

    /// Checks that the archive of the digest `archive` is not half installed in another cluster than `record` says. With `replace`, it may
    /// be.
    ///
    /// # Errors
    /// A stalled fault that names the other cluster.
    pub fn check(&self, archive: &str, record: &Record, replace: bool) -> Result<(), Fault> {
        match read(&self.path(archive)) {
            Some(other) if other.cluster != record.cluster && !replace => Err(Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "the bootstrap of this archive is not finished in another cluster, {}: choose that one with --kubeconfig or \
                     --context, or install in this one ({}) too with --other-cluster",
                    other.server, record.server
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Writes that the installation of `archive` begins.
    ///
    /// # Errors
    /// A stalled fault that names the file.
    pub fn begin(&self, archive: &str, record: &Record) -> Result<(), Fault> {
        let path = self.path(archive);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let file = tempfile::NamedTempFile::new_in(&self.folder)?;
            serde_json::to_writer(&file, record)?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| {
            Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "{} cannot be written: {error}; set XDG_STATE_HOME to another folder",
                    path.display()
                ),
            )
        })
    }

    /// Forgets the installation of `archive` in the cluster `cluster`.
    pub fn end(&self, archive: &str, cluster: &str) {
        let path = self.path(archive);
        if read(&path).is_some_and(|record| record.cluster == cluster) {
            let _ = fs::remove_file(path);
        }
    }

    /// Forgets all installations in the cluster `cluster`.
    pub fn end_all(&self, cluster: &str) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if read(&path).is_some_and(|record| record.cluster == cluster) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A record; `None` where there is none that can be read.
fn read(path: &Path) -> Option<Record> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return None;
    }
    decode::json(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_is_refused_until_the_installation_ends() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path().join("deep/bootstrap"));
        let record = |cluster: &str| Record {
            cluster: cluster.to_owned(),
            server: format!("https://{cluster}:6443"),
        };
        assert!(records.check("sha256:a", &record("one"), false).is_ok());
        records.begin("sha256:a", &record("one")).unwrap();
        assert!(records.check("sha256:a", &record("one"), false).is_ok());
        assert!(records.check("sha256:b", &record("two"), false).is_ok());
        let message = records.check("sha256:a", &record("two"), false).unwrap_err().message;
        assert!(
            message.contains("https://one:6443") && message.contains("--other-cluster"),
            "{message}"
        );
        assert!(records.check("sha256:a", &record("two"), true).is_ok());
        records.end("sha256:a", "two");
        assert!(records.check("sha256:a", &record("two"), false).is_err());
        records.end_all("one");
        assert!(records.check("sha256:a", &record("two"), false).is_ok());
        // What is not a record is ignored.
        fs::write(records.path("sha256:a"), "{").unwrap();
        assert!(records.check("sha256:a", &record("two"), false).is_ok());
    }
}
