//! Verifies server certificates: those that chain to a CA of the system or a configured CA, and those that are
//! themselves configured as a CA.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::ExposeSecret as _;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::ExtendedKeyUsage;

use super::certificates::{authorities, parse_identity};
use super::endpoint::Trust;
use crate::oci::Digest;

/// Extended key usage of servers, and any usage (RFC 5280, section 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// Why TLS cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsSetupError {
    /// A configured certificate or key cannot be used.
    #[error("{0}")]
    Configured(String),
    /// There is no CA certificate: neither the system nor the configuration has one.
    #[error("the system has no CA certificates, and none were configured")]
    NoAuthority,
}

/// Creates the TLS configuration of a client from the trusted CAs and the client certificate.
///
/// # Errors
/// When a certificate cannot be used, or nothing is trusted.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, TlsSetupError> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let configured = match &trust.authorities {
        Some(bundle) => authorities(bundle).map_err(|reason| TlsSetupError::Configured(format!("ca.crt {reason}")))?,
        None => Vec::new(),
    };
    let verifier = Verifier::new(configured, Arc::clone(&provider))?;
    let refuse = |error: rustls::Error| TlsSetupError::Configured(format!("TLS cannot be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refuse)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&trust.certificate, &trust.key) {
        (Some(certificate), Some(key)) => {
            let identity = parse_identity(certificate, key.expose_secret().as_bytes());
            let (chain, key) = identity.map_err(TlsSetupError::Configured)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsSetupError::Configured(format!("tls.crt and tls.key cannot be used: {error}")))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            let reason = "tls.crt and tls.key must be set together";
            return Err(TlsSetupError::Configured(reason.to_owned()));
        }
    };
    // HTTP/1.1 has one connection per request, so a broken or slow blob does not delay others.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Verifies like webpki, and also accepts a server certificate that is identical to a trusted CA certificate. webpki
/// rejects it if it is marked as a CA, as `openssl req -x509` creates it; OpenSSL and Go accept it.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    /// The digests of all trusted CA certificates.
    trusted: HashSet<Digest>,
}

impl Verifier {
    /// Trusts `configured` in addition to the CAs of the system (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or the default
    /// paths).
    fn new(configured: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, TlsSetupError> {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!(%error, "reading the CA certificates of the system");
        }
        let trusted = configured
            .iter()
            .chain(&system.certs)
            .map(|certificate| Digest::of(certificate))
            .collect();
        let mut roots = RootCertStore::empty();
        // The configured certificates were parsed before; system certificates that cannot be parsed are skipped.
        roots.add_parsable_certificates(configured);
        roots.add_parsable_certificates(system.certs);
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self {
            inner: inner.map_err(|_| TlsSetupError::NoAuthority)?,
            trusted,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trusted.contains(&Digest::of(end_entity)) {
            return verify_trusted(end_entity, server_name, now);
        }
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies a server certificate that is itself a trusted CA certificate: validity, name and extended key usage. Trust
/// follows from its bytes, and the handshake proves that the server has its key.
fn verify_trusted(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let read = x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let body = read.tbs_certificate();
    let validity = body.validity();
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    let purposes = body.get_extension::<ExtendedKeyUsage>();
    let purposes = purposes.map_err(|_| CertificateError::BadEncoding)?;
    let serves = |purpose: &ObjectIdentifier| [SERVER_AUTH, ANY_PURPOSE].contains(purpose);
    if purposes.is_some_and(|(_, purposes)| !purposes.0.iter().any(serves)) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    Ok(ServerCertVerified::assertion())
}

#[cfg(test)]
mod tests;
