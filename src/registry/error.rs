//! What goes wrong with a registry, typed, and what it means to whoever acts on it.

mod operation;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use self::operation::Operation;
use super::advice::{self, RegistryUse, Remedy};
use super::explanation::{self, Explanation, Says};
use super::restrictions::Refusal;
use crate::fault::{Fault, Frontend, Reason};
use crate::oci::{Document, DocumentError};

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
    /// The operator's administrator does not allow to go there.
    Forbidden,
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
    /// The registry has no room: its disk is full, or a quota is used up.
    NoSpace,
    /// What stands under a tag may not be replaced there.
    Immutable,
    /// The token service that the registry names gave no token, for another reason than who asks.
    TokenService,
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
    /// Who asks is known: the registry refused a token that was given for this very request.
    insufficient: bool,
    /// A token service failed, not the registry.
    token_service: bool,
    /// What ends it, where the class does not say.
    remedy: Option<Remedy>,
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
            insufficient: false,
            token_service: false,
            remedy: None,
        }
    }

    /// The same failure, of a request whose token was given for it.
    pub(super) fn insufficient(self) -> Self {
        Self {
            insufficient: true,
            ..self
        }
    }

    /// The same failure, of a token service: what it does not have says nothing of what the registry has.
    pub(super) fn of_token_service(self) -> Self {
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

    /// Whether what was asked for may just not exist: registries that may not say so to everybody refuse it instead, as
    /// does storage without the right to list.
    pub fn may_mean_absent(&self) -> bool {
        match self.kind {
            Kind::Denied => true,
            Kind::Unauthorized => self.insufficient || self.detail.contains("DENIED"),
            _ => false,
        }
    }

    /// The same failure, of which more is known.
    pub(super) fn adding(self, more: &str) -> Self {
        Self {
            detail: format!("{}, {more}", self.detail),
            ..self
        }
    }

    /// The same failure, which `remedy` ends.
    pub(super) fn advising(self, remedy: Remedy) -> Self {
        Self {
            remedy: Some(remedy),
            ..self
        }
    }

    /// What ends it, as the rest of a sentence; none where nothing better is known than the class says.
    pub(super) fn remedy(&self, role: RegistryUse) -> Option<String> {
        self.remedy.map(|remedy| remedy.words(Frontend::of_process(), role))
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

    /// That a request is not sent.
    pub(super) fn refused(call: &str, refusal: &Refusal) -> Self {
        Self::new(Kind::Forbidden, call, refusal.to_string())
    }

    /// What an answer with the wrong status says that another host gave, to which the registry leads: nothing of its words,
    /// which need not be for who named the registry.
    pub(super) fn status_elsewhere(call: &str, status: u16, after: Option<Duration>) -> Self {
        let detail = format!("the host that the registry leads to answered {status}");
        Self {
            detail,
            ..Self::status(call, status, after, &[])
        }
    }

    /// Why no answer came.
    pub(super) fn transport(call: &str, error: &reqwest::Error) -> Self {
        if let Some(tls) = cause::<rustls::Error>(error) {
            let (detail, remedy) = why_tls(tls);
            return Self {
                remedy,
                ..Self::new(Kind::Unavailable, call, detail)
            };
        }
        if let Some(refusal) = cause::<Refusal>(error) {
            return Self::refused(call, refusal);
        }
        let (kind, detail) = why(error);
        Self::new(kind, call, detail)
    }

    pub(super) fn timed_out(call: &str, limit: Duration) -> Self {
        let detail = format!("the registry did not move for {} s", limit.as_secs_f32().ceil());
        Self::new(Kind::TimedOut, call, detail)
    }

    pub(super) fn document(call: &str, error: &DocumentError) -> Self {
        let kind = match error {
            DocumentError::TooLarge(_) | DocumentError::TooManyValues(_) => Kind::TooLarge,
            DocumentError::MediaType(_) | DocumentError::Schema1 => Kind::Unsupported,
            DocumentError::Malformed { .. } => Kind::Protocol,
        };
        Self::new(kind, call, clean(&error.to_string()))
    }

    /// What an answer with the wrong status says. `after` is its `Retry-After`.
    pub(super) fn status(call: &str, status: u16, after: Option<Duration>, body: &[u8]) -> Self {
        let explanation = Explanation::read(body);
        let says = explanation.says();
        let Explanation { codes, text: words } = explanation;
        let has = |wanted: &[&str]| codes.iter().any(|code| wanted.contains(&code.as_str()));
        let kind = match status {
            429 => Kind::RateLimited { after },
            503 if after.is_some() => Kind::RateLimited { after },
            _ if has(&["TOOMANYREQUESTS"]) => Kind::RateLimited { after },
            507 => Kind::NoSpace,
            400.. if says == Some(Says::NoSpace) => Kind::NoSpace,
            400..500 if says == Some(Says::Immutable) => Kind::Immutable,
            401 => Kind::Unauthorized,
            403 => Kind::Denied,
            404 | 410 => Kind::NotFound,
            413 => Kind::TooLarge,
            405 | 501 => Kind::Unsupported,
            _ if has(&["UNSUPPORTED"]) => Kind::Unsupported,
            400..=499 if has(&["DIGEST_INVALID", "SIZE_INVALID"]) => Kind::DigestMismatch,
            // A manifest whose blobs were removed meanwhile; the next try brings them again.
            400..=499 if has(&["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"]) => Kind::Status(status),
            400..=499 if has(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]) => Kind::NotFound,
            400..=499 if has(&["NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID"]) => Kind::Invalid,
            _ => Kind::Status(status),
        };
        // Pages of proxies begin with it.
        let words = words
            .strip_prefix(&status.to_string())
            .map_or(words.as_str(), str::trim_start);
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
    pub fn into_read_fault(self, reference: &str) -> Fault {
        self.fault(
            &format!("cannot read {reference}"),
            Reason::SourceFailed,
            Reason::SourceNotFound,
            Reason::InvalidReference,
            "check the name and the tag, or push the image there",
            RegistryUse::Source,
        )
    }

    /// The failure as one of pushing to `to`.
    pub fn into_push_fault(self, to: &str) -> Fault {
        self.fault(
            &format!("cannot push to {to}"),
            Reason::PushFailed,
            Reason::PushFailed,
            Reason::PushFailed,
            "create the repository if the registry does not by itself",
            RegistryUse::Destination,
        )
    }

    /// The failure as one of pushing the manifest or index `document` to `to`.
    pub fn into_document_push_fault(self, to: &str, document: &Document) -> Fault {
        let refused = matches!(
            self.kind,
            Kind::NotFound | Kind::Invalid | Kind::Unsupported | Kind::Status(400..=500)
        );
        match advice::of_refused(document).filter(|_| refused) {
            Some(advice) => Fault::retryable(Reason::PushFailed, format!("cannot push to {to}: {self}; {advice}")),
            None => self.into_push_fault(to),
        }
    }

    /// `find` is what to do about what is missing.
    fn fault(
        self,
        what: &str,
        failed: Reason,
        missing: Reason,
        invalid: Reason,
        find: &str,
        role: RegistryUse,
    ) -> Fault {
        let advise = |advice: &str| format!("{what}: {self}; {advice}");
        let remedied = |remedy: Remedy| advise(&remedy.words(Frontend::of_process(), role));
        let operation = Operation::of(&self.call);
        let kind = match &self.kind {
            Kind::TooLarge if self.token_service => &Kind::TokenService,
            kind => kind,
        };
        match kind {
            Kind::NotFound => Fault::retryable(missing, advise(operation.missing().unwrap_or(find))),
            Kind::Unauthorized => Fault::retryable(Reason::AuthenticationFailed, remedied(Remedy::Credentials)),
            Kind::Denied => Fault::retryable(
                Reason::AuthenticationFailed,
                advise(&format!(
                    "{}; {}",
                    operation.denied(),
                    Remedy::Right.words(Frontend::of_process(), role)
                )),
            ),
            Kind::Forbidden => Fault::retryable(Reason::PolicyDenied, format!("{what}: {self}")),
            Kind::RateLimited { after } => Fault::waiting(
                Reason::RateLimited,
                after.unwrap_or(DEFAULT_PATIENCE),
                advise("it is tried again by itself; credentials often raise the limit"),
            ),
            Kind::Unavailable => Fault::retryable(
                Reason::RegistryUnavailable,
                match self.remedy {
                    Some(remedy) => remedied(remedy),
                    None => format!("{what}: {self}"),
                },
            ),
            Kind::Status(_) if self.token_service => Fault::retryable(
                Reason::RegistryUnavailable,
                advise("check that the token service runs; it is tried again by itself"),
            ),
            Kind::Status(502..=504 | 522) => Fault::retryable(
                Reason::RegistryUnavailable,
                advise("check that the registry runs; it is tried again by itself"),
            ),
            Kind::TokenService => Fault::retryable(
                Reason::AuthenticationFailed,
                advise(
                    "check the token service, which the registry names in its answers, and that it knows this registry",
                ),
            ),
            Kind::NoSpace => Fault::retryable(failed, advise("free space in the registry, or raise its quota")),
            Kind::Immutable => Fault::retryable(
                failed,
                advise("push another tag, or have the registry let this one be replaced"),
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
            Kind::Unsupported => Fault::retryable(failed, advise(operation.unsupported())),
            Kind::Invalid => Fault::stalled(invalid, advise("correct the name, the tag or the image")),
            Kind::Address => Fault::stalled(Reason::InvalidSpec, format!("{what}: {self}")),
            Kind::Trust => Fault::retryable(
                Reason::SecretUnavailable,
                match self.remedy {
                    Some(remedy) => remedied(remedy),
                    None => format!("{what}: {self}"),
                },
            ),
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

/// The codes of a registry's errors (distribution specification, "Error Codes") and its words for people.
pub(super) fn spoken(body: &[u8]) -> (Vec<String>, String) {
    let Explanation { codes, text } = Explanation::read(body);
    (codes, text)
}

/// One line of bounded length.
pub(super) fn clean(text: &str) -> String {
    explanation::clean(text, WORDS_LIMIT)
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

/// What is wrong with TLS, and what ends it where somebody has to give something.
fn why_tls(error: &rustls::Error) -> (String, Option<Remedy>) {
    use rustls::CertificateError as Certificate;
    let plain = |detail: &str| (detail.to_owned(), None);
    let remedied = |detail: &str, remedy| (detail.to_owned(), Some(remedy));
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            remedied("certificate signed by unknown authority", Remedy::Authority)
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => plain(
            "the registry's certificate is for another name; call the registry by a name in the certificate, or issue one for this name (as subjectAltName)",
        ),
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            plain("the registry's certificate has expired; renew it, or set this machine's clock")
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            plain("the registry's certificate is not valid yet; check the clocks")
        }
        rustls::Error::InvalidCertificate(other) if other.to_string().contains("CaUsedAsEndEntity") => remedied(
            "certificate signed by unknown authority: the registry shows that of an authority as its own",
            Remedy::OwnCertificate,
        ),
        rustls::Error::InvalidCertificate(other) => (
            format!(
                "the registry's certificate is not usable: {}",
                clean(&other.to_string())
            ),
            None,
        ),
        rustls::Error::InvalidMessage(_) => remedied("the other side does not speak TLS", Remedy::PlainHttp),
        rustls::Error::AlertReceived(alert) => (
            format!("the registry broke off TLS ({alert:?})"),
            Some(Remedy::ClientCertificate),
        ),
        other => (format!("TLS failed: {}", clean(&other.to_string())), None),
    }
}

#[cfg(test)]
mod tests;
