//! Charts in OCI registries (Helm, "Use OCI-based registries") and in chart repositories.

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
use super::index::{self, ChartEntry, Missing};
use super::oci::{self, OciChart, no_chart};
use super::{ChartCache, ContentAccess};
use crate::api::v1alpha1::ChartSpec;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Reference};
use crate::package::EntrySource;
use crate::package::component::{ChartContent, ChartTexts, images_of_chart, oci_reference};
use crate::registry::{BodyPermits, FileResponse};

/// The longest archive in bytes.
const ARCHIVE_LIMIT: usize = 20 * 1024 * 1024;
/// The time limit for downloading an archive.
const ARCHIVE_TIME: Duration = Duration::from_secs(5 * 60);
/// The most bytes of an unpacked archive.
const UNPACKED_LIMIT: u64 = 64 * 1024 * 1024;
/// The most bytes of the files of a chart that are read.
const TEXTS_LIMIT: u64 = 16 * 1024 * 1024;
/// The longest file of a chart in bytes that is read.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;
/// The most files of an archive.
const FILES: usize = 20_000;

/// The location of a chart.
// Few of them live at once.
#[allow(clippy::large_enum_variant)]
enum ChartLocation {
    Registry(OciChart),
    Repository(RemoteFile, Digest),
}

/// Finds the chart of `spec`, which is installed with `values`, and reads which images it names unless that is cached.
pub(super) async fn find(
    spec: &ChartSpec,
    values: Vec<Bytes>,
    access: &dyn ContentAccess,
    cache: &ChartCache,
) -> Result<ChartContent, Fault> {
    match find_once(spec, values.clone(), access, cache).await {
        // The tag may have moved in the meantime, and the chart that it named may be deleted.
        Err(fault) if fault.reason == Reason::SourceNotFound && spec.url.starts_with("oci://") => {
            find_once(spec, values, access, cache).await
        }
        found => found,
    }
}

