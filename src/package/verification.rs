//! Verification of images: which entries of `verify` apply to an image, and the only module that reads signatures from a
//! registry or layout. [`crate::signing`] decides what they prove.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use lru::LruCache;

use crate::api::v1alpha1::{SourceKind, VerifySpec};
use crate::budget::{DOCUMENTS, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Platform, Reference};
use crate::signing::{
    BUNDLE_FAMILY, Evaluation, FoundSignature, PREDICATE_ANNOTATION, Requirement, SIGN_PREDICATE, SIMPLE_ARTIFACT,
    SIMPLE_LAYER, Signature, SimpleSignature, signature_tag,
};
use crate::source::{BlobSink, Delivery, ImageSource, RepositoryReader, Resolved};

/// The longest signature in bytes that is read. A bundle with certificates, log entries and timestamps has about 20 KB.
const SIGNATURE_LIMIT: usize = 1024 * 1024;
/// The total bytes of signatures that are read for one image. Further ones are ignored.
const SIGNATURE_BYTES: usize = 32 * 1024 * 1024;
/// The bytes that a signature counts as if it does not exist or is longer than its descriptor says.
const UNREAD_BYTES: usize = 512 * 1024;
/// The number of signatures of each kind that are read for one image. Further ones are ignored.
const SIGNATURES: usize = 64;
/// The number of further manifests that are read, which the listing does not describe as signatures.
const OTHERS: usize = 128;
/// The number of manifests that are read concurrently.
const AT_ONCE: usize = 4;
/// The number of verified images in the cache.
const VERIFIED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The entries of `verify` that apply to an image. It is a stalled fault if an entry names an image of an engine: an engine
/// keeps no signatures, so the requirement could not be satisfied.
pub fn applicable(verify: &[VerifySpec], image: &Reference, source: SourceKind) -> Result<Vec<VerifySpec>, Fault> {
    let name = image.name();
    let mut found = Vec::new();
    for entry in verify {
        let named = entry.images.matches(image);
        if named && source.is_engine() {
            return Err(Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "verify requires signatures of `{name}`, but it is read from a node's engine (source: {source:?}), which keeps none: set source: Registry, or remove the image from verify[].images"
                ),
            ));
        }
        if named || entry.images.is_empty() && source == SourceKind::Registry {
            found.push(entry.clone());
        }
    }
    Ok(found)
}

/// Checks that the image `digest` in `repository` satisfies all `requirements`; `what` names it in messages.
///
/// The listing of its referrers only determines the order: first the manifests that it describes as bundles, then the
/// signatures that cosign 2 keeps under a tag, and last the other listed manifests, because a listing need not be true.
pub async fn verify(
    repository: &dyn RepositoryReader,
    digest: &Digest,
    requirements: &[Requirement],
    what: &str,
) -> Result<(), Fault> {
    let mut search = SignatureSearch {
        repository,
        digest,
        evaluations: requirements.iter().map(Evaluation::of).collect(),
        seen: HashSet::new(),
        bytes_left: SIGNATURE_BYTES,
        skipped: 0,
    };
    let mut referrers = repository.referrers(digest).await?;
    referrers.sort_by(|left, right| left.digest.cmp(&right.digest));
    let (mut listed, others): (Vec<_>, Vec<_>) = referrers.into_iter().partition(may_be_signature);
    let unread = listed.split_off(listed.len().min(SIGNATURES));
    search.evaluate_referrers(&listed).await?;
    if search.is_satisfied() {
        return Ok(());
    }
    if let Some(document) = repository.document(&signature_tag(digest)).await? {
        search.evaluate_layers(&document).await?;
        if search.is_satisfied() {
            return Ok(());
        }
    }
    let read = others.len().min(OTHERS);
    search.evaluate_referrers(&others[..read]).await?;
    search.skipped += others.len() - read + unread.len();
    let skipped = match search.skipped {
        0 => String::new(),
        count => {
            format!(" ({count} further possible signatures were not read: there are too many, or they are too large)")
        }
    };
    for evaluation in search.evaluations {
        evaluation.result().map_err(|reason| {
            Fault::retryable(
                Reason::VerificationError,
                format!(
                    "{what} ({}) is not signed as verify requires: {reason}{skipped}; sign it, or correct verify",
                    digest.short_form()
                ),
            )
        })?;
    }
    Ok(())
}

/// The search for the signatures of one image. Each is evaluated as it is found and none is kept, because anybody with write
/// access to the repository determines their number and size.
struct SignatureSearch<'a> {
    repository: &'a dyn RepositoryReader,
    digest: &'a Digest,
    /// One for each requirement.
    evaluations: Vec<Evaluation<'a>>,
    /// The layers that were evaluated.
    seen: HashSet<Digest>,
    /// Bytes of signatures that may still be read.
    bytes_left: usize,
    /// The number of possible signatures that were not read.
    skipped: usize,
}

