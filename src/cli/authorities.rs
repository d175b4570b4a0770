//! Authorities of certificates that a file names.

use std::path::PathBuf;

use clap::Args;

use super::{UsageError, files};
use crate::registry::certificates;

/// The flag of every command that speaks to registries.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct AuthorityFlags {
    /// A file with certificates of authorities, as PEM, that are trusted besides the system's for every registry, chart
    /// repository and file server; repeatable. A server's own self-signed certificate will do.
    #[arg(long, env = "JACKAL_CA_FILE", value_name = "FILE")]
    ca_file: Vec<PathBuf>,
}

impl AuthorityFlags {
    /// What the files hold, one after the other; none without the flag. Each is read and checked now.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, UsageError> {
        let mut bundle = Vec::new();
        // An empty variable names no file.
        for path in self.ca_file.iter().filter(|path| !path.as_os_str().is_empty()) {
            let unusable = |reason: String| UsageError(format!("--ca-file: {} {reason}", path.display()));
            let content = files::read(path).await;
            let content = content.map_err(|error| unusable(format!("cannot be read: {error}")))?;
            certificates::authorities(&content).map_err(unusable)?;
            bundle.extend_from_slice(&content);
            bundle.push(b'\n');
        }
        Ok((!bundle.is_empty()).then_some(bundle))
    }
}
