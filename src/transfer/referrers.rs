//! What refers to an image travels along with it: signatures, attestations and SBOMs, by its subject or, as cosign
//! names them without a subject, under a tag made of its digest.
//!
//! They come before the image gets its tag, so that whoever checks signatures finds them with it.

use std::collections::HashSet;

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use super::Destination;
use crate::budget::{IMAGES, memory_of_json};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Digest, Document, Reference, referrers_tag};
use crate::source::{BlobSink, ImageSource, Resolved};

/// Subjects and referrers that are asked about or carried at once. What of it runs is up to the registries' limits.
const AT_ONCE: usize = 8;
/// How many manifests are carried that refer to one image or to each other.
const REFERRERS: usize = 256;
/// The bytes that they may have together.
const BYTES: u64 = 1 << 30;
/// What cosign, before it knew subjects, appended to the tag that is made of the subject's digest.
const COSIGN_SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// The referrers of one image on their way from its source to its destination.
pub(super) struct Referrers<'a> {
    pub source: &'a dyn ImageSource,
    /// The image; its repository is where they are looked for.
    pub reference: &'a Reference,
    pub destination: &'a dyn Destination,
}

/// Something that refers to a manifest of the image, or to another referrer.
#[derive(Clone, Debug)]
struct FoundReferrer {
    /// As the source names it. Under a tag it may be another.
    digest: Digest,
    by: By,
    /// Whether the destination has it, found in the same way.
    stands: bool,
}

/// How it refers.
#[derive(Clone, Debug)]
enum By {
    /// By its own subject.
    Subject(Digest),
    /// By its tag.
    Tag(String),
}

/// What came of reading a referrer.
// Few of them live at once.
#[allow(clippy::large_enum_variant)]
enum Read {
    /// It is to be brought.
    Lacking(Resolved),
    /// Nothing is to be done about it: it stands, or it does not refer to what it is listed for.
    Done,
    /// It was named and is not there.
    Gone,
}

