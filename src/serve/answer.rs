//! Responses to requests (OCI distribution specification, "Pull" and "Content Discovery").

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{
    ACCEPT, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, LINK, RANGE,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::accept::Accepted;
use super::catalog::Tags;
use super::content::Content;
use super::page::PageRequest;
use super::range::{Selected, names_tag, selected};
use super::route::{Endpoint, parameter};
use crate::fault::Fault;
use crate::oci::{Digest, Index, media_type};
use crate::server::registry_error;
use crate::source::ByteStream;

/// The content of a response.
pub(super) type Body = UnsyncBoxBody<Bytes, Fault>;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Content never changes under its digest.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

/// An error of the specification ("Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    Unsupported,
}

impl Code {
    fn status_and_name(self) -> (StatusCode, &'static str) {
        match self {
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            // Of distribution; the specification has no code for it.
            Self::PaginationNumberInvalid => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
            Self::RangeInvalid => (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
            Self::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        }
    }

    fn response(self, message: &str) -> Response<Body> {
        let (status, code) = self.status_and_name();
        registry_error(status, code, message).map(body)
    }
}

/// The fields of a request that decide its response.
struct Asked<'r, T> {
    request: &'r Request<T>,
    query: &'r str,
}

impl<T> Asked<'_, T> {
    fn field(&self, name: &HeaderName) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    /// The registry that the client means, where it asks a mirror of it.
    fn namespace(&self) -> Option<String> {
        parameter(self.query, "ns")
    }

    fn has(&self, etag: &str) -> bool {
        self.field(&IF_NONE_MATCH).is_some_and(|field| names_tag(field, etag))
    }
}

/// The response to `request`, whose body is not read.
pub(super) fn respond<T>(content: &Arc<Content>, request: &Request<T>) -> Response<Body> {
    let mut response = answer(content, request);
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if request.method() == Method::HEAD {
        *response.body_mut() = body(Bytes::new());
    }
    response
}

fn answer<T>(content: &Arc<Content>, request: &Request<T>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = Code::Unsupported.response(
            "this registry is read only: it serves files of `jackal-operator pack`; push to another registry",
        );
        let headers = refused.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        // Nobody reads what the client sends.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        return refused;
    }
    let asked = Asked {
        request,
        query: request.uri().query().unwrap_or_default(),
    };
    match Endpoint::of(request.uri().path()) {
        None => Code::NameUnknown.response("there is no such endpoint; the endpoints of a registry begin with /v2/"),
        Some(Endpoint::Base) => document(JSON, Bytes::from_static(b"{}")),
        Some(Endpoint::Catalog) => catalog(content, &asked),
        Some(Endpoint::Tags(name)) => within(content, &asked, &name, |tags| listed_tags(&asked, &name, tags)),
        Some(Endpoint::Manifest(name, identifier)) => within(content, &asked, &name, |tags| {
            manifest(content, &asked, (&name, tags), &identifier)
        }),
        Some(Endpoint::Blob(name, digest)) => within(content, &asked, &name, |_| blob(content, &asked, &digest)),
        Some(Endpoint::Referrers(name, digest)) => {
            within(content, &asked, &name, |_| referrers(content, &asked, &digest))
        }
    }
}

/// The response of `then`, if the repository exists.
fn within<T>(
    content: &Content,
    asked: &Asked<'_, T>,
    name: &str,
    then: impl FnOnce(&Tags) -> Response<Body>,
) -> Response<Body> {
    match content.catalog.repository(name, asked.namespace().as_deref()) {
        Some(tags) => then(tags),
        None => Code::NameUnknown.response(&format!(
            "there is no repository {}; GET /v2/_catalog lists all",
            shown(name)
        )),
    }
}

fn catalog<T>(content: &Content, asked: &Asked<'_, T>) -> Response<Body> {
    listing(
        asked,
        content.catalog.names(),
        |entries| json!({ "repositories": entries }),
    )
}

fn listed_tags<T>(asked: &Asked<'_, T>, name: &str, tags: &Tags) -> Response<Body> {
    let names = tags.keys().map(String::as_str);
    listing(asked, names, |entries| json!({ "name": name, "tags": entries }))
}

/// A page of `entries`, with a link to the next.
fn listing<'e, T>(
    asked: &Asked<'_, T>,
    entries: impl Iterator<Item = &'e str>,
    form: impl FnOnce(Vec<&str>) -> Value,
) -> Response<Body> {
    let Some(request) = PageRequest::parse(asked.query) else {
        return Code::PaginationNumberInvalid.response("n is not a number");
    };
    let page = request.page(entries);
    let mut response = document(JSON, form(page.entries).to_string().into());
    let path = asked.request.uri().path();
    let link = page.next.map(|next| format!("<{path}?{next}>; rel=\"next\""));
    if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
        response.headers_mut().insert(LINK, link);
    }
    response
}

