//! Whether images are signed as they must be: which entries of `verify` are about an image, and the one place that reads
//! signatures of a registry or layout. What they prove is decided by [`crate::signing`].

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use crate::api::v1alpha1::{SourceKind, VerifySpec};
use crate::budget::{DOCUMENTS, memory_of_json};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Platform, Reference};
use crate::signing::{
    BUNDLE_FAMILY, Evaluation, FoundSignature, PREDICATE_ANNOTATION, Requirement, SIGN_PREDICATE, SIMPLE_ARTIFACT,
    SIMPLE_LAYER, Signature, SimpleSignature, signature_tag,
};
use crate::source::{BlobSink, Delivery, ImageSource, RepositoryReader, Resolved};

/// The longest signature in bytes that is read. A bundle with certificates, log entries and timestamps has 20 KB.
const SIGNATURE_LIMIT: usize = 1024 * 1024;
/// The bytes of signatures that are read for one image. The rest does not count.
const SIGNATURE_BYTES: usize = 32 * 1024 * 1024;
/// The bytes that one counts for which is not there or longer than it says.
const UNREAD_BYTES: usize = 512 * 1024;
/// How many signatures of one image are read of each kind. The rest does not count.
const SIGNATURES: usize = 64;
/// How many manifests are read besides that a listing calls something else than signatures.
const OTHERS: usize = 128;
/// Manifests that are read at once.
const AT_ONCE: usize = 4;
/// How many images are remembered as verified.
const REMEMBERED: usize = 4096;

/// The entries of `verify` that are about an image. One that means an image of an engine by its name is a stalled fault:
/// an engine keeps no signatures, and to bring it all the same would be to pass over what somebody demands.
pub fn applicable(verify: &[VerifySpec], image: &Reference, source: SourceKind) -> Result<Vec<VerifySpec>, Fault> {
    let name = image.name();
    let mut found = Vec::new();
    for entry in verify {
        let named = entry.images.matches(image);
        if named && source.is_engine() {
            return Err(Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "verify asks for signatures of `{name}`, and the engine of a node, where it is taken from (source: {source:?}), keeps none: set source: Registry, or leave the image out of verify[].images"
                ),
            ));
        }
        if named || entry.images.is_empty() && source == SourceKind::Registry {
            found.push(entry.clone());
        }
    }
    Ok(found)
}

/// That what has `digest` in `repository` satisfies every one of `requirements`; `what` names it for people.
///
/// The listing of its referrers only says which manifests are read first: those that it calls bundles. What cosign 2 keeps
/// under a tag is read if these are not enough, and last the others that are listed, for a listing need not be true.
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
        left: SIGNATURE_BYTES,
        passed_over: 0,
    };
    let mut referrers = repository.referrers(digest).await?;
    referrers.sort_by(|left, right| left.digest.cmp(&right.digest));
    let (mut listed, others): (Vec<_>, Vec<_>) = referrers.into_iter().partition(may_be_signature);
    let unread = listed.split_off(listed.len().min(SIGNATURES));
    search.referring(&listed).await?;
    if search.is_satisfied() {
        return Ok(());
    }
    if let Some(document) = repository.document(&signature_tag(digest)).await? {
        search.layers(&document).await?;
        if search.is_satisfied() {
            return Ok(());
        }
    }
    let read = others.len().min(OTHERS);
    search.referring(&others[..read]).await?;
    search.passed_over += others.len() - read + unread.len();
    let passed_over = match search.passed_over {
        0 => String::new(),
        count => format!(" ({count} more that may be signatures are not read: they are too many or too large)"),
    };
    for evaluation in search.evaluations {
        evaluation.result().map_err(|reason| {
            Fault::retryable(
                Reason::VerificationError,
                format!(
                    "{what} ({}) has not the signatures that verify asks for: {reason}{passed_over}; have it signed, or correct verify",
                    digest.short_form()
                ),
            )
        })?;
    }
    Ok(())
}

/// The signatures of one image, which are judged as they are found: whoever may write to the repository decides how many there
/// are and how large, so none is kept.
struct SignatureSearch<'a> {
    repository: &'a dyn RepositoryReader,
    digest: &'a Digest,
    /// One for each requirement.
    evaluations: Vec<Evaluation<'a>>,
    /// The layers that were judged.
    seen: HashSet<Digest>,
    /// Bytes of signatures that may still be read.
    left: usize,
    /// What was not read.
    passed_over: usize,
}

