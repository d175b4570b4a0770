//! The transfer of one image: find it, see what stands already, move what is missing, publish.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::destination::Destination;
use super::known_blobs::KnownBlobs;
use super::previous_image::PreviousImage;
use super::progress::Progress;
use super::referrers::Referrers;
use super::sink::DestinationSink;
use super::tags::{Tags, of_package};
use crate::budget::{IMAGES, memory_of_json};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Compression, Content, Descriptor, Digest, Document, Location, OmittedTag, Platform, Reference, ReferrersPolicy,
    distinct_blobs, distinct_foreign_layers,
};
use crate::source::{Identity, ImageSource, Method, Resolved, may_be_gone};

/// Foreign layers that are named where some are left out.
const NAMED_LAYERS: usize = 4;

/// One image on its way. Dropping the future of [`Transfer::run`] stops it at once; nothing is visible under
/// a tag before all that it refers to is there.
pub struct Transfer {
    /// Where the image is read.
    pub source: Arc<dyn ImageSource>,
    /// What is read there.
    pub reference: Reference,
    /// The platforms to take; empty means all.
    pub platforms: Vec<Platform>,
    /// The repository that it is brought to.
    pub destination: Arc<dyn Destination>,
    /// The tags, or the digest, that it gets there.
    pub location: Location,
    /// How layers are stored that have no compressed form.
    pub compression: Compression,
    /// Whether what refers to the image travels along.
    pub referrers: ReferrersPolicy,
    /// Written while it runs.
    pub progress: Arc<Progress>,
    /// What the transfers to the destination's registry know of each other.
    pub known: Arc<KnownBlobs>,
}

/// What a transfer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The digest of the manifest or index in the destination.
    pub digest: Digest,
    /// What the source calls the image.
    pub source_digest: Digest,
    /// Bytes of all its distinct blobs and manifests.
    pub size: u64,
    /// How the bytes came.
    pub method: Method,
    /// Why a better way was not taken, or not for all of it, and which foreign layers were left out.
    pub declined: Option<String>,
    /// Whether a manifest was written; else all of it stood there before.
    pub published: bool,
    /// Blobs that were sent.
    pub moved_blobs: u64,
    /// Bytes that were read for them.
    pub moved_bytes: u64,
    /// Manifests that were written of those that refer to the image: signatures, attestations, SBOMs.
    pub referrers: usize,
    /// The plain tag that the image did not get.
    pub omitted_tag: Option<OmittedTag>,
    /// Every manifest of the image, children before the index that lists them, the root last.
    pub documents: Vec<Document>,
}

/// What stands in the destination under the image's names.
#[derive(Clone, Debug)]
pub enum DestinationState {
    /// The image itself, under every name, with what refers to it: nothing is to be done.
    Current(Outcome),
    /// Something else, or nothing, under at least one name, or what refers to it is not all there.
    Differs(Box<Resolved>),
}

/// What a transfer would move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Whether all of it stands already.
    pub current: bool,
    /// Bytes that would move: exact for an image whose manifest is known, else at most.
    pub bytes: u64,
    /// Blobs that would move, when they are known.
    pub blobs: Option<u64>,
    /// What the source calls the image.
    pub source_digest: Digest,
}

impl Transfer {
    /// Finds the image and compares it with what stands, by HEADs and small GETs; nothing is written.
    pub async fn check(&self) -> Result<DestinationState, Fault> {
        let resolved = self.source.resolve(&self.reference, &self.platforms).await?;
        match self.compare(&resolved).await? {
            Some(outcome) if !self.lacks_referrers(&resolved).await? => Ok(DestinationState::Current(outcome)),
            _ => Ok(DestinationState::Differs(Box::new(resolved))),
        }
    }

    /// Brings the image.
    pub async fn run(&self) -> Result<Outcome, Fault> {
        match self.check().await? {
            DestinationState::Current(outcome) => Ok(outcome),
            DestinationState::Differs(resolved) => self.copy(&resolved).await,
        }
    }

