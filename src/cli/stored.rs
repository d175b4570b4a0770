//! Something that `sign` and `verify` are about: what stands under a name in a registry or in an OCI layout.

use std::time::Duration;

use clap::Args;

use super::UsageError;
use super::authorities::AuthorityFlags;
use super::cluster::duration;
use super::limits::LimitFlags;
use super::registry_clients::RegistryClients;
use crate::oci::{Document, Reference};
use crate::transfer::{Destination, LayoutDestination, RegistryDestination};

/// Which, and how it is reached.
#[derive(Debug, Args)]
pub(super) struct StoredFlags {
    /// `[registry/]repository[:tag][@digest]`, or `oci:DIR:NAME` of an OCI layout: what its index.json has as
    /// `org.opencontainers.image.ref.name`, which is `REPOSITORY:TAG` where `build` wrote it.
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// The registry speaks plain HTTP.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    authorities: AuthorityFlags,
    #[command(flatten)]
    limits: LimitFlags,
    /// How long a request may stand still.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration)]
    stall_timeout: Duration,
}

/// What was found.
pub(super) struct Stored {
    /// The repository that it stands in.
    pub repository: Box<dyn Destination>,
    /// The manifest or index.
    pub document: Document,
    /// As it was named, with its digest.
    pub name: String,
}

impl StoredFlags {
    /// Finds it.
    pub async fn open(&self) -> anyhow::Result<Stored> {
        let text = &self.reference;
        let (repository, identifier): (Box<dyn Destination>, String) = match text.strip_prefix("oci:") {
            Some(rest) if !rest.starts_with("//") => {
                let parts = rest
                    .split_once(':')
                    .filter(|(directory, name)| !directory.is_empty() && !name.is_empty());
                let (directory, name) = parts
                    .ok_or_else(|| UsageError(format!("{text}: write oci:DIR:NAME, such as oci:./shop:shop:1.4.0")))?;
                let (repository, tag) = name.rsplit_once(':').unwrap_or(("", name));
                (Box::new(LayoutDestination::new(directory, repository)), tag.to_owned())
            }
            _ => {
                let bare = text.strip_prefix("oci://").unwrap_or(text);
                let reference: Reference = bare.parse().map_err(|error| UsageError(format!("{error}")))?;
                let access = RegistryClients::new(&self.authorities, &self.limits, self.stall_timeout).await?;
                let registry = access.source(&reference, self.insecure).await?;
                let repository = registry.repository(reference.repository());
                (
                    Box::new(RegistryDestination::new(repository)),
                    reference.identifier().to_owned(),
                )
            }
        };
        let document = repository.document(&identifier).await?;
        let document = document.ok_or_else(|| anyhow::anyhow!("{text} does not exist; check the name and the tag"))?;
        let name = format!("{}@{}", repository.name(), document.digest());
        Ok(Stored {
            repository,
            document,
            name,
        })
    }
}
