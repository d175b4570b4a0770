//! The inventory of the destination that `pack` is given.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output_file::signature_path;
use super::{UsageError, files, key};
use crate::archive::inventory::{self, Holdings, INVENTORY_LIMIT};
use crate::oci::Digest;
use crate::signing::{PublicKey, Requirement};

/// The flags that name it.
#[derive(Debug, Args)]
pub(super) struct HaveFlags {
    /// An inventory of the destination, which `inventory` wrote: blobs that it lists are left out of the file. Only `load` reads
    /// such a file, unless --zarf is set.
    #[arg(long, value_name = "FILE")]
    have: Option<PathBuf>,
    /// Leave out whole images that the inventory has under Zarf's names, instead of blobs, so that Zarf reads the file: a
    /// differential package.
    #[arg(long, requires = "have")]
    zarf: bool,
    /// The public key (PEM) that must have signed the inventory, in FILE.sigstore.json.
    #[arg(long, value_name = "FILE", requires = "have")]
    have_key: Option<PathBuf>,
}

impl HaveFlags {
    /// Whether an inventory is named.
    pub fn is_given(&self) -> bool {
        self.have.is_some()
    }

    /// Whether whole images are left out.
    pub fn for_zarf(&self) -> bool {
        self.zarf
    }

    /// What the inventory says of the blobs `wanted`; nothing without one.
    pub async fn read(&self, wanted: &HashSet<Digest>) -> Result<Holdings, UsageError> {
        let Some(path) = &self.have else {
            return Ok(Holdings::default());
        };
        let unusable = |reason: String| UsageError(format!("--have {}: {reason}", path.display()));
        let requirement = match &self.have_key {
            None => None,
            Some(file) => {
                let pem = key::file(file).await?;
                let key = PublicKey::from_pem(&pem);
                let key = key.map_err(|error| UsageError(format!("the key {}: {error}", file.display())))?;
                let bundle = files::read(&signature_path(path)).await;
                let bundle = bundle.map_err(|error| {
                    unusable(format!(
                        "its signature {} cannot be read: {error}",
                        signature_path(path).display()
                    ))
                })?;
                let keys = vec![key];
                Some((
                    Requirement {
                        keys,
                        ..Requirement::default()
                    },
                    bundle,
                ))
            }
        };
        let (owned, wanted) = (path.clone(), wanted.clone());
        let read = tokio::task::spawn_blocking(move || {
            let content = content(&owned).map_err(|error| format!("it cannot be read: {error}"))?;
            if let Some((requirement, bundle)) = requirement {
                let signed = requirement.verify_blob(&content, &bundle);
                signed.map_err(|reason| format!("it is not signed as required: {reason}"))?;
            }
            inventory::read(&content, &wanted).map_err(|fault| fault.message)
        });
        let read = read.await.map_err(|error| unusable(error.to_string()))?;
        read.map_err(unusable)
    }
}

fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path)?;
    if file.take(INVENTORY_LIMIT + 1).read_to_end(&mut content)? as u64 > INVENTORY_LIMIT {
        return Err(std::io::Error::other(format!(
            "it is longer than {INVENTORY_LIMIT} bytes"
        )));
    }
    Ok(content)
}
