//! Referrers of a manifest, such as signatures, attestations and SBOMs (OCI distribution specification 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema").
//!
//! A registry with the referrers API maintains the list itself. Without the API, clients maintain it as an index under
//! a tag derived from the digest of the subject. The registry client detects and remembers which of the two applies.

use std::collections::HashSet;

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use super::client::{ERROR_BODY_LIMIT, RegistryRequest, RegistryResponse};
use super::error::{Error, Kind, error_codes};
use super::locks::named_lock;
use super::pages::Pages;
use super::referrers_api::{ApiSupport, CachedManifest, ReferrerDescription};
use super::repository::Repository;
use super::token::Scope;
use crate::budget::{DOCUMENTS, json_memory};
use crate::decode;
use crate::oci::{
    Descriptor, Digest, Document, MANIFEST_LIMIT, MAX_JSON_VALUES, add_referrer, media_type, referrers_tag,
};

/// The header that a registry with the API returns for a manifest with a subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Referrers of one subject at most.
const MAX_REFERRERS: usize = 1024;
/// Bytes of a listing at most, over all its pages.
const MAX_LISTING_BYTES: usize = 4 * MANIFEST_LIMIT;
/// Bytes of the annotations, and of the types, of a referrer that are kept. They only say what it may be.
const MAX_DESCRIPTION: usize = 4 * 1024;
/// Manifests of one listing that are read.
const MAX_MANIFESTS: usize = 256;
/// Manifests that are read concurrently.
const CONCURRENCY: usize = 8;
/// Attempts to update a referrers tag that others write at the same time.
const MAX_ATTEMPTS: usize = 4;

