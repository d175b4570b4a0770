//! One repository of a registry.

use bytes::{Bytes, BytesMut};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use tokio::time::{Instant, timeout_at};

use super::body::{BodyPermits, body_within};
use super::client::{Call, Registry, RegistryResponse};
use super::download::Download;
use super::error::{Error, Kind};
use super::token::Scope;
use super::upload::{PendingUpload, Session, to_its_end};
use crate::oci::{Descriptor, Digest, Document, Hasher, MANIFEST_LIMIT, media_type};

pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What came of asking for a mount.
pub enum MountResult {
    /// The blob stands in the repository.
    Mounted,
    /// It does not: the registry would not, be it that the blob is not there or that we may not read it. It may have
    /// begun an upload of the blob instead.
    Refused(Option<PendingUpload>),
}

/// What came of asking by HEAD.
enum HeadResult {
    Found(RegistryResponse),
    MissingPlatforms,
    /// HEAD says nothing of it.
    Unsupported,
}

/// A repository, which need not exist. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    registry: Registry,
    name: String,
}

impl Repository {
    pub(super) fn new(registry: Registry, name: String) -> Self {
        Self { registry, name }
    }

    /// The registry that it is in.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The path within the registry, such as `library/nginx`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands under a tag or digest, by HEAD where the registry answers it in full (distribution
    /// specification, "Checking if content exists in the registry").
    pub async fn head_manifest(&self, identifier: &str) -> Result<Option<Descriptor>, Error> {
        let call = self.manifest_call(Method::HEAD, identifier)?;
        let answer = match self.headed(&call).await? {
            // There are registries that answer so to every HEAD. Where GET fails, what was said stands.
            HeadResult::MissingPlatforms => {
                return Ok(match self.is_head_known().await {
                    true => None,
                    false => self.descriptor(identifier).await.unwrap_or_default(),
                });
            }
            HeadResult::Found(answer) => answer,
            HeadResult::Unsupported => return self.descriptor(identifier).await,
        };
        self.registry.note_head();
        // One that is none, or that is not what was asked for, says nothing: the content does.
        let digest = answered_digest(&answer);
        let digest = digest.filter(|digest| same_digest(&call.label, identifier, digest).is_ok());
        // What was asked for by SHA-512 is known by it, whatever the registry calls it.
        let digest = digest.map(|digest| identifier.parse().unwrap_or(digest));
        let size = answer.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let kind = answer.header(CONTENT_TYPE).and_then(media_type::manifest_type);
        if let (Some(digest), Some(size), Some(kind)) = (digest, size, kind) {
            return Ok(Some(Descriptor::new(kind, digest, size)));
        }
        drop(answer);
        self.descriptor(identifier).await
    }

    /// Whether the registry finds by HEAD what it has, as far as that is known or one manifest that was read tells it.
    async fn is_head_known(&self) -> bool {
        let registry = &self.registry;
        let (name, identifier) = match (registry.answers_head(), registry.manifest_read()) {
            (true, _) => return true,
            (false, None) => return false,
            (false, Some(read)) => read,
        };
        let other = Self::new(registry.clone(), name);
        let Ok(call) = other.manifest_call(Method::HEAD, &identifier) else {
            return false;
        };
        let found = matches!(other.headed(&call).await, Ok(HeadResult::Found(_)));
        if found {
            registry.note_head();
        }
        found
    }

    async fn descriptor(&self, identifier: &str) -> Result<Option<Descriptor>, Error> {
        Ok(self.manifest(identifier).await?.map(|document| document.descriptor))
    }

