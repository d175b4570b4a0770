//! What goes wrong with a registry, typed, and what it means to whoever acts on it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use serde::Deserialize;

use crate::fault::{Fault, Reason};
use crate::oci::DocumentError;

/// The longest part of a registry's own words that is passed on, in characters.
const WORDS_LIMIT: usize = 300;
/// The pause that is kept when a registry asks for patience without saying how much.
pub(super) const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause that a registry may ask of a request, which then waits instead of failing.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The class of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The registry does not have it.
    NotFound,
    /// It is not known who asks.
    Unauthorized,
    /// Who asks may not.
    Denied,
    /// Too many requests.
    RateLimited {
        /// When the registry wants to hear from us again, if it says so.
        after: Option<Duration>,
    },
    /// No connection: name, address, TLS.
    Unavailable,
    /// The connection broke while something was under way.
    Interrupted,
    /// Nothing moved for as long as is allowed.
    TimedOut,
    /// What arrived is not what was asked for.
    DigestMismatch,
    /// More bytes than one takes from the other.
    TooLarge,
    /// The registry, or we, cannot do this.
    Unsupported,
    /// The registry says that what we ask for is not well formed.
    Invalid,
    /// The address of the registry is none.
    Address,
    /// A certificate or key that was given cannot be read.
    Trust,
    /// An answer that the specification does not have.
    Protocol,
    /// Any other status.
    Status(u16),
}

/// A failure of a request to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    /// Method and URL without query, or the host.
    call: String,
    detail: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.call, self.detail)
    }
}

impl StdError for Error {}

impl Error {
    pub(super) fn new(kind: Kind, call: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            call: call.into(),
            detail: detail.into(),
        }
    }

    /// The class.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What happened, without the request.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether time alone may end it.
    pub fn temporary(&self) -> bool {
        match self.kind {
            Kind::RateLimited { .. } | Kind::Unavailable | Kind::Interrupted | Kind::TimedOut => true,
            Kind::Status(status) => is_temporary(status),
            _ => false,
        }
    }

    /// Why no answer came.
    pub(super) fn transport(call: &str, error: &reqwest::Error) -> Self {
        let (kind, detail) = why(error);
        Self::new(kind, call, detail)
    }

    pub(super) fn timed_out(call: &str, limit: Duration) -> Self {
        let detail = format!("the registry did not move for {} s", limit.as_secs_f32().ceil());
        Self::new(Kind::TimedOut, call, detail)
    }

    pub(super) fn document(call: &str, error: &DocumentError) -> Self {
        let kind = match error {
            DocumentError::TooLarge(_) => Kind::TooLarge,
            DocumentError::MediaType(_) => Kind::Unsupported,
            DocumentError::Malformed { .. } => Kind::Protocol,
        };
        Self::new(kind, call, clean(&error.to_string()))
    }

    /// What an answer with the wrong status says. `after` is its `Retry-After`.
    pub(super) fn status(call: &str, status: u16, after: Option<Duration>, body: &[u8]) -> Self {
        let (codes, words) = spoken(body);
        let has = |wanted: &[&str]| codes.iter().any(|code| wanted.contains(&code.as_str()));
        let kind = match status {
            429 => Kind::RateLimited { after },
            503 if after.is_some() => Kind::RateLimited { after },
            _ if has(&["TOOMANYREQUESTS"]) => Kind::RateLimited { after },
            401 => Kind::Unauthorized,
            403 => Kind::Denied,
            404 | 410 => Kind::NotFound,
            413 => Kind::TooLarge,
            405 | 501 => Kind::Unsupported,
            _ if has(&["UNSUPPORTED"]) => Kind::Unsupported,
            400..=499 if has(&["DIGEST_INVALID", "SIZE_INVALID"]) => Kind::DigestMismatch,
            // A manifest whose blobs were removed meanwhile; the next try brings them again.
            400..=499 if has(&["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"]) => Kind::Status(status),
            400..=499 if has(&["NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID"]) => Kind::Invalid,
            _ => Kind::Status(status),
        };
        let detail = if words.is_empty() {
            format!("the registry answered {status}")
        } else {
            format!("the registry answered {status} {words}")
        };
        Self::new(kind, call, detail)
    }

    /// The pause before the same request is sent again, or none if that is of no use. `tried` counts from 1.
    pub(super) fn pause(&self, tried: u32) -> Option<Duration> {
        let jittered = backoff(tried);
        match self.kind {
            Kind::RateLimited { after: Some(after) } => (after <= LONGEST_PAUSE).then_some(after.max(jittered)),
            Kind::RateLimited { after: None } | Kind::Interrupted => Some(jittered),
            Kind::Status(status) if is_temporary(status) => Some(jittered),
            _ => None,
        }
    }

    /// The failure as one of reading `reference`.
    pub fn reading(self, reference: &str) -> Fault {
        self.fault(
            &format!("cannot read {reference}"),
            Reason::SourceFailed,
            Reason::SourceNotFound,
            Reason::InvalidReference,
            "check the name and the tag, or push the image there",
            "imagePullSecrets",
        )
    }

    /// The failure as one of pushing to `to`.
    pub fn pushing(self, to: &str) -> Fault {
        self.fault(
            &format!("cannot push to {to}"),
            Reason::PushFailed,
            Reason::PushFailed,
            Reason::PushFailed,
            "create the repository if the registry does not by itself",
            "secretRef",
        )
    }

    /// `find` is what to do about what is missing, `secret` the field that names the Secret with the credentials.
    fn fault(self, what: &str, failed: Reason, missing: Reason, invalid: Reason, find: &str, secret: &str) -> Fault {
        let advise = |advice: &str| format!("{what}: {self}; {advice}");
        match &self.kind {
            Kind::NotFound => Fault::retryable(missing, advise(find)),
            Kind::Unauthorized => Fault::retryable(
                Reason::AuthenticationFailed,
                advise(&format!(
                    "correct the credentials in the Secret that {secret} names, and check that the repository exists"
                )),
            ),
            Kind::Denied => Fault::retryable(
                Reason::AuthenticationFailed,
                advise(&format!(
                    "give the account of the credentials this right, or give others by {secret}"
                )),
            ),
            Kind::RateLimited { after } => Fault::waiting(
                Reason::RateLimited,
                after.unwrap_or(DEFAULT_PATIENCE),
                advise("it is tried again by itself; credentials often raise the limit"),
            ),
            Kind::Unavailable => Fault::retryable(Reason::RegistryUnavailable, format!("{what}: {self}")),
            Kind::Status(502..=504 | 522) => Fault::retryable(
                Reason::RegistryUnavailable,
                advise("check that the registry runs; it is tried again by itself"),
            ),
            Kind::Interrupted | Kind::Status(_) => Fault::retryable(
                failed,
                advise("it is tried again by itself; the registry's log may say more"),
            ),
            Kind::TimedOut => Fault::retryable(
                Reason::TimedOut,
                advise("check the registry and the network between, or raise stallTimeout"),
            ),
            Kind::DigestMismatch => Fault::retryable(
                Reason::DigestMismatch,
                advise("something on the way alters content; nothing of it was kept"),
            ),
            Kind::TooLarge => Fault::retryable(
                failed,
                advise("raise the limit of the registry or of the proxy before it, or make the content smaller"),
            ),
            Kind::Unsupported => Fault::retryable(
                failed,
                advise("check that the registry takes OCI images and is not read-only"),
            ),
            Kind::Invalid => Fault::stalled(invalid, advise("correct the name, the tag or the image")),
            Kind::Address => Fault::stalled(Reason::InvalidSpec, format!("{what}: {self}")),
            Kind::Trust => Fault::retryable(Reason::SecretUnavailable, format!("{what}: {self}")),
            Kind::Protocol => Fault::retryable(
                failed,
                advise("check that this is a registry, and the proxy before it if there is one"),
            ),
        }
    }
}

