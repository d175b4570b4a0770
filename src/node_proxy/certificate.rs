//! The certificate for the container runtime, which does not verify it on a loopback address.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;

use super::reloaded::Reloaded;
use crate::fault::{Fault, Reason};
use crate::server::server_config;

/// The names of the loopback addresses.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The certificate.
pub(super) enum Certificate {
    /// Generated at the start.
    Generated(Arc<ServerConfig>),
    /// Read from files.
    Files(Reloaded<Arc<ServerConfig>>),
}

impl Certificate {
    /// The certificate and the key in files, or a new one.
    ///
    /// # Errors
    /// A stalled fault that says why the files cannot be used.
    pub async fn new(files: Option<(PathBuf, PathBuf)>) -> Result<Self, Fault> {
        let Some((certificate, key)) = files else {
            return generated().map(|config| Self::Generated(Arc::new(config)));
        };
        let unusable = format!("--tls-cert {}, --tls-key {}", certificate.display(), key.display());
        let parse = |contents: &[Option<Vec<u8>>]| match contents {
            [Some(certificate), Some(key)] => server_config(certificate, key)
                .map(Arc::new)
                .map_err(|fault| fault.message),
            _ => Err("a file does not exist".to_owned()),
        };
        let read = Reloaded::new(vec![certificate, key], parse).await;
        read.map(Self::Files)
            .map_err(|error| Fault::stalled(Reason::InvalidSpec, format!("{unusable}: {error}")))
    }

    /// The configuration for a connection.
    pub async fn current(&self) -> Arc<ServerConfig> {
        match self {
            Self::Generated(config) => Arc::clone(config),
            Self::Files(config) => Arc::clone(&*config.current().await),
        }
    }
}

fn generated() -> Result<ServerConfig, Fault> {
    let made = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned));
    let made = made.map_err(|error| {
        let message = format!("a certificate for loopback addresses cannot be generated: {error}");
        Fault::retryable(Reason::InternalError, message)
    })?;
    server_config(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes())
}
