//! What refers to a manifest, such as signatures, attestations and SBOMs (OCI distribution specification 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema").
//!
//! A registry that has the referrers API lists them by itself. In another, those who push keep the list, an index under
//! a tag made of the subject's digest. Which of both a registry is, its client finds out and remembers.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use super::client::{Call, FAILURE_LIMIT, RegistryResponse};
use super::error::{Error, Kind, spoken};
use super::locks::named_lock;
use super::pages::Pages;
use super::repository::Repository;
use super::token::Scope;
use crate::decode;
use crate::oci::{Descriptor, Digest, Document, MANIFEST_LIMIT, listing_with, media_type, referrers_tag};

/// What a registry that has the API says to a manifest with a subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The referrers of one subject that are read.
const REFERRERS: usize = 1024;
/// Bytes of a listing that are read, over all its pages.
const LISTING_BYTES: usize = 4 * MANIFEST_LIMIT;
/// The manifests of one listing that are read.
const READ: usize = 256;
/// Manifests of a listing that are read at once.
const AT_ONCE: usize = 8;
/// The manifests of a registry that are remembered.
const DESCRIBED: usize = 8192;
/// How often a listing is written that others change at the same time.
const TRIES: usize = 4;
/// How long a registry counts as one without the API before it is asked again: it may be another by then.
const ABSENT_FOR: Duration = Duration::from_secs(3600);

/// What is known of a registry's referrers API, and of the referrers that were read there.
#[derive(Debug, Default)]
pub(super) struct ReferrersApi {
    known: Mutex<Known>,
    described: Mutex<HashMap<(String, Digest), Option<ReferrerDescription>>>,
}

/// What a manifest says of itself as a referrer.
#[derive(Clone, Debug)]
struct ReferrerDescription {
    subject: Digest,
    descriptor: Descriptor,
}

#[derive(Clone, Copy, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    Present,
    AbsentSince(Instant),
}

impl ReferrersApi {
    fn known(&self) -> Known {
        self.known_at(Instant::now())
    }

    fn known_at(&self, now: Instant) -> Known {
        match *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            Known::AbsentSince(since) if now.saturating_duration_since(since) >= ABSENT_FOR => Known::Nothing,
            known => known,
        }
    }

    fn note(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// What is remembered of the manifest `key.1` of the repository `key.0`.
    fn described(&self, key: &(String, Digest)) -> Option<Option<ReferrerDescription>> {
        let described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        described.get(key).cloned()
    }

    fn note_described(&self, key: (String, Digest), said: Option<ReferrerDescription>) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        // All at once: what is forgotten costs another small request.
        if described.len() >= DESCRIBED {
            described.clear();
        }
        described.insert(key, said);
    }
}

