//! The certificate of a server.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;

use crate::fault::{Fault, Reason};
use crate::registry::certificates::parse_identity;

/// The TLS configuration of a server with this certificate, its chain and its key, all as PEM.
///
/// # Errors
/// A stalled fault that says which of them cannot be used.
pub fn server_config(certificate: &[u8], key: &[u8]) -> Result<ServerConfig, Fault> {
    let unusable = |why: String| Fault::stalled(Reason::InvalidSpec, why);
    let (chain, key) = parse_identity(certificate, key).map_err(unusable)?;
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(format!("TLS cannot be set up: {error}")))?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable(format!("the certificate and its key cannot be used: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