impl SignatureSearch<'_> {
    fn is_satisfied(&self) -> bool {
        self.evaluations.iter().all(Evaluation::is_satisfied)
    }

    /// Evaluates the signatures in those of the manifests `listed` that refer to the image, in their order, until all
    /// requirements are satisfied.
    async fn evaluate_referrers(&mut self, listed: &[Descriptor]) -> Result<(), Fault> {
        let (repository, digest) = (self.repository, self.digest);
        // A whole batch is read before its signatures are: a request that is not polled meanwhile would keep its permit.
        for batch in listed.chunks(AT_ONCE) {
            let reads = batch.iter().map(|referrer| async move {
                let document = repository.listed_document(&referrer.digest).await?;
                let memory = DOCUMENTS.reserve();
                let Some(document) = document else { return Ok(None) };
                let added = memory.add(json_memory(&document.raw));
                added.map_err(|exhausted| exhausted.fault(Reason::VerificationError, &repository.name()))?;
                Ok::<_, Fault>(Some((document, memory)))
            });
            let reads = stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE);
            let read: Vec<_> = reads.try_collect().await?;
            for (document, _memory) in read.into_iter().flatten() {
                if document.subject().is_some_and(|own| own.digest == *digest) {
                    self.evaluate_layers(&document).await?;
                }
                if self.is_satisfied() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Evaluates the signatures of a manifest, each of which is a layer.
    async fn evaluate_layers(&mut self, document: &Document) -> Result<(), Fault> {
        let layers = document
            .manifest()
            .map_or(&[] as &[_], |manifest| manifest.layers.as_slice());
        let signatures = layers
            .iter()
            .filter(|layer| layer.media_type.starts_with(BUNDLE_FAMILY) || layer.media_type == SIMPLE_LAYER);
        for (index, layer) in signatures.enumerate() {
            // One layer may be the payload of several signatures of cosign 2, which are in its annotations.
            let bundle = layer.media_type.starts_with(BUNDLE_FAMILY);
            if bundle && !self.seen.insert(layer.digest.clone()) {
                continue;
            }
            let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
            if index >= SIGNATURES || size > SIGNATURE_LIMIT.min(self.bytes_left) {
                self.skipped += 1;
                continue;
            }
            // The registry may have lost it. A layer that is longer than its descriptor says was read in part.
            let Some(content) = self
                .repository
                .blob(&layer.digest, SIGNATURE_LIMIT.min(self.bytes_left))
                .await?
            else {
                self.bytes_left = self.bytes_left.saturating_sub(UNREAD_BYTES);
                continue;
            };
            self.bytes_left -= content.len();
            let memory = DOCUMENTS.reserve();
            let added = memory.add(json_memory(&content));
            added.map_err(|exhausted| exhausted.fault(Reason::VerificationError, &self.repository.name()))?;
            let signature = match bundle {
                true => Signature::Bundle(content.to_vec()),
                false => Signature::Simple(SimpleSignature {
                    payload: content.to_vec(),
                    annotations: layer.annotations.clone(),
                }),
            };
            let found = FoundSignature {
                at: layer.digest.clone(),
                signature,
            };
            for evaluation in &mut self.evaluations {
                evaluation.add(self.digest, &found);
            }
            if self.is_satisfied() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether the listing describes a referrer as a signature, or does not describe it.
fn may_be_signature(referrer: &Descriptor) -> bool {
    let kind = referrer.artifact_type.as_deref();
    let kind = kind.is_none_or(|kind| kind.starts_with(BUNDLE_FAMILY) || kind == SIMPLE_ARTIFACT);
    let predicate = referrer.annotations.get(PREDICATE_ANNOTATION);
    kind && predicate.is_none_or(|predicate| predicate == SIGN_PREDICATE)
}

/// Images that satisfied their requirements, so that a repeat reads nothing. A signature comes with the proof of its time,
/// so a result never expires.
pub struct VerificationCache(Mutex<LruCache<Digest, ()>>);

impl Default for VerificationCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::sparse(VERIFIED)))
    }
}

impl VerificationCache {
    pub(super) fn contains(&self, key: &Digest) -> bool {
        let mut verified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(key).is_some()
    }

    pub(super) fn insert(&self, key: Digest) {
        let mut verified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verified.put(key, ());
    }
}

/// A source whose images are verified when they are resolved, before anything else is read or pushed.
pub struct VerifiedSource {
    inner: Arc<dyn ImageSource>,
    /// The repository of the images and their signatures.
    repository: Box<dyn RepositoryReader>,
    requirements: Vec<Requirement>,
    verified: Arc<VerificationCache>,
}

