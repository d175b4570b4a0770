//! Which servers are believed: those whose certificate leads to an authority of the system or to one that was given, and
//! those that show a certificate which was itself given as an authority.

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

use super::certificates::{authorities, identity};
use super::endpoint::Trust;
use crate::oci::Digest;

/// What a server's certificate is for, and any purpose at all (RFC 5280, section 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// Why TLS cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsSetupError {
    /// A certificate or key that was given cannot be used.
    Given(String),
    /// There is no authority to believe: the system has none, and none was given.
    NoAuthority,
}

/// How to speak TLS: what is trusted besides the certificates of the system, and what we show.
pub(super) fn config(trust: &Trust) -> Result<ClientConfig, TlsSetupError> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let given = match &trust.authorities {
        Some(bundle) => authorities(bundle).map_err(|reason| TlsSetupError::Given(format!("ca.crt {reason}")))?,
        None => Vec::new(),
    };
    let verifier = Verifier::new(given, Arc::clone(&provider))?;
    let refuse = |error: rustls::Error| TlsSetupError::Given(format!("TLS cannot be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refuse)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&trust.certificate, &trust.key) {
        (Some(certificate), Some(key)) => {
            let shown = identity(certificate, key.expose_secret().as_bytes());
            let (chain, key) = shown.map_err(TlsSetupError::Given)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsSetupError::Given(format!("tls.crt and tls.key cannot be used: {error}")))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            let reason = "tls.crt and tls.key are only of use together; give both";
            return Err(TlsSetupError::Given(reason.to_owned()));
        }
    };
    // One connection a stream: a broken or slow blob then holds up nothing else.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Verifies as webpki does, and besides takes a certificate that is one of the authorities, to the byte. webpki refuses
/// that where it is marked as one of an authority, as `openssl req -x509` makes them; OpenSSL and Go take it.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    /// The digests of all authorities.
    trusted: HashSet<Digest>,
}

impl Verifier {
    /// Trusts `given` besides the authorities of the system (`SSL_CERT_FILE`, `SSL_CERT_DIR`, else its own places).
    fn new(given: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, TlsSetupError> {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!(%error, "reading the system's authorities");
        }
        let trusted = given
            .iter()
            .chain(&system.certs)
            .map(|certificate| Digest::of(certificate))
            .collect();
        let mut roots = RootCertStore::empty();
        // What was given was read before; what the system has and cannot be read is left out.
        roots.add_parsable_certificates(given);
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

/// Verifies a certificate that is an authority itself: its time, its name, and that it is for servers where it says what
/// it is for. That it is trusted is proved by its bytes, that the server has its key by the handshake.
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
