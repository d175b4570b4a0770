//! The SBOMs in an archive: the documents in the `sboms.tar` of its packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use bytes::BytesMut;
use futures::stream::{self, StreamExt as _};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::contents::Archive;
use super::members::{Extent, list};
use super::order::files_of;
use super::tar_content::TarContent;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, Reference};
use crate::package::{SBOMS, sbom_file};
use crate::sbom::CONTENT_LIMIT;
use crate::source::ByteStream;

/// The most packages of one SBOM.
const PACKAGES_LIMIT: usize = 200_000;

/// A document in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SbomFile {
    /// Its path in `sboms.tar`.
    pub path: String,
    /// The digest of that tar.
    tar: Digest,
    extent: Extent,
}

impl SbomFile {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.extent.size
    }
}

/// The packages that an SBOM lists: by their type, which is empty where the document has none, and their name, their versions.
pub type SbomPackages = BTreeMap<(String, String), BTreeSet<String>>;

/// The documents in JSON of all packages of `archive`, by their paths. Pages for people are left out.
///
/// # Errors
/// A fault, where an `sboms.tar` is not a tar.
pub async fn sbom_files(archive: &Archive) -> Result<BTreeMap<String, SbomFile>, Fault> {
    let mut found = BTreeMap::new();
    for package in archive.packages() {
        let files = package.manifest.manifest().map(files_of).transpose()?;
        for file in files.unwrap_or_default().into_iter().filter(|file| file.path == SBOMS) {
            let tar = Nested {
                archive,
                digest: &file.digest,
            };
            let within = |fault: Fault| fault.with_context(format_args!("file `{SBOMS}`"));
            for member in list(&tar).await.map_err(within)? {
                if member.is_link || !member.path.ends_with(".json") {
                    continue;
                }
                let file = SbomFile {
                    path: member.path.clone(),
                    tar: file.digest.clone(),
                    extent: member.extent,
                };
                found.entry(member.path).or_insert(file);
            }
        }
    }
    Ok(found)
}

/// The document about the manifest `digest` of the image `name`, for `platform`.
pub fn sbom_of<'f>(
    files: &'f BTreeMap<String, SbomFile>,
    name: &Reference,
    platform: Option<&Platform>,
    digest: &Digest,
) -> Option<&'f SbomFile> {
    [platform, None].into_iter().find_map(|platform| {
        let path = sbom_file(name, platform);
        let distinct = path.replace(".json", &format!("-{}.json", digest.short()));
        files.get(&distinct).or_else(|| files.get(&path))
    })
}

/// Reads the packages that `file` lists: in the form of syft, SPDX or CycloneDX. Its content is not verified.
///
/// # Errors
/// A stalled fault that names the file.
pub async fn sbom_packages(archive: &Archive, file: &SbomFile) -> Result<SbomPackages, Fault> {
    let invalid = |what: String| {
        Fault::stalled(
            Reason::SourceFailed,
            format!(
                "the SBOM `{}` cannot be read: {what}",
                file.path.chars().take(200).collect::<String>()
            ),
        )
    };
    if file.extent.size > CONTENT_LIMIT as u64 {
        return Err(invalid(format!("it has more than {CONTENT_LIMIT} bytes")));
    }
    let content = archive.read_range(&file.tar, file.extent.offset, file.extent.size);
    let mut content = content.ok_or_else(|| invalid("the archive lacks it".to_owned()))?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = content.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
    }
    let document: Document = decode::json(&bytes).map_err(|error| invalid(error.to_string()))?;
    Ok(document.packages())
}

/// A tar that is a blob of an archive.
struct Nested<'a> {
    archive: &'a Archive,
    digest: &'a Digest,
}

impl TarContent for Nested<'_> {
    fn read(&self, offset: u64, length: u64) -> ByteStream<'static> {
        let content = self.archive.read_range(self.digest, offset, length);
        content.unwrap_or_else(|| stream::empty().boxed())
    }
}

/// The parts of an SBOM that list packages; each form has one of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    /// syft.
    #[serde(deserialize_with = "bounded")]
    artifacts: Vec<Entry>,
    /// SPDX 2.3, "Package information".
    #[serde(deserialize_with = "bounded")]
    packages: Vec<Entry>,
    /// CycloneDX 1.6, "components".
    #[serde(deserialize_with = "bounded")]
    components: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    name: String,
    version: String,
    #[serde(rename = "versionInfo")]
    version_info: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Document {
    fn packages(self) -> SbomPackages {
        let mut found = SbomPackages::new();
        for entry in self.artifacts.into_iter().chain(self.packages).chain(self.components) {
            let version = match entry.version.is_empty() {
                true => entry.version_info,
                false => entry.version,
            };
            found.entry((entry.kind, entry.name)).or_default().insert(version);
        }
        found
    }
}

/// A list of at most [`PACKAGES_LIMIT`] values.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of packages")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = sequence.next_element()? {
                if values.len() == PACKAGES_LIMIT {
                    return Err(A::Error::custom(format_args!(
                        "it lists more than {PACKAGES_LIMIT} packages"
                    )));
                }
                values.push(value);
            }
            Ok(values)
        }
    }

    deserializer.deserialize_any(Bounded(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(text: &str) -> Vec<String> {
        let document: Document = decode::json(text.as_bytes()).unwrap();
        let packages = document.packages().into_iter();
        packages
            .map(|((kind, name), versions)| format!("{kind} {name} {}", Vec::from_iter(versions).join(",")))
            .collect()
    }

    #[test]
    fn packages_of_every_form_are_read() {
        let syft = r#"{"artifacts":[{"name":"zlib","version":"1.3","type":"deb"},{"name":"zlib","version":"1.2","type":"deb"}]}"#;
        assert_eq!(packages(syft), ["deb zlib 1.2,1.3"]);
        assert_eq!(
            packages(r#"{"packages":[{"name":"zlib","versionInfo":"1.3"}]}"#),
            [" zlib 1.3"]
        );
        let cyclonedx = r#"{"components":[{"type":"library","name":"zlib","version":"1.3"}],"metadata":{}}"#;
        assert_eq!(packages(cyclonedx), ["library zlib 1.3"]);
        assert!(packages(r#"{"artifacts":null}"#).is_empty());
        let many = format!(r#"{{"artifacts":[{}{{}}]}}"#, "{},".repeat(PACKAGES_LIMIT));
        assert!(decode::json::<Document>(many.as_bytes()).is_err());
    }
}
