use super::*;

const AUTHORITY: &str = include_str!("../../../tests/certificates/authority.pem");
const SELF_SIGNED: &str = include_str!("../../../tests/certificates/self-signed.pem");
const TRUSTED: &str = include_str!("../../../tests/certificates/authority-trusted.pem");

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn bundles_are_parsed_as_by_openssl() {
    let one = || vec![der(AUTHORITY)];
    let both = || vec![der(AUTHORITY), der(SELF_SIGNED)];
    for (bundle, expected) in [
        (AUTHORITY.to_owned(), one()),
        (format!("{AUTHORITY}{SELF_SIGNED}"), both()),
        (
            format!("# a\nsubject=CN = é\n\n{AUTHORITY}\ntext between\n{SELF_SIGNED}\ntext"),
            both(),
        ),
        (format!("{AUTHORITY}{SELF_SIGNED}").replace('\n', "\r\n"), both()),
        (AUTHORITY.trim_end().to_owned(), one()),
        (format!("\u{feff}{AUTHORITY}"), one()),
        (AUTHORITY.lines().map(|line| format!("    {line}  \n")).collect(), one()),
        (TRUSTED.to_owned(), one()),
        (AUTHORITY.replace("CERTIFICATE", "X509 CERTIFICATE"), one()),
        (
            format!("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n{AUTHORITY}"),
            one(),
        ),
    ] {
        assert_eq!(authorities(bundle.as_bytes()), Ok(expected), "{bundle}");
    }
}

#[test]
fn errors_name_the_unreadable_certificate() {
    let broken = |from: &str, to: &str| SELF_SIGNED.replacen(from, to, 1);
    let second = |text: &str| format!("{AUTHORITY}{text}{AUTHORITY}");
    for (bundle, expected) in [
        (
            second(&broken("MII", "M?I")).into_bytes(),
            "number 2 of 3 (line 12): it is not base64",
        ),
        (
            second(&broken("MIIB", "AAAA")).into_bytes(),
            "number 2 of 3 (line 12): it is not a certificate",
        ),
        (
            second(&broken("-----END CERTIFICATE-----", "")).into_bytes(),
            "number 2 of 3 (line 12): it has no end",
        ),
        (der(AUTHORITY).to_vec(), "openssl x509 -inform der"),
        (b" \n".to_vec(), "is empty"),
        (b"junk".to_vec(), "contains no readable certificate"),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec(),
            "contains no certificate, but PRIVATE KEY",
        ),
        (vec![b' '; BUNDLE_LIMIT + 1], "is longer than"),
    ] {
        let error = authorities(&bundle).unwrap_err();
        assert!(error.contains(expected), "{error} (expected: {expected})");
    }
}
