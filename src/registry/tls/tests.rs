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

/// What comes of a server called `name` that shows `shown`, to whoever trusts `trusted`, so many years after it was issued.
fn verify(trusted: &[u8], shown: &[u8], name: &'static str, years: f64) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(vec![der(trusted)], provider).unwrap();
    let read = x509_cert::Certificate::from_der(&der(shown)).unwrap();
    let issued = read.tbs_certificate().validity().not_before.to_unix_duration();
    let now = std::time::Duration::from_secs_f64(issued.as_secs_f64() + years * YEAR as f64);
    let name = ServerName::try_from(name).unwrap();
    let verified = verifier.verify_server_cert(&der(shown), &[], &name, &[], UnixTime::since_unix_epoch(now));
    verified.map(|_| ())
}

#[test]
fn a_certificate_that_is_given_as_an_authority_is_believed_for_its_names_and_its_time() {
    let refused = |trusted, shown, name, years| match verify(trusted, shown, name, years) {
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
    // A common name is no name of a server (RFC 6125, section 6.4.4; RFC 9525).
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
fn one_that_is_not_given_is_not_believed() {
    let error = verify(AUTHORITY, SELF_SIGNED, "registry.example.com", 1.0).unwrap_err();
    assert!(error.to_string().contains("CaUsedAsEndEntity"), "{error}");
}

#[test]
fn only_what_can_be_used_is_taken() {
    let trust = |authorities: Option<&[u8]>, certificate: Option<&[u8]>, key: Option<&str>| Trust {
        authorities: authorities.map(<[u8]>::to_vec),
        certificate: certificate.map(<[u8]>::to_vec),
        key: key.map(|key| key.to_owned().into()),
    };
    assert!(config(&trust(Some(SELF_SIGNED), None, None)).is_ok());
    for bad in [
        trust(Some(b"junk"), None, None),
        trust(None, Some(SELF_SIGNED), None),
        trust(None, Some(SELF_SIGNED), Some("junk")),
        trust(Some(SELF_SIGNED), Some(b"junk"), Some("junk")),
    ] {
        assert!(matches!(config(&bad), Err(TlsSetupError::Given(_))));
    }
}