impl VerifiedSource {
    /// `inner`, with every image checked against `requirements`. Without requirements it is `inner` itself. It is a fault if
    /// there are requirements and the source keeps no signatures.
    pub fn of(
        inner: Arc<dyn ImageSource>,
        reference: &Reference,
        requirements: Vec<Requirement>,
        verified: &Arc<VerificationCache>,
    ) -> Result<Arc<dyn ImageSource>, Fault> {
        if requirements.is_empty() {
            return Ok(inner);
        }
        let Some(repository) = inner.repository(reference) else {
            let message = format!("verify requires signatures of {reference}, but its source keeps none");
            return Err(Fault::stalled(Reason::VerificationError, message));
        };
        Ok(Arc::new(Self {
            inner,
            repository,
            requirements,
            verified: Arc::clone(verified),
        }))
    }

    async fn verify(&self, reference: &Reference, digest: &Digest) -> Result<(), Fault> {
        let repository = self.repository.name();
        let fingerprints = self
            .requirements
            .iter()
            .map(|requirement| requirement.fingerprint().to_string());
        let key =
            Digest::of(format!("{repository}@{digest}\n{}", fingerprints.collect::<Vec<_>>().join("\n")).as_bytes());
        if self.verified.contains(&key) {
            return Ok(());
        }
        verify(&*self.repository, digest, &self.requirements, &reference.to_string()).await?;
        self.verified.insert(key);
        Ok(())
    }
}

#[async_trait]
impl ImageSource for VerifiedSource {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let resolved = self.inner.resolve(reference, platforms).await?;
        // If platforms were selected, the whole index is signed: the selected part has another digest.
        let signed = resolved.chosen_from.as_ref().unwrap_or(resolved.identity.digest());
        self.verify(reference, signed).await?;
        Ok(resolved)
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        self.inner.deliver(image, sink).await
    }

    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        self.inner.has_foreign_layer(reference, layer).await
    }

    async fn referrer(&self, reference: &Reference, identifier: &str) -> Result<Option<Resolved>, Fault> {
        self.inner.referrer(reference, identifier).await
    }

    fn repository(&self, reference: &Reference) -> Option<Box<dyn RepositoryReader>> {
        self.inner.repository(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::ImagePatterns;

    fn entry(images: &[&str]) -> VerifySpec {
        VerifySpec {
            images: ImagePatterns(images.iter().map(|&image| image.to_owned()).collect()),
            ..VerifySpec::default()
        }
    }

    #[test]
    fn an_entry_without_names_applies_to_all_images_of_registries() {
        let verify = [entry(&[]), entry(&["ghcr.io/acme/*", "docker.io/library/nginx"])];
        let count = |image: &str, source| {
            let image: Reference = image.parse().unwrap();
            applicable(&verify, &image, source).map(|found| found.len())
        };
        assert_eq!(count("ghcr.io/acme/a/b:1", SourceKind::Registry), Ok(2));
        assert_eq!(count("nginx", SourceKind::Registry), Ok(2));
        assert_eq!(
            count(
                "nginx@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                SourceKind::Registry
            ),
            Ok(2)
        );
        assert_eq!(count("ghcr.io/other/a", SourceKind::Registry), Ok(1));
        assert_eq!(count("app:dev", SourceKind::Docker), Ok(0));
        let refused = count("nginx", SourceKind::Containerd).unwrap_err();
        assert!(refused.message.contains("source: Containerd"), "{}", refused.message);
    }

    #[test]
    fn the_cache_is_bounded() {
        let verified = VerificationCache::default();
        let key = |each: usize| Digest::of(&each.to_be_bytes());
        for each in 0..=VERIFIED.get() {
            verified.insert(key(each));
            verified.insert(key(each));
        }
        assert!(!verified.contains(&key(0)));
        assert!(verified.contains(&key(1)) && verified.contains(&key(VERIFIED.get())));
    }

    #[test]
    fn an_attestation_is_not_read_as_a_signature() {
        let mut referrer = Descriptor::new("m", Digest::of(b""), 0);
        assert!(may_be_signature(&referrer));
        referrer.artifact_type = Some(crate::signing::BUNDLE.to_owned());
        assert!(may_be_signature(&referrer));
        referrer.annotations = [(
            PREDICATE_ANNOTATION.to_owned(),
            "https://slsa.dev/provenance/v1".to_owned(),
        )]
        .into();
        assert!(!may_be_signature(&referrer));
        referrer.annotations.clear();
        referrer.artifact_type = Some("application/spdx+json".to_owned());
        assert!(!may_be_signature(&referrer));
    }
}
