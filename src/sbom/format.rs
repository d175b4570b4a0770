//! The formats of an SBOM.

use crate::oci::Descriptor;

/// A format of an SBOM that syft writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// SPDX 2.3, as JSON.
    Spdx,
    /// CycloneDX 1.6, as JSON.
    CycloneDx,
    /// Syft's own JSON, which Zarf's viewer reads.
    Syft,
}

impl Format {
    /// All formats, in the order in which they are stored.
    pub const ALL: [Self; 3] = [Self::Spdx, Self::CycloneDx, Self::Syft];

    /// The media type of the document, also the artifact type of its referrer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Spdx => "application/spdx+json",
            Self::CycloneDx => "application/vnd.cyclonedx+json",
            Self::Syft => "application/vnd.syft+json",
        }
    }

    /// The format of `referrer` by its artifact type in a listing.
    pub(super) fn of_referrer(referrer: &Descriptor) -> Option<Self> {
        let kind = referrer.artifact_type.as_deref()?;
        Self::ALL.into_iter().find(|format| format.media_type() == kind)
    }

    /// Its name and version for syft.
    pub(super) fn output(self) -> &'static str {
        match self {
            Self::Spdx => "spdx-json@2.3",
            Self::CycloneDx => "cyclonedx-json@1.6",
            Self::Syft => "syft-json",
        }
    }

    /// The name of the file that syft writes.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Spdx => "spdx.json",
            Self::CycloneDx => "cyclonedx.json",
            Self::Syft => "syft.json",
        }
    }
}
