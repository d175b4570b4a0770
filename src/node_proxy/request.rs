//! Which requests are forwarded, and what of them. No IO.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::Body;
use super::body::whole;
use crate::server::registry_error;

/// The fields that pulling needs. Fields of the connection are never among them.
const FIELDS: [HeaderName; 10] = [
    ACCEPT,
    ACCEPT_ENCODING,
    AUTHORIZATION,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    USER_AGENT,
];

/// A request to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    /// GET or HEAD.
    pub method: Method,
    /// The path and the query.
    pub target: String,
    /// The fields of the client.
    pub fields: HeaderMap,
}

/// Why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not GET or HEAD.
    Method,
    /// The client sends a body.
    Body,
    /// The target is not a path, but a URL or a host.
    Target,
    /// The path is not of a registry.
    Path,
}

impl Forwarded {
    /// What of the request is forwarded.
    pub fn of(method: &Method, uri: &Uri, fields: &HeaderMap) -> Result<Self, Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
        if fields.contains_key(TRANSFER_ENCODING) || !fields.get_all(CONTENT_LENGTH).iter().all(is_empty) {
            return Err(Refusal::Body);
        }
        if uri.authority().is_some() || uri.scheme().is_some() {
            return Err(Refusal::Target);
        }
        let path = uri.path();
        if path != "/v2" && !path.starts_with("/v2/") || path.split('/').any(leaves) {
            return Err(Refusal::Path);
        }
        let mut kept = HeaderMap::new();
        for name in &FIELDS {
            for value in fields.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        let target = uri.path_and_query().map_or(path, |target| target.as_str());
        Ok(Self {
            method: method.clone(),
            target: target.to_owned(),
            fields: kept,
        })
    }
}

/// Whether the segment of a path means another folder, with any part of it encoded.
fn leaves(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    let encoded = segment.to_ascii_lowercase();
    matches!(&*plain, "." | "..") || encoded.contains("%2f") || encoded.contains("%5c") || segment.contains('\\')
}

impl Refusal {
    /// The response, which ends the connection where the client may be sending a body.
    pub fn response(self) -> Response<Body> {
        let (status, code, message) = match self {
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this address is for pulling: it takes GET and HEAD only; push by a JackalPackage, or to the Service of the registry",
            ),
            Self::Body => (
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED",
                "requests to this address have no body; remove Content-Length and Transfer-Encoding",
            ),
            Self::Target => (
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED",
                "this address is a registry, not a proxy for URLs; request a path such as /v2/, and remove it from HTTP_PROXY",
            ),
            Self::Path => (
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "there is no such endpoint; the endpoints of a registry begin with /v2/",
            ),
        };
        let mut response = registry_error(status, code, message).map(whole);
        let fields = response.headers_mut();
        if self == Self::Method {
            fields.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if matches!(self, Self::Method | Self::Body) {
            // Nobody reads what the client sends.
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in of {
            fields.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        fields
    }

    fn forwarded(method: Method, target: &str, of: &[(&str, &str)]) -> Result<Forwarded, Refusal> {
        Forwarded::of(&method, &target.parse().unwrap(), &fields(of))
    }

    #[test]
    fn a_pull_is_forwarded_with_the_fields_that_it_needs() {
        let sent = [
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("authorization", "Basic eA=="),
            ("range", "bytes=1-"),
            ("connection", "keep-alive, accept"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("host", "evil"),
            ("x-forwarded-for", "1.2.3.4"),
            ("content-length", "0"),
        ];
        let got = forwarded(Method::GET, "/v2/a/blobs/sha256:ab?ns=x", &sent).unwrap();
        assert_eq!(got.target, "/v2/a/blobs/sha256:ab?ns=x");
        let kept = [sent[0], sent[1], sent[2], sent[3]];
        assert_eq!(got.fields, fields(&kept));
        assert!(forwarded(Method::HEAD, "/v2", &[]).is_ok() && forwarded(Method::HEAD, "/v2/", &[]).is_ok());
    }

    #[test]
    fn everything_else_is_refused() {
        for method in [
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::OPTIONS,
            Method::CONNECT,
        ] {
            assert_eq!(forwarded(method, "/v2/", &[]), Err(Refusal::Method));
        }
        let bodies = [
            &[("content-length", "5")][..],
            &[("transfer-encoding", "chunked")],
            &[("content-length", "0"), ("content-length", "5")],
            &[("content-length", "0"), ("transfer-encoding", "identity")],
            &[("content-length", "00")],
        ];
        for sent in bodies {
            assert_eq!(forwarded(Method::GET, "/v2/", sent), Err(Refusal::Body), "{sent:?}");
        }
        for target in ["http://evil/v2/", "https://127.0.0.1:31999/v2/", "evil:80"] {
            assert_eq!(forwarded(Method::GET, target, &[]), Err(Refusal::Target), "{target}");
        }
        for target in [
            "/",
            "/v1/",
            "/v2x",
            "//v2/",
            "/metrics",
            "/debug/vars",
            "/v2/../metrics",
            "/v2/a/%2e%2E/x",
            "/v2/a/.%2e/x",
            "/v2/./x",
            "/v2/a%2f..%2fx",
            "/v2/a%5c..",
            "*",
        ] {
            assert_eq!(forwarded(Method::GET, target, &[]), Err(Refusal::Path), "{target}");
        }
        // A name may begin with dots.
        assert!(forwarded(Method::GET, "/v2/a/manifests/..b", &[]).is_ok());
    }

    #[test]
    fn refusals_are_errors_of_a_registry() {
        let method = Refusal::Method.response();
        assert_eq!(method.status(), 405);
        assert_eq!(
            (&method.headers()[ALLOW], &method.headers()[CONNECTION]),
            (&"GET, HEAD".parse().unwrap(), &"close".parse().unwrap())
        );
        assert_eq!(Refusal::Path.response().headers().get(CONNECTION), None);
    }
}
