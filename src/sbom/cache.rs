//! Which SBOMs this process knows to be true: those that it made, and those that were proven to it. No IO.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::Sboms;
use crate::oci::Digest;

/// Images of one platform whose SBOMs are remembered.
const REMEMBERED: usize = 4096;

/// The SBOMs of images that were made here, by the digest of the image's manifest, which decides them.
///
/// A referrer that says to be an SBOM says nothing of who pushed it: whoever may write to the image's repository does, and
/// one that came with the image from its source is of whoever may write there.
#[derive(Debug, Default)]
pub struct SbomCache(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    contents: HashMap<Digest, BTreeSet<Digest>>,
    order: VecDeque<Digest>,
}

impl SbomCache {
    /// Remembers that `sboms` are those of the image `manifest`.
    pub fn note(&self, manifest: &Digest, sboms: &Sboms) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { contents, order } = &mut *known;
        if !contents.contains_key(manifest) {
            order.push_back(manifest.clone());
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                contents.remove(&oldest);
            }
        }
        // One set of documents: of two programs the later one made the same image's anew.
        let made = sboms.contents.values().map(|content| content.digest.clone());
        contents.insert(manifest.clone(), made.collect());
    }

    /// Whether the document `content` is known to be an SBOM of the image `manifest`.
    pub fn knows(&self, manifest: &Digest, content: &Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contents.get(manifest).is_some_and(|made| made.contains(content))
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
    fn what_was_made_is_known_of_its_image_alone_and_bounded() {
        let memory = SbomCache::default();
        let image = |each: usize| Digest::of(&each.to_be_bytes());
        let (own, other) = (sboms("own"), sboms("other"));
        let content = |sboms: &Sboms| sboms.contents[&Format::Syft].digest.clone();
        memory.note(&image(0), &own);
        assert!(memory.knows(&image(0), &content(&own)));
        assert!(!memory.knows(&image(0), &content(&other)) && !memory.knows(&image(1), &content(&own)));
        for each in 0..=REMEMBERED {
            memory.note(&image(each), &own);
        }
        assert!(!memory.knows(&image(0), &content(&own)) && memory.knows(&image(1), &content(&own)));
    }
}
