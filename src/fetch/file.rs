//! Files at an address, verified by their digest.

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use url::Url;

use super::ContentAccess;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::package::EntrySource;
use crate::registry::Registry;
use crate::source::ByteStream;

/// The longest file in bytes: the limit of a tar header.
const LIMIT: u64 = 8 * 1024 * 1024 * 1024 - 1;

/// A remote file, which is downloaded and verified each time that it is needed.
pub(super) struct RemoteFile {
    /// Its name in messages; empty if the caller adds one.
    what: String,
    host: Registry,
    url: Url,
    digest: Digest,
}

/// The client for the host of `url`. `what` names the field with the address in messages.
pub(super) async fn host_of(url: &Url, access: &dyn ContentAccess, what: &str) -> Result<Registry, Fault> {
    let name = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(Fault::stalled(Reason::InvalidSpec, format!("{what} names no host"))),
    };
    let host = access.host(&name, what).await?;
    if url.scheme() == "http" && !host.is_plain_http() {
        return Err(Fault::stalled(
            Reason::PolicyDenied,
            format!(
                "{what} uses plain HTTP for {name}: write https://, or ask the administrator to add the host to --insecure-registry"
            ),
        ));
    }
    Ok(host)
}

/// An address for messages: without its query, which may contain a secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Reads an address.
pub(super) fn parse(text: &str) -> Result<Url, Fault> {
    Url::parse(text)
        .map_err(|error| Fault::stalled(Reason::InvalidSpec, format!("`{text}` is not an address: {error}")))
}

impl RemoteFile {
    /// The file at `url` with the digest `digest`. No request is sent yet.
    pub async fn at(url: &str, digest: Digest, access: &dyn ContentAccess, what: &str) -> Result<Self, Fault> {
        let url = parse(url)?;
        let host = host_of(&url, access, what).await?;
        Ok(Self {
            what: String::new(),
            host,
            url,
            digest,
        })
    }

    /// The same, with the name `what` in faults.
    pub fn named(self, what: String) -> Self {
        Self { what, ..self }
    }

    fn fault(&self, error: crate::registry::Error) -> Fault {
        with_name(&self.what, error.into_fetch_fault(&shown(&self.url)))
    }

    fn too_long(&self) -> Fault {
        with_name(
            &self.what,
            Fault::stalled(
                Reason::SourceFailed,
                format!(
                    "{} has more than {LIMIT} bytes, the limit for a file of a package; put it into an image",
                    shown(&self.url)
                ),
            ),
        )
    }
}

fn with_name(what: &str, fault: Fault) -> Fault {
    match what.is_empty() {
        true => fault,
        false => fault.with_context(what),
    }
}

#[async_trait]
impl EntrySource for RemoteFile {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        let fault = |error| self.fault(error);
        let mut download = self.host.download_file(self.url.clone(), &self.digest);
        let size = match download.content_length().await.map_err(fault)? {
            Some(size) => size,
            // A tar needs the length first: the bytes are counted, and the file is downloaded again.
            None => {
                while download.chunk().await.map_err(fault)?.is_some() {
                    if download.received() > LIMIT {
                        return Err(self.too_long());
                    }
                }
                let size = download.received();
                download = self.host.download_file(self.url.clone(), &self.digest).with_size(size);
                size
            }
        };
        if size > LIMIT {
            return Err(self.too_long());
        }
        let (what, name) = (self.what.clone(), shown(&self.url));
        let stream = download.into_stream();
        let stream = stream.map_err(move |error| with_name(&what, error.into_fetch_fault(&name)));
        Ok((size, stream.boxed()))
    }

    async fn exists(&self) -> Result<(), Fault> {
        let mut download = self.host.download_file(self.url.clone(), &self.digest);
        download
            .content_length()
            .await
            .map(drop)
            .map_err(|error| self.fault(error))
    }
}
