//! The tars of a package: what its components hold beside images, and its SBOMs.
//!
//! A tar is made while it is sent, with no copy of it anywhere: its digest is known only when it stands. So that a repeat
//! need not read any content again, its layer is annotated with a digest of all that decides the tar, and a tar that was
//! made of the same is found in an artifact that stands, where that is proven ([`ReusableTars`]).

mod reusable;

pub use reusable::ReusableTars;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio_tar::{Builder, EntryType, Header};

use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Digest, Hasher};
use crate::signing::SigningKey;
use crate::source::{ByteStream, Rereads};
use crate::transfer::{Destination, Upload};

/// The annotation of a tar's layer: a digest of what the tar was made of.
pub(super) const INPUTS: &str = "dev.jackal.inputs";
/// The annotation of a tar's layer in a package that is signed: the signature of what it was made of and of its content.
pub(super) const INPUTS_SIGNATURE: &str = "dev.jackal.inputs.signature";
/// What has to become another number when the tar of the same entries has other bytes.
const FORM: u32 = 1;

/// A tar of the package.
#[derive(Clone)]
pub struct Archive {
    /// Its path in the package, such as `components/app.tar`.
    pub path: String,
    /// What it holds, in this order.
    pub entries: Vec<Entry>,
}

/// A regular file in a tar.
#[derive(Clone)]
pub struct Entry {
    /// Its path in the tar: relative, with `/` between its parts and without `..`.
    pub path: String,
    /// Its mode, such as 0o644.
    pub mode: u32,
    /// What decides its content: of a file its SHA-256. Entries that are equal in this hold the same bytes.
    pub identity: Digest,
    /// Where its content comes from.
    pub origin: Arc<dyn EntrySource>,
}

/// Where the content of an entry comes from.
#[async_trait]
pub trait EntrySource: Send + Sync {
    /// The length in bytes, and the content from its beginning. It may be asked for again. Whether it is the content
    /// that is meant is the origin's to verify: a stream of other content ends in a fault.
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault>;

    /// Fails where there is no such content. As little of it is read as that takes.
    async fn exists(&self) -> Result<(), Fault> {
        self.open().await.map(drop)
    }
}

#[async_trait]
impl EntrySource for Bytes {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        let content = self.clone();
        let size = content.len() as u64;
        Ok((size, stream::once(async move { Ok(content) }).boxed()))
    }
}

/// A tar that stands in the package's repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTar {
    /// Its path in the package.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// [`Archive::inputs`] of what it was made of.
    pub inputs: Digest,
    /// The signature of these three in hexadecimal, in a package that is signed.
    pub signature: Option<String>,
}

impl Archive {
    /// A digest of all that decides the tar's bytes.
    pub fn inputs(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(format!("{FORM}\n").as_bytes());
        for Entry {
            path, mode, identity, ..
        } in &self.entries
        {
            hasher.update(format!("{mode:o} {identity} {} {path}\n", path.len()).as_bytes());
        }
        hasher.finish()
    }

    /// The tar, made as it is read. An entry that has another length than its origin said is a fault.
    fn stream(&self) -> ByteStream<'static> {
        let entries = self.entries.clone();
        let files = stream::iter(entries).then(|entry| async move {
            match file(&entry).await {
                Ok(file) => file,
                Err(fault) => stream::once(async move { Err(fault) }).boxed(),
            }
        });
        // Two blocks of zeros end a tar.
        let end = stream::once(async { Ok(Bytes::from_static(&[0; 1024])) });
        files.flatten().chain(end).boxed()
    }

    /// Digest and length of the tar, for which all that it holds is read.
    async fn measure(&self) -> Result<(Digest, u64), Fault> {
        let (mut hashing, mut size) = (BackgroundHasher::new(None), 0);
        let mut bytes = self.stream();
        while let Some(piece) = bytes.next().await {
            let piece = piece?;
            size += piece.len() as u64;
            hashing.update(&piece).await;
        }
        let digest = hashing.finish().await;
        let digest = digest.map_err(|error| Fault::retryable(Reason::PackageFailed, error.to_string()))?;
        Ok((digest, size))
    }
}

