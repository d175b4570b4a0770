//! What refers to a manifest, such as signatures, attestations and SBOMs (OCI distribution specification 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema").
//!
//! A registry that has the referrers API lists them by itself. In another, those who push keep the list, an index under
//! a tag made of the subject's digest. Which of both a registry is, its client finds out and remembers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use serde::Deserialize;

use super::client::{Answer, Call, FAILURE_LIMIT};
use super::error::{Error, Kind, spoken};
use super::locks::lock_of;
use super::repository::Repository;
use super::tags::next_page;
use super::token::Scope;
use crate::oci::{Descriptor, Digest, Document, MANIFEST_LIMIT, listing_with, media_type, referrers_tag};

/// What a registry that has the API says to a manifest with a subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The referrers of one subject that are read.
const REFERRERS: usize = 1024;
/// How many answers are read for them.
const PAGES: usize = 64;
/// How often a listing is written that others change at the same time.
const TRIES: usize = 4;
/// How long a registry counts as one without the API before it is asked again: it may be another by then.
const ABSENT_FOR: Duration = Duration::from_secs(3600);

/// What is known of a registry's referrers API.
#[derive(Debug, Default)]
pub(super) struct ReferrersApi(Mutex<Known>);

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
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Known::AbsentSince(since) if now.saturating_duration_since(since) >= ABSENT_FOR => Known::Nothing,
            known => known,
        }
    }

    fn note(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

impl Repository {
    /// Every manifest that names `subject` as its subject, each once, as the registry lists them: mostly with their
    /// artifact types and annotations. Empty when there are none, or no such subject or repository. Costs one request
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
        let mut seen = std::collections::HashSet::new();
        found.retain(|referrer| seen.insert(referrer.digest.clone()));
        Ok(found)
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
        let lock = lock_of(format!("referrers in {}/{}", self.registry().host(), self.name()));
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
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            manifests: Vec<Descriptor>,
        }
        let registry = self.registry();
        let mut url = registry.url(self.name(), ["referrers", subject.as_str()]);
        let mut found = Vec::new();
        for page in 0..PAGES {
            let accept = HeaderValue::from_static(media_type::OCI_INDEX);
            let call = Call::new(Method::GET, url.clone(), Scope::pull(self.name())).with(ACCEPT, accept);
            let mut answer = match registry.send(&call).await {
                Err(error) if page == 0 && error.kind() == &Kind::Status(500) => return Ok(None),
                sent => sent?,
            };
            let listing = answer
                .header(CONTENT_TYPE)
                .is_some_and(|kind| kind.starts_with(media_type::OCI_INDEX));
            match answer.status().as_u16() {
                200 if listing => registry.referrers_api().note(Known::Present),
                // Whoever knows the API takes none of these for an answer to it.
                // Some refuse it to those who may read the repository.
                401 | 403 if page == 0 => return Ok(None),
                200 | 400 | 404..=428 | 431..=499 | 501 if page == 0 => {
                    if !self.is_unknown(&mut answer).await {
                        registry.referrers_api().note(Known::AbsentSince(Instant::now()));
                    }
                    return Ok(None);
                }
                _ => return Err(answer.failure().await),
            }
            let next = answer.header(LINK).and_then(next_page).map(str::to_owned);
            let body = self.body(&mut answer, MANIFEST_LIMIT).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|_| Error::new(Kind::Protocol, &call.label, "the answer is not a list of referrers"))?;
            found.extend(page.manifests);
            if found.len() > REFERRERS {
                return Err(too_many(&call.label));
            }
            match next {
                Some(next) => url = registry.follow(&call.label, &url, Some(&next))?,
                None => return Ok(Some(found)),
            }
        }
        Err(too_many(registry.host()))
    }

    /// Whether an answer says that it is the repository that is not there, which tells nothing of the API.
    async fn is_unknown(&self, answer: &mut Answer) -> bool {
        let body = self.body(answer, FAILURE_LIMIT).await;
        body.is_ok_and(|body| spoken(&body).0.iter().any(|code| code == "NAME_UNKNOWN"))
    }

    async fn referrers_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let document = match self.manifest(&referrers_tag(subject)).await {
            Ok(document) => document,
            Err(error) if error.kind() == &Kind::Unsupported || error.may_mean_absent() => None,
            Err(error) => return Err(error),
        };
        match document.as_ref().and_then(Document::index) {
            Some(index) if index.manifests.len() > REFERRERS => Err(too_many(self.registry().host())),
            Some(index) => Ok(index.manifests.clone()),
            // Nothing, or somebody's image of this name.
            None => Ok(Vec::new()),
        }
    }

    /// Enters `referrer` into the listing of `subject` under its tag. Others may write it too, and the last one who
    /// does decides: it is read again until it has the entry.
    async fn list_under_tag(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
        let (host, tag) = (self.registry().host(), referrers_tag(subject));
        for _ in 0..TRIES {
            let standing = self.manifest(&tag).await?;
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
