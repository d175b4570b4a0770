//! The content of a registry of the distribution project, read from its folder, also while it is down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jackal_operator::oci::Digest;
use serde_json::Value;

/// The folder of a registry's storage.
#[derive(Clone)]
pub struct Storage {
    root: PathBuf,
}

impl Storage {
    pub fn at(storage: &Path) -> Self {
        Self {
            root: storage.join("docker/registry/v2"),
        }
    }

    /// Every tag that resolves, as `repository:tag@digest`, after checking that everything it references exists; with
    /// `read`, also that its bytes match their digests.
    pub fn complete_tags(&self, read: bool) -> Result<BTreeSet<String>, String> {
        let mut found = BTreeSet::new();
        for repository in self.repositories() {
            for tag in names(&self.manifests(&repository).join("tags")) {
                let Some(digest) = self.resolve(&repository, &tag) else {
                    continue;
                };
                let name = format!("{repository}:{tag}@{digest}");
                match self.check_complete(&repository, &digest, read) {
                    Ok(()) => found.insert(name),
                    // The tag was changed or removed meanwhile: the next check covers it.
                    Err(_) if self.resolve(&repository, &tag).as_ref() != Some(&digest) => continue,
                    Err(missing) => return Err(format!("{name} is incomplete: {missing}")),
                };
            }
        }
        Ok(found)
    }

    /// Every stored manifest, tagged or not, as `repository@digest`.
    pub fn killable(&self) -> BTreeSet<String> {
        let mut killable = BTreeSet::new();
        for repository in self.repositories() {
            for hex in names(&self.manifests(&repository).join("revisions/sha256")) {
                let digest = format!("sha256:{hex}");
                if self.holds_manifest(&repository, &digest) {
                    killable.insert(format!("{repository}@{digest}"));
                }
            }
        }
        killable
    }

    /// The uploads that were started and neither committed nor deleted.
    pub fn unfinished(&self) -> Vec<String> {
        let mut unfinished = Vec::new();
        for repository in self.repositories() {
            let folder = self.root.join("repositories").join(&repository).join("_uploads");
            for id in names(&folder) {
                // Of a deleted upload the registry keeps empty hash states.
                if ["data", "startedat"]
                    .iter()
                    .any(|name| folder.join(&id).join(name).exists())
                {
                    unfinished.push(format!("{repository} {id}"));
                }
            }
        }
        unfinished
    }

    fn repositories(&self) -> Vec<String> {
        let root = self.root.join("repositories");
        let (mut found, mut open) = (Vec::new(), vec![String::new()]);
        while let Some(at) = open.pop() {
            for name in names(&root.join(&at)) {
                if !name.starts_with('_') {
                    let below = if at.is_empty() { name } else { format!("{at}/{name}") };
                    found.push(below.clone());
                    open.push(below);
                }
            }
        }
        found.sort();
        found
    }

    fn manifests(&self, repository: &str) -> PathBuf {
        self.root.join("repositories").join(repository).join("_manifests")
    }

    /// What the registry returns for a tag: nothing if the manifest itself was deleted.
    fn resolve(&self, repository: &str, tag: &str) -> Option<String> {
        let link = self.manifests(repository).join("tags").join(tag).join("current/link");
        let digest = std::fs::read_to_string(link).ok()?;
        self.holds_manifest(repository, &digest).then_some(digest)
    }

    fn holds_manifest(&self, repository: &str, digest: &str) -> bool {
        let revisions = self.manifests(repository).join("revisions");
        revisions.join(digest.replace(':', "/")).join("link").exists()
    }

    fn content(&self, digest: &str) -> Result<PathBuf, String> {
        let hex = digest
            .strip_prefix("sha256:")
            .ok_or_else(|| format!("the digest `{digest}`"))?;
        let start = hex.get(..2).ok_or_else(|| format!("the digest `{digest}`"))?;
        Ok(self.root.join("blobs/sha256").join(start).join(hex).join("data"))
    }

    /// Checks that a manifest and everything that it references exists.
    fn check_complete(&self, repository: &str, digest: &str, read: bool) -> Result<(), String> {
        if !self.holds_manifest(repository, digest) {
            return Err(format!("manifest {digest}"));
        }
        let raw = std::fs::read(self.content(digest)?).map_err(|error| format!("manifest {digest}: {error}"))?;
        if Digest::of(&raw).as_str() != digest {
            return Err(format!("manifest {digest} is {}", Digest::of(&raw)));
        }
        let manifest: Value = serde_json::from_slice(&raw).map_err(|error| format!("manifest {digest}: {error}"))?;
        let list = |name: &str| manifest[name].as_array().cloned().unwrap_or_default();
        for child in list("manifests") {
            self.check_complete(repository, child["digest"].as_str().unwrap_or_default(), read)?;
        }
        let config = manifest.get("config").cloned();
        for blob in list("layers").into_iter().chain(config) {
            let blob_digest = blob["digest"].as_str().unwrap_or_default();
            let layers = self.root.join("repositories").join(repository).join("_layers");
            if !layers.join(blob_digest.replace(':', "/")).join("link").exists() {
                return Err(format!("blob {blob_digest} of {digest} in the repository"));
            }
            let content = self.content(blob_digest)?;
            let length = content
                .metadata()
                .map_err(|error| format!("blob {blob_digest}: {error}"))?
                .len();
            if Some(length) != blob["size"].as_u64() {
                return Err(format!("blob {blob_digest} has {length} bytes of {}", blob["size"]));
            }
            if read {
                let bytes = std::fs::read(content).map_err(|error| format!("blob {blob_digest}: {error}"))?;
                if Digest::of(&bytes).as_str() != blob_digest {
                    return Err(format!("blob {blob_digest} is {}", Digest::of(&bytes)));
                }
            }
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
