//! A repository of a registry.

use bytes::{Bytes, BytesMut};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use tokio::time::{Instant, timeout_at};

use super::body::{BodyPermits, read_document};
use super::client::{Registry, RegistryRequest, RegistryResponse};
use super::download::Download;
use super::error::{Error, Kind};
use super::token::Scope;
use crate::oci::{Descriptor, Digest, Document, Hasher, MANIFEST_LIMIT, media_type};

pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// How often a part of a blob is requested, after temporary failures.
const RANGE_ATTEMPTS: u32 = 3;

/// The result of a HEAD request.
enum HeadResult {
    Found(RegistryResponse),
    NotFound,
    /// The registry does not support HEAD for it.
    Unsupported,
}

/// A repository, which need not exist. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    registry: Registry,
    name: String,
}

impl Registry {
    /// A repository by its path, such as `library/nginx`. It need not exist.
    pub fn repository(&self, name: impl Into<String>) -> Repository {
        Repository::new(self.clone(), name.into())
    }
}

impl Repository {
    fn new(registry: Registry, name: String) -> Self {
        Self { registry, name }
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The path within the registry, such as `library/nginx`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor of the manifest under a tag or digest, by HEAD if the response is complete (distribution
    /// specification, "Checking if content exists in the registry").
    pub async fn head_manifest(&self, identifier: &str) -> Result<Option<Descriptor>, Error> {
        let request = self.manifest_request(Method::HEAD, identifier)?;
        let response = match self.head(&request).await? {
            // Some registries return 404 for every HEAD request. If GET fails, the result of HEAD counts.
            HeadResult::NotFound => {
                return Ok(match self.supports_head().await {
                    true => None,
                    false => self.descriptor_by_get(identifier).await.unwrap_or_default(),
                });
            }
            HeadResult::Found(response) => response,
            HeadResult::Unsupported => return self.descriptor_by_get(identifier).await,
        };
        self.registry.record_head_support();
        // An invalid or different digest in the header is ignored; the content is read instead.
        let digest = digest_header(&response);
        let digest = digest.filter(|digest| check_digest(&request.label, identifier, digest).is_ok());
        // A requested digest, such as SHA-512, replaces the one of the registry.
        let digest = digest.map(|digest| identifier.parse().unwrap_or(digest));
        let size = response.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let kind = response.header(CONTENT_TYPE).and_then(media_type::manifest_type);
        if let (Some(digest), Some(size), Some(kind)) = (digest, size, kind) {
            return Ok(Some(Descriptor::new(kind, digest, size)));
        }
        drop(response);
        self.descriptor_by_get(identifier).await
    }

    /// Whether HEAD finds existing manifests: as recorded, or tested with a manifest that was read.
    async fn supports_head(&self) -> bool {
        let registry = &self.registry;
        let (name, identifier) = match (registry.supports_head(), registry.take_manifest_read()) {
            (true, _) => return true,
            (false, None) => return false,
            (false, Some(read)) => read,
        };
        let other = Self::new(registry.clone(), name);
        let Ok(request) = other.manifest_request(Method::HEAD, &identifier) else {
            return false;
        };
        let found = matches!(other.head(&request).await, Ok(HeadResult::Found(_)));
        if found {
            registry.record_head_support();
        }
        found
    }

    async fn descriptor_by_get(&self, identifier: &str) -> Result<Option<Descriptor>, Error> {
        Ok(self.manifest(identifier).await?.map(|document| document.descriptor))
    }

    /// Sends a HEAD request, which is only an optimization: a registry that does not support or allow it may support
    /// GET, whose error response also has a message.
    async fn head(&self, request: &RegistryRequest) -> Result<HeadResult, Error> {
        let response = match self.registry.send(request).await {
            Ok(response) => response,
            Err(error) if matches!(error.kind(), Kind::Status(_) | Kind::Interrupted) => {
                return Ok(HeadResult::Unsupported);
            }
            Err(error) => return Err(error),
        };
        match response.status().as_u16() {
            200 => Ok(HeadResult::Found(response)),
            404 | 410 => Ok(HeadResult::NotFound),
            _ => Ok(HeadResult::Unsupported),
        }
    }

    /// Reads the manifest or index under a tag or digest, and verifies it against the digest.
    pub async fn manifest(&self, identifier: &str) -> Result<Option<Document>, Error> {
        let request = self.manifest_request(Method::GET, identifier)?;
        let Some(mut response) = self.get_if_found(&request).await? else {
            return Ok(None);
        };
        let raw = self.body(&mut response, MANIFEST_LIMIT).await?;
        // Content from another host that the registry redirects to is not described.
        let conceal = |error: Error| match response.is_concealed {
            true => Error::new(
                error.kind().clone(),
                &request.label,
                "the content at the redirect target of the registry is not the expected manifest",
            ),
            false => error,
        };
        // An invalid digest in the header is ignored.
        let announced = digest_header(&response);
        let expected: Option<Digest> = identifier.parse().ok();
        for expected in expected.iter().chain(&announced) {
            let mut hasher = Hasher::like(expected);
            hasher.update(&raw);
            check_digest(&request.label, expected.as_str(), &hasher.finish()).map_err(conceal)?;
        }
        let declared = response.header(CONTENT_TYPE).map(str::to_owned);
        let document = Document::parse(declared.as_deref(), raw)
            .map_err(|error| conceal(Error::invalid_document(&request.label, &error)))?;
        self.registry.record_manifest_read(&self.name, identifier);
        Ok(Some(match expected {
            Some(expected) => document.with_digest(expected),
            None => document,
        }))
    }

    /// The size of a blob in bytes; `None` if it does not exist in the repository.
    pub async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let (head, get) = (
            self.blob_request(Method::HEAD, digest),
            self.blob_request(Method::GET, digest),
        );
        self.blob_size(digest, head, get).await
    }

    /// The same for a caller that holds a write permit.
    pub(super) async fn head_blob_holding_permit(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let (head, get) = (
            self.blob_request(Method::HEAD, digest),
            self.blob_request(Method::GET, digest),
        );
        self.blob_size(digest, head.holding_permit(), get.holding_permit())
            .await
    }

    fn blob_request(&self, method: Method, digest: &Digest) -> RegistryRequest {
        let url = self.registry.url(&self.name, ["blobs", digest.as_str()]);
        RegistryRequest::new(method, url, Scope::pull(&self.name))
    }

    async fn blob_size(
        &self,
        digest: &Digest,
        head: RegistryRequest,
        get: RegistryRequest,
    ) -> Result<Option<u64>, Error> {
        // Some registries send the length of the HEAD response itself, which is 0.
        let size = |response: &RegistryResponse| {
            let size = response.header(CONTENT_LENGTH)?.parse().ok();
            size.filter(|size| *size > 0 || Hasher::like(digest).finish() == *digest)
        };
        match self.head(&head).await? {
            HeadResult::NotFound => return Ok(None),
            HeadResult::Found(response) => match size(&response) {
                Some(size) => return Ok(Some(size)),
                None => drop(response),
            },
            HeadResult::Unsupported => {}
        }
        let response = self.get_if_found(&get).await?;
        // Without a size it cannot be distinguished from a damaged blob, so it counts as absent and is pushed again.
        // The content is not read.
        Ok(response.as_ref().and_then(size))
    }

    /// Whether the blob can be downloaded. A registry that refuses it, for any reason, counts as not having it.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let head = self.registry.send(&self.blob_request(Method::HEAD, digest)).await?;
        let refused = matches!(head.status().as_u16(), 400 | 403 | 405 | 501);
        let has = head.status().is_success();
        // Releases the permit before the next request acquires one.
        drop(head);
        if !refused {
            return Ok(has);
        }
        let first = HeaderValue::from_static("bytes=0-0");
        let get = self
            .registry
            .send(&self.blob_request(Method::GET, digest).with(RANGE, first))
            .await?;
        Ok(get.status().is_success())
    }

