//! Choosing platforms from an index.

use std::fmt;

use super::{Descriptor, Index, Platform};

/// What a choice of platforms leaves of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it: it is carried unchanged.
    Whole,
    /// One image, which stands for itself.
    One(Descriptor),
    /// Several images: another index, with another digest.
    Several(Index),
}

/// The platforms that were asked for and that no image of the index is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent(pub Vec<Platform>);

impl fmt::Display for Absent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, platform) in self.0.iter().enumerate() {
            write!(formatter, "{}{platform}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Chooses the images of `index` that `platforms` ask for; none asks for the whole index.
///
/// Kept are, in the order of the index, every image that one of the platforms admits, and the attestations
/// of the kept images. A single image is chosen without its attestations, since only an index lists those.
///
/// # Errors
/// [`Absent`] when one of the platforms admits no image: to leave it out silently would show only when a node
/// of that platform pulls.
pub fn select(index: &Index, platforms: &[Platform]) -> Result<Selection, Absent> {
    select_by(index, platforms, |entry| entry.platform.as_ref())
}

/// As [`select`], with what each entry runs on from elsewhere, where the index itself does not say.
pub fn select_by<'a>(
    index: &'a Index,
    platforms: &[Platform],
    runs_on: impl Fn(&'a Descriptor) -> Option<&'a Platform>,
) -> Result<Selection, Absent> {
    if platforms.is_empty() {
        return Ok(Selection::Whole);
    }
    let admitted = |asked: &Platform, entry: &'a Descriptor| {
        !entry.is_attestation() && runs_on(entry).is_some_and(|offered| asked.admits(offered))
    };
    let absent: Vec<Platform> = platforms
        .iter()
        .filter(|asked| !index.manifests.iter().any(|entry| admitted(asked, entry)))
        .cloned()
        .collect();
    if !absent.is_empty() {
        return Err(Absent(absent));
    }
    let images: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|entry| platforms.iter().any(|asked| admitted(asked, entry)))
        .collect();
    if let [only] = images.as_slice() {
        return Ok(Selection::One((*only).clone()));
    }
    let kept = |entry: &Descriptor| match entry.attests() {
        Some(subject) if entry.is_attestation() => images.iter().any(|image| image.digest.as_str() == subject),
        _ => images.contains(&entry),
    };
    let manifests: Vec<Descriptor> = index.manifests.iter().filter(|entry| kept(entry)).cloned().collect();
    if manifests.len() == index.manifests.len() {
        return Ok(Selection::Whole);
    }
    Ok(Selection::Several(Index {
        manifests,
        ..index.clone()
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Digest, media_type};
    use super::*;

    fn image(platform: &str) -> Descriptor {
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(platform.as_bytes()), 1);
        entry.platform = Some(platform.parse().unwrap());
        entry
    }

    fn attestation(of: &Descriptor) -> Descriptor {
        let mut entry = image("unknown/unknown");
        entry.digest = Digest::of(of.digest.as_str().as_bytes());
        let mut annotate = |key: &str, value: &str| entry.annotations.insert(key.to_owned(), value.to_owned());
        annotate("vnd.docker.reference.type", "attestation-manifest");
        annotate("vnd.docker.reference.digest", of.digest.as_str());
        entry
    }

    fn asked(platforms: &[&str]) -> Vec<Platform> {
        platforms.iter().map(|platform| platform.parse().unwrap()).collect()
    }

    #[test]
    fn keeps_what_was_asked_for_and_its_attestations() {
        let (amd, arm, s390) = (image("linux/amd64"), image("linux/arm64"), image("linux/s390x"));
        let attestations = [&amd, &arm, &s390].map(attestation);
        let mut index = Index::new(vec![amd.clone(), arm.clone(), s390.clone()]);
        index.manifests.extend(attestations.clone());
        index.annotations.insert("a".into(), "b".into());
        index.media_type = Some(media_type::DOCKER_LIST.to_owned());

        assert_eq!(select(&index, &[]), Ok(Selection::Whole));
        assert_eq!(
            select(&index, &asked(&["linux/arm64/v8"])),
            Ok(Selection::One(arm.clone()))
        );
        let Ok(Selection::Several(kept)) = select(&index, &asked(&["linux/arm64", "linux/amd64"])) else {
            panic!("not several");
        };
        assert_eq!(
            kept.manifests,
            vec![amd, arm, attestations[0].clone(), attestations[1].clone()]
        );
        assert_eq!(kept.annotations, index.annotations);
        assert_eq!(kept.media_type, index.media_type);
        let all = asked(&["linux/amd64", "linux/arm64", "linux/s390x"]);
        assert_eq!(select(&index, &all), Ok(Selection::Whole));
    }

    #[test]
    fn says_what_is_not_there() {
        let index = Index::new(vec![image("linux/amd64"), attestation(&image("linux/amd64"))]);
        let error = select(&index, &asked(&["linux/amd64", "linux/ppc64le", "unknown/unknown"])).unwrap_err();
        assert_eq!(error.to_string(), "linux/ppc64le, unknown/unknown");
    }
}