/// The pause before a request is sent again, of which the registry says nothing. `tried` counts from 1.
pub(super) fn backoff(tried: u32) -> Duration {
    let base = Duration::from_millis(100) * 2_u32.pow(tried.min(6));
    base.mul_f64(0.5 + fastrand::f64())
}

/// The statuses after which the same request may succeed.
pub(super) fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// The codes of a registry's errors (distribution specification, "Error codes") and its words for people,
/// without the `detail`s, which carry what differs from one time to the next.
pub(super) fn spoken(body: &[u8]) -> (Vec<String>, String) {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return (Vec::new(), String::new());
    };
    let words: Vec<String> = body
        .errors
        .iter()
        .take(4)
        .map(|one| match (one.code.is_empty(), one.message.is_empty()) {
            (false, false) => format!("{}: {}", one.code, one.message),
            _ => format!("{}{}", one.code, one.message),
        })
        .collect();
    let codes = body.errors.into_iter().map(|one| one.code).collect();
    (codes, clean(&words.join(", ")))
}

/// One line of bounded length.
pub(super) fn clean(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_LIMIT)
        .collect();
    if text.chars().nth(WORDS_LIMIT).is_some() {
        line.push('…');
    }
    line
}

/// The first `T` among the causes, those within an `io::Error` included, which `source` does not show.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| cause::<T>(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn why(error: &reqwest::Error) -> (Kind, String) {
    const CHECK: &str = "check that the registry runs there and that its name, port and network are right";
    if let Some(tls) = cause::<rustls::Error>(error) {
        return (Kind::Unavailable, why_tls(tls));
    }
    if error.is_dns() {
        return (Kind::Unavailable, format!("the name does not resolve; {CHECK}"));
    }
    let io = cause::<io::Error>(error).map(io::Error::kind);
    if error.is_connect() {
        let detail = match io {
            Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                "the other side closed the connection at once".to_owned()
            }
            _ if error.is_timeout() => "nobody answers at this address".to_owned(),
            _ => clean(&innermost(error)),
        };
        return (Kind::Unavailable, format!("{detail}; {CHECK}"));
    }
    if error.is_timeout() {
        return (Kind::TimedOut, "the registry did not answer in time".to_owned());
    }
    if error.is_builder() {
        return (Kind::Protocol, clean(&innermost(error)));
    }
    (
        Kind::Interrupted,
        format!("the connection broke ({})", clean(&innermost(error))),
    )
}

