//! Charts from OCI registries (Helm, "Use OCI-based registries") and from chart repositories.

use std::collections::BTreeMap;
use std::io::{Read, Take};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::cache::{CachedIndex, IndexKey};
use super::config_map_texts::values_of;
use super::file::{RemoteFile, host_of, parse, shown};
use super::index::{self, Listed, Missing};
use super::oci::{self, OciChart};
use super::{ChartCache, ContentAccess};
use crate::api::v1alpha1::ChartSpec;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Reference};
use crate::package::EntrySource;
use crate::package::component::{ChartContent, ChartTexts, images_of_chart, oci_reference};
use crate::registry::{BodyPermits, FileResponse};

/// The longest archive in bytes.
const ARCHIVE_LIMIT: usize = 20 * 1024 * 1024;
/// The time in which an archive has to arrive.
const ARCHIVE_TIME: Duration = Duration::from_secs(5 * 60);
/// The most bytes that an archive unpacks to.
const UNPACKED_LIMIT: u64 = 64 * 1024 * 1024;
/// The most bytes that the files of a chart may have that are read.
const TEXTS_LIMIT: u64 = 16 * 1024 * 1024;
/// The longest file of a chart in bytes that is read.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;
/// The most files of an archive.
const FILES: usize = 20_000;

/// Where a chart was found.
// Few of them live at once.
#[allow(clippy::large_enum_variant)]
enum ChartLocation {
    Registry(OciChart),
    Repository(RemoteFile, Digest),
}

/// Finds the chart of `spec`, which is installed with `values`, and reads which images it names unless that is known.
pub(super) async fn find(
    spec: &ChartSpec,
    values: Vec<Bytes>,
    reach: &dyn ContentAccess,
    memory: &ChartCache,
) -> Result<ChartContent, Fault> {
    match find_now(spec, values.clone(), reach, memory).await {
        // The tag may have moved meanwhile, and what it named before may be deleted.
        Err(fault) if fault.reason == Reason::SourceNotFound && spec.url.starts_with("oci://") => {
            find_now(spec, values, reach, memory).await
        }
        found => found,
    }
}

async fn find_now(
    spec: &ChartSpec,
    values: Vec<Bytes>,
    reach: &dyn ContentAccess,
    memory: &ChartCache,
) -> Result<ChartContent, Fault> {
    let place = match spec.url.starts_with("oci://") {
        true => ChartLocation::Registry(oci::find(spec, &oci_reference(spec)?, reach).await?),
        false => in_repository(spec, reach, memory).await?,
    };
    let (digest, origin): (Digest, Arc<dyn EntrySource>) = match place {
        ChartLocation::Registry(chart) => (chart.digest.clone(), Arc::new(chart)),
        ChartLocation::Repository(file, digest) => (digest, Arc::new(file)),
    };
    let laid = Digest::of(
        &values
            .iter()
            .flat_map(|text| [&text[..], &[0]].concat())
            .collect::<Vec<u8>>(),
    );
    let images = match memory.images(&digest, &laid) {
        Some(images) => images,
        None => {
            let texts = read(&*origin, memory).await?;
            let mut read = Vec::with_capacity(values.len());
            for text in &values {
                read.push(values_of(&String::from_utf8_lossy(text)).unwrap_or_default());
            }
            let images = images_of_chart(&texts, &read);
            memory.note_images(digest.clone(), laid, images.clone());
            images
        }
    };
    Ok(ChartContent {
        digest,
        origin,
        values,
        images,
    })
}

