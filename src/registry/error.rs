//! Typed errors of registry requests.

mod fault;
mod operation;
mod transport;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::advice::{Advice, RegistryUse};
use super::explanation::{self, ErrorCause, Explanation};
use super::restrictions::RestrictionError;
use crate::fault::Frontend;
use crate::oci::DocumentError;

/// Maximum length of a quoted message, in characters.
const MESSAGE_LIMIT: usize = 300;
/// The delay after a rate limit without `Retry-After`.
pub(super) const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that a request waits for; it fails on longer ones.
pub(super) const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// The class of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The requested content does not exist.
    NotFound,
    /// Authentication is required or failed.
    Unauthorized,
    /// The account lacks the permission.
    Denied,
    /// The administrator of the operator does not allow this request.
    Forbidden,
    /// Too many requests.
    RateLimited {
        /// The delay that the registry requests, if any.
        after: Option<Duration>,
    },
    /// Connecting failed: name resolution, address or TLS.
    Unavailable,
    /// The connection broke during a transfer.
    Interrupted,
    /// No progress within the idle timeout.
    TimedOut,
    /// The content does not have the expected digest or size.
    DigestMismatch,
    /// The content is larger than the limit of the receiver.
    TooLarge,
    /// The registry is full, or a quota is used up.
    NoSpace,
    /// The tag cannot be overwritten.
    Immutable,
    /// The token service issued no token, for another reason than the credentials.
    TokenService,
    /// The registry or this client does not support this.
    Unsupported,
    /// The registry rejects the request as malformed.
    Invalid,
    /// The address of the registry is invalid.
    Address,
    /// A configured certificate or key cannot be read.
    Trust,
    /// A response that violates the specification.
    Protocol,
    /// Any other status.
    Status(u16),
}

/// An error of a request to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    /// Method and URL without query, or the host.
    label: String,
    detail: String,
    /// The registry refused a token that was issued for exactly this request.
    insufficient_scope: bool,
    /// The token service failed, not the registry.
    token_service: bool,
    /// How to fix it, where the class does not determine that.
    advice: Option<Advice>,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.label, self.detail)
    }
}

impl StdError for Error {}