impl Repository {
    /// Every manifest that names `subject` as its subject, each once, as the registry lists them: mostly with their
    /// artifact types and annotations. Only the digests are sure to be there; the rest, like the subject, is what the
    /// listing says, and [`Repository::read_referrers`] reads what the manifests do. Empty when there are none, or no such subject or repository. Costs one request
    /// where it is known whether the registry has the API, and one more a page.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let mut found = match self.registry().referrers_api().known() {
            Known::AbsentSince(_) => None,
            Known::Nothing | Known::Present => self.referrers_by_api(subject).await?,
        };
        if found.is_none() {
            found = Some(self.referrers_by_tag(subject).await?);
        }
        let mut found = found.unwrap_or_default();
        let mut seen = HashSet::new();
        found.retain(|referrer| seen.insert(referrer.digest.clone()));
        Ok(found)
    }

    /// What the manifests of `listed`, entries of the listing of `subject`, say of themselves, as far as they are there,
    /// can be read, and refer to it. The first [`READ`] are looked at; each is read once, for content has one digest.
    pub async fn read_referrers(&self, subject: &Digest, listed: &[Descriptor]) -> Result<Vec<Descriptor>, Error> {
        let reads = listed.iter().take(READ).map(|entry| self.describe(&entry.digest));
        let reads: Vec<_> = reads.collect();
        let read: Vec<Option<ReferrerDescription>> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        let read = read.into_iter().flatten();
        Ok(read
            .filter(|one| one.subject == *subject)
            .map(|one| one.descriptor)
            .collect())
    }

    /// What the manifest `digest` says of itself, if it has a subject.
    async fn describe(&self, digest: &Digest) -> Result<Option<ReferrerDescription>, Error> {
        let memory = self.registry().referrers_api();
        let key = (self.name().to_owned(), digest.clone());
        if let Some(known) = memory.described(&key) {
            return Ok(known);
        }
        let document = match self.manifest(digest.as_str()).await {
            // It may come yet.
            Ok(None) => return Ok(None),
            Ok(document) => document,
            // Nothing that could refer to anything.
            Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Protocol | Kind::TooLarge) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let described = document.and_then(|document| {
            let subject = document.subject()?.digest.clone();
            let descriptor = document.as_referrer()?;
            Some(ReferrerDescription { subject, descriptor })
        });
        memory.note_described(key, described.clone());
        Ok(described)
    }

    /// Stores a manifest that has a subject under its digest, so that it is found by its subject. Its blobs must be
    /// there. What is listed already costs the listing, without the API a HEAD besides, and writes nothing.
    pub async fn attach(&self, referrer: &Document) -> Result<(), Error> {
        let digest = referrer.digest();
        let Some(subject) = referrer.subject() else {
            let detail = format!("the manifest {digest} refers to no other");
            return Err(Error::new(Kind::Invalid, self.registry().host(), detail));
        };
        let listed = self.referrers(&subject.digest).await?;
        let listed = listed.iter().any(|entry| entry.digest == *digest);
        // Who lists by itself knows what it has. A tag may list what was removed since.
        let knows = matches!(self.registry().referrers_api().known(), Known::Present);
        if listed && (knows || self.head_manifest(digest.as_str()).await?.is_some()) {
            return Ok(());
        }
        self.put_manifest(referrer, digest.as_str()).await
    }

    /// Puts a manifest that has a subject, and sees to it that it is found by it. One at a time in a repository: those
    /// who keep a listing would lose each other's entries, and there are registries that do so themselves.
    pub(super) async fn put_referrer(
        &self,
        document: &Document,
        subject: &Digest,
        identifier: &str,
    ) -> Result<(), Error> {
        let lock = named_lock(format!("referrers in {}/{}", self.registry().host(), self.name()));
        let _alone = lock.lock().await;
        let answer = self.put_document(document, identifier).await?;
        let listed = answer.header(OCI_SUBJECT).is_some_and(|said| said == subject.as_str());
        // Its turn ends here, before the next request asks for one.
        drop(answer);
        let api = self.registry().referrers_api();
        if listed {
            api.note(Known::Present);
            return Ok(());
        }
        api.note(Known::AbsentSince(Instant::now()));
        match document.as_referrer() {
            Some(entry) => self.list_under_tag(subject, &entry).await,
            None => Ok(()),
        }
    }

    /// The listing by the API, or none when the registry does not have it.
    async fn referrers_by_api(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, Error> {
        let registry = self.registry();
        let first = registry.url(self.name(), ["referrers", subject.as_str()]);
        let mut pages = Pages::at(first.clone(), LISTING_BYTES);
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let accept = HeaderValue::from_static(media_type::OCI_INDEX);
            let call = Call::new(Method::GET, pages.url().clone(), Scope::pull(self.name())).with(ACCEPT, accept);
            let is_first = *pages.url() == first;
            let mut answer = match registry.send(&call).await {
                Err(error) if is_first && error.kind() == &Kind::Status(500) => return Ok(None),
                sent => sent?,
            };
            let called = answer
                .header(CONTENT_TYPE)
                .is_some_and(|kind| kind.to_ascii_lowercase().starts_with(media_type::OCI_INDEX));
            let body = match answer.status().as_u16() {
                200 => pages.read(self, &mut answer).await?,
                // Whoever knows the API takes none of these for an answer to it.
                // Some refuse it to those who may read the repository.
                401 | 403 if is_first => return Ok(None),
                400 | 404..=428 | 431..=499 | 501 if is_first => {
                    if !self.is_unknown(&mut answer).await {
                        registry.referrers_api().note(Known::AbsentSince(Instant::now()));
                    }
                    return Ok(None);
                }
                _ => return Err(answer.failure().await),
            };
            // Not everybody who answers calls it by its type, and not everything that is answered by 200 is a listing.
            let entries = match listed(&body) {
                Some(entries) if called || is_index(&body) => entries,
                _ if is_first && !called => {
                    registry.referrers_api().note(Known::AbsentSince(Instant::now()));
                    return Ok(None);
                }
                _ => {
                    return Err(Error::new(
                        Kind::Protocol,
                        &call.label,
                        "the answer is not a list of referrers",
                    ));
                }
            };
            registry.referrers_api().note(Known::Present);
            let (count, before) = (entries.len(), found.len());
            found.extend(entries.into_iter().filter(|entry| seen.insert(entry.digest.clone())));
            if found.len() > REFERRERS {
                return Err(too_many(&call.label));
            }
            if !pages.turn(registry, &answer, count, found.len() - before)? {
                return Ok(Some(found));
            }
        }
    }

    /// Whether an answer says that it is the repository that is not there, which tells nothing of the API.
    async fn is_unknown(&self, answer: &mut RegistryResponse) -> bool {
        let body = self.body(answer, FAILURE_LIMIT).await;
        body.is_ok_and(|body| spoken(&body).0.iter().any(|code| code == "NAME_UNKNOWN"))
    }

    async fn referrers_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let looked = self.listing_under_tag(subject).await;
        let document = match self.absent_if_refused(&referrers_tag(subject), looked).await {
            Ok(document) => document,
            Err(error) if error.kind() == &Kind::Unsupported => None,
            Err(error) => return Err(error),
        };
        // Nothing, or somebody's image of this name.
        let Some(document) = document.filter(|document| document.index().is_some()) else {
            return Ok(Vec::new());
        };
        match listed(&document.raw) {
            Some(entries) if entries.len() > REFERRERS => Err(too_many(self.registry().host())),
            entries => Ok(entries.unwrap_or_default()),
        }
    }

    /// What stands under the tag of the listing of `subject`. There are registries that take `sha256-<hex>` for the digest
    /// and answer with the subject itself: where that is an index, its entries do not refer to it.
    async fn listing_under_tag(&self, subject: &Digest) -> Result<Option<Document>, Error> {
        let document = self.manifest(&referrers_tag(subject)).await?;
        Ok(document.filter(|document| document.index().is_none() || document.digest() != subject))
    }

    /// Enters `referrer` into the listing of `subject` under its tag. Others may write it too, and the last one who
    /// does decides: it is read again until it has the entry.
    async fn list_under_tag(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
        let (host, tag) = (self.registry().host(), referrers_tag(subject));
        for _ in 0..TRIES {
            let standing = self.listing_under_tag(subject).await?;
            let listing = listing_with(standing.as_ref(), referrer);
            match listing.map_err(|error| Error::document(&format!("{host}/{}:{tag}", self.name()), &error))? {
                Some(listing) => drop(self.put_document(&listing, &tag).await?),
                None => return Ok(()),
            }
        }
        let detail = format!("others keep writing the tag {tag}, which lists the referrers of {subject}");
        Err(Error::new(Kind::Interrupted, format!("{host}/{}", self.name()), detail))
    }
}