    /// Downloads a blob, verified while it streams: a wrong digest or size is an error in place of the end. The request
    /// is sent when the stream is first polled; a broken connection is resumed.
    pub fn blob(&self, digest: &Digest, size: Option<u64>) -> Download {
        let request = self.blob_request(Method::GET, digest);
        Download::new(self.registry.clone(), request, digest.clone(), size)
    }

    /// Like [`Repository::blob`], for content whose digest the receiver verifies: hashing is the most expensive part of
    /// a copy. Only the size is verified.
    pub fn unverified_blob(&self, digest: &Digest, size: u64) -> Download {
        self.blob(digest, Some(size)).unverified()
    }

    /// The `length` bytes of a blob from `offset`. They are not verified. All of them must arrive within the idle timeout.
    pub async fn blob_range(&self, digest: &Digest, offset: u64, length: usize) -> Result<Bytes, Error> {
        let Some(last) = (length as u64).checked_sub(1) else {
            return Ok(Bytes::new());
        };
        let mut request = self.blob_request(Method::GET, digest);
        let range = format!("bytes={offset}-{}", offset.saturating_add(last));
        if let Ok(range) = range.parse() {
            request = request.with(RANGE, range);
        }
        let mut attempts = 1;
        loop {
            match self.part(&request, length).await {
                Err(error) if error.is_temporary() && attempts < RANGE_ATTEMPTS => attempts += 1,
                read => return read,
            }
        }
    }

    async fn part(&self, request: &RegistryRequest, length: usize) -> Result<Bytes, Error> {
        let mut response = self.registry.expect(request, &[200, 206]).await?;
        if response.status() != 206 {
            let detail = "the registry does not send parts of blobs (Range)";
            return Err(Error::new(Kind::Unsupported, response.label, detail));
        }
        let bytes = self.body(&mut response, length).await?;
        match bytes.len() == length {
            true => Ok(bytes),
            false => {
                let detail = format!("the registry sent {} of {length} bytes", bytes.len());
                Err(Error::new(Kind::Protocol, response.label, detail))
            }
        }
    }