    /// Says what [`Transfer::run`] would move; nothing is written.
    pub async fn estimate(&self) -> Result<Estimate, Fault> {
        let resolved = match self.check().await? {
            DestinationState::Current(outcome) => {
                return Ok(Estimate {
                    current: true,
                    bytes: 0,
                    blobs: Some(0),
                    source_digest: outcome.source_digest,
                });
            }
            DestinationState::Differs(resolved) => resolved,
        };
        let source_digest = resolved.identity.digest().clone();
        if resolved.documents.is_empty() {
            return Ok(Estimate {
                current: false,
                bytes: resolved.size.unwrap_or_default(),
                blobs: None,
                source_digest,
            });
        }
        let (mut bytes, mut blobs) = (0, 0);
        for blob in distinct_blobs(&resolved.documents) {
            if self.destination.holds(&blob.digest).await?.is_none() {
                bytes += blob.size;
                blobs += 1;
            }
        }
        for layer in self.absent_layers(&resolved.documents).await? {
            if self.source.has_foreign_layer(&self.reference, &layer).await? {
                bytes += layer.size;
                blobs += 1;
            }
        }
        Ok(Estimate {
            current: false,
            bytes,
            blobs: Some(blobs),
            source_digest,
        })
    }

    /// Moves what [`Transfer::check`] found to differ. Where the tag moves meanwhile and what it named is deleted, the image
    /// is resolved once more, and what it is then is moved.
    pub async fn copy(&self, resolved: &Resolved) -> Result<Outcome, Fault> {
        let fault = match self.copy_resolved(resolved).await {
            Err(fault) if may_be_gone(&fault) && self.reference.digest().is_none() => fault,
            done => return done,
        };
        let again = self.source.resolve(&self.reference, &self.platforms).await?;
        if again.identity == resolved.identity {
            return Err(fault);
        }
        tracing::info!(image = %self.reference, from = %resolved.identity.digest(), to = %again.identity.digest(), %fault, "the tag was moved during the transfer, which begins anew");
        self.progress.restart();
        self.copy_resolved(&again).await
    }

    async fn copy_resolved(&self, resolved: &Resolved) -> Result<Outcome, Fault> {
        let sink = DestinationSink {
            destination: Arc::clone(&self.destination),
            location: self.location.clone(),
            compression: self.compression,
            progress: Arc::clone(&self.progress),
            known: Arc::clone(&self.known),
            predecessor: PreviousImage::default(),
            moved_blobs: 0.into(),
        };
        // The image may stand, and what refers to it not.
        if self.referrers == ReferrersPolicy::Copy
            && let Some(outcome) = self.compare(resolved).await?
        {
            let referrers = self.copy_referrers(&outcome.documents, &sink).await?;
            return Ok(Outcome {
                referrers,
                moved_blobs: sink.moved_blobs.load(Ordering::Relaxed),
                moved_bytes: self.progress.moved(),
                ..outcome
            });
        }
        self.progress.expect(resolved.size.unwrap_or_default());
        let delivered = self.source.deliver(resolved, &sink).await?;
        let Some((root, children)) = delivered.documents.split_last() else {
            return Err(Fault::retryable(
                Reason::SourceFailed,
                format!("{} came without a manifest", self.reference),
            ));
        };
        if let Some(digest) = self.location.digest.as_ref().filter(|digest| *digest != root.digest()) {
            return Err(Fault::stalled(
                Reason::DigestMismatch,
                format!(
                    "{} asks for {digest} but the manifest is {}; a docker engine without the containerd image store keeps no manifest, so name its images by tag",
                    self.reference,
                    root.digest()
                ),
            ));
        }
        for child in children {
            self.destination.publish(child, None).await?;
        }
        // Before the tag: whoever finds the image by it finds its signatures too.
        let referrers = self.copy_referrers(&delivered.documents, &sink).await?;
        if self.location.tags.is_empty() {
            self.destination.publish(root, None).await?;
        }
        let omitted_tag = self.tags().write(root).await?;
        let absent = self.absent_layers(&delivered.documents).await?;
        let left = left_out(&absent);
        if let Some(left) = &left {
            tracing::warn!(image = %self.reference, "{left}");
        }
        let declined: Vec<String> = delivered.declined.into_iter().chain(left).collect();
        Ok(Outcome {
            digest: root.digest().clone(),
            source_digest: resolved.identity.digest().clone(),
            size: size_of(&delivered.documents, &absent),
            method: delivered.method,
            declined: (!declined.is_empty()).then(|| declined.join("; ")),
            published: true,
            referrers,
            omitted_tag,
            moved_blobs: sink.moved_blobs.load(Ordering::Relaxed),
            moved_bytes: self.progress.moved(),
            documents: delivered.documents,
        })
    }