/// The entries of a listing, as far as each says which digest it has. All else that it says is a hint, which need not be
/// there or true: the manifest decides.
fn listed(listing: &[u8]) -> Option<Vec<Descriptor>> {
    #[derive(Deserialize)]
    struct Listing {
        manifests: Option<Vec<Value>>,
    }
    let listing: Listing = decode::json(listing).ok()?;
    let entries = listing.manifests.unwrap_or_default();
    Some(entries.iter().filter_map(entry).collect())
}

/// Whether `content` says of itself that it is an index.
fn is_index(content: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        schema_version: Option<u64>,
        media_type: Option<String>,
        manifests: Option<Vec<Value>>,
    }
    decode::json::<Said>(content).is_ok_and(|said| {
        let kind = said.media_type.is_none_or(|kind| kind == media_type::OCI_INDEX);
        said.schema_version == Some(2) && kind && said.manifests.is_some()
    })
}

fn entry(value: &Value) -> Option<Descriptor> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let digest = text("digest")?.to_ascii_lowercase().parse().ok()?;
    let size = value.get("size").and_then(Value::as_u64).unwrap_or_default();
    let mut entry = Descriptor::new(text("mediaType").unwrap_or_default(), digest, size);
    entry.artifact_type = text("artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned);
    let annotations = value.get("annotations").and_then(Value::as_object);
    entry.annotations = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    Some(entry)
}

fn too_many(call: &str) -> Error {
    let detail = format!("the manifest has more referrers than the {REFERRERS} that are read");
    Error::new(Kind::TooLarge, call, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_registry_has_no_api_is_believed_for_a_while() {
        let api = ReferrersApi::default();
        assert!(matches!(api.known(), Known::Nothing));
        api.note(Known::AbsentSince(Instant::now()));
        assert!(matches!(api.known(), Known::AbsentSince(_)));
        assert!(matches!(api.known_at(Instant::now() + ABSENT_FOR), Known::Nothing));
        api.note(Known::Present);
        assert!(matches!(api.known(), Known::Present));
    }
}
