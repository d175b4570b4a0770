//! An OCI image layout in a directory as a destination (OCI image specification, "Image Layout").
//!
//! Files get their names only when they are complete, verified and synced to disk, so that readers never see a partial file,
//! also after a crash.

mod files;
mod referrers;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;

use self::files::{TemporaryFile, read_within, replace};
use super::{Destination, Upload};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Descriptor, Digest, Document, Hasher, Index, MANIFEST_LIMIT};
use crate::source::{ByteStream, RepositoryReader};

/// The annotation with the name of an entry in `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The longest `index.json` in bytes.
const INDEX_LIMIT: usize = 16 * 1024 * 1024;
/// The size in bytes of the chunks in which a blob is read.
const CHUNK: usize = 64 * 1024;

/// Writes to an OCI image layout. Several destinations and processes may share a directory.
#[derive(Clone, Debug)]
pub struct LayoutDestination {
    directory: PathBuf,
    repository: String,
}

impl LayoutDestination {
    /// Writes to `directory`, which is created with the first blob. Tags are stored as `<repository>:<tag>`.
    pub fn new(directory: impl Into<PathBuf>, repository: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            repository: repository.into(),
        }
    }

    /// The entries of `index.json`: images, packages and referrers, of all repositories.
    ///
    /// # Errors
    /// When there is no layout, or its index cannot be read.
    pub async fn entries(&self) -> Result<Vec<Descriptor>, Fault> {
        let read = self.blocking(|own| match own.directory.join("index.json").exists() {
            true => own.read_index().map(Some),
            false => Ok(None),
        });
        let index = read.await?.ok_or_else(|| {
            let message = format!(
                "{} is not an OCI layout: it has no index.json",
                self.directory.display()
            );
            Fault::stalled(Reason::SourceNotFound, message)
        })?;
        Ok(index.manifests)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    fn failed(&self, what: impl std::fmt::Display) -> Fault {
        Fault::retryable(
            Reason::PushFailed,
            format!(
                "cannot write to the OCI layout {}: {what}; check the directory, its owner and the space left",
                self.directory.display()
            ),
        )
    }

    fn mismatch(&self, what: impl std::fmt::Display) -> Fault {
        Fault::retryable(
            Reason::DigestMismatch,
            format!(
                "cannot write to the OCI layout {}: {what}; nothing was stored",
                self.directory.display()
            ),
        )
    }

    async fn size_of(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        match tokio::fs::metadata(self.path(digest)).await {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Runs `work` on a thread for blocking IO.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&own)).await;
        match done {
            Ok(done) => done.map_err(|error| self.failed(error)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn read_index(&self) -> io::Result<Index> {
        match read_within(&self.directory.join("index.json"), INDEX_LIMIT)? {
            Some(raw) => decode::json(&raw)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("index.json: {error}"))),
            None => Ok(Index::new(Vec::new())),
        }
    }

    /// Changes `index.json` while it is locked against others that share the directory.
    fn change_index(&self, change: impl FnOnce(&mut Index)) -> io::Result<()> {
        let _lock = files::lock(&self.directory)?;
        let marker = self.directory.join("oci-layout");
        if !marker.exists() {
            replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let mut index = self.read_index()?;
        change(&mut index);
        replace(&self.directory.join("index.json"), &serde_json::to_vec(&index)?)
    }

    fn qualified_name(&self, tag: &str) -> String {
        match self.repository.as_str() {
            "" => tag.to_owned(),
            repository => format!("{repository}:{tag}"),
        }
    }

    async fn find(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        if let Ok(digest) = identifier.parse::<Digest>() {
            return Ok(self.size_of(&digest).await?.map(|_| digest));
        }
        let index = self.blocking(Self::read_index).await?;
        let name = self.qualified_name(identifier);
        let entry = index.manifests.into_iter().find(|entry| is_named(entry, &name));
        Ok(entry.map(|entry| entry.digest))
    }

    async fn store(
        &self,
        expected: Option<Digest>,
        size: Option<u64>,
        blob: Upload<'_>,
    ) -> Result<(Digest, u64), Fault> {
        let folder = self
            .directory
            .join("blobs")
            .join(expected.as_ref().map_or("sha256", Digest::algorithm));
        tokio::fs::create_dir_all(&folder)
            .await
            .map_err(|error| self.failed(error))?;
        let unfinished = TemporaryFile::in_folder(&folder);
        let mut file = tokio::fs::File::create_new(&unfinished.0)
            .await
            .map_err(|error| self.failed(error))?;
        let mut hashing = BackgroundHasher::new(expected.as_ref());
        let mut length = 0_u64;
        let mut bytes = blob.bytes;
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            length += chunk.len() as u64;
            if let Some(size) = size
                && length > size
            {
                return Err(self.mismatch(format!("the content is longer than the expected {size} bytes")));
            }
            hashing.update(&chunk).await;
            file.write_all(&chunk).await.map_err(|error| self.failed(error))?;
        }
        if let Some(size) = size
            && length != size
        {
            return Err(self.mismatch(format!("{size} bytes are expected, but the content has {length}")));
        }
        let found = hashing.finish().await.map_err(|error| self.failed(error))?;
        if let Some(expected) = expected
            && expected != found
        {
            return Err(self.mismatch(format!("{expected} is expected, but the content has {found}")));
        }
        file.flush().await.map_err(|error| self.failed(error))?;
        let file = file.into_std().await;
        let target = self.path(&found);
        self.blocking(move |_| {
            file.sync_all()?;
            std::fs::rename(&unfinished.0, target)?;
            File::open(folder)?.sync_all()
        })
        .await?;
        Ok((found, length))
    }
}

