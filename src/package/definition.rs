//! The package definition: the document that Jackal's and Zarf's commands read first.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::Serialize;

use super::component::{ComponentContent, Listing};
use super::plan::Plan;
use crate::api::v1alpha1::{JackalPackageSpec, PackageFormat};
use crate::fault::{Fault, Reason};
use crate::oci::{Naming, media_type};
use crate::signing::DEFINITION_SIGNATURE;

/// The version of the artifact's format, for `build.version`. It is not the program's version, so that an upgrade of the
/// operator does not publish every package again.
const FORM: &str = "v1.0.0";
/// The builder's name. It contains no host or user name, so that the same package has the same digest everywhere.
const BUILDER: &str = "jackal-operator";
/// The Unix epoch in Go's format RFC1123Z, so that the artifact does not depend on the time.
const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 +0000";
/// The default architecture.
const ARCHITECTURE: &str = "amd64";
/// The longest name of a package: the limit of Kubernetes.
const NAME_LIMIT: usize = 253;

/// The differences between an artifact for Jackal's commands and one for Zarf's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// The definition's `kind`.
    pub kind: &'static str,
    /// The path of the definition in the artifact.
    pub file: &'static str,
    /// The media type of the manifest's config.
    pub config: &'static str,
    /// The media type of every layer.
    pub layer: &'static str,
    /// Whether its commands select the image for a platform from an index.
    pub reads_indexes: bool,
    /// The path of the bundle that signs the definition. Jackal's commands are older than bundles and refuse unknown files.
    pub signature: Option<&'static str>,
}

const ZARF: Dialect = Dialect {
    kind: "ZarfPackageConfig",
    file: "zarf.yaml",
    config: media_type::ZARF_CONFIG,
    layer: "application/vnd.zarf.layer.v1.blob",
    reads_indexes: true,
    signature: Some(DEFINITION_SIGNATURE),
};

const JACKAL: Dialect = Dialect {
    kind: "JackalPackageConfig",
    file: "jackal.yaml",
    config: media_type::JACKAL_CONFIG,
    layer: "application/vnd.jackal.layer.v1.blob",
    reads_indexes: false,
    signature: None,
};

/// Both.
pub(super) const DIALECTS: [Dialect; 2] = [ZARF, JACKAL];

/// A package definition without the checksum of the artifact's files, which [`super::Artifact`] adds.
///
/// The same package gives the same bytes: it contains no time, host name or random number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Definition {
    kind: &'static str,
    pub(super) metadata: Metadata,
    pub(super) build: Build,
    components: Vec<Component>,
    #[serde(skip)]
    pub(super) dialect: Dialect,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub version: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub aggregate_checksum: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Build {
    terminal: &'static str,
    user: &'static str,
    pub architecture: String,
    timestamp: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    differential: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    differential_package_version: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    signed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub version_requirements: Vec<VersionRequirement>,
    /// Files of the package that `checksums.txt` does not list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    provenance_files: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct VersionRequirement {
    pub version: &'static str,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Component {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    required: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<String>,
    #[serde(flatten)]
    listing: Listing,
}