fn manifest<T>(
    content: &Content,
    asked: &Asked<'_, T>,
    (name, tags): (&str, &Tags),
    identifier: &str,
) -> Response<Body> {
    let unknown = || {
        Code::ManifestUnknown.response(&format!(
            "there is no manifest {} in {}",
            shown(identifier),
            shown(name)
        ))
    };
    let digest = match (tags.get(identifier), identifier.contains(':')) {
        (Some(tagged), _) => {
            let Some(document) = content.document(&tagged.digest) else {
                return unknown();
            };
            let fields = asked.request.headers().get_all(ACCEPT).iter();
            let accepted = Accepted::of(fields.filter_map(|field| field.to_str().ok()));
            match accepted.chosen(document) {
                // The digest may be of another algorithm than the one that a document is parsed with.
                Ok(chosen) if chosen == *document.digest() => tagged.digest.clone(),
                Ok(chosen) => chosen,
                Err(_) => {
                    return Code::ManifestUnknown.response(&format!(
                        "{} is an index without a manifest for linux/amd64 that the client accepts; use a client that accepts {}",
                        shown(identifier),
                        media_type::OCI_INDEX
                    ));
                }
            }
        }
        (None, false) => return unknown(),
        (None, true) => match identifier.parse::<Digest>() {
            Ok(digest) => digest,
            Err(error) => return Code::DigestInvalid.response(&error.to_string()),
        },
    };
    let Some(found) = content.document(&digest) else {
        return unknown();
    };
    let kind = HeaderValue::try_from(&found.descriptor.media_type).unwrap_or(JSON);
    identified(document(kind, found.raw.clone()), asked, &digest)
}

fn blob<T>(content: &Arc<Content>, asked: &Asked<'_, T>, digest: &str) -> Response<Body> {
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return Code::DigestInvalid.response(&error.to_string()),
    };
    let unknown = || Code::BlobUnknown.response(&format!("there is no blob {digest}"));
    let Some(size) = content.size(&digest) else {
        return unknown();
    };
    let etag = etag(&digest);
    let current = asked.field(&IF_RANGE).is_none_or(|field| field == etag);
    // A range is defined for GET alone (RFC 9110, section 14.2).
    let field = asked
        .field(&RANGE)
        .filter(|_| current && asked.request.method() == Method::GET && !asked.has(&etag));
    let part = match field.map_or(Selected::Whole, |field| selected(field, size)) {
        Selected::Whole => None,
        Selected::Part(part) => Some(part),
        Selected::Unsatisfiable => {
            let mut refused = Code::RangeInvalid.response(&format!("the blob {digest} has {size} bytes"));
            insert(&mut refused, CONTENT_RANGE, &format!("bytes */{size}"));
            return refused;
        }
    };
    let length = part.as_ref().map_or(size, |part| part.end - part.start);
    let bytes = match &part {
        _ if asked.request.method() == Method::HEAD => Some(futures::stream::empty().boxed()),
        // The client verifies what it puts together.
        Some(part) if length < size => content.part(&digest, part.start, length),
        _ => content.whole(&digest),
    };
    let Some(bytes) = bytes else { return unknown() };
    let mut response = Response::new(streamed(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, BYTES);
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, IMMUTABLE);
    if let Some(part) = part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        insert(&mut response, CONTENT_RANGE, &range);
    }
    identified(response, asked, &digest)
}

fn referrers<T>(content: &Content, asked: &Asked<'_, T>, digest: &str) -> Response<Body> {
    let subject: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return Code::DigestInvalid.response(&error.to_string()),
    };
    let wanted = parameter(asked.query, "artifactType");
    let entries = content.referrers(&subject).iter();
    let entries = entries.filter(|entry| wanted.is_none() || entry.artifact_type == wanted);
    let index = Index::new(entries.cloned().collect());
    let text = serde_json::to_vec(&index).unwrap_or_default();
    let mut response = document(HeaderValue::from_static(media_type::OCI_INDEX), text.into());
    if wanted.is_some() {
        insert(&mut response, FILTERS_APPLIED, "artifactType");
    }
    response
}

/// `response` with the digest of its content; without the content, where the client has it.
fn identified<T>(mut response: Response<Body>, asked: &Asked<'_, T>, digest: &Digest) -> Response<Body> {
    let etag = etag(digest);
    insert(&mut response, CONTENT_DIGEST, digest.as_str());
    insert(&mut response, ETAG, &etag);
    if asked.has(&etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = body(Bytes::new());
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// A response with short content.
fn document(kind: HeaderValue, content: Bytes) -> Response<Body> {
    let length = content.len();
    let mut response = Response::new(body(content));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

fn body(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

fn streamed(bytes: ByteStream<'static>) -> Body {
    StreamBody::new(bytes.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

fn insert(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A name of a request, for a message.
fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}
