//! The SBOMs that this process knows to be genuine: those that it generated, and those that were proven. No IO.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use super::Sboms;
use crate::oci::Digest;

/// The most images, each for one platform, in the cache.
const IMAGES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Genuine SBOMs, by the digest of the image's manifest.
///
/// A referrer that claims to be an SBOM may have been pushed by anybody with write access to the image's repository, or, if it
/// was copied with the image, to the repository of its source.
#[derive(Debug)]
pub struct SbomCache(Mutex<LruCache<Digest, BTreeSet<Digest>>>);

impl Default for SbomCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::sparse(IMAGES)))
    }
}

impl SbomCache {
    /// Records that `sboms` are genuine SBOMs of the image `manifest`. They replace those of another version of syft.
    pub fn insert(&self, manifest: &Digest, sboms: &Sboms) {
        let contents = sboms.contents.values().map(|content| content.digest.clone());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(manifest.clone(), contents.collect());
    }

    /// Whether the document `content` is a genuine SBOM of the image `manifest`.
    pub fn contains(&self, manifest: &Digest, content: &Digest) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(manifest).is_some_and(|contents| contents.contains(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Descriptor;
    use crate::sbom::Format;

    fn sboms(content: &str) -> Sboms {
        let blob = |format: Format| {
            let digest = Digest::of(format!("{format:?} {content}").as_bytes());
            (format, Descriptor::new(format.media_type(), digest, 1))
        };
        Sboms {
            tool: "syft 1.0.0".to_owned(),
            contents: Format::ALL.into_iter().map(blob).collect(),
        }
    }

    #[test]
    fn sboms_are_known_only_for_their_image_and_the_cache_is_bounded() {
        let cache = SbomCache::default();
        let image = |each: usize| Digest::of(&each.to_be_bytes());
        let (own, other) = (sboms("own"), sboms("other"));
        let content = |sboms: &Sboms| sboms.contents[&Format::Syft].digest.clone();
        cache.insert(&image(0), &own);
        assert!(cache.contains(&image(0), &content(&own)));
        assert!(!cache.contains(&image(0), &content(&other)) && !cache.contains(&image(1), &content(&own)));
        for each in 0..=IMAGES.get() {
            cache.insert(&image(each), &own);
        }
        assert!(!cache.contains(&image(0), &content(&own)) && cache.contains(&image(1), &content(&own)));
    }
}