    /// Asks by HEAD, which is no more than a short way to ask: who does not know it, or does not allow it, may know GET,
    /// whose answer has a reason besides.
    async fn headed(&self, call: &Call) -> Result<HeadResult, Error> {
        let answer = match self.registry.send(call).await {
            Ok(answer) => answer,
            Err(error) if matches!(error.kind(), Kind::Status(_) | Kind::Interrupted) => {
                return Ok(HeadResult::Unsupported);
            }
            Err(error) => return Err(error),
        };
        match answer.status().as_u16() {
            200 => Ok(HeadResult::Found(answer)),
            404 | 410 => Ok(HeadResult::MissingPlatforms),
            _ => Ok(HeadResult::Unsupported),
        }
    }

    /// The manifest or index under a tag or digest, its bytes verified against the digest.
    pub async fn manifest(&self, identifier: &str) -> Result<Option<Document>, Error> {
        let call = self.manifest_call(Method::GET, identifier)?;
        let Some(mut answer) = self.found(&call).await? else {
            return Ok(None);
        };
        let raw = self.body(&mut answer, MANIFEST_LIMIT).await?;
        // Nothing is told of what stands at another host, to which the registry leads.
        let told = |error: Error| match answer.is_foreign {
            true => Error::new(
                error.kind().clone(),
                &call.label,
                "what the registry leads to is not the manifest that it should be",
            ),
            false => error,
        };
        // A header that is no digest says nothing of the content.
        let promised = answered_digest(&answer);
        let expected: Option<Digest> = identifier.parse().ok();
        for expected in expected.iter().chain(&promised) {
            let mut hasher = Hasher::like(expected);
            hasher.update(&raw);
            same_digest(&call.label, expected.as_str(), &hasher.finish()).map_err(told)?;
        }
        let declared = answer.header(CONTENT_TYPE).map(str::to_owned);
        let document =
            Document::parse(declared.as_deref(), raw).map_err(|error| told(Error::document(&call.label, &error)))?;
        self.registry.note_manifest(&self.name, identifier);
        Ok(Some(match expected {
            Some(expected) => document.known_by(expected),
            None => document,
        }))
    }

