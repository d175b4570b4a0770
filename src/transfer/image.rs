//! The transfer of one image: resolve it, compare it with the destination, copy the missing blobs, publish it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::destination::Destination;
use super::known_blobs::KnownBlobs;
use super::previous_image::PreviousImage;
use super::progress::Progress;
use super::referrers::Referrers;
use super::sink::DestinationSink;
use super::tags::{Tags, owned_by_package};
use crate::budget::{IMAGES, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Compression, Content, Descriptor, Digest, Document, Location, OmittedTag, Platform, Reference, ReferrersPolicy,
    distinct_blobs, distinct_foreign_layers, total_size,
};
use crate::source::{Identity, ImageSource, Method, Resolved, may_mean_deleted};

/// The number of omitted foreign layers that a message lists.
const NAMED_LAYERS: usize = 4;

/// The transfer of one image. Dropping the future of [`Transfer::run`] stops it immediately. A tag is written only after
/// everything that it refers to.
pub struct Transfer {
    /// The source of the image.
    pub source: Arc<dyn ImageSource>,
    /// The image's reference at the source.
    pub reference: Reference,
    /// The platforms to copy; empty means all.
    pub platforms: Vec<Platform>,
    /// The repository to which it is copied.
    pub destination: Arc<dyn Destination>,
    /// Its tags, or its digest, in the destination.
    pub location: Location,
    /// The compression of layers that the source has uncompressed.
    pub compression: Compression,
    /// Whether referrers of the image are copied.
    pub referrers: ReferrersPolicy,
    /// Updated while the transfer runs.
    pub progress: Arc<Progress>,
    /// Blobs that are known to be in the destination's registry, shared by its transfers.
    pub known: Arc<KnownBlobs>,
}

/// The result of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The digest of the manifest or index in the destination.
    pub digest: Digest,
    /// The digest of the image at the source.
    pub source_digest: Digest,
    /// The total size in bytes of its distinct blobs and manifests.
    pub size: u64,
    /// The method by which the bytes were read.
    pub method: Method,
    /// Why a better method was not used, or only for a part, and which foreign layers were omitted.
    pub method_message: Option<String>,
    /// Whether a manifest was written; if not, the image existed before.
    pub published: bool,
    /// The number of blobs that were sent.
    pub moved_blobs: u64,
    /// Bytes that were read for them.
    pub moved_bytes: u64,
    /// The number of referrers that were written: signatures, attestations, SBOMs.
    pub referrers: usize,
    /// The plain tag that was not written.
    pub omitted_tag: Option<OmittedTag>,
    /// All manifests of the image, children before the index that lists them, the root last.
    pub documents: Vec<Document>,
}

/// The state of the destination under the image's names.
#[derive(Clone, Debug)]
pub enum DestinationState {
    /// The image has every name, and its referrers exist: there is nothing to do.
    Current(Outcome),
    /// At least one name has another content or none, or a referrer is missing.
    Differs(Box<Resolved>),
}

/// An estimate of what a transfer would move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Whether everything exists already.
    pub current: bool,
    /// Bytes that would move: exact if the image's manifest is known, else an upper limit.
    pub bytes: u64,
    /// Blobs that would move, if known.
    pub blobs: Option<u64>,
    /// The digest of the image at the source.
    pub source_digest: Digest,
}

impl Transfer {
    /// Resolves the image and compares it with the destination, by HEAD and small GET requests. Nothing is written.
    pub async fn check(&self) -> Result<DestinationState, Fault> {
        let resolved = self.source.resolve(&self.reference, &self.platforms).await?;
        match self.compare(&resolved).await? {
            Some(outcome) if !self.lacks_referrers(&resolved).await? => Ok(DestinationState::Current(outcome)),
            _ => Ok(DestinationState::Differs(Box::new(resolved))),
        }
    }

    /// Copies the image.
    pub async fn run(&self) -> Result<Outcome, Fault> {
        match self.check().await? {
            DestinationState::Current(outcome) => Ok(outcome),
            DestinationState::Differs(resolved) => self.copy(&resolved).await,
        }
    }

