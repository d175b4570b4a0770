//! Whether images are signed as they must be: which entries of `verify` are about an image, and the one place that reads
//! signatures of a registry or layout. What they prove is decided by [`crate::signing`].

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use crate::api::v1alpha1::{SourceKind, VerifySpec};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Platform, Reference};
use crate::registry::Repository;
use crate::signing::{
    BUNDLE_FAMILY, Found, PREDICATE_ANNOTATION, Requirement, SIGN_PREDICATE, SIMPLE_ARTIFACT, SIMPLE_LAYER, Signature,
    SimpleSignature, signature_tag,
};
use crate::source::{BlobSink, Delivered, ImageSource, Resolved};
use crate::transfer::Destination;

/// The longest signature in bytes that is read.
const SIGNATURE_LIMIT: usize = 4 * 1024 * 1024;
/// How many signatures of one image are read of each kind. The rest does not count.
const SIGNATURES: usize = 64;
/// How many manifests are read besides that a listing calls something else than signatures.
const OTHERS: usize = 128;
/// Manifests that are read at once.
const AT_ONCE: usize = 8;
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

/// A repository whose signatures can be read.
#[async_trait]
pub trait SignatureStore: Send + Sync {
    /// `host/repository`, for messages and to tell stores apart.
    fn name(&self) -> String;

    /// The manifests that name `subject` as their subject.
    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault>;

    /// The manifest under a tag or digest.
    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault>;

    /// A blob of at most [`SIGNATURE_LIMIT`] bytes, verified.
    async fn blob(&self, digest: &Digest) -> Result<Option<Bytes>, Fault>;
}

#[async_trait]
impl SignatureStore for Repository {
    fn name(&self) -> String {
        format!("{}/{}", self.registry().host(), Repository::name(self))
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let read = Repository::referrers(self, subject).await;
        read.map_err(|error| error.reading(&SignatureStore::name(self)))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let read = self.manifest(identifier).await;
        let read = match identifier.parse::<Digest>() {
            Ok(_) => read,
            Err(_) => self.if_any(identifier, read).await,
        };
        read.map_err(|error| error.reading(&SignatureStore::name(self)))
    }

    async fn blob(&self, digest: &Digest) -> Result<Option<Bytes>, Fault> {
        let read = self.small_blob(digest, SIGNATURE_LIMIT).await;
        read.map_err(|error| error.reading(&SignatureStore::name(self)))
    }
}

/// A destination as a store of signatures.
pub struct Stored<'a>(pub &'a dyn Destination);

#[async_trait]
impl SignatureStore for Stored<'_> {
    fn name(&self) -> String {
        self.0.name()
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        self.0.referrers(subject).await
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        self.0.document(identifier).await
    }

    async fn blob(&self, digest: &Digest) -> Result<Option<Bytes>, Fault> {
        self.0.blob(digest, SIGNATURE_LIMIT).await
    }
}

/// That what has `digest` in `store` satisfies every one of `requirements`; `what` names it for people.
///
/// The listing of its referrers only says which manifests are read first: those that it calls bundles. What cosign 2 keeps
/// under a tag is read if these are not enough, and last the others that are listed, for a listing need not be true.
pub async fn verify(
    store: &dyn SignatureStore,
    digest: &Digest,
    requirements: &[Requirement],
    what: &str,
) -> Result<(), Fault> {
    let satisfied = |found: &[Found]| {
        requirements
            .iter()
            .all(|requirement| requirement.image(digest, found).is_ok())
    };
    let mut referrers = store.referrers(digest).await?;
    referrers.sort_by(|left, right| left.digest.cmp(&right.digest));
    let (mut listed, others): (Vec<_>, Vec<_>) = referrers.into_iter().partition(may_be_signature);
    let passed_over = listed.split_off(listed.len().min(SIGNATURES));
    let mut found = referring(store, digest, &listed).await?;
    if satisfied(&found) {
        return Ok(());
    }
    if let Some(document) = store.document(&signature_tag(digest)).await? {
        found.extend(layers(store, &document).await?);
        if satisfied(&found) {
            return Ok(());
        }
    }
    let read = others.len().min(OTHERS);
    found.extend(referring(store, digest, &others[..read]).await?);
    let unread = match others.len() - read + passed_over.len() {
        0 => String::new(),
        unread => format!(" ({unread} more manifests refer to it than are read)"),
    };
    for requirement in requirements {
        requirement.image(digest, &found).map_err(|reason| {
            Fault::retryable(
                Reason::VerificationError,
                format!(
                    "{what} ({}) has not the signatures that verify asks for: {reason}{unread}; have it signed, or correct verify",
                    digest.short_form()
                ),
            )
        })?;
    }
    Ok(())
}

