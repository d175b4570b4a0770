//! The certificate of the registry and its authority.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{NAMESPACE, REGISTRY};
use crate::fault::{Fault, Reason};

/// Validity of the certificate in days, as the chart's.
const DAYS: u64 = 365;
/// A repeat within this number of days before expiry renews the certificate, as the chart does.
pub const RENEW_DAYS: u64 = 120;
/// The certificate is valid from this long ago, since the clocks of this machine and of the nodes may differ.
const CLOCK_DIFFERENCE: u64 = 24 * 3600;
const DAY: u64 = 24 * 3600;

/// The certificate of the registry. Its authority is used once: its key is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The authority, as PEM.
    pub authority: String,
    /// The authorities that clients trust, as PEM: this one, and the previous one.
    pub trusted: String,
    /// The certificate, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: String,
    /// The end of its validity in seconds since 1970.
    pub end: u64,
}

/// The host names at which the operator and nodes reach the registry, as the chart orders them.
pub(super) fn names() -> Vec<String> {
    let service = format!("{REGISTRY}.{NAMESPACE}");
    vec![
        "localhost".to_owned(),
        REGISTRY.to_owned(),
        service.clone(),
        format!("{service}.svc"),
        format!("{service}.svc.cluster.local"),
    ]
}

impl Certificate {
    /// Whether it is used until the next repeat: at `now` (seconds since 1970), it is not to be renewed.
    pub(super) fn stands(&self, now: u64) -> bool {
        self.end > now.saturating_add(RENEW_DAYS * DAY)
    }

    /// A new certificate at `now` (seconds since 1970). Clients trust `previous` (PEM) too, which the running registry may still use.
    pub(super) fn generate(now: u64, previous: &str) -> Result<Self, Fault> {
        Self::made(now, previous).map_err(|error| {
            let message = format!("the certificate of the registry cannot be made: {error}");
            Fault::stalled(Reason::InternalError, message)
        })
    }

    fn made(now: u64, previous: &str) -> Result<Self, rcgen::Error> {
        let end = now.saturating_add(DAYS * DAY);
        let mut authority = valid(CertificateParams::default(), now, end);
        authority
            .distinguished_name
            .push(DnType::CommonName, format!("{REGISTRY} authority"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut params = valid(CertificateParams::new(names())?, now, end);
        params.distinguished_name.push(DnType::CommonName, REGISTRY);
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        params.subject_alt_names.extend(loopback.map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        let authority = issuer.pem();
        Ok(Self {
            trusted: format!("{authority}{previous}"),
            authority,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            end,
        })
    }
}

/// `params` with that validity, in seconds since 1970.
fn valid(mut params: CertificateParams, now: u64, end: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(CLOCK_DIFFERENCE));
    params.not_after = epoch + Duration::from_secs(end);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}
