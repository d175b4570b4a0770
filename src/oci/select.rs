//! Selects platforms from an index.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Descriptor, Digest, Document, Index, Platform, media_type};

/// Maximum number of entries of an index, including those of nested indexes.
const MAX_ENTRIES: usize = 50_000;

/// The result of a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole index, unchanged.
    Unchanged,
    /// A single image, without the index.
    Image(Descriptor),
    /// Several images: a new index with another digest.
    Index(Index),
}

/// The requested platforms that no image of the index matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPlatforms(pub Vec<Platform>);

impl fmt::Display for MissingPlatforms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, platform) in self.0.iter().enumerate() {
            write!(formatter, "{}{platform}", if position == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Descriptor {
    /// Whether this entry is a nested index without a platform: its entries have the platforms.
    fn is_unresolved_index(&self) -> bool {
        let is_specified = self.platform.as_ref().is_some_and(Platform::is_specified);
        media_type::is_index(&self.media_type) && !is_specified
    }
}

impl Index {
    /// The nested indexes without a platform that are not in `indexes`.
    pub fn unresolved_indexes(&self, indexes: &HashMap<Digest, Document>) -> Vec<Digest> {
        let mut seen = HashSet::new();
        let unresolved = self.manifests.iter().filter(|entry| entry.is_unresolved_index());
        let unresolved = unresolved.filter(|entry| !indexes.contains_key(&entry.digest) && seen.insert(&entry.digest));
        unresolved.map(|entry| entry.digest.clone()).collect()
    }

    /// Replaces nested indexes without a platform by their entries, once each, as far as they are in `indexes`; `None`
    /// if there are too many entries.
    pub fn expand_indexes(&self, indexes: &HashMap<Digest, Document>) -> Option<Self> {
        let mut seen = HashSet::new();
        let mut manifests = Vec::with_capacity(self.manifests.len());
        for entry in &self.manifests {
            let nested = indexes.get(&entry.digest).filter(|_| entry.is_unresolved_index());
            match nested.and_then(Document::index) {
                Some(inner) if seen.insert(&entry.digest) => manifests.extend(inner.manifests.iter().cloned()),
                Some(_) => {}
                None => manifests.push(entry.clone()),
            }
            if manifests.len() > MAX_ENTRIES {
                return None;
            }
        }
        Some(Self {
            manifests,
            ..self.clone()
        })
    }
}

/// Selects the images of `index` that match `platforms`; an empty list selects the whole index.
///
/// The result contains, in the order of the index, all images that match a platform best ([`Platform::suitability`]),
/// and their attestations. A single image is selected without its attestations, because only an index can list them.
///
/// # Errors
/// [`MissingPlatforms`] if a platform matches no image: omitting it silently would only be noticed when a node of that
/// platform pulls.
pub fn select(index: &Index, platforms: &[Platform]) -> Result<Selection, MissingPlatforms> {
    select_by(index, platforms, |position| {
        index.manifests.get(position)?.platform.as_ref()
    })
}

/// Like [`select`], where `platform_of` returns the platform of the entry at a position if the index itself has none.
pub fn select_by<'a>(
    index: &Index,
    platforms: &[Platform],
    platform_of: impl Fn(usize) -> Option<&'a Platform>,
) -> Result<Selection, MissingPlatforms> {
    if platforms.is_empty() {
        return Ok(Selection::Unchanged);
    }
    let mut chosen = vec![false; index.manifests.len()];
    let mut missing = Vec::new();
    for requested in platforms {
        let suitable = |(position, entry): (usize, &Descriptor)| {
            let suitability = entry
                .may_be_image()
                .then(|| requested.suitability(platform_of(position)?))?;
            suitability.map(|suitability| (suitability, position))
        };
        let suitable: Vec<_> = index.manifests.iter().enumerate().filter_map(suitable).collect();
        match suitable.iter().map(|(suitability, _)| suitability).min() {
            Some(best) => {
                let best = suitable.iter().filter(|(suitability, _)| suitability == best);
                best.for_each(|&(_, position)| chosen[position] = true);
            }
            None => missing.push(requested.clone()),
        }
    }
    if !missing.is_empty() {
        return Err(MissingPlatforms(missing));
    }
    let entries = || index.manifests.iter().zip(&chosen);
    let images: Vec<&Descriptor> = entries()
        .filter(|(_, chosen)| **chosen)
        .map(|(entry, _)| entry)
        .collect();
    // An image may be listed for several platforms.
    if let Some((first, others)) = images.split_first()
        && others.iter().all(|other| other.digest == first.digest)
    {
        return Ok(Selection::Image((*first).clone()));
    }
    let attests_chosen = |entry: &Descriptor| {
        let subject = entry.attested_digest().filter(|_| entry.is_attestation());
        subject.is_some_and(|subject| images.iter().any(|image| image.digest == subject))
    };
    let manifests: Vec<Descriptor> = entries()
        .filter(|(entry, chosen)| **chosen || attests_chosen(entry))
        .map(|(entry, _)| entry.clone())
        .collect();
    if manifests.len() == index.manifests.len() {
        return Ok(Selection::Unchanged);
    }
    Ok(Selection::Index(Index {
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

    fn requested(platforms: &[&str]) -> Vec<Platform> {
        platforms.iter().map(|platform| platform.parse().unwrap()).collect()
    }

    #[test]
    fn requested_platforms_are_selected_with_attestations() {
        let (amd, arm, s390) = (image("linux/amd64"), image("linux/arm64"), image("linux/s390x"));
        let attestations = [&amd, &arm, &s390].map(attestation);
        let mut index = Index::new(vec![amd.clone(), arm.clone(), s390.clone()]);
        index.manifests.extend(attestations.clone());
        index.annotations.insert("a".into(), "b".into());
        index.media_type = Some(media_type::DOCKER_LIST.to_owned());

        assert_eq!(select(&index, &[]), Ok(Selection::Unchanged));
        assert_eq!(
            select(&index, &requested(&["linux/arm64/v8"])),
            Ok(Selection::Image(arm.clone()))
        );
        let Ok(Selection::Index(kept)) = select(&index, &requested(&["linux/arm64", "linux/amd64"])) else {
            panic!("not several");
        };
        assert_eq!(
            kept.manifests,
            vec![amd, arm, attestations[0].clone(), attestations[1].clone()]
        );
        assert_eq!(kept.annotations, index.annotations);
        assert_eq!(kept.media_type, index.media_type);
        let all = requested(&["linux/amd64", "linux/arm64", "linux/s390x"]);
        assert_eq!(select(&index, &all), Ok(Selection::Unchanged));
    }

    #[test]
    fn equivalent_names_select_the_same_image() {
        let index = Index::new(
            ["linux/arm/v5", "linux/arm/v7", "linux/arm64/v8", "linux/amd64"]
                .map(image)
                .into(),
        );
        for (name, chosen) in [
            ("linux/arm", 1),
            ("linux/armhf", 1),
            ("linux/arm/v6", 0),
            ("linux/arm64", 2),
            ("linux/aarch64", 2),
            ("linux/x86_64", 3),
            ("linux/amd64/v3", 3),
        ] {
            let one = Selection::Image(index.manifests[chosen].clone());
            assert_eq!(select(&index, &requested(&[name])), Ok(one), "{name}");
        }
    }

    #[test]
    fn an_image_may_have_several_entries() {
        let mut twice = image("linux/arm/v6");
        let once = twice.clone();
        twice.platform = Some("linux/arm/v7".parse().unwrap());
        let index = Index::new(vec![once.clone(), twice.clone(), image("linux/amd64")]);
        for (platforms, one) in [
            (&["linux/arm/v6"][..], &once),
            (&["linux/arm/v7"], &twice),
            (&["linux/arm/v7", "linux/arm/v6"], &once),
        ] {
            assert_eq!(
                select(&index, &requested(platforms)),
                Ok(Selection::Image(one.clone())),
                "{platforms:?}"
            );
        }
        let Ok(Selection::Index(kept)) = select(&index, &requested(&["linux/amd64", "linux/arm/v7"])) else {
            panic!("not several");
        };
        assert_eq!(kept.manifests, index.manifests[1..]);
    }

    #[test]
    fn entries_that_are_not_images_are_not_selected() {
        let mut blob = image("linux/amd64");
        blob.media_type = "application/vnd.buildkit.cacheconfig.v0".to_owned();
        let mut without_platform = image("linux/amd64");
        without_platform.platform = Some(Platform::default());
        let mut orphan = attestation(&image("linux/s390x"));
        orphan.annotations.remove("vnd.docker.reference.digest");
        let index = Index::new(vec![blob, without_platform, orphan, image("linux/amd64")]);
        let one = Selection::Image(index.manifests[3].clone());
        assert_eq!(select(&index, &requested(&["linux/amd64"])), Ok(one));
    }

    #[test]
    fn nested_indexes_are_replaced_by_their_entries() {
        let (amd, arm) = (image("linux/amd64"), image("linux/arm64"));
        let inner = Document::of_index(Index::new(vec![amd.clone(), arm.clone()])).unwrap();
        let mut placed = inner.descriptor.clone();
        placed.platform = Some("linux/s390x".parse().unwrap());
        let outer = Index::new(vec![inner.descriptor.clone(), placed.clone(), inner.descriptor.clone()]);
        let mut indexes = HashMap::new();
        assert_eq!(outer.unresolved_indexes(&indexes), [inner.digest().clone()]);
        assert_eq!(outer.expand_indexes(&indexes), Some(outer.clone()));
        indexes.insert(inner.digest().clone(), inner);
        assert!(outer.unresolved_indexes(&indexes).is_empty());
        let flat = outer.expand_indexes(&indexes).unwrap();
        assert_eq!(flat.manifests, [amd, arm, placed]);
    }

    #[test]
    fn missing_platforms_are_named() {
        let index = Index::new(vec![image("linux/amd64"), attestation(&image("linux/amd64"))]);
        let error = select(&index, &requested(&["linux/amd64", "linux/ppc64le", "unknown/unknown"])).unwrap_err();
        assert_eq!(error.to_string(), "linux/ppc64le, unknown/unknown");
    }
}