    /// Reads a blob of at most `limit` bytes, verified. After the first chunk, all of it must arrive within the idle
    /// timeout.
    pub async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Error> {
        let mut download = self.blob(digest, None);
        let mut content = BytesMut::new();
        let mut permits = BodyPermits::default();
        let time = self.registry.idle();
        // Starts with the first chunk: before it, the request waits for a permit and has its own timeout.
        let mut deadline: Option<Instant> = None;
        loop {
            let chunk = match deadline {
                Some(deadline) => timeout_at(permits.deadline(content.len(), deadline), download.chunk()).await,
                None => Ok(download.chunk().await),
            };
            match chunk.map_err(|_| Error::timed_out(download.label(), time))? {
                Ok(Some(chunk)) if content.len() + chunk.len() > limit => {
                    let detail = format!("the blob is longer than the limit of {limit} bytes");
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

    /// Like [`Repository::put_manifest`], without regard to the subject.
    pub(super) async fn put_document(&self, document: &Document, identifier: &str) -> Result<RegistryResponse, Error> {
        let mut request = self.manifest_request(Method::PUT, identifier)?;
        request.scope = Scope::push(&self.name);
        let kind = HeaderValue::try_from(&document.descriptor.media_type).map_err(|_| {
            Error::new(
                Kind::Invalid,
                &request.label,
                "the media type has characters that are not allowed in a header",
            )
        })?;
        request.headers.remove(ACCEPT);
        request.headers.insert(CONTENT_TYPE, kind);
        request.body = Some(document.raw.clone());
        let response = self.registry.expect(&request, &[200, 201, 202, 204]).await?;
        if let Some(digest) =
            digest_header(&response).filter(|digest| digest.algorithm() == document.digest().algorithm())
        {
            check_digest(&request.label, document.digest().as_str(), &digest)?;
        }
        Ok(response)
    }

    /// Deletes a manifest. Returns false if it did not exist.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<bool, Error> {
        let mut request = self.manifest_request(Method::DELETE, digest.as_str())?;
        request.headers.remove(ACCEPT);
        request.scope = Scope::delete(&self.name);
        let response = self.registry.expect(&request, &[200, 202, 204, 404]).await?;
        Ok(response.status() != 404)
    }

    pub(super) fn uploads(&self) -> url::Url {
        self.registry.url(&self.name, ["blobs", "uploads", ""])
    }

    fn manifest_request(&self, method: Method, identifier: &str) -> Result<RegistryRequest, Error> {
        let url = self.registry.url(&self.name, ["manifests", identifier]);
        let request = RegistryRequest::new(method, url, Scope::pull(&self.name));
        if identifier.parse::<Digest>().is_err() && !is_tag(identifier) {
            let detail = "this is neither a digest nor a tag (letters, digits, `_`, `.` and `-`, at most 128)";
            return Err(Error::new(Kind::Invalid, request.label, detail));
        }
        Ok(request.with(ACCEPT, accept_header()))
    }

    async fn get_if_found(&self, request: &RegistryRequest) -> Result<Option<RegistryResponse>, Error> {
        match self.registry.expect(request, &[200, 404]).await {
            Ok(response) if response.status() == 404 => Ok(None),
            Ok(response) => Ok(Some(response)),
            // Some registries use another status.
            Err(error) if error.kind() == &Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The body of `response`, within `limit` bytes and the idle timeout.
    pub(super) async fn body(&self, response: &mut RegistryResponse, limit: usize) -> Result<Bytes, Error> {
        let label = response.label.clone();
        read_document(&mut response.inner, limit, self.registry.idle(), &label).await
    }
}

fn accept_header() -> HeaderValue {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| media_type::MANIFESTS.join(", "));
    HeaderValue::from_str(&TEXT).unwrap_or(HeaderValue::from_static("*/*"))
}

/// Whether a text is a valid tag (distribution specification, "Pulling manifests").
fn is_tag(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The digest in `Docker-Content-Digest`; `None` if it is missing or invalid.
pub(super) fn digest_header(response: &RegistryResponse) -> Option<Digest> {
    response.header(&DOCKER_CONTENT_DIGEST)?.trim().parse().ok()
}

/// Fails if `expected` is another digest of the same algorithm.
pub(super) fn check_digest(label: &str, expected: &str, found: &Digest) -> Result<(), Error> {
    match expected.parse::<Digest>() {
        Ok(expected) if expected.algorithm() == found.algorithm() && expected != *found => Err(Error::new(
            Kind::DigestMismatch,
            label,
            format!("expected {expected}, but the content has {found}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_tags_are_accepted() {
        for good in ["latest", "_x", "1.0-a_b", &"a".repeat(128)] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "..", "a?b", "a:b", &"a".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
