//! Records of uploads that are not complete, in files, so that another process continues them.
//!
//! A record has the location that the registry gave, which may contain a token of the upload: only the owner reads it. What a record
//! says is not believed: the location must be one of the same repository, and the registry decides how much it has.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::decode;
use crate::oci::Digest;

/// Blobs shorter than this are sent again, in bytes.
const MIN_SIZE: u64 = 8 * 1024 * 1024;
/// The longest record in bytes.
const LIMIT: u64 = 64 * 1024;
/// After this time registries have deleted an upload.
const MAX_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// The records that are looked at to find old ones.
const LOOKED_AT: usize = 10_000;
/// The end of a record's name.
const SUFFIX: &str = ".upload.json";

/// The records in a folder.
#[derive(Debug)]
pub struct UploadRecords {
    folder: PathBuf,
    resumed: AtomicU64,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Form {
    registry: String,
    repository: String,
    digest: Digest,
    location: String,
}

/// The record of one upload, which no other process uses at the same time.
#[derive(Debug)]
pub struct UploadRecord {
    file: File,
    path: PathBuf,
    form: Box<Form>,
    records: Arc<UploadRecords>,
}

impl UploadRecords {
    /// The records in `folder`, which is created when it is needed. Old ones are deleted.
    pub fn new(folder: PathBuf) -> Self {
        delete_old(&folder);
        Self {
            folder,
            resumed: AtomicU64::new(0),
        }
    }

    /// Bytes that were not sent because an earlier attempt had sent them.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// The record of the upload of a blob; `None` if the blob is small, if another process uploads it at the moment, or if the file
    /// cannot be used. Then the upload is not recorded.
    pub fn open(
        self: &Arc<Self>,
        registry: &str,
        repository: &str,
        digest: &Digest,
        size: Option<u64>,
    ) -> Option<UploadRecord> {
        if size.is_none_or(|size| size < MIN_SIZE) {
            return None;
        }
        let name = Digest::of(format!("{registry}\n{repository}\n{digest}").as_bytes());
        let path = self.folder.join(format!("{}{SUFFIX}", name.hex()));
        let opened = self.read(&path);
        let (file, text) = opened
            .inspect_err(|error| tracing::debug!(%error, path = %path.display(), "an upload is not recorded"))
            .ok()?;
        let mut form = Box::new(Form {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            digest: digest.clone(),
            location: String::new(),
        });
        if let Ok(read) = decode::json::<Form>(&text)
            && (&read.registry, &read.repository, &read.digest) == (&form.registry, &form.repository, &form.digest)
        {
            form.location = read.location;
        }
        Some(UploadRecord {
            file,
            path,
            form,
            records: Arc::clone(self),
        })
    }

    /// The file, locked, and its content.
    fn read(&self, path: &Path) -> io::Result<(File, Vec<u8>)> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // A link or a pipe in its place is not followed and not waited for.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        file.try_lock()?;
        let mut text = Vec::new();
        (&file).take(LIMIT).read_to_end(&mut text)?;
        Ok((file, text))
    }
}

impl UploadRecord {
    /// Where the upload was, if it was begun.
    pub(super) fn location(&self) -> Option<&str> {
        Some(self.form.location.as_str()).filter(|location| !location.is_empty())
    }

    /// Records where the upload is. It is a small write into memory of the kernel, so it does not block; it need not survive a
    /// failure of the machine.
    pub(super) fn set(&mut self, location: &str) {
        if self.form.location == location {
            return;
        }
        location.clone_into(&mut self.form.location);
        let written = self.write();
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.path.display(), "an upload is not recorded");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&*self.form)?;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)
    }

    /// That the upload continued at `offset`.
    pub(super) fn resumed(&self, offset: u64) {
        self.records.resumed.fetch_add(offset, Ordering::Relaxed);
    }

    /// There is no upload to continue.
    pub(super) fn delete(self) {
        // Nobody else holds it: it is locked.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the record of an upload stays");
        }
    }
}

fn delete_old(folder: &Path) {
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(LOOKED_AT)
        .flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(SUFFIX)) {
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        let age = changed
            .ok()
            .and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if age.is_some_and(|age| age > MAX_AGE) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_again_and_used_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let records = || Arc::new(UploadRecords::new(folder.path().join("a/b")));
        let digest = Digest::of(b"blob");
        let open = |records: &Arc<UploadRecords>| records.open("r:1", "team/app", &digest, Some(MIN_SIZE));
        let one = records();
        assert!(one.open("r:1", "team/app", &digest, Some(MIN_SIZE - 1)).is_none());
        assert!(one.open("r:1", "team/app", &digest, None).is_none());
        let mut record = open(&one).unwrap();
        assert_eq!(record.location(), None);
        record.set("/v2/team/app/blobs/uploads/1?a=a long one");
        record.set("/v2/team/app/blobs/uploads/1");
        assert!(open(&records()).is_none(), "it is locked");
        drop(record);
        let record = open(&records()).unwrap();
        assert_eq!(record.location(), Some("/v2/team/app/blobs/uploads/1"));
        // Others have their own.
        let other = one.open("r:2", "team/app", &digest, Some(MIN_SIZE)).unwrap();
        assert_eq!(other.location(), None);
        // One that was put in its place is not believed, and neither is damaged text.
        std::fs::copy(&record.path, &other.path).unwrap();
        let (path, changed) = (other.path.clone(), record.path.clone());
        drop(other);
        assert_eq!(
            one.open("r:2", "team/app", &digest, Some(MIN_SIZE)).unwrap().location(),
            None
        );
        drop(record);
        std::fs::write(&changed, b"{").unwrap();
        open(&one).unwrap().delete();
        assert!(!changed.exists() && path.exists());
        std::os::unix::fs::symlink(&path, &changed).unwrap();
        assert!(open(&one).is_none());
    }

    #[test]
    fn old_records_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["old.upload.json", "old.txt", "new.upload.json"] {
            let file = File::create(path(name)).unwrap();
            if name.starts_with("old") {
                let time = SystemTime::now() - MAX_AGE - Duration::from_secs(60);
                file.set_modified(time).unwrap();
            }
        }
        UploadRecords::new(folder.path().to_owned());
        assert!(!path("old.upload.json").exists() && path("old.txt").exists() && path("new.upload.json").exists());
    }
}