    /// Estimates what [`Transfer::run`] would move. Nothing is written.
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
        let (mut bytes, mut blobs) = (0_u64, 0);
        for blob in distinct_blobs(&resolved.documents) {
            if self.destination.holds(&blob.digest).await?.is_none() {
                bytes = blob.size.saturating_add(bytes);
                blobs += 1;
            }
        }
        for layer in self.absent_layers(&resolved.documents).await? {
            if self.source.has_foreign_layer(&self.reference, &layer).await? {
                bytes = layer.size.saturating_add(bytes);
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

    /// Copies an image that [`Transfer::check`] found to differ. If the tag moves in the meantime and the resolved image is
    /// deleted, the tag is resolved again and the new image is copied.
    pub async fn copy(&self, resolved: &Resolved) -> Result<Outcome, Fault> {
        let fault = match self.copy_resolved(resolved).await {
            Err(fault) if may_mean_deleted(&fault) && self.reference.digest().is_none() => fault,
            done => return done,
        };
        let again = self.source.resolve(&self.reference, &self.platforms).await?;
        if again.identity == resolved.identity {
            return Err(fault);
        }
        tracing::info!(image = %self.reference, from = %resolved.identity.digest(), to = %again.identity.digest(), %fault, "the tag was moved during the transfer, which starts again");
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
            previous_image: PreviousImage::default(),
            moved_blobs: 0.into(),
        };
        // The image may exist without its referrers.
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
        self.progress.set_total(resolved.size.unwrap_or_default());
        let delivered = self.source.deliver(resolved, &sink).await?;
        let Some((root, children)) = delivered.documents.split_last() else {
            return Err(Fault::retryable(
                Reason::SourceFailed,
                format!("the source delivered {} without a manifest", self.reference),
            ));
        };
        if let Some(digest) = self.location.digest.as_ref().filter(|digest| *digest != root.digest()) {
            return Err(Fault::stalled(
                Reason::DigestMismatch,
                format!(
                    "{} requests {digest} but the manifest is {}; a docker engine without the containerd image store keeps no manifest, so name its images by tag",
                    self.reference,
                    root.digest()
                ),
            ));
        }
        for child in children {
            self.destination.publish(child, None).await?;
        }
        // Before the tag, so that a reader who finds the image also finds its signatures.
        let referrers = self.copy_referrers(&delivered.documents, &sink).await?;
        if self.location.tags.is_empty() {
            self.destination.publish(root, None).await?;
        }
        let omitted_tag = self.tags().write(root).await?;
        let absent = self.absent_layers(&delivered.documents).await?;
        let omitted = omitted_layers(&absent);
        if let Some(omitted) = &omitted {
            tracing::warn!(image = %self.reference, "{omitted}");
        }
        let reasons: Vec<String> = delivered.method_message.into_iter().chain(omitted).collect();
        Ok(Outcome {
            digest: root.digest().clone(),
            source_digest: resolved.identity.digest().clone(),
            size: size_of(&delivered.documents, &absent),
            method: delivered.method,
            method_message: (!reasons.is_empty()).then(|| reasons.join("; ")),
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

    /// Whether the destination lacks referrers of an existing image: of its root, and of its platforms if these were selected
    /// and the root was therefore generated.
    async fn lacks_referrers(&self, resolved: &Resolved) -> Result<bool, Fault> {
        if self.referrers == ReferrersPolicy::Ignore {
            return Ok(false);
        }
        let documents = &resolved.documents;
        let first = match documents.last() {
            Some(root) if resolved.platforms.is_empty() || root.index().is_none() => documents.len() - 1,
            _ => 0,
        };
        self.referrers().are_missing(&documents[first..]).await
    }

    /// The result for an image that has every name already, except plain tags that name packages.
    ///
    /// # Errors
    /// [`Fault::conflict`] if its first name is a package.
    async fn compare(&self, resolved: &Resolved) -> Result<Option<Outcome>, Fault> {
        let (existing, read) = match self.first_name(resolved).await? {
            FirstName::Image(existing, read) => (existing, read.map(|read| *read)),
            FirstName::Other => {
                self.tags().check_first().await?;
                return Ok(None);
            }
            FirstName::Absent => return Ok(None),
        };
        let mut omitted_tag = self.location.omitted_tag.clone();
        if let Some(tag) = self.location.plain_tag() {
            match self.destination.digest_of(tag).await? {
                Some(digest) if digest == existing => {}
                Some(_) if self.destination.holds_package(tag).await? => omitted_tag = Some(owned_by_package(tag)),
                _ => return Ok(None),
            }
        }
        let documents = match read {
            Some(document) => vec![document],
            None if resolved.documents.is_empty() => self.documents(&existing).await?,
            None => resolved.documents.clone(),
        };
        let absent = self.absent_layers(&documents).await?;
        for layer in &absent {
            if self.source.has_foreign_layer(&self.reference, layer).await? {
                return Ok(None);
            }
        }
        // After a restart no blob is known; these need not be sent again for another image.
        for blob in distinct_blobs(&documents) {
            self.known.record(&blob.digest, self.destination.repository());
        }
        Ok(Some(Outcome {
            digest: existing,
            source_digest: resolved.identity.digest().clone(),
            size: size_of(&documents, &absent),
            method: Method::Unchanged,
            method_message: omitted_layers(&absent),
            published: false,
            referrers: 0,
            omitted_tag,
            moved_blobs: 0,
            moved_bytes: 0,
            documents,
        }))
    }

    /// The foreign layers of `documents` that the destination lacks: a HEAD request for each.
    async fn absent_layers(&self, documents: &[Document]) -> Result<Vec<Descriptor>, Fault> {
        let mut absent = Vec::new();
        for layer in distinct_foreign_layers(documents) {
            if self.destination.holds(&layer.digest).await?.is_none() {
                absent.push(layer.clone());
            }
        }
        Ok(absent)
    }

    /// The state of the image's first name.
    async fn first_name(&self, resolved: &Resolved) -> Result<FirstName, Fault> {
        let first = match (&self.location.digest, self.location.tags.first()) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => return Ok(FirstName::Absent),
        };
        Ok(match &resolved.identity {
            Identity::Manifest(digest) => match self.destination.digest_of(first).await? {
                Some(existing) if existing == *digest => FirstName::Image(existing, None),
                Some(_) => FirstName::Other,
                None => FirstName::Absent,
            },
            Identity::Config { image_id, diff_ids } => match self.destination.document(first).await? {
                Some(document) if self.is_image(&document, image_id, diff_ids) => {
                    FirstName::Image(document.digest().clone(), Some(Box::new(document)))
                }
                Some(_) => FirstName::Other,
                None => FirstName::Absent,
            },
        })
    }

    /// Whether a manifest is the one that this program makes of an engine's image with the current compression. The
    /// configuration lists the uncompressed digests of all layers, so comparing its digest is enough.
    fn is_image(&self, document: &Document, image_id: &Digest, diff_ids: &[Digest]) -> bool {
        // An image that the engine pushed itself also counts, in docker's format, which this program never writes. It is
        // kept: copying it in another form would need the export that the engine could not provide.
        let pushed = || document.manifest().filter(|_| document.is_docker());
        let manifest = document.generated_manifest(self.compression).or_else(pushed);
        manifest.is_some_and(|manifest| {
            let plain = Compression::None.layer_type();
            manifest.config.digest == *image_id
                && manifest.layers.len() == diff_ids.len()
                && std::iter::zip(&manifest.layers, diff_ids)
                    .all(|(layer, id)| layer.media_type != plain || layer.digest == *id)
        })
    }

    /// The manifest `root` in the destination and all manifests below it.
    async fn documents(&self, root: &Digest) -> Result<Vec<Document>, Fault> {
        // As deep as the registry source; digests cannot form a cycle.
        let memory = IMAGES.reserve();
        let mut found = Vec::new();
        let mut wanted = vec![root.clone()];
        while let Some(digest) = wanted.pop() {
            let Some(document) = self.destination.document(digest.as_str()).await? else {
                continue;
            };
            let added = memory.add(json_memory(&document.raw));
            added.map_err(|exhausted| exhausted.fault(Reason::PushFailed, &self.destination.name()))?;
            if let Content::Index(index) = &document.content {
                wanted.extend(index.manifests.iter().map(|entry| entry.digest.clone()).take(256));
            }
            found.push(document);
            if found.len() >= 1024 {
                break;
            }
        }
        // The root was read first and must be last.
        found.reverse();
        Ok(found)
    }
}

/// The state of an image's first name in the destination.
enum FirstName {
    /// It names the image: its digest, and its manifest if it had to be read.
    Image(Digest, Option<Box<Document>>),
    /// It names something else.
    Other,

    Absent,
}

/// The total size in bytes of all distinct blobs and manifests, without the foreign layers `absent`.
fn size_of(documents: &[Document], absent: &[Descriptor]) -> u64 {
    let mut seen = HashSet::new();
    let documents_once = documents.iter().filter(|d| seen.insert(d.digest()));
    let manifests = total_size(documents_once.map(|d| &d.descriptor));
    let foreign = distinct_foreign_layers(documents);
    let foreign = foreign
        .into_iter()
        .filter(|layer| !absent.iter().any(|absent| absent.digest == layer.digest));
    let blobs = distinct_blobs(documents).into_iter().chain(foreign);
    total_size(blobs).saturating_add(manifests)
}

/// The message about foreign layers that were not copied.
fn omitted_layers(absent: &[Descriptor]) -> Option<String> {
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
            "the source does not have the foreign (non-distributable) layers {}{more}, which are omitted: clients that pull the image need their urls, or push them to the source",
            named.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Manifest, media_type};

    #[test]
    fn omitted_layers_are_named_and_not_counted() {
        let blob = |content: &[u8], kind: &str| Descriptor::new(kind, Digest::of(content), content.len() as u64);
        let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        let layers: Vec<Descriptor> = (0..6_u8).map(|each| blob(&[each; 10], foreign)).collect();
        let config = blob(b"{}", media_type::OCI_CONFIG);
        let document = Document::of_manifest(Manifest::new(config, layers.clone())).unwrap();
        let own = document.descriptor.size + 2;
        let documents = [document];
        assert_eq!(size_of(&documents, &layers), own);
        assert_eq!(size_of(&documents, &layers[1..]), own + 10);
        let endless = ["one", "other"].map(|content| Descriptor::new("m", Digest::of(content.as_bytes()), u64::MAX));
        let config = blob(b"{}", media_type::OCI_CONFIG);
        let endless = Document::of_manifest(Manifest::new(config, endless.into())).unwrap();
        assert_eq!(size_of(&[endless], &[]), u64::MAX);
        assert_eq!(omitted_layers(&[]), None);
        let message = omitted_layers(&layers).unwrap();
        assert!(
            message.contains(layers[3].digest.as_str()) && !message.contains(layers[4].digest.as_str()),
            "{message}"
        );
        assert!(message.contains(" and 2 more"), "{message}");
    }
}