    fn tags(&self) -> Tags<'_> {
        Tags {
            destination: &*self.destination,
            location: &self.location,
        }
    }

    fn referrers(&self) -> Referrers<'_> {
        Referrers {
            source: &*self.source,
            reference: &self.reference,
            destination: &*self.destination,
        }
    }

    async fn copy_referrers(&self, documents: &[Document], sink: &DestinationSink) -> Result<usize, Fault> {
        match self.referrers {
            ReferrersPolicy::Copy => self.referrers().copy(documents, sink).await,
            ReferrersPolicy::Ignore => Ok(0),
        }
    }

    /// Whether something came to refer to an image that stands: to its root, or where some of its platforms were chosen
    /// and the root is ours, to these.
    async fn lacks_referrers(&self, resolved: &Resolved) -> Result<bool, Fault> {
        if self.referrers == ReferrersPolicy::Ignore {
            return Ok(false);
        }
        let documents = &resolved.documents;
        let first = match documents.last() {
            Some(root) if resolved.platforms.is_empty() || root.index().is_none() => documents.len() - 1,
            _ => 0,
        };
        self.referrers().lack(&documents[first..]).await
    }

    /// The image, if it stands under every name that no package has.
    ///
    /// # Errors
    /// [`Fault::conflict`] when a package has its first name.
    async fn compare(&self, resolved: &Resolved) -> Result<Option<Outcome>, Fault> {
        let (standing, read) = match self.standing(resolved).await? {
            First::Image(standing, read) => (standing, read.map(|read| *read)),
            First::Other => {
                self.tags().check_first().await?;
                return Ok(None);
            }
            First::Nothing => return Ok(None),
        };
        let mut omitted_tag = self.location.omitted_tag.clone();
        if let Some(tag) = self.location.plain_tag() {
            match self.destination.digest_of(tag).await? {
                Some(digest) if digest == standing => {}
                Some(_) if self.destination.holds_package(tag).await? => omitted_tag = Some(of_package(tag)),
                _ => return Ok(None),
            }
        }
        let documents = match read {
            Some(document) => vec![document],
            None if resolved.documents.is_empty() => self.documents(&standing).await?,
            None => resolved.documents.clone(),
        };
        let absent = self.absent_layers(&documents).await?;
        for layer in &absent {
            if self.source.has_foreign_layer(&self.reference, layer).await? {
                return Ok(None);
            }
        }
        // A process that was just started knows of nothing; what stands need not be sent again for another image.
        for blob in distinct_blobs(&documents) {
            self.known.saw(&blob.digest, self.destination.repository());
        }
        Ok(Some(Outcome {
            digest: standing,
            source_digest: resolved.identity.digest().clone(),
            size: size_of(&documents, &absent),
            method: Method::Unchanged,
            declined: left_out(&absent),
            published: false,
            referrers: 0,
            omitted_tag,
            moved_blobs: 0,
            moved_bytes: 0,
            documents,
        }))
    }

    /// The foreign layers of `documents` that the destination does not hold: a HEAD for each.
    async fn absent_layers(&self, documents: &[Document]) -> Result<Vec<Descriptor>, Fault> {
        let mut absent = Vec::new();
        for layer in distinct_foreign_layers(documents) {
            if self.destination.holds(&layer.digest).await?.is_none() {
                absent.push(layer.clone());
            }
        }
        Ok(absent)
    }

    /// What stands under the first name.
    async fn standing(&self, resolved: &Resolved) -> Result<First, Fault> {
        let first = match (&self.location.digest, self.location.tags.first()) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => return Ok(First::Nothing),
        };
        Ok(match &resolved.identity {
            Identity::Manifest(digest) => match self.destination.digest_of(first).await? {
                Some(standing) if standing == *digest => First::Image(standing, None),
                Some(_) => First::Other,
                None => First::Nothing,
            },
            Identity::Config { image_id, diff_ids } => match self.destination.document(first).await? {
                Some(document) if self.is_image(&document, image_id, diff_ids) => {
                    First::Image(document.digest().clone(), Some(Box::new(document)))
                }
                Some(_) => First::Other,
                None => First::Nothing,
            },
        })
    }

    /// Whether a manifest is what we make of an engine's image in the form that is wanted now. The
    /// configuration names every layer by its uncompressed digest, so its digest stands for them all.
    fn is_image(&self, document: &Document, image_id: &Digest, diff_ids: &[Digest]) -> bool {
        // What an engine pushed by itself is the image too, in docker's form, which we never make. It is left as it
        // is: to bring it in another form would be to ask the engine again for what it could not give.
        let pushed = || document.manifest().filter(|_| document.is_docker());
        let manifest = document.made_of_image(self.compression).or_else(pushed);
        manifest.is_some_and(|manifest| {
            let plain = Compression::None.layer_type();
            manifest.config.digest == *image_id
                && manifest.layers.len() == diff_ids.len()
                && std::iter::zip(&manifest.layers, diff_ids)
                    .all(|(layer, id)| layer.media_type != plain || layer.digest == *id)
        })
    }

    /// The manifests under `root` in the destination.
    async fn documents(&self, root: &Digest) -> Result<Vec<Document>, Fault> {
        // As deep as the registry source goes; a ring cannot be made of digests.
        let memory = IMAGES.reserve();
        let mut found = Vec::new();
        let mut wanted = vec![root.clone()];
        while let Some(digest) = wanted.pop() {
            let Some(document) = self.destination.document(digest.as_str()).await? else {
                continue;
            };
            let added = memory.add(memory_of_json(&document.raw));
            added.map_err(|exhausted| exhausted.fault(Reason::PushFailed, &self.destination.name()))?;
            if let Content::Index(index) = &document.content {
                wanted.extend(index.manifests.iter().map(|entry| entry.digest.clone()).take(256));
            }
            found.push(document);
            if found.len() >= 1024 {
                break;
            }
        }
        // The root was read first.
        found.reverse();
        Ok(found)
    }
}