/// Finds a chart in the repository that its url names. Where the index has no digest the archive is read, to know which
/// one it is.
async fn in_repository(
    spec: &ChartSpec,
    reach: &dyn ContentAccess,
    memory: &ChartCache,
) -> Result<ChartLocation, Fault> {
    let base = folder(parse(&spec.url)?);
    let address = within(&base, "index.yaml").map_err(|error| no_index(&spec.url, &error.to_string()))?;
    let host = host_of(&address, reach, "its url").await?;
    let asked = IndexKey {
        index: address.to_string(),
        trust: host.endpoint().trust.digest(),
        chart: spec.name.clone(),
        version: spec.version.clone(),
    };
    let known = memory.listed(&asked);
    let name = shown(&address);
    let mark = known.as_ref().map(|said| said.mark.as_str());
    let answer = host.fetch_file(address.clone(), index::LIMIT, mark).await;
    let listed: Listed = match (answer.map_err(|error| error.into_fetch_fault(&name))?, known) {
        (FileResponse::Unchanged, Some(said)) => said.listed,
        (FileResponse::Unchanged, None) => {
            return Err(no_index(&name, "it says that it has not changed, and was not asked"));
        }
        (FileResponse::Content(content, mark), _) => {
            let _turn = memory.unpacking.acquire().await;
            let (chart, version) = (spec.name.clone(), spec.version.clone());
            let found = tokio::task::spawn_blocking(move || {
                index::find(&String::from_utf8_lossy(&content.bytes), &chart, &version)
            });
            let found = found.await.map_err(|error| no_index(&name, &error.to_string()))?;
            let listed = found.map_err(|missing| not_listed(spec, &name, missing.told(host.endpoint())))?;
            if let Some(mark) = mark {
                let listed = listed.clone();
                memory.note_listed(asked, CachedIndex { mark, listed });
            }
            listed
        }
    };
    // What the index itself says leads to an OCI registry has its tag.
    if let Some(reference) = listed.url.strip_prefix("oci://") {
        let reference = tagged(reference, &spec.version).parse();
        let reference: Reference =
            reference.map_err(|error: crate::oci::ReferenceError| no_index(&name, &error.to_string()))?;
        return Ok(ChartLocation::Registry(oci::find(spec, &reference, reach).await?));
    }
    let url = within(&base, &listed.url).map_err(|error| no_index(&name, &error.to_string()))?;
    let what = "the repository's index";
    let digest = match listed.digest {
        Some(digest) => digest,
        None => {
            let host = host_of(&url, reach, what).await?;
            match host.fetch_file(url.clone(), ARCHIVE_LIMIT, None).await {
                Ok(FileResponse::Content(content, _)) => Digest::of(&content.bytes),
                Ok(FileResponse::Unchanged) => return Err(no_index(&name, "it answers what it was not asked")),
                Err(error) => return Err(error.into_fetch_fault(&shown(&url))),
            }
        }
    };
    let remote = RemoteFile::at(url.as_str(), digest.clone(), reach, what).await?;
    Ok(ChartLocation::Repository(remote, digest))
}

