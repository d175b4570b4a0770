//! Descriptors and platforms, after the OCI image specification.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Digest, media_type};

/// What a manifest or an index says of content that it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes.
    pub size: u64,
    /// Where else the content lies; only foreign layers have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For an entry of an index: what the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of the artifact that is referred to, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without annotations or platform.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// The descriptor of `{}` (OCI image specification, "Guidance for an Empty Descriptor").
    pub fn empty() -> Self {
        Self::new(media_type::OCI_EMPTY, Digest::of(b"{}"), 2)
    }

    /// Whether this entry of an index holds attestations of another entry, as BuildKit writes them. Such an
    /// entry has the platform `unknown/unknown`, and nobody means it when choosing a platform.
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
    }

    /// The digest of the entry that this attestation is about.
    pub fn attests(&self) -> Option<&str> {
        self.annotations.get("vnd.docker.reference.digest").map(String::as_str)
    }
}

/// What an image runs on, as `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the system; only Windows images have it.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// A text that names no platform.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a platform: write it as os/architecture or os/architecture/variant, such as linux/amd64")]
pub struct PlatformError(String);

impl Platform {
    /// What an image configuration (image specification, "Image Configuration") says that it runs on. The
    /// configuration of an artifact that is no image says nothing.
    pub fn of_config(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Configuration {
            os: Option<String>,
            architecture: Option<String>,
            variant: Option<String>,
            #[serde(rename = "os.version")]
            os_version: Option<String>,
        }
        let read: Configuration = serde_json::from_slice(json).ok()?;
        let written = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Self {
            os: written(read.os)?,
            architecture: written(read.architecture)?,
            variant: written(read.variant),
            os_version: read.os_version,
        })
    }

    /// Whether an image made for `offered` is what somebody who wrote `self` asked for: parts that were not
    /// written match anything.
    pub fn admits(&self, offered: &Platform) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || self.variant == offered.variant || self.is_plain_arm64(offered))
    }

    // containerd and docker hold linux/arm64 and linux/arm64/v8 for the same platform.
    fn is_plain_arm64(&self, offered: &Platform) -> bool {
        self.architecture == "arm64" && self.variant.as_deref() == Some("v8") && offered.variant.is_none()
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(plain) {
            return Err(PlatformError(text.chars().take(80).collect()));
        }
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|&variant| variant.to_owned()),
            os_version: None,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(formatter, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_reads_and_matches() {
        let parse = |text: &str| text.parse::<Platform>();
        assert_eq!(parse("linux/arm64/v8").unwrap().to_string(), "linux/arm64/v8");
        assert!(parse("linux/arm").unwrap().admits(&parse("linux/arm/v7").unwrap()));
        assert!(parse("linux/arm64/v8").unwrap().admits(&parse("linux/arm64").unwrap()));
        assert!(!parse("linux/arm/v6").unwrap().admits(&parse("linux/arm/v7").unwrap()));
        assert!(!parse("linux/amd64").unwrap().admits(&parse("windows/amd64").unwrap()));
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/amd 64"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn descriptor_leaves_out_what_it_has_not() {
        let descriptor = Descriptor::new("a/b", Digest::of(b""), 0);
        let json = serde_json::to_value(&descriptor).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 3);
        assert_eq!(serde_json::from_value::<Descriptor>(json).unwrap(), descriptor);
    }
}
