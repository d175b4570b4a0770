//! The files of distribution's file system driver (`registry/storage/paths.go` of distribution 2 and 3).

use std::collections::HashMap;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::Failure;
use super::marks::Marks;
use crate::oci::Digest;

/// The most components of a repository's name: it has at most 255 characters.
const DEPTH: usize = 128;
/// The maximum size of a manifest in bytes, which is distribution's.
const MANIFEST_SIZE: u64 = 4 * 1024 * 1024;

/// The storage of a registry.
pub(super) struct Store {
    /// `docker/registry/v2`
    folder: PathBuf,
}

/// A blob that nothing needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Garbage {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// The entries of a folder; none if it does not exist.
pub(super) fn entries(folder: &Path) -> Result<Vec<DirEntry>, Failure> {
    match fs::read_dir(folder).and_then(Iterator::collect) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::file(folder)(error)),
    }
}

/// The names of the folders in `folder`, without symbolic links.
pub(super) fn folders(folder: &Path) -> Result<Vec<String>, Failure> {
    let found = entries(folder)?.into_iter().filter_map(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_folder.then(|| entry.file_name().into_string().ok()).flatten()
    });
    Ok(found.collect())
}

/// The digests in `folder`, which has a folder for each algorithm.
pub(super) fn digests(folder: &Path) -> Result<Vec<Digest>, Failure> {
    let mut found = Vec::new();
    for algorithm in folders(folder)? {
        let names = folders(&folder.join(&algorithm))?;
        found.extend(
            names
                .iter()
                .filter_map(|hex| format!("{algorithm}:{hex}").parse::<Digest>().ok()),
        );
    }
    Ok(found)
}

/// The age and the size of a file; `None` if it does not exist. A time in the future is no age.
fn age(path: &Path, now: SystemTime) -> Result<Option<(Duration, u64)>, Failure> {
    match fs::metadata(path) {
        Ok(data) => {
            let modified = data.modified().map_err(Failure::file(path))?;
            Ok(Some((now.duration_since(modified).unwrap_or_default(), data.len())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file(path)(error)),
    }
}

impl Store {
    /// The storage in the root directory `root`.
    pub fn of(root: &Path) -> Self {
        Self {
            folder: root.join("docker/registry/v2"),
        }
    }

    /// The folder of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let first = hex.get(..2).unwrap_or(hex);
        self.folder.join("blobs").join(digest.algorithm()).join(first).join(hex)
    }

    /// The names of all repositories, passed to `visit` with their folders.
    pub fn repositories(
        &self,
        stop: &CancellationToken,
        mut visit: impl FnMut(&str, &Path) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let top = self.folder.join("repositories");
        let mut open: Vec<(String, usize)> = vec![(String::new(), 0)];
        while let Some((name, depth)) = open.pop() {
            if stop.is_cancelled() {
                return Err(Failure::Stopped);
            }
            let folder = top.join(&name);
            let mut is_repository = false;
            for inner in folders(&folder)? {
                // The names of repositories do not begin with it.
                if inner.starts_with('_') {
                    is_repository = true;
                } else if depth < DEPTH {
                    let full = if name.is_empty() {
                        inner
                    } else {
                        format!("{name}/{inner}")
                    };
                    open.push((full, depth + 1));
                }
            }
            if is_repository {
                visit(&name, &folder)?;
            }
        }
        Ok(())
    }

    /// The digests of the manifests that the repository in `folder` has.
    pub fn manifests(folder: &Path) -> Result<Vec<Digest>, Failure> {
        let revisions = folder.join("_manifests/revisions");
        let mut found = digests(&revisions)?;
        // A deleted manifest keeps its folder.
        found.retain(|digest| {
            let link = revisions.join(digest.algorithm()).join(digest.hex()).join("link");
            link.exists()
        });
        Ok(found)
    }

    /// The content of the manifest `digest`, from the first of `folders` that has it; `None` if none has.
    pub fn manifest(folders: &[PathBuf]) -> Result<Option<Vec<u8>>, String> {
        for folder in folders {
            let path = folder.join("data");
            match fs::metadata(&path) {
                Ok(data) if data.len() > MANIFEST_SIZE => {
                    return Err(format!("it has {} bytes, more than a manifest may have", data.len()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.to_string()),
            }
            match fs::read(&path) {
                Ok(content) => return Ok(Some(content)),
                // It was moved in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(None)
    }

    /// At most `limit` blobs that are not marked, and that are older than `min_age`, as are all links to them. Also the number of all
    /// blobs.
    pub fn garbage(
        &self,
        marks: &Marks,
        now: SystemTime,
        min_age: Duration,
        limit: usize,
        stop: &CancellationToken,
    ) -> Result<(Vec<Garbage>, u64), Failure> {
        let (mut candidates, mut blobs) = (HashMap::new(), 0);
        let top = self.folder.join("blobs");
        for algorithm in folders(&top)? {
            for first in folders(&top.join(&algorithm))? {
                if stop.is_cancelled() {
                    return Err(Failure::Stopped);
                }
                let folder = top.join(&algorithm).join(&first);
                for hex in folders(&folder)? {
                    let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else {
                        continue;
                    };
                    blobs += 1;
                    if candidates.len() >= limit || marks.contains(&digest) {
                        continue;
                    }
                    if let Some((age, size)) = age(&folder.join(&hex).join("data"), now)?
                        && age >= min_age
                    {
                        candidates.insert(digest, size);
                    }
                }
            }
        }
        self.repositories(stop, |_, folder| {
            let layers = folder.join("_layers");
            for digest in digests(&layers)? {
                if !candidates.contains_key(&digest) {
                    continue;
                }
                let link = layers.join(digest.algorithm()).join(digest.hex()).join("link");
                if age(&link, now)?.is_some_and(|(age, _)| age < min_age) {
                    candidates.remove(&digest);
                }
            }
            Ok(())
        })?;
        let mut found: Vec<Garbage> = candidates
            .into_iter()
            .map(|(digest, size)| Garbage { digest, size })
            .collect();
        found.sort_by(|one, other| one.digest.cmp(&other.digest));
        Ok((found, blobs))
    }
}
