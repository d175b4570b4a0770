//! The tars of a package: the content of its components besides images, and its SBOMs.
//!
//! A tar is created while it is uploaded, without any copy: its digest is known only afterwards. So that a repeat need not
//! read the content again, its layer is annotated with a digest of its inputs, and a tar of the same inputs is reused from
//! an existing artifact if that is proven ([`ReusableTars`]).

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

/// The annotation of a tar's layer with the digest of its inputs.
pub(super) const INPUTS: &str = "dev.jackal.inputs";
/// The annotation of a tar's layer in a signed package: the signature of its inputs and content.
pub(super) const INPUTS_SIGNATURE: &str = "dev.jackal.inputs.signature";
/// The version of the encoding. It must change when the same entries give a tar of other bytes.
const FORM: u32 = 1;

/// A tar of the package.
#[derive(Clone)]
pub struct Archive {
    /// Its path in the package, such as `components/app.tar`.
    pub path: String,
    /// Its files, in this order.
    pub entries: Vec<Entry>,
}

/// A regular file in a tar.
#[derive(Clone)]
pub struct Entry {
    /// Its path in the tar: relative, with `/` between its parts and without `..`.
    pub path: String,
    /// Its mode, such as 0o644.
    pub mode: u32,
    /// The digest that determines its content, for a file its SHA-256. Entries with equal identities have equal content.
    pub identity: Digest,
    /// The source of its content.
    pub origin: Arc<dyn EntrySource>,
}

/// The source of an entry's content.
#[async_trait]
pub trait EntrySource: Send + Sync {
    /// The length in bytes, and the content from its beginning. It may be called repeatedly. The source verifies the
    /// content: a stream of wrong content ends in a fault.
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault>;

    /// Fails if the content does not exist. It reads as little as possible.
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

/// A tar in the package's repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTar {
    /// Its path in the package.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its inputs, see [`Archive::inputs`].
    pub inputs: Digest,
    /// The signature of digest, size and inputs in hexadecimal, in a signed package.
    pub signature: Option<String>,
}

impl Archive {
    /// The digest of everything that determines the tar's bytes.
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

    /// The tar, created as it is read. An entry of another length than its source announced is a fault.
    fn stream(&self) -> ByteStream<'static> {
        let entries = self.entries.clone();
        let files = stream::iter(entries).then(|entry| async move {
            match file(&entry).await {
                Ok(file) => file,
                Err(fault) => stream::once(async move { Err(fault) }).boxed(),
            }
        });
        // A tar ends with two blocks of zeros.
        let end = stream::once(async { Ok(Bytes::from_static(&[0; 1024])) });
        files.flatten().chain(end).boxed()
    }

    /// The digest and length of the tar. All content is read for it.
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
            let wrong = |what: &str| Fault::retryable(Reason::SourceFailed, format!("`{path}` {what} than announced"));
            match content.next().await {
                // The stream is not polled again after an error.
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

/// The blocks before an entry's content. They do not depend on time, user or host.
pub(crate) async fn tar_header(path: &str, mode: u32, size: u64) -> Result<Bytes, Fault> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let mut builder = Builder::new_non_terminated(Vec::new());
    // With empty content it writes only the header, preceded by an entry for a long path.
    let written = builder.append_data(&mut header, path, tokio::io::empty()).await;
    written.map_err(|error| {
        Fault::stalled(
            Reason::PackageFailed,
            format!("`{path}` cannot be a file of the package: {error}; give it another name"),
        )
    })?;
    Ok(Bytes::from(builder.get_ref().clone()))
}

/// Uploads the tar to `repository` unless one of `known` can be reused, and returns how many bytes were sent. A tar that is
/// proven to have the same inputs is reused if the repository contains it; one that only claims so is compared with the
/// content, and nothing is sent if they are equal. `key` signs the inputs.
pub(super) async fn upload(
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
        let existing = (tar.blob.digest.clone(), tar.blob.size);
        let same = tar.proven
            || loop {
                match archive.measure().await {
                    Ok(measured) => break measured == existing,
                    Err(fault) => rereads.retry_after(within(fault))?,
                }
            };
        if same {
            return Ok((archived(existing.0, existing.1), 0));
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