/// The signatures that the manifests `listed` hold, in their order, as far as these refer to `digest`.
async fn referring(store: &dyn SignatureStore, digest: &Digest, listed: &[Descriptor]) -> Result<Vec<Found>, Fault> {
    let mut reads = Vec::new();
    for referrer in listed {
        reads.push(async move {
            let document = store.document(referrer.digest.as_str()).await?;
            let about = |document: &Document| document.subject().is_some_and(|own| own.digest == *digest);
            match document.filter(about) {
                Some(document) => layers(store, &document).await,
                None => Ok(Vec::new()),
            }
        });
    }
    let read: Vec<Vec<Found>> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// Whether the listing says of a referrer that it is a signature, or nothing.
fn may_be_signature(referrer: &Descriptor) -> bool {
    let kind = referrer.artifact_type.as_deref();
    let kind = kind.is_none_or(|kind| kind.starts_with(BUNDLE_FAMILY) || kind == SIMPLE_ARTIFACT);
    let predicate = referrer.annotations.get(PREDICATE_ANNOTATION);
    kind && predicate.is_none_or(|predicate| predicate == SIGN_PREDICATE)
}

/// The signatures that a manifest holds, each in a layer of its own.
async fn layers(store: &dyn SignatureStore, document: &Document) -> Result<Vec<Found>, Fault> {
    let layers = document
        .manifest()
        .map_or(&[] as &[_], |manifest| manifest.layers.as_slice());
    let mut found = Vec::new();
    for layer in layers.iter().take(SIGNATURES) {
        let bundle = layer.media_type.starts_with(BUNDLE_FAMILY);
        if !bundle && layer.media_type != SIMPLE_LAYER {
            continue;
        }
        // A registry that lost it has no signature there.
        let Some(content) = store.blob(&layer.digest).await? else {
            continue;
        };
        let signature = match bundle {
            true => Signature::Bundle(content.to_vec()),
            false => Signature::Simple(SimpleSignature {
                payload: content.to_vec(),
                annotations: layer.annotations.clone(),
            }),
        };
        let at = layer.digest.clone();
        found.push(Found { at, signature });
    }
    Ok(found)
}

/// Images that satisfied what was required, so that a repeat reads nothing. The time of a signature is proved by what
/// came with it, so what was verified once stays so.
#[derive(Default)]
pub struct Verified(Mutex<(HashSet<Digest>, VecDeque<Digest>)>);

impl Verified {
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
    repository: Repository,
    requirements: Vec<Requirement>,
    verified: Arc<Verified>,
}

impl VerifiedSource {
    /// `inner`, with every image that is found there held against `requirements`. Without any it is `inner` itself; a
    /// source that keeps no signatures satisfies none.
    pub fn of(
        inner: Arc<dyn ImageSource>,
        reference: &Reference,
        requirements: Vec<Requirement>,
        verified: &Arc<Verified>,
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
        let store = SignatureStore::name(&self.repository);
        let marks = self
            .requirements
            .iter()
            .map(|requirement| requirement.fingerprint().to_string());
        let key = Digest::of(format!("{store}@{digest}\n{}", marks.collect::<Vec<_>>().join("\n")).as_bytes());
        if self.verified.knows(&key) {
            return Ok(());
        }
        verify(&self.repository, digest, &self.requirements, &reference.to_string()).await?;
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

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivered, Fault> {
        self.inner.deliver(image, sink).await
    }

    async fn has_foreign_layer(&self, reference: &Reference, layer: &Descriptor) -> Result<bool, Fault> {
        self.inner.has_foreign_layer(reference, layer).await
    }

    async fn referrers(&self, reference: &Reference, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        self.inner.referrers(reference, subject).await
    }

    async fn tagged(&self, reference: &Reference, tag: &str) -> Result<Option<Digest>, Fault> {
        self.inner.tagged(reference, tag).await
    }

    async fn referrer(&self, reference: &Reference, identifier: &str) -> Result<Option<Resolved>, Fault> {
        self.inner.referrer(reference, identifier).await
    }

    fn repository(&self, reference: &Reference) -> Option<Repository> {
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
        let verified = Verified::default();
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
