//! Copies the referrers of an image: signatures, attestations and SBOMs that name it as their subject, or that cosign stored
//! under a tag derived from its digest.
//!
//! They are copied before the image's tag is written, so that a reader who verifies signatures finds them with the image.

use std::collections::HashSet;

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use super::Destination;
use crate::budget::{IMAGES, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Digest, Document, Reference, referrers_tag};
use crate::source::{BlobSink, ImageSource, Resolved};

/// The number of subjects and referrers that are processed concurrently. The registries' limits apply as well.
const AT_ONCE: usize = 8;
/// The most referrers of one image, including referrers of referrers.
const REFERRERS: usize = 256;
/// Their most bytes together.
const BYTES: u64 = 1 << 30;
/// The suffixes that cosign, before it used subjects, appended to the tag derived from the subject's digest.
const COSIGN_SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// Copies the referrers of one image from its source to its destination.
pub(super) struct Referrers<'a> {
    pub source: &'a dyn ImageSource,
    /// The image; its repository contains the referrers.
    pub reference: &'a Reference,
    pub destination: &'a dyn Destination,
}

/// A referrer of a manifest of the image or of another referrer.
#[derive(Clone, Debug)]
struct FoundReferrer {
    /// The digest that the source lists. The manifest under a tag may have another.
    digest: Digest,
    kind: ReferrerKind,
    /// Whether the destination lists the same one.
    exists: bool,
}

/// How a referrer refers to its subject.
#[derive(Clone, Debug)]
enum ReferrerKind {
    /// By its field `subject`.
    Subject(Digest),
    /// By its tag.
    Tag(String),
}

/// The result of reading a referrer.
// Few of them live at once.
#[allow(clippy::large_enum_variant)]
enum ReadResult {
    /// It must be copied.
    Missing(Resolved),
    /// There is nothing to do: it exists, or it does not refer to the subject for which it is listed.
    Done,
    /// It was listed but does not exist.
    NotFound,
}

