//! SBOMs as referrers of an image's manifest (OCI image specification 1.1, "Guidelines for Artifact Usage"). No IO.

use std::collections::BTreeMap;

use super::Format;
use crate::oci::{Descriptor, Digest, Document, DocumentError, Manifest, media_type};

/// The annotation of a referrer with the program that generated its SBOM and the version, such as `syft 1.57.1`.
const TOOL: &str = "dev.jackal.sbom.tool";
/// The annotation of a referrer with the digest and size in bytes of its SBOM, `sha256:… 123`. A list of referrers repeats
/// the annotations (distribution specification 1.1, "Listing Referrers"), so that one request is enough.
const CONTENT: &str = "dev.jackal.sbom.content";

/// The SBOMs of one manifest, one in each [`Format`], all by the same program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sboms {
    /// The program that generated them and its version, such as `syft 1.57.1`.
    pub tool: String,
    /// The media type, digest and size in bytes of each document.
    pub contents: BTreeMap<Format, Descriptor>,
}

impl Sboms {
    /// The SBOMs among the `referrers` of a manifest; `None` unless there is one in each format. If there are several
    /// programs, the latest version is used. SBOMs by other tools, such as the publisher's, are ignored.
    ///
    /// SBOMs by an older syft remain valid, so that a new version does not change all packages.
    pub fn among(referrers: &[Descriptor]) -> Option<Self> {
        Self::among_those(referrers, |_| true)
    }

    /// The same, but only documents whose digests `admits` are considered.
    pub fn among_those(referrers: &[Descriptor], admits: impl Fn(&Digest) -> bool) -> Option<Self> {
        let mut by_tool: BTreeMap<&str, BTreeMap<Format, Descriptor>> = BTreeMap::new();
        for referrer in referrers {
            let Some((tool, format, content)) = read(referrer).filter(|(_, _, content)| admits(&content.digest)) else {
                continue;
            };
            let contents = by_tool.entry(tool).or_default();
            // The least of two, so that the order of the list does not matter.
            let least = contents.get(&format).is_none_or(|known| content.digest < known.digest);
            if least {
                contents.insert(format, content);
            }
        }
        let (tool, contents) = by_tool
            .into_iter()
            .filter(|(_, contents)| contents.len() == Format::ALL.len())
            .max_by(|(left, _), (right, _)| version_of(left).cmp(&version_of(right)).then(left.cmp(right)))?;
        Some(Self {
            tool: tool.to_owned(),
            contents,
        })
    }
}

fn read(referrer: &Descriptor) -> Option<(&str, Format, Descriptor)> {
    let format = Format::of_referrer(referrer)?;
    let tool = referrer.annotations.get(TOOL)?;
    let (digest, size) = referrer.annotations.get(CONTENT)?.split_once(' ')?;
    let content = Descriptor::new(format.media_type(), digest.parse().ok()?, size.parse().ok()?);
    Some((tool, format, content))
}

/// The numbers of a version, so that 1.10 is later than 1.9.
fn version_of(tool: &str) -> Vec<u64> {
    let (_, version) = tool.rsplit_once(' ').unwrap_or(("", tool));
    version
        .split('.')
        .map(|part| part.parse().unwrap_or_default())
        .collect()
}

/// The manifest that refers to `subject` and contains `content`, its SBOM in `format` by `tool`. It is deterministic.
pub fn referrer(
    subject: &Descriptor,
    format: Format,
    tool: &str,
    content: &Descriptor,
) -> Result<Document, DocumentError> {
    let layer = Descriptor::new(format.media_type(), content.digest.clone(), content.size);
    let mut manifest = Manifest::new(Descriptor::empty(), vec![layer]);
    manifest.artifact_type = Some(format.media_type().to_owned());
    manifest.subject = Some(Descriptor::new(
        subject.media_type.clone(),
        subject.digest.clone(),
        subject.size,
    ));
    manifest.annotations = BTreeMap::from([
        (TOOL.to_owned(), tool.to_owned()),
        (CONTENT.to_owned(), format!("{} {}", content.digest, content.size)),
    ]);
    Document::of_manifest(manifest)
}

