//! The header of a package file: what a registry holds of a package beside its files. Zarf does not read it, and the
//! tar has no place for it: every file there must be in the package's checksums.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::inventory::is_repository;
use super::order::PackageFile;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document};

/// The longest header that is read, in bytes: a manifest of 4 MiB and its configuration, in base64.
pub const HEADER_LIMIT: u32 = 16 << 20;
/// The version of the header's form.
const VERSION: u32 = 1;

/// What the header holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The packages of the file.
    pub packages: Vec<Packed>,
}

/// One package of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Its manifest.
    pub manifest: Document,
    /// The content of the manifest's config.
    pub config: Bytes,
    /// The digests of the files that are left out, with the repository that held each when the inventory of the destination was
    /// made.
    pub omitted: BTreeMap<Digest, String>,
}

impl Packed {
    /// Whether the content of `file` is left out. What describes the package never is.
    pub(super) fn omits(&self, file: &PackageFile) -> bool {
        !file.is_metadata() && self.omitted.contains_key(&file.digest)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    version: u32,
    packages: Vec<PackedForm>,
}

/// Manifest and configuration in base64: their bytes decide their digests.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PackedForm {
    manifest: String,
    config: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    omitted: BTreeMap<Digest, String>,
}

impl Header {
    /// The text of the header. Equal headers have equal texts.
    pub fn encode(&self) -> Vec<u8> {
        let packages = self.packages.iter().map(|package| PackedForm {
            manifest: STANDARD.encode(&package.manifest.raw),
            config: STANDARD.encode(&package.config),
            omitted: package.omitted.clone(),
        });
        let form = Form {
            version: VERSION,
            packages: packages.collect(),
        };
        // Texts and numbers alone: writing them cannot fail.
        serde_json::to_vec(&form).unwrap_or_default()
    }

    /// Reads the text of a header. Manifest and configuration fit each other.
    ///
    /// # Errors
    /// A stalled fault that says what is wrong.
    pub fn decode(text: &[u8]) -> Result<Self, Fault> {
        let invalid = |what: String| Fault::stalled(Reason::SourceFailed, format!("the header of the file {what}"));
        let form: Form = decode::json(text).map_err(|error| invalid(format!("cannot be read: {error}")))?;
        if form.version != VERSION {
            return Err(invalid(format!(
                "has version {}, and this version of jackal-operator reads {VERSION}; use a newer one",
                form.version
            )));
        }
        let packages = form.packages.iter().map(|package| {
            let bytes = |text: &String| {
                STANDARD
                    .decode(text)
                    .map_err(|error| invalid(format!("has no base64: {error}")))
            };
            let manifest = bytes(&package.manifest)?;
            let manifest =
                Document::parse(None, manifest.into()).map_err(|error| invalid(format!("has no manifest: {error}")))?;
            let config = Bytes::from(bytes(&package.config)?);
            match manifest.manifest() {
                Some(content) if manifest.is_package() && content.config.digest == Digest::of(&config) => {}
                _ => {
                    return Err(invalid(
                        "has a manifest that is not the one of a package with this configuration".to_owned(),
                    ));
                }
            }
            if let Some(other) = package.omitted.values().find(|name| !is_repository(name)) {
                let shown: String = other.chars().take(100).collect();
                return Err(invalid(format!("names {shown:?}, which is not a repository")));
            }
            Ok(Packed {
                manifest,
                config,
                omitted: package.omitted.clone(),
            })
        });
        let packages: Vec<Packed> = packages.collect::<Result<_, Fault>>()?;
        if packages.is_empty() {
            return Err(invalid("lists no package".to_owned()));
        }
        Ok(Self { packages })
    }
}
