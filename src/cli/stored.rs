//! The image or package that `sign` and `verify` name, in a registry or an OCI layout.

use clap::Args;

use super::UsageError;
use super::connection::ConnectionFlags;
use crate::oci::{Document, Reference};
use crate::registry::Repository;
use crate::transfer::{Destination, LayoutDestination, RegistryDestination};

/// The flags that name it.
#[derive(Debug, Args)]
pub(super) struct StoredFlags {
    /// `[registry/]repository[:tag][@digest]`, or `oci:DIR:NAME` in an OCI layout, where NAME is the annotation
    /// `org.opencontainers.image.ref.name` in index.json; `build` writes `REPOSITORY:TAG`.
    #[arg(value_name = "REFERENCE")]
    reference: String,
    #[command(flatten)]
    connection: ConnectionFlags,
}

/// The image or package that was found.
pub(super) struct Stored {
    /// Its repository.
    pub repository: Box<dyn Destination>,
    /// Its manifest or index.
    pub document: Document,
    /// Its repository with its digest.
    pub name: String,
}

impl StoredFlags {
    /// The text that names it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Reads its manifest or index.
    pub async fn open(&self) -> anyhow::Result<Stored> {
        Stored::open(&self.reference, &self.connection).await
    }

    /// The same, where something is written beside it.
    pub async fn open_for_writing(&self) -> anyhow::Result<Stored> {
        Stored::open_by(&self.reference, &self.connection, RegistryDestination::new).await
    }
}

impl Stored {
    /// Reads the manifest or index of the image or package that `text` names.
    pub async fn open(text: &str, connection: &ConnectionFlags) -> anyhow::Result<Self> {
        Self::open_by(text, connection, RegistryDestination::for_reading).await
    }

    async fn open_by(
        text: &str,
        connection: &ConnectionFlags,
        of_registry: fn(Repository) -> RegistryDestination,
    ) -> anyhow::Result<Self> {
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
                let access = connection.clients().await?;
                let registry = access.source(&reference, connection.insecure).await?;
                let repository = registry.repository(reference.repository());
                (Box::new(of_registry(repository)), reference.identifier().to_owned())
            }
        };
        let document = repository.document(&identifier).await?;
        let document = document.ok_or_else(|| anyhow::anyhow!("{text} does not exist; check the name and the tag"))?;
        let name = format!("{}@{}", repository.name(), document.digest());
        Ok(Self {
            repository,
            document,
            name,
        })
    }
}