impl Error {
    pub(super) fn new(kind: Kind, label: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            label: label.into(),
            detail: detail.into(),
            insufficient_scope: false,
            token_service: false,
            advice: None,
        }
    }

    /// Marks that the registry refused a token that was issued for this request.
    pub(super) fn with_insufficient_scope(self) -> Self {
        Self {
            insufficient_scope: true,
            ..self
        }
    }

    /// Converts an error of a request to a token service. A token service that is not found, for example, does not mean
    /// that the image is not found.
    pub(super) fn into_token_service_error(self) -> Self {
        let kind = match self.kind {
            Kind::Unauthorized
            | Kind::Denied
            | Kind::Forbidden
            | Kind::RateLimited { .. }
            | Kind::Unavailable
            | Kind::Interrupted
            | Kind::TimedOut
            | Kind::TooLarge
            | Kind::Status(500..) => self.kind,
            _ => Kind::TokenService,
        };
        let detail = match self.token_service || kind == Kind::Forbidden {
            true => self.detail,
            false => self.detail.replace("the registry", "the token service"),
        };
        Self {
            kind,
            detail,
            token_service: true,
            ..self
        }
    }

    /// Whether the requested content may simply not exist: some registries refuse requests for absent content when the
    /// account may not list it, and so does storage.
    pub fn may_mean_absent(&self) -> bool {
        match self.kind {
            Kind::Denied => true,
            Kind::Unauthorized => self.insufficient_scope || self.detail.contains("DENIED"),
            _ => false,
        }
    }

    /// Appends to the detail.
    pub(super) fn with_detail(self, more: &str) -> Self {
        Self {
            detail: format!("{}, {more}", self.detail),
            ..self
        }
    }

    /// Adds advice how to fix it.
    pub(super) fn with_advice(self, advice: Advice) -> Self {
        Self {
            advice: Some(advice),
            ..self
        }
    }

    /// How to fix it, as the end of a sentence; `None` where the class determines that.
    pub(super) fn advice(&self, role: RegistryUse) -> Option<String> {
        self.advice.map(|advice| advice.text(Frontend::of_process(), role))
    }

    /// The class.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What happened, without the request.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether a retry may succeed.
    pub fn is_temporary(&self) -> bool {
        match self.kind {
            Kind::RateLimited { .. } | Kind::Unavailable | Kind::Interrupted | Kind::TimedOut => true,
            Kind::Status(status) => is_temporary(status),
            _ => false,
        }
    }

    /// A request that is not sent because of a restriction.
    pub(super) fn forbidden(label: &str, refusal: &RestrictionError) -> Self {
        Self::new(Kind::Forbidden, label, refusal.to_string())
    }

    /// An unexpected status of another host that the registry redirects to. The body is not quoted, because the author
    /// of the reference may be unable to reach that host.
    pub(super) fn concealed_status(label: &str, status: u16, after: Option<Duration>) -> Self {
        let detail = format!("the host that the registry redirects to answered {status}");
        Self {
            detail,
            ..Self::from_status(label, status, after, &[])
        }
    }

    /// No progress within the idle timeout `limit`.
    pub(super) fn timed_out(label: &str, limit: Duration) -> Self {
        let detail = format!("the registry made no progress for {} s", limit.as_secs_f32().ceil());
        Self::new(Kind::TimedOut, label, detail)
    }

    /// A manifest or index that cannot be used.
    pub(super) fn invalid_document(label: &str, error: &DocumentError) -> Self {
        let kind = match error {
            DocumentError::TooLarge(_) | DocumentError::TooManyValues(_) => Kind::TooLarge,
            DocumentError::MediaType(_) | DocumentError::Schema1 => Kind::Unsupported,
            DocumentError::Malformed { .. } => Kind::Protocol,
        };
        Self::new(kind, label, clean(&error.to_string()))
    }

    /// A response with an unexpected status. `after` is its `Retry-After`.
    pub(super) fn from_status(label: &str, status: u16, after: Option<Duration>, body: &[u8]) -> Self {
        let explanation = Explanation::parse(body);
        let cause = explanation.cause();
        let Explanation { codes, text } = explanation;
        let has = |wanted: &[&str]| codes.iter().any(|code| wanted.contains(&code.as_str()));
        let kind = match status {
            429 => Kind::RateLimited { after },
            503 if after.is_some() => Kind::RateLimited { after },
            _ if has(&["TOOMANYREQUESTS"]) => Kind::RateLimited { after },
            507 => Kind::NoSpace,
            400.. if cause == Some(ErrorCause::NoSpace) => Kind::NoSpace,
            400..500 if cause == Some(ErrorCause::Immutable) => Kind::Immutable,
            401 => Kind::Unauthorized,
            403 => Kind::Denied,
            404 | 410 => Kind::NotFound,
            413 => Kind::TooLarge,
            405 | 501 => Kind::Unsupported,
            _ if has(&["UNSUPPORTED"]) => Kind::Unsupported,
            400..=499 if has(&["DIGEST_INVALID", "SIZE_INVALID"]) => Kind::DigestMismatch,
            // Blobs of the manifest were removed in the meantime; the next attempt pushes them again.
            400..=499 if has(&["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"]) => Kind::Status(status),
            400..=499 if has(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]) => Kind::NotFound,
            400..=499 if has(&["NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID"]) => Kind::Invalid,
            _ => Kind::Status(status),
        };
        // Error pages of proxies begin with the status.
        let text = text
            .strip_prefix(&status.to_string())
            .map_or(text.as_str(), str::trim_start);
        let detail = if text.is_empty() {
            format!("the registry answered {status}")
        } else {
            format!("the registry answered {status} {text}")
        };
        Self::new(kind, label, detail)
    }

    /// The delay before the next attempt; `None` if another attempt is pointless. `attempt` counts from 1.
    pub(super) fn retry_delay(&self, attempt: u32) -> Option<Duration> {
        let jittered = backoff(attempt);
        match self.kind {
            Kind::RateLimited { after: Some(after) } => (after <= MAX_RETRY_DELAY).then_some(after.max(jittered)),
            Kind::RateLimited { after: None } | Kind::Interrupted => Some(jittered),
            Kind::Status(status) if is_temporary(status) => Some(jittered),
            _ => None,
        }
    }
}

/// The backoff before the next attempt, with jitter. `attempt` counts from 1.
pub fn backoff(attempt: u32) -> Duration {
    let base = Duration::from_millis(100) * 2_u32.pow(attempt.min(6));
    base.mul_f64(0.5 + fastrand::f64())
}

/// Whether the same request may succeed later after this status.
pub(super) fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// The error codes in a response body (distribution specification, "Error Codes").
pub(super) fn error_codes(body: &[u8]) -> Vec<String> {
    Explanation::parse(body).codes
}

/// Converts a text to one line of bounded length, without control characters.
pub(super) fn clean(text: &str) -> String {
    explanation::clean(text, MESSAGE_LIMIT)
}

#[cfg(test)]
mod tests;