impl Referrers<'_> {
    /// Whether the destination lacks a direct referrer of one of `documents`: a listing and a HEAD request for each, and
    /// another listing if there are any. Of cosign's tags only that of the signatures is checked.
    pub async fn are_missing(&self, documents: &[Document]) -> Result<bool, Fault> {
        let mut lookups = Vec::new();
        for subject in subjects(documents) {
            lookups.push(self.is_missing(subject));
        }
        let lookups = stream::iter(lookups).buffered(AT_ONCE).try_collect::<Vec<bool>>();
        let missing = lookups.await.map_err(|fault| self.failed(fault))?;
        Ok(missing.contains(&true))
    }

    async fn is_missing(&self, subject: Digest) -> Result<bool, Fault> {
        for found in self.referrers_of(subject, &COSIGN_SUFFIXES[..1]).await? {
            // A listed referrer that does not exist is missing too; copying it reports the error.
            if !found.exists && !matches!(self.read(&found).await?, ReadResult::Done) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies the missing referrers of the image of `documents`, and their referrers. Returns the number of manifests that
    /// were written.
    pub async fn copy(&self, documents: &[Document], sink: &dyn BlobSink) -> Result<usize, Fault> {
        self.copy_all(subjects(documents), sink)
            .await
            .map_err(|fault| self.failed(fault))
    }

    async fn copy_all(&self, mut subjects: Vec<Digest>, sink: &dyn BlobSink) -> Result<usize, Fault> {
        let mut seen: HashSet<Digest> = subjects.iter().cloned().collect();
        let (mut count, mut bytes, mut written) = (0, 0_u64, 0);
        let memory = IMAGES.reserve();
        // Each level has at least one referrer, so the limit on their number also limits the depth.
        for depth in 0.. {
            let suffixes = if depth == 0 {
                &COSIGN_SUFFIXES[..]
            } else {
                &COSIGN_SUFFIXES[..1]
            };
            let mut found = self.found(&subjects, suffixes, &seen).await?;
            count += found.len();
            if count > REFERRERS {
                return Err(self.too_much(&format!("it has more than {REFERRERS} referrers")));
            }
            if found.is_empty() {
                break;
            }
            let mut read = self.read_all(&found).await?;
            if read.iter().any(|read| matches!(read, ReadResult::NotFound)) {
                // It may have been deleted or replaced since it was listed.
                found = self.found(&subjects, suffixes, &seen).await?;
                read = self.read_all(&found).await?;
            }
            subjects.clear();
            let mut missing = Vec::new();
            for (found, read) in found.iter().zip(read) {
                let digest = match read {
                    ReadResult::NotFound => return Err(self.not_found(found)),
                    ReadResult::Done => found.digest.clone(),
                    ReadResult::Missing(resolved) => {
                        let documents = resolved.documents.iter();
                        let added = memory.add(documents.map(|document| json_memory(&document.raw)).sum());
                        let what = || format!("the referrers of {}", self.reference);
                        added.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, &what()))?;
                        let digest = resolved.identity.digest().clone();
                        missing.push((found, resolved));
                        digest
                    }
                };
                if seen.insert(digest.clone()) {
                    subjects.push(digest);
                }
            }
            let read = missing;
            let sizes = read.iter().filter_map(|(_, resolved)| resolved.size);
            bytes = sizes.fold(bytes, u64::saturating_add);
            if bytes > BYTES {
                return Err(self.too_much(&format!("its referrers have more than {BYTES} bytes")));
            }
            let mut deliveries = Vec::new();
            for (found, resolved) in &read {
                deliveries.push(self.deliver(found, resolved, sink));
            }
            let deliveries = stream::iter(deliveries).buffer_unordered(AT_ONCE);
            deliveries.try_collect::<()>().await?;
            // Sequentially, so that a listing under a tag gets its entries in the source's order.
            for (found, resolved) in &read {
                self.publish(found, resolved).await?;
                written += 1;
            }
        }
        Ok(written)
    }

    /// The referrers of `subjects`, without those with a field `subject` whose digests are in `seen`.
    async fn found(
        &self,
        subjects: &[Digest],
        suffixes: &[&str],
        seen: &HashSet<Digest>,
    ) -> Result<Vec<FoundReferrer>, Fault> {
        let mut lookups = Vec::new();
        for subject in subjects {
            lookups.push(self.referrers_of(subject.clone(), suffixes));
        }
        let lists: Vec<Vec<FoundReferrer>> = stream::iter(lookups).buffered(AT_ONCE).try_collect().await?;
        let mut own = HashSet::new();
        let found = lists.into_iter().flatten();
        // A manifest may be listed for several subjects, and also have a tag, which is copied as well.
        let new = found.filter(|found| match &found.kind {
            ReferrerKind::Subject(_) => !seen.contains(&found.digest) && own.insert(found.digest.clone()),
            ReferrerKind::Tag(_) => true,
        });
        Ok(new.collect())
    }

    async fn read_all(&self, found: &[FoundReferrer]) -> Result<Vec<ReadResult>, Fault> {
        let mut reads = Vec::new();
        for found in found {
            reads.push(async move {
                match found.exists {
                    true => Ok(ReadResult::Done),
                    false => self.read(found).await,
                }
            });
        }
        stream::iter(reads).buffered(AT_ONCE).try_collect().await
    }

    /// The referrers of `subject` at the source, and whether the destination has the same.
    async fn referrers_of(&self, subject: Digest, suffixes: &[&str]) -> Result<Vec<FoundReferrer>, Fault> {
        let mut tags = Vec::new();
        for suffix in suffixes {
            tags.push(self.tagged(format!("{}.{suffix}", referrers_tag(&subject))));
        }
        let tags = stream::iter(tags)
            .buffered(AT_ONCE)
            .try_collect::<Vec<Option<FoundReferrer>>>();
        let (listed, tagged) = tokio::try_join!(self.listed(&subject), tags)?;
        Ok(listed.into_iter().chain(tagged.into_iter().flatten()).collect())
    }

    async fn tagged(&self, tag: String) -> Result<Option<FoundReferrer>, Fault> {
        let Some(repository) = self.source.repository(self.reference) else {
            return Ok(None);
        };
        let Some(digest) = repository.digest_of(&tag).await? else {
            return Ok(None);
        };
        let exists = match self.destination.digest_of(&tag).await? {
            Some(existing) if existing == digest => true,
            // A package is never replaced.
            Some(_) => self.destination.holds_package(&tag).await?,
            None => false,
        };
        let kind = ReferrerKind::Tag(tag);
        Ok(Some(FoundReferrer { digest, kind, exists }))
    }

    async fn listed(&self, subject: &Digest) -> Result<Vec<FoundReferrer>, Fault> {
        let Some(repository) = self.source.repository(self.reference) else {
            return Ok(Vec::new());
        };
        let listed = repository.referrers(subject).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let existing = self.destination.referrers(subject).await?;
        let existing: HashSet<Digest> = existing.into_iter().map(|entry| entry.digest).collect();
        let found = listed.into_iter().map(|entry| FoundReferrer {
            exists: existing.contains(&entry.digest),
            digest: entry.digest,
            kind: ReferrerKind::Subject(subject.clone()),
        });
        Ok(found.collect())
    }

    /// Reads the manifest of a referrer with everything that it lists. A tagged one is read by its tag, because some
    /// registries report a wrong digest for a tag, or have nothing under the reported digest; and by its digest if the tag
    /// cannot be read, because other registries have it only there.
    async fn read(&self, found: &FoundReferrer) -> Result<ReadResult, Fault> {
        let read = async |identifier: &str| {
            let read = self.source.referrer(self.reference, identifier).await;
            read.map_err(|fault| fault.with_context(found))
        };
        let under_tag = match &found.kind {
            ReferrerKind::Subject(_) => None,
            ReferrerKind::Tag(tag) => read(tag).await?,
        };
        let resolved = match under_tag {
            Some(resolved) => resolved,
            None => match read(found.digest.as_str()).await? {
                Some(resolved) => resolved,
                None => return Ok(ReadResult::NotFound),
            },
        };
        let digest = resolved.identity.digest();
        match &found.kind {
            ReferrerKind::Tag(tag) if *digest != found.digest => {
                if self.destination.digest_of(tag).await?.as_ref() == Some(digest) {
                    return Ok(ReadResult::Done);
                }
            }
            ReferrerKind::Tag(_) => {}
            ReferrerKind::Subject(subject) => {
                let own = resolved.documents.last().and_then(Document::subject);
                if own.is_none_or(|own| own.digest != *subject) {
                    let why = "it does not refer to the subject for which it is listed";
                    tracing::warn!(image = %self.reference, referrer = %digest, why, "a referrer is skipped");
                    return Ok(ReadResult::Done);
                }
            }
        }
        Ok(ReadResult::Missing(resolved))
    }

    async fn deliver(&self, found: &FoundReferrer, resolved: &Resolved, sink: &dyn BlobSink) -> Result<(), Fault> {
        let delivered = self.source.deliver(resolved, sink).await;
        delivered.map(drop).map_err(|fault| fault.with_context(found))
    }

    async fn publish(&self, found: &FoundReferrer, resolved: &Resolved) -> Result<(), Fault> {
        let Some((root, children)) = resolved.documents.split_last() else {
            return Ok(());
        };
        for child in children {
            self.destination.publish(child, None).await?;
        }
        let put = match &found.kind {
            ReferrerKind::Subject(_) => self.destination.attach(root).await,
            ReferrerKind::Tag(tag) => self.destination.publish(root, Some(tag)).await,
        };
        put.map_err(|fault| fault.with_context(found))
    }

    fn not_found(&self, found: &FoundReferrer) -> Fault {
        let message = format!(
            "the source lists {found}, but does not have it completely; push it there again, or remove it from the listing"
        );
        Fault::retryable(Reason::SourceNotFound, message)
    }

    fn failed(&self, fault: Fault) -> Fault {
        fault.with_context(format_args!(
            "cannot copy the referrers of {} (referrers: Ignore omits them)",
            self.reference
        ))
    }

    fn too_much(&self, what: &str) -> Fault {
        let message = format!("{what}, which is the limit; remove old ones at the source");
        Fault::retryable(Reason::SourceFailed, message)
    }
}