/// An address with a `/` at the end of its path, so that others may start from it.
fn folder(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// The address `relative` as it is read from `base`. On the same host it has the query of `base` unless it has one of its
/// own, as Helm does it: some repositories take a token there.
fn within(base: &Url, relative: &str) -> Result<Url, url::ParseError> {
    let mut url = base.join(relative)?;
    if url.query().is_none() && url.origin() == base.origin() {
        url.set_query(base.query());
    }
    Ok(url)
}

/// The reference of a chart that an index says lies in an OCI registry: with its version for a tag where it has none, and
/// as a tag may be written.
fn tagged(reference: &str, version: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let whole = match last.contains([':', '@']) {
        true => reference.to_owned(),
        false => format!("{reference}:{version}"),
    };
    whole.replace('+', "_")
}

fn not_listed(spec: &ChartSpec, name: &str, missing: Missing) -> Fault {
    let ChartSpec {
        name: chart, version, ..
    } = spec;
    let what = match missing {
        Missing::Index(why) => return no_index(name, &why),
        Missing::Chart => format!("{name} lists no chart {chart}; check name and url"),
        Missing::Address => format!(
            "{name} lists {chart} {version} without an address (urls); have whoever keeps the repository write its index again"
        ),
        Missing::Version(others) if others.is_empty() => {
            format!("{name} lists {chart} without any version; check name and url")
        }
        Missing::Version(others) => format!(
            "{name} lists no version {version} of {chart}, but {}; correct version, or add the chart there",
            others.join(", ")
        ),
    };
    Fault::retryable(Reason::SourceNotFound, what)
}

fn no_index(name: &str, why: &str) -> Fault {
    Fault::retryable(
        Reason::SourceFailed,
        format!("{name} {why}; check that url is the address of a chart repository"),
    )
}

pub(super) fn no_chart(name: &str, why: &str) -> Fault {
    Fault::retryable(
        Reason::SourceFailed,
        format!("{name} is not a Helm chart: {why}; push the chart as `helm package` makes it, or correct url"),
    )
}

/// Reads a chart's texts out of its archive.
async fn read(origin: &dyn EntrySource, memory: &ChartCache) -> Result<ChartTexts, Fault> {
    let (size, mut stream) = origin.open().await?;
    let bad = |why: &str| no_chart("what is there", why);
    let too_long = || bad(&format!("it has more than {ARCHIVE_LIMIT} bytes"));
    if size > ARCHIVE_LIMIT as u64 {
        return Err(too_long());
    }
    let (mut archive, mut permits) = (Vec::new(), BodyPermits::default());
    let mut deadline = Instant::now() + ARCHIVE_TIME;
    loop {
        let chunk = timeout_at(deadline, stream.next()).await;
        let Some(chunk) = chunk.map_err(|_| slow())? else { break };
        let chunk = chunk?;
        if archive.len() + chunk.len() > ARCHIVE_LIMIT {
            return Err(too_long());
        }
        let waited = Instant::now();
        permits.grow(archive.len() + chunk.len()).await;
        deadline += waited.elapsed();
        archive.extend_from_slice(&chunk);
    }
    // Only who closes it, and nobody does, makes this fail.
    let _turn = memory.unpacking.acquire().await;
    let texts = tokio::task::spawn_blocking(move || {
        let unpacked = flate2::read::MultiGzDecoder::new(&archive[..]).take(UNPACKED_LIMIT + 1);
        let refused = Arc::default();
        let unpacked = Unpacked {
            content: unpacked,
            refused: Arc::clone(&refused),
        };
        let files = futures::executor::block_on(files(unpacked));
        let files = files.map_err(|why| refused.get().cloned().unwrap_or(why))?;
        ChartTexts::of(files)
    });
    let texts = texts.await.map_err(|error| bad(&error.to_string()))?;
    texts.map_err(|why| bad(&why))
}

fn slow() -> Fault {
    Fault::retryable(
        Reason::TimedOut,
        format!(
            "a chart's archive did not arrive within {} minutes; check its server and the network between",
            ARCHIVE_TIME.as_secs() / 60
        ),
    )
}

/// A tar that is unpacked while it is read, so that no more of it is held than its files need.
struct Unpacked<R> {
    content: Take<R>,
    /// Why it is not unpacked any further.
    refused: Arc<OnceLock<String>>,
}

impl<R> Unpacked<R> {
    fn refuse(&self, why: String) -> Poll<std::io::Result<()>> {
        let error = std::io::Error::other(why.clone());
        let _ = self.refused.set(why);
        Poll::Ready(Err(error))
    }
}

impl<R: Read + Unpin> AsyncRead for Unpacked<R> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let mut chunk = [0; 8 * 1024];
        let room = buffer.remaining().min(chunk.len());
        let read = match self.content.read(&mut chunk[..room]) {
            Ok(read) => read,
            Err(_) => return self.refuse("it is not compressed by gzip".to_owned()),
        };
        if self.content.limit() == 0 {
            return self.refuse(format!("it unpacks to more than {UNPACKED_LIMIT} bytes"));
        }
        buffer.put_slice(&chunk[..read]);
        Poll::Ready(Ok(()))
    }
}

/// The files of a chart that matter, by their paths below its folder.
pub(super) async fn files(tar: impl AsyncRead + Unpin) -> Result<BTreeMap<String, String>, String> {
    let broken = |error: std::io::Error| format!("its tar is broken: {error}");
    let mut archive = tokio_tar::Archive::new(tar);
    let mut entries = archive.entries().map_err(broken)?;
    let (mut files, mut count, mut bytes) = (BTreeMap::new(), 0, 0);
    while let Some(entry) = entries.next().await {
        let mut entry = entry.map_err(broken)?;
        count += 1;
        if count > FILES {
            return Err(format!("it has more than {FILES} files"));
        }
        let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        let Some((_, path)) = path.trim_start_matches("./").split_once('/') else {
            continue;
        };
        if !entry.header().entry_type().is_file() || !ChartTexts::reads(path) {
            continue;
        }
        let path = path.to_owned();
        let mut content = Vec::new();
        let read = (&mut entry)
            .take(FILE_LIMIT + 1)
            .read_to_end(&mut content)
            .await
            .map_err(broken)?;
        if read as u64 > FILE_LIMIT {
            return Err(format!("its file {path} has more than {FILE_LIMIT} bytes"));
        }
        bytes += read as u64;
        if bytes > TEXTS_LIMIT {
            return Err(format!("its templates and values have more than {TEXTS_LIMIT} bytes"));
        }
        files.insert(path, String::from_utf8_lossy(&content).into_owned());
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