#[async_trait]
impl RepositoryReader for LayoutDestination {
    fn name(&self) -> String {
        format!("oci:{}", self.directory.display())
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        self.find(identifier).await
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let Some(digest) = self.find(identifier).await? else {
            return Ok(None);
        };
        let raw = self.blob(&digest, MANIFEST_LIMIT).await?;
        let document = raw.map(|raw| Document::parse(None, raw)).transpose();
        let document = document.map_err(|error| self.failed(error))?;
        Ok(document.map(|document| document.with_digest(digest)))
    }

    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault> {
        let path = self.path(digest);
        let Some(content) = self.blocking(move |_| read_within(&path, limit)).await? else {
            return Ok(None);
        };
        let mut hasher = Hasher::like(digest);
        hasher.update(&content);
        let found = hasher.finish();
        if found == *digest {
            Ok(Some(content))
        } else {
            Err(self.mismatch(format!("the file of {digest} has the digest {found}; remove it")))
        }
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let subject = subject.clone();
        self.blocking(move |own| own.referrers_of(&subject)).await
    }
}

#[async_trait]
impl Destination for LayoutDestination {
    fn repository(&self) -> &str {
        &self.repository
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.directory)
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault> {
        match tokio::fs::File::open(self.path(&blob.digest)).await {
            Ok(file) => {
                let chunks = tokio_util::io::ReaderStream::with_capacity(file, CHUNK);
                Ok(Some(
                    chunks.map(|chunk| chunk.map_err(|error| self.failed(error))).boxed(),
                ))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        self.size_of(digest).await
    }

    async fn mount(&self, blob: &Descriptor, _from: &str) -> Result<bool, Fault> {
        // All repositories of a layout share their blobs.
        Ok(self.size_of(&blob.digest).await? == Some(blob.size))
    }

    async fn upload(&self, mut blob: Upload<'_>) -> Result<(Digest, u64), Fault> {
        let (digest, size) = (blob.digest.take(), blob.size);
        self.store(digest, size, blob).await
    }

    async fn publish(&self, document: &Document, tag: Option<&str>) -> Result<(), Fault> {
        let mut descriptor = document.descriptor.clone();
        if self.size_of(&descriptor.digest).await? != Some(descriptor.size) {
            let raw = document.raw.clone();
            let upload = Upload {
                digest: Some(descriptor.digest.clone()),
                size: Some(descriptor.size),
                bytes: futures::stream::iter([Ok(raw)]).boxed(),
            };
            self.upload(upload).await?;
        }
        let children: Vec<Digest> = document
            .index()
            .map(|index| index.manifests.iter().map(|entry| entry.digest.clone()).collect())
            .unwrap_or_default();
        let name = tag.map(|tag| self.qualified_name(tag));
        referrers::add_subject(&mut descriptor, document);
        self.blocking(move |own| own.change_index(|index| add_entry(index, descriptor, name, &children)))
            .await
    }

    async fn read_referrers(&self, _subject: &Digest, listed: &[Descriptor]) -> Result<Vec<Descriptor>, Fault> {
        // The listing was read from their manifests.
        Ok(listed.to_vec())
    }

    async fn attach(&self, referrer: &Document) -> Result<(), Fault> {
        let Some(subject) = referrer.subject() else {
            return Err(self.failed(format!("the manifest {} has no subject", referrer.digest())));
        };
        let listed = self.referrers(&subject.digest).await?;
        if listed.iter().any(|entry| entry.digest == *referrer.digest()) {
            return Ok(());
        }
        self.publish(referrer, None).await
    }
}

/// Adds a manifest to `index.json`. One without a name remains there only until an index that lists it is added, so that
/// everything in the layout is reachable.
fn add_entry(index: &mut Index, mut entry: Descriptor, name: Option<String>, children: &[Digest]) {
    let entries = &mut index.manifests;
    entries.retain(|known| {
        let unnamed = !known.annotations.contains_key(REF_NAME);
        let superseded = match &name {
            Some(name) => is_named(known, name) || unnamed && known.digest == entry.digest,
            None => false,
        };
        !(superseded || unnamed && children.contains(&known.digest))
    });
    match name {
        Some(name) => {
            entry.annotations.insert(REF_NAME.to_owned(), name);
            entries.push(entry);
        }
        None if entries.iter().any(|known| known.digest == entry.digest) => {}
        None => entries.push(entry),
    }
}

fn is_named(entry: &Descriptor, name: &str) -> bool {
    entry.annotations.get(REF_NAME).is_some_and(|known| known == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::oci::{Manifest, media_type};

    fn upload(digest: Option<Digest>, size: Option<u64>, content: &'static [u8]) -> Upload<'static> {
        let bytes = futures::stream::iter([Ok(Bytes::from_static(content))]).boxed();
        Upload { digest, size, bytes }
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn only_verified_blobs_are_stored() {
        let directory = tempfile::tempdir().unwrap();
        let layout = LayoutDestination::new(directory.path(), "a/b");
        let (right, wrong) = (Digest::of(b"right"), Digest::of(b"wrong"));
        for (digest, size, content) in [
            (Some(right.clone()), Some(5), &b"wrong"[..]),
            (Some(right.clone()), Some(4), b"right"),
            (Some(right.clone()), Some(6), b"right"),
        ] {
            let fault = layout.upload(upload(digest, size, content)).await.unwrap_err();
            assert_eq!(fault.reason, Reason::DigestMismatch);
        }
        let broken = Upload {
            digest: None,
            size: None,
            bytes: futures::stream::iter([
                Ok(Bytes::from_static(b"right")),
                Err(Fault::retryable(Reason::SourceFailed, "gone")),
            ])
            .boxed(),
        };
        assert_eq!(layout.upload(broken).await.unwrap_err().message, "gone");
        assert_eq!(files(&directory.path().join("blobs/sha256")), 0);
        assert_eq!(
            layout.upload(upload(None, None, b"right")).await.unwrap(),
            (right.clone(), 5)
        );
        assert_eq!(layout.holds(&right).await.unwrap(), Some(5));
        assert_eq!(layout.holds(&wrong).await.unwrap(), None);
        assert_eq!(layout.blob(&right, 5).await.unwrap().unwrap(), &b"right"[..]);
        assert!(layout.blob(&right, 4).await.is_err());
    }

    #[tokio::test]
    async fn concurrent_writers_keep_all_tags() {
        let directory = tempfile::tempdir().unwrap();
        let document = Document::of_manifest(Manifest::new(
            Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2),
            Vec::new(),
        ))
        .unwrap();
        let layout = |at: usize| LayoutDestination::new(directory.path(), format!("r{at}"));
        layout(0).publish(&document, None).await.unwrap();
        let writers: Vec<_> = (0..16).map(layout).collect();
        let published = writers.iter().map(|layout| layout.publish(&document, Some("1")));
        for result in futures::future::join_all(published).await {
            result.unwrap();
        }
        let index = layout(0).read_index().unwrap();
        assert_eq!(index.manifests.len(), 16, "the named entries replaced the unnamed one");
        for at in 0..16 {
            let found = layout(at).document("1").await.unwrap().unwrap();
            assert_eq!(found.raw, document.raw);
        }
        assert_eq!(layout(0).digest_of("2").await.unwrap(), None);
        assert_eq!(
            std::fs::read_to_string(directory.path().join("oci-layout")).unwrap(),
            r#"{"imageLayoutVersion":"1.0.0"}"#
        );
    }

    #[test]
    fn an_index_replaces_the_entries_of_its_children() {
        let child = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"child"), 5);
        let parent = Descriptor::new(media_type::OCI_INDEX, Digest::of(b"parent"), 6);
        let mut index = Index::new(Vec::new());
        add_entry(&mut index, child.clone(), None, &[]);
        add_entry(&mut index, child.clone(), None, &[]);
        add_entry(&mut index, child.clone(), Some("r:child".to_owned()), &[]);
        assert_eq!(index.manifests.len(), 1);
        add_entry(&mut index, child.clone(), None, &[]);
        add_entry(
            &mut index,
            parent.clone(),
            Some("r:1".to_owned()),
            std::slice::from_ref(&child.digest),
        );
        add_entry(
            &mut index,
            parent.clone(),
            Some("r:1".to_owned()),
            std::slice::from_ref(&child.digest),
        );
        let names: Vec<_> = index
            .manifests
            .iter()
            .map(|entry| entry.annotations[REF_NAME].as_str())
            .collect();
        assert_eq!(names, ["r:child", "r:1"]);
    }
}