/// Whether `manifest` is an image with a file system. Other artifacts, such as charts, have no SBOM.
pub fn is_catalogued(manifest: &Manifest) -> bool {
    let config = manifest.config.media_type.as_str();
    let of_image = |layer: &Descriptor| {
        layer.media_type.starts_with("application/vnd.oci.image.layer.")
            || layer.media_type.starts_with("application/vnd.docker.image.rootfs.")
    };
    matches!(config, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
        && !manifest.layers.is_empty()
        && manifest.layers.iter().all(of_image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"image"), 5)
    }

    /// As a registry lists the referrer that holds `content`.
    fn listed(format: Format, tool: &str, content: &[u8]) -> Descriptor {
        let content = Descriptor::new(format.media_type(), Digest::of(content), content.len() as u64);
        let document = referrer(&subject(), format, tool, &content).unwrap();
        let manifest = document.manifest().unwrap();
        Descriptor {
            artifact_type: manifest.artifact_type.clone(),
            annotations: manifest.annotations.clone(),
            ..document.descriptor.clone()
        }
    }

    fn all(tool: &str, content: &[u8]) -> Vec<Descriptor> {
        Format::ALL
            .into_iter()
            .map(|format| listed(format, tool, content))
            .collect()
    }

    #[test]
    fn a_listing_contains_everything_that_a_package_needs() {
        let sboms = Sboms::among(&all("syft 1.57.1", b"abc")).unwrap();
        assert_eq!(sboms.tool, "syft 1.57.1");
        let own = &sboms.contents[&Format::Syft];
        assert_eq!((own.digest.clone(), own.size), (Digest::of(b"abc"), 3));
    }

    #[test]
    fn incomplete_sboms_are_not_used() {
        for missing in 0..3 {
            let mut referrers = all("syft 1.57.1", b"abc");
            referrers.remove(missing);
            assert_eq!(Sboms::among(&referrers), None);
        }
        // SBOMs by two programs are not combined.
        let mut referrers = all("syft 1.57.1", b"abc");
        referrers[2] = listed(Format::Syft, "syft 1.56.0", b"abc");
        assert_eq!(Sboms::among(&referrers), None);
    }

    #[test]
    fn the_latest_version_is_used_in_any_order() {
        let mut referrers = [
            all("syft 1.9.2", b"old"),
            all("syft 1.10.0", b"new"),
            all("syft 1.10.0", b"newer"),
        ]
        .concat();
        let sboms = Sboms::among(&referrers).unwrap();
        assert_eq!(sboms.tool, "syft 1.10.0");
        referrers.reverse();
        assert_eq!(Sboms::among(&referrers), Some(sboms));
    }

    #[test]
    fn referrers_that_are_not_admitted_have_no_effect() {
        let own = all("syft 1.9.2", b"own");
        let referrers = [all("syft 99.0.0", b"evil"), own.clone(), all("syft 1.9.2", b"less")].concat();
        assert_eq!(
            Sboms::among_those(&referrers, |content| *content == Digest::of(b"own")),
            Sboms::among(&own)
        );
    }

    #[test]
    fn sboms_by_other_tools_are_ignored() {
        let mut referrers = all("syft 1.57.1", b"abc");
        for referrer in &mut referrers {
            referrer.annotations.clear();
        }
        assert_eq!(Sboms::among(&referrers), None);
        let mut referrers = all("syft 1.57.1", b"abc");
        for referrer in &mut referrers {
            referrer
                .annotations
                .insert(CONTENT.to_owned(), "sha256:../x 1".to_owned());
        }
        assert_eq!(Sboms::among(&referrers), None);
    }

    #[test]
    fn a_referrer_is_deterministic() {
        let content = Descriptor::new("x", Digest::of(b"abc"), 3);
        let document = referrer(&subject(), Format::Spdx, "syft 1.57.1", &content).unwrap();
        assert_eq!(
            document.digest().as_str(),
            "sha256:9a490be4cd28fed268840f6abf6fbfde73b1d5cfca89ea0b88de3a99086def50"
        );
        let manifest = document.manifest().unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/spdx+json"));
        assert_eq!(manifest.layers[0].media_type, "application/spdx+json");
        assert_eq!(manifest.config.digest, Digest::of(b"{}"));
    }

    #[test]
    fn only_images_have_sboms() {
        let layer = |kind: &str| Descriptor::new(kind, Digest::of(b"l"), 1);
        let of = |config: &str, layers: &[&str]| {
            let layers = layers.iter().map(|kind| layer(kind)).collect();
            Manifest::new(Descriptor::new(config, Digest::of(b"c"), 1), layers)
        };
        assert!(is_catalogued(&of(
            media_type::OCI_CONFIG,
            &[media_type::OCI_LAYER_ZSTD]
        )));
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert!(is_catalogued(&of(
            "application/vnd.docker.container.image.v1+json",
            &[docker]
        )));
        assert!(!is_catalogued(&of(
            "application/vnd.cncf.helm.config.v1+json",
            &["application/vnd.cncf.helm.chart.content.v1.tar+gzip"]
        )));
        assert!(!is_catalogued(&of(
            media_type::OCI_CONFIG,
            &["application/vnd.in-toto+json"]
        )));
        assert!(!is_catalogued(&of(media_type::OCI_CONFIG, &[])));
    }
}
