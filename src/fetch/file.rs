//! A file on a host of its own, known by its digest.

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use url::Url;

use super::ContentAccess;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::package::EntrySource;
use crate::registry::Registry;
use crate::source::ByteStream;

/// The longest file in bytes: what the header of a tar can say.
const LIMIT: u64 = 8 * 1024 * 1024 * 1024 - 1;

/// A file that is read where it lies each time that it is needed, and verified.
pub(super) struct RemoteFile {
    /// What it is to the package, for people; empty where whoever reads it says so.
    what: String,
    host: Registry,
    url: Url,
    digest: Digest,
}

/// The host of `url`, with the port where it has one of its own, and a client for it; `what` names the address's field
/// for people.
pub(super) async fn host_of(url: &Url, reach: &dyn ContentAccess, what: &str) -> Result<Registry, Fault> {
    let name = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(Fault::stalled(Reason::InvalidSpec, format!("{what} names no host"))),
    };
    let host = reach.host(&name, what).await?;
    if url.scheme() == "http" && !host.is_plain_http() {
        return Err(Fault::stalled(
            Reason::PolicyDenied,
            format!(
                "{what} asks for plain HTTP from {name}: write https://, or have the administrator name the host in --insecure-registry"
            ),
        ));
    }
    Ok(host)
}

/// An address for people: without its query, which may hold a key.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Reads an address.
pub(super) fn parse(text: &str) -> Result<Url, Fault> {
    Url::parse(text).map_err(|error| Fault::stalled(Reason::InvalidSpec, format!("`{text}` is no address: {error}")))
}

impl RemoteFile {
    /// The file at `url` with the digest `digest`. Nothing of it is asked for yet.
    pub async fn at(url: &str, digest: Digest, reach: &dyn ContentAccess, what: &str) -> Result<Self, Fault> {
        let url = parse(url)?;
        let host = host_of(&url, reach, what).await?;
        Ok(Self {
            what: String::new(),
            host,
            url,
            digest,
        })
    }

    /// The same, saying in each failure that it is `what`.
    pub fn called(self, what: String) -> Self {
        Self { what, ..self }
    }

    fn fault(&self, error: crate::registry::Error) -> Fault {
        told(&self.what, error.into_fetch_fault(&shown(&self.url)))
    }

    fn long(&self) -> Fault {
        told(
            &self.what,
            Fault::stalled(
                Reason::SourceFailed,
                format!(
                    "{} has more than the {LIMIT} bytes that a file of a package may have; bring it as an image",
                    shown(&self.url)
                ),
            ),
        )
    }
}

fn told(what: &str, fault: Fault) -> Fault {
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
            // A tar says the length first: it is counted, and the file is read once more.
            None => {
                while download.chunk().await.map_err(fault)?.is_some() {
                    if download.received() > LIMIT {
                        return Err(self.long());
                    }
                }
                let size = download.received();
                download = self.host.download_file(self.url.clone(), &self.digest).with_size(size);
                size
            }
        };
        if size > LIMIT {
            return Err(self.long());
        }
        let (what, name) = (self.what.clone(), shown(&self.url));
        let stream = download.into_stream();
        let stream = stream.map_err(move |error| told(&what, error.into_fetch_fault(&name)));
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