impl std::fmt::Display for FoundReferrer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            ReferrerKind::Subject(subject) => write!(formatter, "{}, a referrer of {subject},", self.digest),
            ReferrerKind::Tag(tag) => write!(formatter, "{} under the tag {tag}", self.digest),
        }
    }
}

/// The manifests of an image that can have referrers: its root and its platforms, without attestations that an index lists.
fn subjects(documents: &[Document]) -> Vec<Digest> {
    let attestations: HashSet<&Digest> = documents
        .iter()
        .filter_map(|document| match &document.content {
            Content::Index(index) => Some(index),
            Content::Manifest(_) => None,
        })
        .flat_map(|index| &index.manifests)
        .filter(|entry| entry.is_attestation())
        .map(|entry| &entry.digest)
        .collect();
    let subjects = documents.iter().rev().map(Document::digest);
    subjects
        .filter(|digest| !attestations.contains(digest))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Index, Manifest, media_type};

    #[test]
    fn the_root_and_its_platforms_are_subjects() {
        let made = |content: &[u8]| {
            let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(content), 1);
            Document::of_manifest(Manifest::new(config, Vec::new())).unwrap()
        };
        let (image, about) = (made(b"image"), made(b"about it"));
        let mut attestation = about.descriptor.clone();
        let kind = ("vnd.docker.reference.type", "attestation-manifest");
        attestation.annotations.insert(kind.0.to_owned(), kind.1.to_owned());
        let index = Document::of_index(Index::new(vec![image.descriptor.clone(), attestation])).unwrap();
        let expected = [index.digest().clone(), image.digest().clone()];
        assert_eq!(subjects(&[image, about, index]), expected);
    }
}
