use rustls::pki_types::pem::PemObject as _;

use super::*;

const SELF_SIGNED: &[u8] = include_bytes!("../../../tests/certificates/self-signed.pem");
const FOR_CLIENTS: &[u8] = include_bytes!("../../../tests/certificates/self-signed-for-clients.pem");
const WITHOUT_NAME: &[u8] = include_bytes!("../../../tests/certificates/self-signed-without-name.pem");
const AUTHORITY: &[u8] = include_bytes!("../../../tests/certificates/authority.pem");
const YEAR: u64 = 365 * 24 * 3600;

fn der(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

/// Verifies a server called `name` that presents `presented`, `years` years after it was issued, with the trusted CA
/// `trusted`.
fn verify(trusted: &[u8], presented: &[u8], name: &'static str, years: f64) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(vec![der(trusted)], provider).unwrap();
    let read = x509_cert::Certificate::from_der(&der(presented)).unwrap();
    let issued = read.tbs_certificate().validity().not_before.to_unix_duration();
    let now = std::time::Duration::from_secs_f64(issued.as_secs_f64() + years * YEAR as f64);
    let name = ServerName::try_from(name).unwrap();
    let verified = verifier.verify_server_cert(&der(presented), &[], &name, &[], UnixTime::since_unix_epoch(now));
    verified.map(|_| ())
}

#[test]
fn a_server_certificate_configured_as_ca_is_accepted_for_its_names_and_validity() {
    let refused = |trusted, presented, name, years| match verify(trusted, presented, name, years) {
        Err(rustls::Error::InvalidCertificate(error)) => error,
        other => panic!("{name} after {years} years: {other:?}"),
    };
    for name in ["registry.example.com", "127.0.0.1"] {
        assert_eq!(verify(SELF_SIGNED, SELF_SIGNED, name, 1.0), Ok(()));
    }
    for name in ["other.example.com", "127.0.0.2", "registry"] {
        let error = refused(SELF_SIGNED, SELF_SIGNED, name, 1.0);
        assert!(
            matches!(error, CertificateError::NotValidForNameContext { .. }),
            "{error:?}"
        );
    }
    // A common name is not a server name (RFC 6125, section 6.4.4; RFC 9525).
    let error = refused(WITHOUT_NAME, WITHOUT_NAME, "registry.example.com", 1.0);
    assert!(
        matches!(error, CertificateError::NotValidForNameContext { .. }),
        "{error:?}"
    );
    let name = "registry.example.com";
    assert_eq!(
        refused(SELF_SIGNED, SELF_SIGNED, name, 101.0),
        CertificateError::Expired
    );
    assert_eq!(
        refused(SELF_SIGNED, SELF_SIGNED, name, -1.0),
        CertificateError::NotValidYet
    );
    assert_eq!(
        refused(FOR_CLIENTS, FOR_CLIENTS, name, 1.0),
        CertificateError::InvalidPurpose
    );
}

#[test]
fn other_self_signed_certificates_are_rejected() {
    let error = verify(AUTHORITY, SELF_SIGNED, "registry.example.com", 1.0).unwrap_err();
    assert!(error.to_string().contains("CaUsedAsEndEntity"), "{error}");
}

#[test]
fn unusable_certificates_and_keys_are_rejected() {
    let trust = |authorities: Option<&[u8]>, certificate: Option<&[u8]>, key: Option<&str>| Trust {
        authorities: authorities.map(<[u8]>::to_vec),
        certificate: certificate.map(<[u8]>::to_vec),
        key: key.map(|key| key.to_owned().into()),
    };
    assert!(client_config(&trust(Some(SELF_SIGNED), None, None)).is_ok());
    for bad in [
        trust(Some(b"junk"), None, None),
        trust(None, Some(SELF_SIGNED), None),
        trust(None, Some(SELF_SIGNED), Some("junk")),
        trust(Some(SELF_SIGNED), Some(b"junk"), Some("junk")),
    ] {
        assert!(matches!(client_config(&bad), Err(TlsSetupError::Configured(_))));
    }
}