impl Repository {
    /// All manifests whose subject is `subject`, each once, as the registry lists them: usually with their artifact
    /// types and annotations. Only the digests are reliable; the subject and the other fields are claims of the
    /// listing, and [`Repository::read_referrers`] reads those of the manifests. Empty if there are none, or if the
    /// subject or repository does not exist. Costs one request if support for the API is known, plus one per further
    /// page.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let from_api = match self.registry().referrers_api().support() {
            ApiSupport::AbsentSince(_) => None,
            ApiSupport::Unknown | ApiSupport::Present => self.referrers_by_api(subject).await?,
        };
        let mut referrers = match from_api {
            Some(referrers) => referrers,
            None => self.referrers_by_tag(subject).await?,
        };
        let mut seen = HashSet::new();
        referrers.retain(|referrer| seen.insert(referrer.digest.clone()));
        Ok(referrers)
    }

    /// Whether the registry lists referrers itself, as far as it is known. If it does not, they are listed under tags.
    pub fn may_list_referrers(&self) -> bool {
        let support = self.registry().referrers_api().support();
        !matches!(support, ApiSupport::AbsentSince(_))
    }

    /// Reads the manifests in `listed`, entries of the listing of `subject`, and returns descriptors of those that
    /// exist, can be parsed and refer to it. Reads at most the first [`MAX_MANIFESTS`], each once, because content
    /// never changes under its digest.
    pub async fn read_referrers(&self, subject: &Digest, listed: &[Descriptor]) -> Result<Vec<Descriptor>, Error> {
        let reads = listed
            .iter()
            .take(MAX_MANIFESTS)
            .map(|entry| self.describe(&entry.digest));
        let reads: Vec<_> = reads.collect();
        let read: Vec<Option<ReferrerDescription>> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        let read = read.into_iter().flatten();
        Ok(read
            .filter(|referrer| referrer.subject == *subject)
            .map(|referrer| referrer.descriptor)
            .collect())
    }

    /// The referrer `digest`; `None` if it does not exist, cannot be parsed or has no subject.
    async fn describe(&self, digest: &Digest) -> Result<Option<ReferrerDescription>, Error> {
        let api = self.registry().referrers_api();
        match api.cached(self.name(), digest) {
            Some(CachedManifest::Referrer(referrer)) => return Ok(Some(*referrer)),
            Some(CachedManifest::WithoutSubject) => return Ok(None),
            None => {}
        }
        let document = match self.manifest(digest.as_str()).await {
            // Not cached: it may be pushed later.
            Ok(None) => return Ok(None),
            Ok(Some(document)) => document,
            // Not a document that can have a subject.
            Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Protocol | Kind::TooLarge) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // Not cached: there may be memory later.
        let memory = DOCUMENTS.reserve();
        memory.add(json_memory(&document.raw)).map_err(|_| {
            let detail = "manifests of referrers are large, and others use the available memory";
            Error::new(Kind::Interrupted, self.registry().host(), detail)
        })?;
        let subject = document.subject().map(|subject| subject.digest.clone());
        let referrer = subject
            .zip(document.as_referrer())
            .map(|(subject, descriptor)| ReferrerDescription {
                subject,
                descriptor: short(descriptor),
            });
        let cached = match &referrer {
            Some(referrer) => CachedManifest::Referrer(Box::new(referrer.clone())),
            None => CachedManifest::WithoutSubject,
        };
        api.cache(self.name(), digest, cached);
        Ok(referrer)
    }

    /// Pushes a manifest with a subject under its digest, so that it is listed as a referrer. Its blobs must exist. If
    /// it is already listed, this costs the listing, plus a HEAD request without the API, and writes nothing.
    pub async fn attach(&self, referrer: &Document) -> Result<(), Error> {
        let digest = referrer.digest();
        let Some(subject) = referrer.subject() else {
            let detail = format!("the manifest {digest} has no subject");
            return Err(Error::new(Kind::Invalid, self.registry().host(), detail));
        };
        let listed = self.referrers(&subject.digest).await?;
        let is_listed = listed.iter().any(|entry| entry.digest == *digest);
        // A listing of the API is current. A referrers tag may list manifests that were deleted.
        let has_api = matches!(self.registry().referrers_api().support(), ApiSupport::Present);
        if is_listed && (has_api || self.head_manifest(digest.as_str()).await?.is_some()) {
            return Ok(());
        }
        self.put_manifest(referrer, digest.as_str()).await
    }

    /// Pushes a manifest or index under a tag or its digest. Its blobs and children must exist. A document with a
    /// subject is listed as a referrer afterwards: if the registry has no referrers API, the referrers tag is updated.
    pub async fn put_manifest(&self, document: &Document, identifier: &str) -> Result<(), Error> {
        match document.subject() {
            Some(subject) => self.put_referrer(document, &subject.digest, identifier).await,
            None => self.put_document(document, identifier).await.map(drop),
        }
    }

    /// Pushes a manifest with a subject and ensures that it is listed. Serialized per repository, because concurrent
    /// writers of the referrers tag would lose entries, and some registries with the API lose them too.
    pub(super) async fn put_referrer(
        &self,
        document: &Document,
        subject: &Digest,
        identifier: &str,
    ) -> Result<(), Error> {
        let lock = named_lock(format!("referrers in {}/{}", self.registry().host(), self.name()));
        let _guard = lock.lock().await;
        let response = self.put_document(document, identifier).await?;
        let is_listed = response
            .header(OCI_SUBJECT)
            .is_some_and(|value| value == subject.as_str());
        // Releases the permit before the next request acquires one.
        drop(response);
        let api = self.registry().referrers_api();
        if is_listed {
            api.record_present();
            return Ok(());
        }
        api.record_absent();
        match document.as_referrer() {
            Some(entry) => self.update_referrers_tag(subject, &entry).await,
            None => Ok(()),
        }
    }

    /// The listing of the API; `None` if the registry does not support it.
    async fn referrers_by_api(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, Error> {
        let registry = self.registry();
        let first = registry.url(self.name(), ["referrers", subject.as_str()]);
        let mut pages = Pages::new(first.clone(), MAX_LISTING_BYTES);
        let (mut referrers, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let accept = HeaderValue::from_static(media_type::OCI_INDEX);
            let request =
                RegistryRequest::new(Method::GET, pages.url().clone(), Scope::pull(self.name())).with(ACCEPT, accept);
            let is_first = *pages.url() == first;
            let mut response = match registry.send(&request).await {
                Err(error) if is_first && error.kind() == &Kind::Status(500) => return Ok(None),
                sent => sent?,
            };
            let is_index_type = response
                .header(CONTENT_TYPE)
                .is_some_and(|kind| kind.to_ascii_lowercase().starts_with(media_type::OCI_INDEX));
            let body = match response.status().as_u16() {
                200 => pages.read(registry, &mut response).await?,
                // A registry with the API does not return these statuses. 401 and 403: some registries refuse only this
                // API.
                401 | 403 if is_first => return Ok(None),
                400 | 404..=428 | 431..=499 | 501 if is_first => {
                    if !self.reports_unknown_repository(&mut response).await {
                        registry.referrers_api().record_absent();
                    }
                    return Ok(None);
                }
                _ => return Err(response.into_error().await),
            };
            if decode::json_values(&body) > MAX_JSON_VALUES {
                return Err(too_many_referrers(&request.label));
            }
            // Some registries omit the media type, and some return 200 for something else.
            let entries = match parse_entries(&body) {
                Some(entries) if is_index_type || is_index(&body) => entries,
                _ if is_first && !is_index_type => {
                    registry.referrers_api().record_absent();
                    return Ok(None);
                }
                _ => {
                    return Err(Error::new(
                        Kind::Protocol,
                        &request.label,
                        "the response is not a list of referrers",
                    ));
                }
            };
            registry.referrers_api().record_present();
            let (count, before) = (entries.len(), referrers.len());
            referrers.extend(entries.into_iter().filter(|entry| seen.insert(entry.digest.clone())));
            if referrers.len() > MAX_REFERRERS {
                return Err(too_many_referrers(&request.label));
            }
            if !pages.advance(registry, &response, count, referrers.len() - before)? {
                return Ok(Some(referrers));
            }
        }
    }

    /// Whether a response reports that the repository does not exist, which does not mean that the API is missing.
    async fn reports_unknown_repository(&self, response: &mut RegistryResponse) -> bool {
        let body = self.body(response, ERROR_BODY_LIMIT).await;
        body.is_ok_and(|body| error_codes(&body).iter().any(|code| code == "NAME_UNKNOWN"))
    }

    async fn referrers_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let result = self.referrers_tag_document(subject).await;
        let document = match self.absent_if_refused(&referrers_tag(subject), result).await {
            Ok(document) => document,
            Err(error) if error.kind() == &Kind::Unsupported => None,
            Err(error) => return Err(error),
        };
        // Absent, or an image with this tag.
        let Some(document) = document.filter(|document| document.index().is_some()) else {
            return Ok(Vec::new());
        };
        match parse_entries(&document.raw) {
            Some(entries) if entries.len() > MAX_REFERRERS => Err(too_many_referrers(self.registry().host())),
            entries => Ok(entries.unwrap_or_default()),
        }
    }

    /// The index under the referrers tag of `subject`. Some registries interpret `sha256-<hex>` as a digest and return
    /// the subject itself, whose entries are not referrers if it is an index.
    async fn referrers_tag_document(&self, subject: &Digest) -> Result<Option<Document>, Error> {
        let document = self.manifest(&referrers_tag(subject)).await?;
        Ok(document.filter(|document| document.index().is_none() || document.digest() != subject))
    }

    /// Adds `referrer` to the referrers tag of `subject`. Concurrent writers overwrite each other, so the tag is read
    /// again until it has the entry.
    async fn update_referrers_tag(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
        let (host, tag) = (self.registry().host(), referrers_tag(subject));
        for _ in 0..MAX_ATTEMPTS {
            let existing = self.referrers_tag_document(subject).await?;
            let listing = add_referrer(existing.as_ref(), referrer);
            match listing.map_err(|error| Error::invalid_document(&format!("{host}/{}:{tag}", self.name()), &error))? {
                Some(listing) => drop(self.put_document(&listing, &tag).await?),
                None => return Ok(()),
            }
        }
        let detail = format!("other clients keep overwriting the tag {tag}, which lists the referrers of {subject}");
        Err(Error::new(Kind::Interrupted, format!("{host}/{}", self.name()), detail))
    }
}

