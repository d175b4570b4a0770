//! Certificate authorities in files.

use std::path::PathBuf;

use clap::Args;

use super::{UsageError, files};
use crate::registry::certificates;

/// The flag of every command that connects to registries.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct AuthorityFlags {
    /// A file with certificates (PEM) of authorities to trust in addition to the system's, for every registry, chart
    /// repository and file server; repeatable. A self-signed server certificate is allowed.
    #[arg(long, env = "JACKAL_CA_FILE", value_name = "FILE")]
    ca_file: Vec<PathBuf>,
}

impl AuthorityFlags {
    /// The certificates of all files; none without the flag. Each file is checked.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, UsageError> {
        let mut bundle = Vec::new();
        // The variable may be empty.
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