/// What stands under the first name of an image.
enum First {
    /// The image itself: its digest, and the manifest where it had to be read.
    Image(Digest, Option<Box<Document>>),
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
}

/// Bytes of all distinct blobs and manifests that stand, which the foreign layers `absent` do not.
fn size_of(documents: &[Document], absent: &[Descriptor]) -> u64 {
    let mut seen = HashSet::new();
    let manifests: u64 = documents
        .iter()
        .filter(|d| seen.insert(d.digest()))
        .map(|d| d.descriptor.size)
        .sum();
    let foreign = distinct_foreign_layers(documents);
    let foreign = foreign
        .into_iter()
        .filter(|layer| !absent.iter().any(|absent| absent.digest == layer.digest));
    let blobs = distinct_blobs(documents).into_iter().chain(foreign);
    blobs.map(|blob| blob.size).sum::<u64>() + manifests
}

/// What a person is told of foreign layers that did not come.
fn left_out(absent: &[Descriptor]) -> Option<String> {
    let named: Vec<String> = absent
        .iter()
        .take(NAMED_LAYERS)
        .map(|layer| layer.digest.to_string())
        .collect();
    let more = match absent.len().saturating_sub(NAMED_LAYERS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!absent.is_empty()).then(|| {
        format!(
            "the source does not have the foreign (non-distributable) layers {}{more}, which are left out: whoever pulls the image needs their urls, or push them to the source",
            named.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Manifest, media_type};

    #[test]
    fn what_is_left_out_is_named_and_has_no_size() {
        let blob = |content: &[u8], kind: &str| Descriptor::new(kind, Digest::of(content), content.len() as u64);
        let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        let layers: Vec<Descriptor> = (0..6_u8).map(|each| blob(&[each; 10], foreign)).collect();
        let config = blob(b"{}", media_type::OCI_CONFIG);
        let document = Document::of_manifest(Manifest::new(config, layers.clone())).unwrap();
        let own = document.descriptor.size + 2;
        let documents = [document];
        assert_eq!(size_of(&documents, &layers), own);
        assert_eq!(size_of(&documents, &layers[1..]), own + 10);
        assert_eq!(left_out(&[]), None);
        let told = left_out(&layers).unwrap();
        assert!(
            told.contains(layers[3].digest.as_str()) && !told.contains(layers[4].digest.as_str()),
            "{told}"
        );
        assert!(told.contains(" and 2 more"), "{told}");
    }
}