/// The entries of a listing that have a digest. All other fields are hints that may be missing or wrong.
fn parse_entries(index: &[u8]) -> Option<Vec<Descriptor>> {
    #[derive(Deserialize)]
    struct ReferrersIndex {
        manifests: Option<Vec<Value>>,
    }
    let index: ReferrersIndex = decode::json(index).ok()?;
    let entries = index.manifests.unwrap_or_default();
    Some(entries.iter().filter_map(parse_entry).collect())
}

/// Whether `content` is an index, according to its own fields.
fn is_index(content: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct IndexFields {
        schema_version: Option<u64>,
        media_type: Option<String>,
        manifests: Option<Vec<Value>>,
    }
    decode::json::<IndexFields>(content).is_ok_and(|fields| {
        let kind = fields.media_type.is_none_or(|kind| kind == media_type::OCI_INDEX);
        fields.schema_version == Some(2) && kind && fields.manifests.is_some()
    })
}

fn parse_entry(value: &Value) -> Option<Descriptor> {
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
    Some(short(entry))
}

/// `referrer` without a description that is longer than [`MAX_DESCRIPTION`]: a thousand of them may be listed.
fn short(mut referrer: Descriptor) -> Descriptor {
    let annotations = referrer.annotations.iter();
    if annotations.fold(0, |sum, (key, value)| sum + key.len() + value.len()) > MAX_DESCRIPTION {
        referrer.annotations.clear();
    }
    referrer.artifact_type = referrer.artifact_type.filter(|kind| kind.len() <= MAX_DESCRIPTION);
    if referrer.media_type.len() > MAX_DESCRIPTION {
        referrer.media_type.clear();
    }
    referrer
}

fn too_many_referrers(request: &str) -> Error {
    let detail = format!("the manifest has more than {MAX_REFERRERS} referrers");
    Error::new(Kind::TooLarge, request, detail)
}
