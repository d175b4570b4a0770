//! Where a package is published: repository and tag, as its config says. No IO.

use serde::Deserialize;

use super::header::Packed;
use super::signed::Names;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Reference;
use crate::package::repository;

/// What the config of a package says: its definition.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    metadata: Metadata,
    #[serde(default)]
    build: Build,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Metadata {
    name: String,
    version: String,
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Build {
    architecture: String,
    flavor: String,
}

/// The repository, tag and architecture of a package, as its config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinates {
    /// The repository, with the prefix.
    pub repository: String,
    /// The tag: the version.
    pub tag: String,
    /// The architecture.
    pub architecture: String,
}

impl Coordinates {
    /// Those of `package` below `prefix`, which may be empty.
    ///
    /// # Errors
    /// A stalled fault, where the config does not name them.
    pub fn of(package: &Packed, prefix: &str) -> Result<Self, Fault> {
        let invalid = |what: String| Fault::stalled(Reason::SourceFailed, format!("the package file {what}"));
        let config: Config = decode::json(&package.config)
            .map_err(|error| invalid(format!("has a config that cannot be read: {error}")))?;
        let Metadata {
            name,
            version,
            architecture,
        } = config.metadata;
        let architecture = match architecture.is_empty() {
            true => config.build.architecture,
            false => architecture,
        };
        let tag = match config.build.flavor.as_str() {
            "" => version.clone(),
            flavor => format!("{version}-{flavor}"),
        };
        let path = repository(prefix, &name);
        let named: Result<Reference, _> = format!("localhost/{path}:{tag}").parse();
        if named.is_err() || name.is_empty() || version.is_empty() || architecture.is_empty() {
            return Err(invalid(
                "has a package without name, version or architecture, or with one that no registry takes".to_owned(),
            ));
        }
        Ok(Self {
            repository: path,
            tag,
            architecture,
        })
    }

    /// The names, of a package whose repository is below `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Names<'_> {
        let name = self
            .repository
            .strip_prefix(prefix.trim_matches('/'))
            .unwrap_or_default();
        Names {
            name: name.trim_start_matches('/'),
            version: &self.tag,
            architecture: &self.architecture,
        }
    }
}