fn innermost(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn why_tls(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            "certificate signed by unknown authority; give the CA by registry.certSecretRef".to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => {
            "the registry's certificate is for another name; call the registry by a name in the certificate, or issue one for this name".to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "the registry's certificate has expired; renew it, or set this machine's clock".to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            "the registry's certificate is not valid yet; check the clocks".to_owned()
        }
        rustls::Error::InvalidCertificate(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the registry shows the certificate of an authority as its own; issue it a server certificate (basicConstraints CA:FALSE) and give the CA by registry.certSecretRef".to_owned()
        }
        rustls::Error::InvalidCertificate(other) => {
            format!("the registry's certificate is not usable: {}", clean(&other.to_string()))
        }
        rustls::Error::InvalidMessage(_) => {
            "the other side does not speak TLS; if the registry serves plain HTTP, set insecure: true (on the command line --insecure, for a source registry --insecure-registry)".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!(
            "the registry broke off TLS ({alert:?}); if it wants a client certificate, give tls.crt and tls.key by registry.certSecretRef"
        ),
        other => format!("TLS failed: {}", clean(&other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Disposition;

    fn answered(status: u16, code: &str) -> Error {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no\nway","detail":{{"at":1}}}}]}}"#);
        Error::status("PUT https://r/v2/x/manifests/1", status, None, body.as_bytes())
    }

    #[test]
    fn statuses_become_reasons() {
        for (status, code, reading, pushing) in [
            (
                401,
                "UNAUTHORIZED",
                Reason::AuthenticationFailed,
                Reason::AuthenticationFailed,
            ),
            (
                403,
                "DENIED",
                Reason::AuthenticationFailed,
                Reason::AuthenticationFailed,
            ),
            (404, "MANIFEST_UNKNOWN", Reason::SourceNotFound, Reason::PushFailed),
            (429, "TOOMANYREQUESTS", Reason::RateLimited, Reason::RateLimited),
            (503, "", Reason::RegistryUnavailable, Reason::RegistryUnavailable),
            (500, "UNKNOWN", Reason::SourceFailed, Reason::PushFailed),
            (400, "DIGEST_INVALID", Reason::DigestMismatch, Reason::DigestMismatch),
            (405, "UNSUPPORTED", Reason::SourceFailed, Reason::PushFailed),
        ] {
            let error = answered(status, code);
            assert_eq!(error.clone().reading("r/x:1").reason, reading, "{status}");
            let fault = error.pushing("r/x");
            assert_eq!(fault.reason, pushing, "{status}");
            assert_ne!(fault.disposition, Disposition::Stalled, "{status}");
        }
    }

    #[test]
    fn only_an_invalid_input_stalls() {
        for code in ["NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID"] {
            let fault = answered(400, code).pushing("r/x");
            assert_eq!(
                (fault.reason, fault.disposition),
                (Reason::PushFailed, Disposition::Stalled)
            );
        }
        // Registries answer a manifest with missing blobs by both codes.
        let body = br#"{"errors":[{"code":"MANIFEST_INVALID"},{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#;
        let fault = Error::status("PUT x", 400, None, body).pushing("r/x");
        assert_eq!(fault.disposition, Disposition::Retryable);
    }

    #[test]
    fn patience_is_what_the_registry_asks_for() {
        let after = Some(Duration::from_secs(120));
        let error = Error::status("GET x", 429, after, b"");
        assert_eq!(error.pause(1), None);
        let fault = error.reading("r/x:1");
        assert_eq!(
            fault.disposition,
            Disposition::Waiting {
                after: Duration::from_secs(120)
            }
        );
        let short = Error::status("GET x", 429, Some(Duration::from_secs(2)), b"");
        assert!(short.pause(1).unwrap() >= Duration::from_secs(2));
        assert_eq!(answered(404, "").pause(1), None);
        assert!(answered(503, "").pause(3).unwrap() < Duration::from_secs(5));
    }

    #[test]
    fn words_are_one_bounded_line() {
        let fault = answered(403, &"é".repeat(2000)).pushing("r/x");
        assert!(fault.message.chars().count() < 600, "{}", fault.message);
        let message = answered(403, "DENIED").pushing("r/x").message;
        assert_eq!(
            message,
            "cannot push to r/x: PUT https://r/v2/x/manifests/1: the registry answered 403 DENIED: no way; give the account of the credentials this right, or give others by secretRef"
        );
        assert_eq!(
            Error::status("GET x", 502, None, b"<html>at 12:00</html>").to_string(),
            "GET x: the registry answered 502"
        );
    }
}