impl SignatureSearch<'_> {
    fn is_satisfied(&self) -> bool {
        self.evaluations.iter().all(Evaluation::is_satisfied)
    }

    /// Judges what the manifests `listed` hold, in their order, as far as these refer to the image, until all requirements
    /// are satisfied.
    async fn referring(&mut self, listed: &[Descriptor]) -> Result<(), Fault> {
        let (repository, digest) = (self.repository, self.digest);
        // A batch is read to its end before its signatures are: a request that is not polled meanwhile would keep its permit.
        for batch in listed.chunks(AT_ONCE) {
            let reads = batch.iter().map(|referrer| async move {
                let document = repository.document(referrer.digest.as_str()).await?;
                let memory = DOCUMENTS.reserve();
                let Some(document) = document else { return Ok(None) };
                let added = memory.add(memory_of_json(&document.raw));
                added.map_err(|exhausted| exhausted.fault(Reason::VerificationError, &repository.name()))?;
                Ok::<_, Fault>(Some((document, memory)))
            });
            let reads = stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE);
            let read: Vec<_> = reads.try_collect().await?;
            for (document, _memory) in read.into_iter().flatten() {
                if document.subject().is_some_and(|own| own.digest == *digest) {
                    self.layers(&document).await?;
                }
                if self.is_satisfied() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Judges the signatures that a manifest holds, each in a layer of its own.
    async fn layers(&mut self, document: &Document) -> Result<(), Fault> {
        let layers = document
            .manifest()
            .map_or(&[] as &[_], |manifest| manifest.layers.as_slice());
        let signatures = layers
            .iter()
            .filter(|layer| layer.media_type.starts_with(BUNDLE_FAMILY) || layer.media_type == SIMPLE_LAYER);
        for (index, layer) in signatures.enumerate() {
            // One layer may be the payload of several signatures of cosign 2, which stand in its annotations.
            let bundle = layer.media_type.starts_with(BUNDLE_FAMILY);
            if bundle && !self.seen.insert(layer.digest.clone()) {
                continue;
            }
            let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
            if index >= SIGNATURES || size > SIGNATURE_LIMIT.min(self.left) {
                self.passed_over += 1;
                continue;
            }
            // A registry that lost it has no signature there. One that is longer than it says was read in part.
            let Some(content) = self
                .repository
                .blob(&layer.digest, SIGNATURE_LIMIT.min(self.left))
                .await?
            else {
                self.left = self.left.saturating_sub(UNREAD_BYTES);
                continue;
            };
            self.left -= content.len();
            let memory = DOCUMENTS.reserve();
            let added = memory.add(memory_of_json(&content));
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

/// Whether the listing says of a referrer that it is a signature, or nothing.
fn may_be_signature(referrer: &Descriptor) -> bool {
    let kind = referrer.artifact_type.as_deref();
    let kind = kind.is_none_or(|kind| kind.starts_with(BUNDLE_FAMILY) || kind == SIMPLE_ARTIFACT);
    let predicate = referrer.annotations.get(PREDICATE_ANNOTATION);
    kind && predicate.is_none_or(|predicate| predicate == SIGN_PREDICATE)
}

/// Images that satisfied what was required, so that a repeat reads nothing. The time of a signature is proved by what
/// came with it, so what was verified once stays so.
#[derive(Default)]
pub struct VerificationCache(Mutex<(HashSet<Digest>, VecDeque<Digest>)>);

impl VerificationCache {
    pub(super) fn knows(&self, key: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(key)
    }

    pub(super) fn note(&self, key: Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, order) = &mut *known;
        if !set.insert(key.clone()) {
            return;
        }
        order.push_back(key);
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
    }
}

/// A source whose images are verified when they are found, before anything of them is read or pushed.
pub struct VerifiedSource {
    inner: Arc<dyn ImageSource>,
    /// The repository that the images, and their signatures, are in.
    repository: Box<dyn RepositoryReader>,
    requirements: Vec<Requirement>,
    verified: Arc<VerificationCache>,
}

impl VerifiedSource {
    /// `inner`, with every image that is found there held against `requirements`. Without any it is `inner` itself; a
    /// source that keeps no signatures satisfies none.
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
            let message = format!("{reference} is read where no signatures are kept, and verify asks for some");
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
        let marks = self
            .requirements
            .iter()
            .map(|requirement| requirement.fingerprint().to_string());
        let key = Digest::of(format!("{repository}@{digest}\n{}", marks.collect::<Vec<_>>().join("\n")).as_bytes());
        if self.verified.knows(&key) {
            return Ok(());
        }
        verify(&*self.repository, digest, &self.requirements, &reference.to_string()).await?;
        self.verified.note(key);
        Ok(())
    }
}

#[async_trait]
impl ImageSource for VerifiedSource {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let resolved = self.inner.resolve(reference, platforms).await?;
        // Of an index that has more platforms the whole is signed, and what is taken of it has another digest.
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
    fn an_entry_is_about_what_it_names_or_about_all_of_registries() {
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
    fn what_is_remembered_is_bounded() {
        let verified = VerificationCache::default();
        let key = |each: usize| Digest::of(&each.to_be_bytes());
        for each in 0..=REMEMBERED {
            verified.note(key(each));
            verified.note(key(each));
        }
        assert!(!verified.knows(&key(0)));
        assert!(verified.knows(&key(1)) && verified.knows(&key(REMEMBERED)));
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
