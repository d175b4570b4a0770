//! Classifies errors of the transport: name resolution, connections and TLS. Pure.

use std::error::Error as StdError;
use std::io;

use super::{Error, Kind, clean};
use crate::registry::advice::Advice;
use crate::registry::restrictions::RestrictionError;

impl Error {
    /// The error of a request without a response.
    pub(in crate::registry) fn transport(label: &str, error: &reqwest::Error) -> Self {
        if let Some(tls) = find_cause::<rustls::Error>(error) {
            let (detail, advice) = describe_tls_error(tls);
            let error = Error::new(Kind::Unavailable, label, detail);
            return match advice {
                Some(advice) => error.with_advice(advice),
                None => error,
            };
        }
        if let Some(refusal) = find_cause::<RestrictionError>(error) {
            return Error::forbidden(label, refusal);
        }
        let (kind, detail) = describe(error);
        Self::new(kind, label, detail)
    }
}

/// Finds an error of type `T` among the causes. Errors inside an `io::Error` are included, which `source` skips.
fn find_cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| find_cause::<T>(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The class of a transport error and what happened.
fn describe(error: &reqwest::Error) -> (Kind, String) {
    const CHECK: &str = "check that the registry is running and that its name, port and network are correct";
    if error.is_dns() {
        return (Kind::Unavailable, format!("the host name cannot be resolved; {CHECK}"));
    }
    let io = find_cause::<io::Error>(error).map(io::Error::kind);
    if error.is_connect() {
        let detail = match io {
            Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                "the server closed the connection immediately".to_owned()
            }
            _ if error.is_timeout() => "no response from this address".to_owned(),
            _ => clean(&root_cause(error)),
        };
        return (Kind::Unavailable, format!("{detail}; {CHECK}"));
    }
    if error.is_timeout() {
        return (Kind::TimedOut, "the registry did not respond in time".to_owned());
    }
    if error.is_builder() {
        return (Kind::Protocol, clean(&root_cause(error)));
    }
    (
        Kind::Interrupted,
        format!("the connection broke ({})", clean(&root_cause(error))),
    )
}

fn root_cause(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Describes a TLS error, with advice where configuration can fix it.
fn describe_tls_error(error: &rustls::Error) -> (String, Option<Advice>) {
    use rustls::CertificateError as Certificate;
    let plain = |detail: &str| (detail.to_owned(), None);
    let with_advice = |detail: &str, advice| (detail.to_owned(), Some(advice));
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            with_advice("certificate signed by unknown authority", Advice::TrustCa)
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => plain(
            "the registry's certificate is for another name; use a name from the certificate, or issue a certificate for this name (subjectAltName)",
        ),
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            plain("the registry's certificate has expired; renew it, or correct the clock of this machine")
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            plain("the registry's certificate is not valid yet; check the clocks")
        }
        rustls::Error::InvalidCertificate(other) if other.to_string().contains("CaUsedAsEndEntity") => with_advice(
            "certificate signed by unknown authority: the registry presents a CA certificate as its server certificate",
            Advice::TrustCertificate,
        ),
        rustls::Error::InvalidCertificate(other) => (
            format!(
                "the registry's certificate is not usable: {}",
                clean(&other.to_string())
            ),
            None,
        ),
        rustls::Error::InvalidMessage(_) => with_advice("the server does not use TLS", Advice::PlainHttp),
        rustls::Error::AlertReceived(alert) => (
            format!("the registry aborted the TLS handshake ({alert:?})"),
            Some(Advice::ClientCertificate),
        ),
        other => (format!("TLS failed: {}", clean(&other.to_string())), None),
    }
}