/// Header, content and padding of one entry.
async fn file(entry: &Entry) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
    let (size, content) = entry.origin.open().await?;
    let header = tar_header(&entry.path, entry.mode, size).await?;
    let path = entry.path.clone();
    let content = stream::unfold((content, size), move |(mut content, left)| {
        let path = path.clone();
        async move {
            let wrong =
                |what: &str| Fault::retryable(Reason::SourceFailed, format!("`{path}` {what} than was announced"));
            match content.next().await {
                // An error ends it; nothing is asked of the stream after it.
                Some(Err(fault)) => Some((Err(fault), (stream::empty().boxed(), 0))),
                Some(Ok(chunk)) => match left.checked_sub(chunk.len() as u64) {
                    Some(left) => Some((Ok(chunk), (content, left))),
                    None => Some((Err(wrong("is longer")), (stream::empty().boxed(), 0))),
                },
                None if left > 0 => Some((Err(wrong("is shorter")), (stream::empty().boxed(), 0))),
                None => None,
            }
        }
    });
    let padding = Bytes::from(vec![
        0;
        usize::try_from(size.next_multiple_of(512) - size)
            .unwrap_or_default()
    ]);
    let header = stream::once(async move { Ok(header) });
    let padding = stream::once(async move { Ok(padding) }).filter(|padding| {
        let any = padding.as_ref().is_ok_and(|padding| !padding.is_empty());
        async move { any }
    });
    Ok(header.chain(content).chain(padding).boxed())
}

/// The blocks before an entry's content: no clock, user or host is in them.
pub(crate) async fn tar_header(path: &str, mode: u32, size: u64) -> Result<Bytes, Fault> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let mut builder = Builder::new_non_terminated(Vec::new());
    // Without any content it writes the header alone, with an entry before it that holds a long path.
    let written = builder.append_data(&mut header, path, tokio::io::empty()).await;
    written.map_err(|error| {
        Fault::stalled(
            Reason::PackageFailed,
            format!("`{path}` cannot be a file of the package: {error}; give it another name"),
        )
    })?;
    Ok(Bytes::from(builder.get_ref().clone()))
}

/// Makes the tar stand in `repository`, and says how many bytes were sent. One of `known` that is proven to be made of the
/// same is taken as it is when the repository holds it; one that only says so is compared with what is read, so that
/// nothing is sent where it says the truth. `key` signs what it was made of.
pub(super) async fn bring(
    archive: &Archive,
    known: &ReusableTars,
    key: Option<&SigningKey>,
    repository: &dyn Destination,
) -> Result<(StoredTar, u64), Fault> {
    let inputs = archive.inputs();
    let archived = |digest: Digest, size: u64| StoredTar {
        path: archive.path.clone(),
        signature: key.map(|key| reusable::signature(key, &inputs, &digest, size)),
        digest,
        size,
        inputs: inputs.clone(),
    };
    let within = |fault: Fault| fault.with_context(format_args!("`{}`", archive.path));
    let mut rereads = Rereads::default();
    if let Some(tar) = known.get(&inputs)
        && repository.holds(&tar.blob.digest).await? == Some(tar.blob.size)
    {
        let of_tar = (tar.blob.digest.clone(), tar.blob.size);
        let same = tar.proven
            || loop {
                match archive.measure().await {
                    Ok(measured) => break measured == of_tar,
                    Err(fault) => rereads.retry_after(within(fault))?,
                }
            };
        if same {
            return Ok((archived(of_tar.0, of_tar.1), 0));
        }
    }
    loop {
        let stored = repository.upload(Upload {
            digest: None,
            size: None,
            bytes: archive.stream(),
        });
        match stored.await {
            Ok((digest, size)) => return Ok((archived(digest, size), size)),
            Err(fault) => rereads.retry_after(within(fault))?,
        }
    }
}

#[cfg(test)]
mod tests;