impl Definition {
    /// The definition of the package `name`. Images are listed by their normalised references, as in `images/index.json`.
    ///
    /// # Errors
    /// A stalled fault for a name or version that a registry or a file system would refuse.
    pub fn of(name: &str, spec: &JackalPackageSpec, plan: &Plan) -> Result<Self, Fault> {
        check_name(name)?;
        check_version(spec.version())?;
        let dialect = match (spec.format, spec.naming.without_cluster()) {
            (PackageFormat::Jackal, _) | (PackageFormat::Auto, Naming::Jackal) => JACKAL,
            (PackageFormat::Zarf, _) | (PackageFormat::Auto, Naming::Zarf | Naming::Plain) => ZARF,
        };
        let architecture = spec.architecture.clone().unwrap_or_else(|| ARCHITECTURE.to_owned());
        if architecture.is_empty() || !architecture.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Fault::stalled(
                Reason::InvalidSpec,
                format!("`{architecture}` is not an architecture: write it as amd64 or arm64"),
            ));
        }
        let components = spec
            .components
            .iter()
            .map(|component| Component {
                name: component.name.clone(),
                description: component.description.clone().unwrap_or_default(),
                required: component.required,
                images: plan
                    .images
                    .iter()
                    .filter(|image| image.components.contains(&component.name))
                    .map(|image| image.package_reference().to_string())
                    .collect(),
                listing: Listing::default(),
            })
            .collect();
        Ok(Self {
            kind: dialect.kind,
            metadata: Metadata {
                name: name.to_owned(),
                description: spec.description.clone().unwrap_or_default(),
                version: spec.version().to_owned(),
                architecture: architecture.clone(),
                aggregate_checksum: String::new(),
            },
            build: Build {
                terminal: BUILDER,
                user: BUILDER,
                architecture,
                timestamp: EPOCH,
                version: FORM,
                differential: false,
                differential_package_version: String::new(),
                signed: false,
                version_requirements: Vec::new(),
                provenance_files: Vec::new(),
            },
            components,
            dialect,
        })
    }

    /// The definition of a package that omits the images `omitted`, because `version` contains them.
    pub fn differential(mut self, version: &str, omitted: &BTreeSet<String>) -> Self {
        self.build.differential = true;
        version.clone_into(&mut self.build.differential_package_version);
        for component in &mut self.components {
            component.images.retain(|image| !omitted.contains(image));
        }
        self
    }

    /// The same with the content of the components of `spec`, its own spec, in their order.
    pub fn with_contents(mut self, spec: &JackalPackageSpec, found: &[ComponentContent]) -> Self {
        for ((listed, component), found) in self.components.iter_mut().zip(&spec.components).zip(found) {
            listed.listing = Listing::of(component, found);
        }
        self
    }

    /// The definition of a package that contains the definition's signature; unchanged if the commands of its dialect do not
    /// support one.
    pub fn signed(mut self) -> Self {
        if let Some(file) = self.dialect.signature {
            self.build.signed = true;
            self.build.provenance_files.push(file);
            self.build.version_requirements.push(VersionRequirement {
                version: "v0.71.0",
                reason: "The package is signed by a bundle.",
            });
        }
        self
    }

    /// The path of the signature in the package, if the definition is [`Definition::signed`].
    pub fn signature_path(&self) -> Option<&'static str> {
        self.dialect.signature.filter(|_| self.build.signed)
    }

    /// The package's name, which is its repository below the prefix.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The package's version, which is its tag.
    pub fn version(&self) -> &str {
        &self.metadata.version
    }

    /// The architecture of its entry in the index.
    pub fn architecture(&self) -> &str {
        &self.build.architecture
    }

    /// The definition as the artifact contains it: with the hexadecimal SHA-256 of `checksums.txt`, and with the version of
    /// Zarf that images of several platforms require.
    pub(super) fn with_checksum(&self, checksum: &str, has_index: bool) -> Self {
        let mut complete = self.clone();
        complete.metadata.aggregate_checksum = checksum.to_owned();
        if has_index && self.dialect.reads_indexes {
            complete.build.version_requirements.push(VersionRequirement {
                version: "v0.77.0",
                reason: "The package holds images of several platforms.",
            });
        }
        complete
    }

    /// The document, as YAML.
    pub(super) fn yaml(&self) -> Result<Bytes, Fault> {
        super::yaml(self).map(Bytes::from).map_err(|error| {
            Fault::stalled(
                Reason::PackageFailed,
                format!(
                    "the definition of package `{}` cannot be written as YAML: {error}; remove unusual characters from its descriptions",
                    self.metadata.name
                ),
            )
        })
    }

    /// The same as JSON, for the manifest's config.
    pub(super) fn json(&self) -> Result<Bytes, Fault> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|error| {
            Fault::stalled(
                Reason::PackageFailed,
                format!(
                    "the definition of package `{}` cannot be written as JSON: {error}",
                    self.metadata.name
                ),
            )
        })
    }
}

/// Checks that a package's name is a valid part of a repository's name (distribution specification, "Pulling manifests").
fn check_name(name: &str) -> Result<(), Fault> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let ends = name.bytes().next().is_some_and(word) && name.bytes().next_back().is_some_and(word);
    let separated = name
        .split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        .all(separator);
    if ends && separated && name.len() <= NAME_LIMIT {
        return Ok(());
    }
    Err(Fault::stalled(
        Reason::InvalidSpec,
        format!(
            "`{}` is not a package's name: it is also the name of a repository, so write lower-case letters and digits with '-' or '.' between them",
            name.chars().take(80).collect::<String>()
        ),
    ))
}

/// Checks that a package's version is a valid tag (distribution specification, "Pulling manifests").
fn check_version(version: &str) -> Result<(), Fault> {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let rest = |byte: u8| first(byte) || byte == b'.' || byte == b'-';
    if version.bytes().next().is_some_and(first) && version.bytes().all(rest) && version.len() <= 128 {
        return Ok(());
    }
    Err(Fault::stalled(
        Reason::InvalidSpec,
        format!(
            "`{}` is not a version: it is the artifact's tag, so write at most 128 letters, digits, '.', '_' and '-', and no '+'",
            version.chars().take(80).collect::<String>()
        ),
    ))
}

#[cfg(test)]
mod tests;