    /// The size in bytes of a blob, if the repository holds it.
    pub async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let (head, get) = (
            self.blob_call(Method::HEAD, digest),
            self.blob_call(Method::GET, digest),
        );
        self.size_of(digest, head, get).await
    }

    /// The same, asked by one who has the turn to write.
    pub(super) async fn head_blob_within_turn(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let (head, get) = (
            self.blob_call(Method::HEAD, digest),
            self.blob_call(Method::GET, digest),
        );
        self.size_of(digest, head.within_turn(), get.within_turn()).await
    }

    fn blob_call(&self, method: Method, digest: &Digest) -> Call {
        let url = self.registry.url(&self.name, ["blobs", digest.as_str()]);
        Call::new(method, url, Scope::pull(&self.name))
    }

    async fn size_of(&self, digest: &Digest, head: Call, get: Call) -> Result<Option<u64>, Error> {
        // Some say of HEAD that it has no content, and mean its answer.
        let size = |answer: &RegistryResponse| {
            let size = answer.header(CONTENT_LENGTH)?.parse().ok();
            size.filter(|size| *size > 0 || Hasher::like(digest).finish() == *digest)
        };
        match self.headed(&head).await? {
            HeadResult::MissingPlatforms => return Ok(None),
            HeadResult::Found(answer) => match size(&answer) {
                Some(size) => return Ok(Some(size)),
                None => drop(answer),
            },
            HeadResult::Unsupported => {}
        }
        let answer = self.found(&get).await?;
        // Without a size it cannot be told from a broken one, and is brought again. The content is not read.
        Ok(answer.as_ref().and_then(size))
    }

    /// Whether the registry gives this blob away. One that will not, for whatever reason of its own, has it not.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let head = self.registry.send(&self.blob_call(Method::HEAD, digest)).await?;
        let refused = matches!(head.status().as_u16(), 400 | 403 | 405 | 501);
        let has = head.status().is_success();
        // Its turn ends here, before the next request asks for one.
        drop(head);
        if !refused {
            return Ok(has);
        }
        let first = HeaderValue::from_static("bytes=0-0");
        let get = self
            .registry
            .send(&self.blob_call(Method::GET, digest).with(RANGE, first))
            .await?;
        Ok(get.status().is_success())
    }

    /// The content of a blob, verified while it streams: a wrong digest or size is an error in place of the
    /// end. The request is sent when the stream is first polled; a broken connection is resumed.
    pub fn blob(&self, digest: &Digest, size: Option<u64>) -> Download {
        let call = self.blob_call(Method::GET, digest);
        Download::new(self.registry.clone(), call, digest.clone(), size)
    }

    /// As [`Repository::blob`], for content whose digest is verified where it goes: hashing is what costs most of
    /// a copy, and once is enough. Only the size is looked at.
    pub fn unverified_blob(&self, digest: &Digest, size: u64) -> Download {
        self.blob(digest, Some(size)).unverified()
    }

    /// The content of a blob of at most `limit` bytes, verified. All of it has to come within the time that the registry may
    /// stand still.
    pub async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Error> {
        let mut download = self.blob(digest, None);
        let mut content = BytesMut::new();
        let mut permits = BodyPermits::default();
        let time = self.registry.idle();
        // From the first chunk on: before it, the request waits for its turn, and has a limit of its own.
        let mut deadline: Option<Instant> = None;
        loop {
            let chunk = match deadline {
                Some(deadline) => timeout_at(deadline, download.chunk()).await,
                None => Ok(download.chunk().await),
            };
            match chunk.map_err(|_| Error::timed_out(download.label(), time))? {
                Ok(Some(chunk)) if content.len() + chunk.len() > limit => {
                    let detail = format!("the blob has more than the {limit} bytes that are read of it");
                    return Err(Error::new(Kind::TooLarge, download.label(), detail));
                }
                Ok(Some(chunk)) => {
                    let waited = Instant::now();
                    permits.grow(content.len() + chunk.len()).await;
                    deadline = Some(deadline.unwrap_or(waited + time) + waited.elapsed());
                    content.extend_from_slice(&chunk);
                }
                Ok(None) => return Ok(Some(content.freeze())),
                Err(error) if error.kind() == &Kind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Stores a manifest or index under a tag or its digest. Its blobs and children must be there. One that has a
    /// subject is found by it afterwards: a registry that does not see to that by itself gets the listing.
    pub async fn put_manifest(&self, document: &Document, identifier: &str) -> Result<(), Error> {
        match document.subject() {
            Some(subject) => self.put_referrer(document, &subject.digest, identifier).await,
            None => self.put_document(document, identifier).await.map(drop),
        }
    }

    /// As [`Repository::put_manifest`], without a look at the subject.
    pub(super) async fn put_document(&self, document: &Document, identifier: &str) -> Result<RegistryResponse, Error> {
        let mut call = self.manifest_call(Method::PUT, identifier)?;
        call.scope = Scope::push(&self.name);
        let kind = HeaderValue::try_from(&document.descriptor.media_type)
            .map_err(|_| Error::new(Kind::Invalid, &call.label, "the media type does not fit a header"))?;
        call.headers.remove(ACCEPT);
        call.headers.insert(CONTENT_TYPE, kind);
        call.body = Some(document.raw.clone());
        let answer = self.registry.expect(&call, &[200, 201, 202, 204]).await?;
        if let Some(digest) =
            answered_digest(&answer).filter(|digest| digest.algorithm() == document.digest().algorithm())
        {
            same_digest(&call.label, document.digest().as_str(), &digest)?;
        }
        Ok(answer)
    }

    /// Makes a blob of the repository `from` of the same registry stand in this one, without moving bytes
    /// (distribution specification, "Mounting a blob from another repository").
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<MountResult, Error> {
        let (repository, digest, from) = (self.clone(), digest.clone(), from.to_owned());
        to_its_end(async move { repository.try_mount(&digest, &from).await }).await
    }

    /// Without it the blob is sent, so no answer is a failure.
    async fn try_mount(&self, digest: &Digest, from: &str) -> Result<MountResult, Error> {
        let mut url = self.uploads();
        url.query_pairs_mut()
            .append_pair("mount", digest.as_str())
            .append_pair("from", from);
        let scope = Scope::mount(&self.name, from);
        let call = Call::new(Method::POST, url, scope).with(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = match self.registry.send(&call).await {
            Ok(answer) => answer,
            // Whatever stands against all requests is said of the upload too.
            Err(error) => {
                tracing::debug!(%error, "a blob is sent, not mounted");
                return Ok(MountResult::Refused(None));
            }
        };
        match answer.status().as_u16() {
            201 => Ok(MountResult::Mounted),
            202 => Ok(MountResult::Refused(
                Session::begun(self, &call, &answer).ok().map(PendingUpload),
            )),
            status => {
                tracing::debug!(status, label = call.label, "a blob is sent, not mounted");
                Ok(MountResult::Refused(None))
            }
        }
    }

    /// Removes a manifest. False when it was not there.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<bool, Error> {
        let mut call = self.manifest_call(Method::DELETE, digest.as_str())?;
        call.headers.remove(ACCEPT);
        call.scope = Scope::delete(&self.name);
        let answer = self.registry.expect(&call, &[200, 202, 204, 404]).await?;
        Ok(answer.status() != 404)
    }

    pub(super) fn uploads(&self) -> url::Url {
        self.registry.url(&self.name, ["blobs", "uploads", ""])
    }

    fn manifest_call(&self, method: Method, identifier: &str) -> Result<Call, Error> {
        let url = self.registry.url(&self.name, ["manifests", identifier]);
        let call = Call::new(method, url, Scope::pull(&self.name));
        if identifier.parse::<Digest>().is_err() && !is_tag(identifier) {
            let detail = "this is neither a digest nor a tag (letters, digits, `_`, `.` and `-`, at most 128)";
            return Err(Error::new(Kind::Invalid, call.label, detail));
        }
        Ok(call.with(ACCEPT, accepted()))
    }

    async fn found(&self, call: &Call) -> Result<Option<RegistryResponse>, Error> {
        match self.registry.expect(call, &[200, 404]).await {
            Ok(answer) if answer.status() == 404 => Ok(None),
            Ok(answer) => Ok(Some(answer)),
            // Some say so by another status.
            Err(error) if error.kind() == &Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The body of `answer`, within `limit` bytes and the time that the registry may stand still.
    pub(super) async fn body(&self, answer: &mut RegistryResponse, limit: usize) -> Result<Bytes, Error> {
        let label = answer.label.clone();
        let body = body_within(&mut answer.response, limit, self.registry.idle(), &label).await?;
        Ok(body.bytes)
    }
}

fn accepted() -> HeaderValue {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| media_type::MANIFESTS.join(", "));
    HeaderValue::from_str(&TEXT).unwrap_or(HeaderValue::from_static("*/*"))
}

/// Whether a text is a tag (distribution specification, "Pulling manifests").
fn is_tag(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// `Docker-Content-Digest`, which need not be there. What is no digest says nothing.
pub(super) fn answered_digest(answer: &RegistryResponse) -> Option<Digest> {
    answer.header(&DOCKER_CONTENT_DIGEST)?.trim().parse().ok()
}

/// Fails when `expected` is a digest of the same algorithm and another one.
pub(super) fn same_digest(label: &str, expected: &str, found: &Digest) -> Result<(), Error> {
    match expected.parse::<Digest>() {
        Ok(expected) if expected.algorithm() == found.algorithm() && expected != *found => Err(Error::new(
            Kind::DigestMismatch,
            label,
            format!("{expected} is expected, and the content has {found}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_from_paths() {
        for good in ["latest", "_x", "1.0-a_b", &"a".repeat(128)] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "..", "a?b", "a:b", &"a".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