async fn find_once(
    spec: &ChartSpec,
    values: Vec<Bytes>,
    access: &dyn ContentAccess,
    cache: &ChartCache,
) -> Result<ChartContent, Fault> {
    let location = match spec.url.starts_with("oci://") {
        true => ChartLocation::Registry(oci::find(spec, &oci_reference(spec)?, access).await?),
        false => in_repository(spec, access, cache).await?,
    };
    let (digest, origin): (Digest, Arc<dyn EntrySource>) = match location {
        ChartLocation::Registry(chart) => (chart.digest.clone(), Arc::new(chart)),
        ChartLocation::Repository(file, digest) => (digest, Arc::new(file)),
    };
    let values_digest = Digest::of(
        &values
            .iter()
            .flat_map(|text| [&text[..], &[0]].concat())
            .collect::<Vec<u8>>(),
    );
    let images = match cache.images(&digest, &values_digest) {
        Some(images) => images,
        None => {
            let texts = read(&*origin, cache).await?;
            let images = images(texts, values.clone(), cache).await?;
            cache.insert_images(digest.clone(), values_digest, images.clone());
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

/// The images that a chart with `texts` names, if it is installed with `values`.
async fn images(texts: ChartTexts, values: Vec<Bytes>, cache: &ChartCache) -> Result<Vec<String>, Fault> {
    let _permit = cache.unpacking.acquire().await;
    let found = tokio::task::spawn_blocking(move || {
        let values = values.iter();
        let read = values.map(|text| values_of(&String::from_utf8_lossy(text)).unwrap_or_default());
        images_of_chart(&texts, &read.collect::<Vec<_>>())
    });
    found.await.map_err(|error| no_chart("the content", &error.to_string()))
}

/// Finds a chart in the chart repository of `spec`. If the index has no digest, the archive is read to compute it.
async fn in_repository(
    spec: &ChartSpec,
    access: &dyn ContentAccess,
    cache: &ChartCache,
) -> Result<ChartLocation, Fault> {
    let base = as_directory(parse(&spec.url)?);
    let address = resolve(&base, "index.yaml").map_err(|error| no_index(&spec.url, &error.to_string()))?;
    let host = host_of(&address, access, "its url").await?;
    let key = IndexKey {
        index: address.to_string(),
        trust: host.endpoint().trust.digest(),
        chart: spec.name.clone(),
        version: spec.version.clone(),
    };
    let cached = cache.entry(&key);
    let name = shown(&address);
    let validator = cached.as_ref().map(|cached| cached.validator.as_str());
    let answer = host.fetch_file(address.clone(), index::LIMIT, validator).await;
    let entry: ChartEntry = match (answer.map_err(|error| error.into_fetch_fault(&name))?, cached) {
        (FileResponse::Unchanged, Some(cached)) => cached.entry,
        (FileResponse::Unchanged, None) => {
            return Err(no_index(
                &name,
                "answered that it has not changed to an unconditional request",
            ));
        }
        (FileResponse::Content(content, validator), _) => {
            let _permit = cache.unpacking.acquire().await;
            let (chart, version) = (spec.name.clone(), spec.version.clone());
            let found = tokio::task::spawn_blocking(move || {
                let text = content.decompressed(index::LIMIT);
                text.map(|text| index::find(&String::from_utf8_lossy(&text), &chart, &version))
            });
            let found = found.await.map_err(|error| no_index(&name, &error.to_string()))?;
            let damaged = || {
                no_index(
                    &name,
                    &format!("is compressed, and is damaged or longer than {} bytes", index::LIMIT),
                )
            };
            let found = found.ok_or_else(damaged)?;
            let entry = found.map_err(|missing| not_listed(spec, &name, missing.redacted(host.endpoint())))?;
            if let Some(validator) = validator {
                let entry = entry.clone();
                cache.insert_entry(key, CachedIndex { validator, entry });
            }
            entry
        }
    };
    // An address in an OCI registry, which may already have a tag.
    if let Some(reference) = entry.url.strip_prefix("oci://") {
        let reference = with_tag(reference, &spec.version).parse();
        let reference: Reference =
            reference.map_err(|error: crate::oci::ReferenceError| no_index(&name, &error.to_string()))?;
        return Ok(ChartLocation::Registry(oci::find(spec, &reference, access).await?));
    }
    let url = resolve(&base, &entry.url).map_err(|error| no_index(&name, &error.to_string()))?;
    let what = "the repository's index";
    let digest = match entry.digest {
        Some(digest) => digest,
        None => {
            let host = host_of(&url, access, what).await?;
            match host.fetch_file(url.clone(), ARCHIVE_LIMIT, None).await {
                Ok(FileResponse::Content(content, _)) => Digest::of(&content.bytes),
                Ok(FileResponse::Unchanged) => {
                    return Err(no_index(
                        &name,
                        "answered that the archive has not changed to an unconditional request",
                    ));
                }
                Err(error) => return Err(error.into_fetch_fault(&shown(&url))),
            }
        }
    };
    let remote = RemoteFile::at(url.as_str(), digest.clone(), access, what).await?;
    Ok(ChartLocation::Repository(remote, digest))
}

/// An address whose path ends with `/`, so that relative addresses can be resolved.
fn as_directory(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// Resolves `relative` against `base`. As in Helm, an address on the same host gets the query of `base` unless it has one,
/// because some repositories need a token there.
fn resolve(base: &Url, relative: &str) -> Result<Url, url::ParseError> {
    let mut url = base.join(relative)?;
    if url.query().is_none() && url.origin() == base.origin() {
        url.set_query(base.query());
    }
    Ok(url)
}

/// The reference of a chart in an OCI registry that an index lists: with its version as the tag if it has none, and without
/// characters that a tag cannot have.
fn with_tag(reference: &str, version: &str) -> String {
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
            "{name} lists {chart} {version} without an address (urls); ask the repository's maintainers to write its index again"
        ),
        Missing::Version(others) if others.is_empty() => {
            format!("{name} lists {chart} without any version; check name and url")
        }
        Missing::Version(others) => format!(
            "{name} lists no version {version} of {chart}, only for example {}; correct version, or add the chart there",
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

/// Reads a chart's texts from its archive.
async fn read(origin: &dyn EntrySource, cache: &ChartCache) -> Result<ChartTexts, Fault> {
    let (size, mut stream) = origin.open().await?;
    let bad = |why: &str| no_chart("the content", why);
    let too_long = || bad(&format!("it has more than {ARCHIVE_LIMIT} bytes"));
    if size > ARCHIVE_LIMIT as u64 {
        return Err(too_long());
    }
    let (mut archive, mut permits) = (Vec::new(), BodyPermits::default());
    let mut deadline = Instant::now() + ARCHIVE_TIME;
    loop {
        let chunk = timeout_at(permits.deadline(archive.len(), deadline), stream.next()).await;
        let Some(chunk) = chunk.map_err(|_| timed_out())? else {
            break;
        };
        let chunk = chunk?;
        if archive.len() + chunk.len() > ARCHIVE_LIMIT {
            return Err(too_long());
        }
        let waited = Instant::now();
        permits.grow(archive.len() + chunk.len()).await;
        deadline += waited.elapsed();
        archive.extend_from_slice(&chunk);
    }
    // This fails only if the semaphore is closed, which never happens.
    let _permit = cache.unpacking.acquire().await;
    let texts = tokio::task::spawn_blocking(move || {
        let unpacked = flate2::read::MultiGzDecoder::new(&archive[..]).take(UNPACKED_LIMIT + 1);
        let stopped = Arc::default();
        let unpacked = Unpacked {
            content: unpacked,
            stopped: Arc::clone(&stopped),
        };
        let files = futures::executor::block_on(files(unpacked));
        let files = files.map_err(|why| stopped.get().cloned().unwrap_or(why))?;
        ChartTexts::of(files)
    });
    let texts = texts.await.map_err(|error| bad(&error.to_string()))?;
    texts.map_err(|why| bad(&why))
}

fn timed_out() -> Fault {
    Fault::retryable(
        Reason::TimedOut,
        format!(
            "a chart's archive did not arrive within {} minutes; check its server and the network between",
            ARCHIVE_TIME.as_secs() / 60
        ),
    )
}

/// A tar that is decompressed while it is read, so that only its needed files are in cache.
struct Unpacked<R> {
    content: Take<R>,
    /// Why decompressing was stopped.
    stopped: Arc<OnceLock<String>>,
}

impl<R> Unpacked<R> {
    fn stop(&self, why: String) -> Poll<std::io::Result<()>> {
        let error = std::io::Error::other(why.clone());
        let _ = self.stopped.set(why);
        Poll::Ready(Err(error))
    }
}

impl<R: Read + Unpin> AsyncRead for Unpacked<R> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let mut chunk = [0; 8 * 1024];
        let length = buffer.remaining().min(chunk.len());
        let read = match self.content.read(&mut chunk[..length]) {
            Ok(read) => read,
            Err(_) => return self.stop("it is not compressed by gzip".to_owned()),
        };
        if self.content.limit() == 0 {
            return self.stop(format!("it unpacks to more than {UNPACKED_LIMIT} bytes"));
        }
        buffer.put_slice(&chunk[..read]);
        Poll::Ready(Ok(()))
    }
}

/// The needed files of a chart, by their paths below its directory.
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
