//! Choosing platforms from an index.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Descriptor, Digest, Document, Index, Platform, media_type};

/// The most entries of an index with those of its indexes.
const ENTRIES: usize = 50_000;

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
pub struct MissingPlatforms(pub Vec<Platform>);

impl fmt::Display for MissingPlatforms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, platform) in self.0.iter().enumerate() {
            write!(formatter, "{}{platform}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Descriptor {
    /// Whether this entry of an index is itself an index of which nothing says what it runs on: its entries do.
    fn is_open_index(&self) -> bool {
        let is_said = self.platform.as_ref().is_some_and(Platform::is_said);
        media_type::is_index(&self.media_type) && !is_said
    }
}

impl Index {
    /// The indexes in this one of which only their own entries say what they run on, without those that are `read`.
    pub fn open_indexes(&self, read: &HashMap<Digest, Document>) -> Vec<Digest> {
        let mut seen = HashSet::new();
        let open = self.manifests.iter().filter(|entry| entry.is_open_index());
        let open = open.filter(|entry| !read.contains_key(&entry.digest) && seen.insert(&entry.digest));
        open.map(|entry| entry.digest.clone()).collect()
    }

    /// This index with their entries in place of the indexes that [`Index::open_indexes`] names and that are `read`, each
    /// once; `None` where there are too many.
    pub fn with_entries_of(&self, read: &HashMap<Digest, Document>) -> Option<Self> {
        let mut seen = HashSet::new();
        let mut manifests = Vec::with_capacity(self.manifests.len());
        for entry in &self.manifests {
            let within = read.get(&entry.digest).filter(|_| entry.is_open_index());
            match within.and_then(Document::index) {
                Some(inner) if seen.insert(&entry.digest) => manifests.extend(inner.manifests.iter().cloned()),
                Some(_) => {}
                None => manifests.push(entry.clone()),
            }
            if manifests.len() > ENTRIES {
                return None;
            }
        }
        Some(Self {
            manifests,
            ..self.clone()
        })
    }
}

/// Chooses the images of `index` that `platforms` ask for; none asks for the whole index.
///
/// Kept are, in the order of the index, for each platform every image that suits it best ([`Platform::suitability`]),
/// and the attestations of the kept images. A single image is chosen without its attestations, since only an index
/// lists those.
///
/// # Errors
/// [`MissingPlatforms`] when one of the platforms admits no image: to leave it out silently would show only when a node
/// of that platform pulls.
pub fn select(index: &Index, platforms: &[Platform]) -> Result<Selection, MissingPlatforms> {
    select_by(index, platforms, |at| index.manifests.get(at)?.platform.as_ref())
}

/// As [`select`], with what the entry at a position runs on from elsewhere, where the index itself does not say.
pub fn select_by<'a>(
    index: &Index,
    platforms: &[Platform],
    runs_on: impl Fn(usize) -> Option<&'a Platform>,
) -> Result<Selection, MissingPlatforms> {
    if platforms.is_empty() {
        return Ok(Selection::Whole);
    }
    let mut chosen = vec![false; index.manifests.len()];
    let mut absent = Vec::new();
    for asked in platforms {
        let suitable = |(at, entry): (usize, &Descriptor)| {
            let suitability = entry.may_be_image().then(|| asked.suitability(runs_on(at)?))?;
            suitability.map(|suitability| (suitability, at))
        };
        let suitable: Vec<_> = index.manifests.iter().enumerate().filter_map(suitable).collect();
        match suitable.iter().map(|(suitability, _)| suitability).min() {
            Some(best) => {
                let best = suitable.iter().filter(|(suitability, _)| suitability == best);
                best.for_each(|&(_, at)| chosen[at] = true);
            }
            None => absent.push(asked.clone()),
        }
    }
    if !absent.is_empty() {
        return Err(MissingPlatforms(absent));
    }
    let entries = || index.manifests.iter().zip(&chosen);
    let images: Vec<&Descriptor> = entries()
        .filter(|(_, chosen)| **chosen)
        .map(|(entry, _)| entry)
        .collect();
    // One image may be listed under several platforms.
    if let Some((first, others)) = images.split_first()
        && others.iter().all(|other| other.digest == first.digest)
    {
        return Ok(Selection::One((*first).clone()));
    }
    let attested = |entry: &Descriptor| {
        let subject = entry.attests().filter(|_| entry.is_attestation());
        subject.is_some_and(|subject| images.iter().any(|image| image.digest == subject))
    };
    let manifests: Vec<Descriptor> = entries()
        .filter(|(entry, chosen)| **chosen || attested(entry))
        .map(|(entry, _)| entry.clone())
        .collect();
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
    fn names_of_one_platform_choose_the_same() {
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
            let one = Selection::One(index.manifests[chosen].clone());
            assert_eq!(select(&index, &asked(&[name])), Ok(one), "{name}");
        }
    }

    #[test]
    fn one_image_may_be_listed_under_two_platforms() {
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
                select(&index, &asked(platforms)),
                Ok(Selection::One(one.clone())),
                "{platforms:?}"
            );
        }
        let Ok(Selection::Several(kept)) = select(&index, &asked(&["linux/amd64", "linux/arm/v7"])) else {
            panic!("not several");
        };
        assert_eq!(kept.manifests, index.manifests[1..]);
    }

    #[test]
    fn what_is_no_image_is_not_chosen() {
        let mut blob = image("linux/amd64");
        blob.media_type = "application/vnd.buildkit.cacheconfig.v0".to_owned();
        let mut unsaid = image("linux/amd64");
        unsaid.platform = Some(Platform::default());
        let mut orphan = attestation(&image("linux/s390x"));
        orphan.annotations.remove("vnd.docker.reference.digest");
        let index = Index::new(vec![blob, unsaid, orphan, image("linux/amd64")]);
        let one = Selection::One(index.manifests[3].clone());
        assert_eq!(select(&index, &asked(&["linux/amd64"])), Ok(one));
    }

    #[test]
    fn an_index_within_stands_for_its_entries() {
        let (amd, arm) = (image("linux/amd64"), image("linux/arm64"));
        let inner = Document::of_index(Index::new(vec![amd.clone(), arm.clone()])).unwrap();
        let mut placed = inner.descriptor.clone();
        placed.platform = Some("linux/s390x".parse().unwrap());
        let outer = Index::new(vec![inner.descriptor.clone(), placed.clone(), inner.descriptor.clone()]);
        let mut read = HashMap::new();
        assert_eq!(outer.open_indexes(&read), [inner.digest().clone()]);
        assert_eq!(outer.with_entries_of(&read), Some(outer.clone()));
        read.insert(inner.digest().clone(), inner);
        assert!(outer.open_indexes(&read).is_empty());
        let flat = outer.with_entries_of(&read).unwrap();
        assert_eq!(flat.manifests, [amd, arm, placed]);
    }

    #[test]
    fn says_what_is_not_there() {
        let index = Index::new(vec![image("linux/amd64"), attestation(&image("linux/amd64"))]);
        let error = select(&index, &asked(&["linux/amd64", "linux/ppc64le", "unknown/unknown"])).unwrap_err();
        assert_eq!(error.to_string(), "linux/ppc64le, unknown/unknown");
    }
}