impl Referrers<'_> {
    /// Whether the destination lacks what refers to one of `documents` directly: by a listing and a HEAD each, and
    /// another listing where there is something. Cosign's signatures stand for the rest of what it puts under tags.
    pub async fn lack(&self, documents: &[Document]) -> Result<bool, Fault> {
        let mut looks = Vec::new();
        for subject in subjects(documents) {
            looks.push(self.lacks(subject));
        }
        let looks = stream::iter(looks).buffered(AT_ONCE).try_collect::<Vec<bool>>();
        let lacks = looks.await.map_err(|fault| self.failed(fault))?;
        Ok(lacks.contains(&true))
    }

    async fn lacks(&self, subject: Digest) -> Result<bool, Fault> {
        for found in self.of(subject, &COSIGN_SUFFIXES[..1]).await? {
            // Whoever brings it says of one that is gone what is to be done.
            if !found.stands && !matches!(self.read(&found).await?, Read::Done) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings what refers to the image of `documents`, and what refers to that, as far as the destination lacks it.
    /// Gives the number of manifests that were written.
    pub async fn copy(&self, documents: &[Document], sink: &dyn BlobSink) -> Result<usize, Fault> {
        self.copy_all(subjects(documents), sink)
            .await
            .map_err(|fault| self.failed(fault))
    }

    async fn copy_all(&self, mut subjects: Vec<Digest>, sink: &dyn BlobSink) -> Result<usize, Fault> {
        let mut seen: HashSet<Digest> = subjects.iter().cloned().collect();
        let (mut count, mut bytes, mut written) = (0, 0, 0);
        let memory = IMAGES.reserve();
        // As deep as there are any; each level has one at least, so their number ends it.
        for depth in 0.. {
            let suffixes = if depth == 0 {
                &COSIGN_SUFFIXES[..]
            } else {
                &COSIGN_SUFFIXES[..1]
            };
            let mut found = self.found(&subjects, suffixes, &seen).await?;
            count += found.len();
            if count > REFERRERS {
                return Err(self.too_much(&format!("more than {REFERRERS} manifests refer to it")));
            }
            if found.is_empty() {
                break;
            }
            let mut read = self.read_all(&found).await?;
            if read.iter().any(|read| matches!(read, Read::Gone)) {
                // It may have been deleted since it was listed, or replaced.
                found = self.found(&subjects, suffixes, &seen).await?;
                read = self.read_all(&found).await?;
            }
            subjects.clear();
            let mut brought = Vec::new();
            for (found, read) in found.iter().zip(read) {
                let digest = match read {
                    Read::Gone => return Err(self.gone(found)),
                    Read::Done => found.digest.clone(),
                    Read::Lacking(resolved) => {
                        let documents = resolved.documents.iter();
                        let added = memory.add(documents.map(|document| memory_of_json(&document.raw)).sum());
                        let what = || format!("what refers to {}", self.reference);
                        added.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, &what()))?;
                        let digest = resolved.identity.digest().clone();
                        brought.push((found, resolved));
                        digest
                    }
                };
                if seen.insert(digest.clone()) {
                    subjects.push(digest);
                }
            }
            let read = brought;
            bytes += read.iter().filter_map(|(_, resolved)| resolved.size).sum::<u64>();
            if bytes > BYTES {
                return Err(self.too_much(&format!("what refers to it has more than {BYTES} bytes")));
            }
            let mut deliveries = Vec::new();
            for (found, resolved) in &read {
                deliveries.push(self.deliver(found, resolved, sink));
            }
            let deliveries = stream::iter(deliveries).buffer_unordered(AT_ONCE);
            deliveries.try_collect::<()>().await?;
            // One after the other, so that a listing that is kept under a tag gets its entries in the source's order.
            for (found, resolved) in &read {
                self.publish(found, resolved).await?;
                written += 1;
            }
        }
        Ok(written)
    }

    /// What refers to one of `subjects`; of what does by its own subject, what is not among the digests `seen`.
    async fn found(
        &self,
        subjects: &[Digest],
        suffixes: &[&str],
        seen: &HashSet<Digest>,
    ) -> Result<Vec<FoundReferrer>, Fault> {
        let mut looks = Vec::new();
        for subject in subjects {
            looks.push(self.of(subject.clone(), suffixes));
        }
        let looked: Vec<Vec<FoundReferrer>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        let mut own = HashSet::new();
        let found = looked.into_iter().flatten();
        // One manifest may be listed for several, and be under a tag besides, which is brought too.
        let new = found.filter(|found| match &found.by {
            By::Subject(_) => !seen.contains(&found.digest) && own.insert(found.digest.clone()),
            By::Tag(_) => true,
        });
        Ok(new.collect())
    }

    async fn read_all(&self, found: &[FoundReferrer]) -> Result<Vec<Read>, Fault> {
        let mut reads = Vec::new();
        for found in found {
            reads.push(async move {
                match found.stands {
                    true => Ok(Read::Done),
                    false => self.read(found).await,
                }
            });
        }
        stream::iter(reads).buffered(AT_ONCE).try_collect().await
    }

    /// What refers to `subject` at the source, and whether it stands in the destination as the same.
    async fn of(&self, subject: Digest, suffixes: &[&str]) -> Result<Vec<FoundReferrer>, Fault> {
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
        let stands = match self.destination.digest_of(&tag).await? {
            Some(standing) if standing == digest => true,
            // Nothing replaces a package, whatever it is called.
            Some(_) => self.destination.holds_package(&tag).await?,
            None => false,
        };
        let by = By::Tag(tag);
        Ok(Some(FoundReferrer { digest, by, stands }))
    }

    async fn listed(&self, subject: &Digest) -> Result<Vec<FoundReferrer>, Fault> {
        let Some(repository) = self.source.repository(self.reference) else {
            return Ok(Vec::new());
        };
        let listed = repository.referrers(subject).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let standing = self.destination.referrers(subject).await?;
        let standing: HashSet<Digest> = standing.into_iter().map(|entry| entry.digest).collect();
        let found = listed.into_iter().map(|entry| FoundReferrer {
            stands: standing.contains(&entry.digest),
            digest: entry.digest,
            by: By::Subject(subject.clone()),
        });
        Ok(found.collect())
    }

    /// The manifest of a referrer with all that it lists. What stands under a tag is read by it, and is what comes then:
    /// there are registries that name another digest than its own, or have nothing under the one that they name; and some
    /// that have it under that alone.
    async fn read(&self, found: &FoundReferrer) -> Result<Read, Fault> {
        let read = async |identifier: &str| {
            let read = self.source.referrer(self.reference, identifier).await;
            read.map_err(|fault| fault.within(found))
        };
        let under_tag = match &found.by {
            By::Subject(_) => None,
            By::Tag(tag) => read(tag).await?,
        };
        let resolved = match under_tag {
            Some(resolved) => resolved,
            None => match read(found.digest.as_str()).await? {
                Some(resolved) => resolved,
                None => return Ok(Read::Gone),
            },
        };
        let digest = resolved.identity.digest();
        match &found.by {
            By::Tag(tag) if *digest != found.digest => {
                if self.destination.digest_of(tag).await?.as_ref() == Some(digest) {
                    return Ok(Read::Done);
                }
            }
            By::Tag(_) => {}
            By::Subject(subject) => {
                let own = resolved.documents.last().and_then(Document::subject);
                if own.is_none_or(|own| own.digest != *subject) {
                    let why = "it does not refer to what it is listed for";
                    tracing::warn!(image = %self.reference, referrer = %digest, why, "a referrer is passed over");
                    return Ok(Read::Done);
                }
            }
        }
        Ok(Read::Lacking(resolved))
    }

    async fn deliver(&self, found: &FoundReferrer, resolved: &Resolved, sink: &dyn BlobSink) -> Result<(), Fault> {
        let delivered = self.source.deliver(resolved, sink).await;
        delivered.map(drop).map_err(|fault| fault.within(found))
    }

    async fn publish(&self, found: &FoundReferrer, resolved: &Resolved) -> Result<(), Fault> {
        let Some((root, children)) = resolved.documents.split_last() else {
            return Ok(());
        };
        for child in children {
            self.destination.publish(child, None).await?;
        }
        let put = match &found.by {
            By::Subject(_) => self.destination.attach(root).await,
            By::Tag(tag) => self.destination.publish(root, Some(tag)).await,
        };
        put.map_err(|fault| fault.within(found))
    }

    fn gone(&self, found: &FoundReferrer) -> Fault {
        let message = format!(
            "the source names {found}, and does not have it whole; push it there again, or remove it from what lists it"
        );
        Fault::retryable(Reason::SourceNotFound, message)
    }

    fn failed(&self, fault: Fault) -> Fault {
        fault.within(format_args!(
            "what refers to {} cannot be brought along (referrers: Ignore leaves it)",
            self.reference
        ))
    }

    fn too_much(&self, what: &str) -> Fault {
        let message = format!("{what}, as much as is brought along; remove what is old at the source");
        Fault::retryable(Reason::SourceFailed, message)
    }
}

impl std::fmt::Display for FoundReferrer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.by {
            By::Subject(subject) => write!(formatter, "{}, which refers to {subject}", self.digest),
            By::Tag(tag) => write!(formatter, "{} under the tag {tag}", self.digest),
        }
    }
}

/// The manifests of an image that something may refer to: its root and its platforms. What an index says of its own
/// entries is no subject of others.
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
