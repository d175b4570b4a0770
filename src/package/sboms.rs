//! The SBOMs of a package's images: which there have to be, and `sboms.tar` made of those that are there, in the shape
//! that Zarf's commands read (`zarf package inspect sbom`; Zarf's `src/pkg/packager/assemble/sbom.go`).
//!
//! Zarf unpacks the tar and looks into none of its files: people and their tools do. So it holds what Zarf's own holds
//! under the same names, `<image>.json` in syft's form and `sbom-viewer-<image>.html`; the page is our own, which needs
//! nothing beside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use super::archive::{Archive, Entry, EntrySource, ReusableTars};
use super::artifact::ArtifactImage;
use super::publish::{PARALLEL, TransferredImage, read_images};
use crate::budget::{PACKAGES, Reservation};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Platform, Reference};
use crate::sbom::{self, CONTENT_LIMIT, ExistingSboms, Format, SbomCache, Sboms, Syft, is_catalogued};
use crate::source::ByteStream;
use crate::transfer::Destination;

/// The path of the tar in the package.
const PATH: &str = "sboms.tar";
/// What Zarf calls its pages.
const VIEWER: &str = "sbom-viewer-";
/// Where the page of [`PAGE`] has the SBOM.
const PLACE: &str = "{{SBOM}}";
/// A page that shows the SBOM in it.
const PAGE: &str = include_str!("sbom-viewer.html");

/// The SBOMs that belong to a package, and which of them are there.
pub struct PackageSboms {
    subjects: Vec<Subject>,
    /// What the manifests take that were read.
    _memory: Reservation,
}

/// An image of one platform, which has SBOMs.
struct Subject {
    /// The name under which the package lists it.
    reference: Reference,
    /// The platform that an index says; none of an image that stands alone.
    platform: Option<Platform>,
    manifest: Document,
    destination: Arc<dyn Destination>,
    /// Those that are known to be true.
    sboms: Option<Sboms>,
    /// Those that somebody put there.
    claimed: Option<Sboms>,
}

impl PackageSboms {
    /// Reads what `images` consist of, keeps it in their `documents`, and asks for the SBOMs of each: one request for each
    /// manifest that has not been asked about. What stands there counts where `memory` knows it, or once it is proven.
    pub async fn find(images: &mut [TransferredImage], memory: Option<&SbomCache>) -> Result<Self, Fault> {
        let nothing = SbomCache::default();
        let memory = memory.unwrap_or(&nothing);
        let held = PACKAGES.reserve();
        let read = read_images(images, &held).await?;
        let mut subjects = Vec::new();
        for (image, read) in images.iter_mut().zip(read) {
            subjects.extend(subjects_of(&read, &image.destination));
            image.documents = read.documents;
        }
        let mut asked: HashMap<(String, Digest), usize> = HashMap::new();
        for (index, subject) in subjects.iter().enumerate() {
            asked.entry(subject.key()).or_insert(index);
        }
        let mut asking = Vec::with_capacity(asked.len());
        for (key, &index) in &asked {
            let subject = &subjects[index];
            asking.push(async move {
                let standing = sbom::find(&*subject.destination, subject.manifest.digest(), memory).await?;
                Ok::<_, Fault>((key.clone(), standing))
            });
        }
        let known: HashMap<_, _> = stream::iter(asking).buffer_unordered(PARALLEL).try_collect().await?;
        for subject in &mut subjects {
            if let Some(ExistingSboms { proven, claimed }) = known.get(&subject.key()).cloned() {
                (subject.sboms, subject.claimed) = (proven, claimed);
            }
        }
        Ok(Self {
            subjects,
            _memory: held,
        })
    }

    /// Takes what somebody put there for what it says to be, where an artifact of `known` holds the very same documents
    /// and is proven. `memory` knows them from then on.
    pub fn accept_proven(&mut self, known: &ReusableTars, memory: Option<&SbomCache>) {
        if self.is_complete() {
            return;
        }
        let proven = self
            .archive_of(Subject::any)
            .is_some_and(|archive| known.proves(&archive));
        if proven {
            self.accept_claimed();
            for subject in &self.subjects {
                if let (Some(memory), Some(sboms)) = (memory, &subject.sboms) {
                    memory.note(subject.manifest.digest(), sboms);
                }
            }
        }
    }

    /// Takes what somebody put there for what it says to be: only where it is shown, and neither packed nor signed.
    pub fn accept_claimed(&mut self) {
        for subject in &mut self.subjects {
            let claimed = subject.claimed.take();
            subject.sboms = subject.sboms.take().or(claimed);
        }
    }

    /// How many images of one platform there are that have SBOMs or need them.
    pub fn total(&self) -> usize {
        self.subjects.len()
    }

    /// Whether all SBOMs are there.
    pub fn is_complete(&self) -> bool {
        self.subjects.iter().all(|subject| subject.sboms.is_some())
    }

    /// The name of each image of one platform, its digest, and its SBOMs where they are there.
    pub fn rows(&self) -> impl Iterator<Item = (String, &Digest, Option<&Sboms>)> {
        let row = |subject: &'_ Subject| subject.identifier();
        let subjects = self.subjects.iter();
        subjects.map(move |subject| (row(subject), subject.manifest.digest(), subject.sboms.as_ref()))
    }

    /// Makes those that are not there, as many at once as `syft` runs. The first failure ends it; it says for which image.
    pub async fn generate_missing(&mut self, syft: &Syft) -> Result<(), Fault> {
        let mut made: HashMap<(String, Digest), Sboms> = HashMap::new();
        for subject in &mut self.subjects {
            if subject.sboms.is_some() {
                continue;
            }
            let key = subject.key();
            if let Some(sboms) = made.get(&key) {
                subject.sboms = Some(sboms.clone());
                continue;
            }
            let sboms = sbom::generate(syft, &*subject.destination, &subject.manifest).await;
            let sboms = sboms.map_err(|fault| fault.within(format_args!("no SBOM of {}", subject.shown())))?;
            made.insert(key, sboms.clone());
            subject.sboms = Some(sboms);
        }
        Ok(())
    }

    /// `sboms.tar`; none unless all SBOMs are there, or where no image has any.
    pub fn archive(&self) -> Option<Archive> {
        self.archive_of(|subject| subject.sboms.as_ref())
    }

    fn archive_of(&self, sboms: impl Fn(&Subject) -> Option<&Sboms>) -> Option<Archive> {
        if self.subjects.is_empty() {
            return None;
        }
        let mut names: BTreeMap<String, &Subject> = BTreeMap::new();
        let mut subjects: Vec<&Subject> = self.subjects.iter().collect();
        subjects.sort_by_key(|subject| (subject.identifier(), subject.manifest.digest().clone()));
        subjects.dedup_by_key(|subject| (subject.identifier(), subject.manifest.digest().clone()));
        for subject in subjects {
            let name = file_name(&subject.identifier());
            // Names that differ in a `/` and a `_` only, or versions of Windows.
            let name = match names.contains_key(&name) {
                true => format!("{name}-{}", subject.manifest.digest().short()),
                false => name,
            };
            names.insert(name, subject);
        }
        let mut entries = Vec::with_capacity(2 * names.len());
        for (name, subject) in names {
            let blob = sboms(subject)?.contents.get(&Format::Syft)?;
            let stored = Stored {
                blob: blob.clone(),
                destination: Arc::clone(&subject.destination),
            };
            entries.push(entry(format!("{name}.json"), blob.digest.clone(), stored.clone()));
            let page = Digest::of(format!("{PAGE}{}", blob.digest).as_bytes());
            entries.push(entry(format!("{VIEWER}{name}.html"), page, Page(stored)));
        }
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        Some(Archive {
            path: PATH.to_owned(),
            entries,
        })
    }
}

impl Subject {
    /// What Zarf calls it: its reference, and its platform where it is one of several.
    fn identifier(&self) -> String {
        let mut text = self.reference.to_string();
        if let Some(Platform {
            architecture,
            os,
            variant,
            ..
        }) = &self.platform
        {
            text += &format!("-{os}-{architecture}");
            if let Some(variant) = variant {
                text += &format!("-{variant}");
            }
        }
        text
    }

    /// Its SBOMs, true or not.
    fn any(&self) -> Option<&Sboms> {
        self.sboms.as_ref().or(self.claimed.as_ref())
    }

    fn shown(&self) -> String {
        match &self.platform {
            Some(platform) => format!("image `{}` ({platform})", self.reference),
            None => format!("image `{}`", self.reference),
        }
    }

    fn key(&self) -> (String, Digest) {
        (self.destination.repository().to_owned(), self.manifest.digest().clone())
    }
}

/// The images of one platform within `image`. Attestations are about images and are none, and what has no file system has
/// no SBOM.
fn subjects_of(image: &ArtifactImage, destination: &Arc<dyn Destination>) -> Vec<Subject> {
    let documents: HashMap<&Digest, &Document> = image
        .documents
        .iter()
        .map(|document| (document.digest(), document))
        .collect();
    let mut subjects = Vec::new();
    let mut open: Vec<(&Digest, Option<&Platform>)> = vec![(&image.root, None)];
    while let Some((digest, platform)) = open.pop() {
        // What is missing is told where the artifact is put together.
        let Some(document) = documents.get(digest) else {
            continue;
        };
        match &document.content {
            Content::Index(index) => {
                let images = index.manifests.iter().filter(|entry| !entry.is_attestation());
                open.extend(images.map(|entry| (&entry.digest, entry.platform.as_ref())));
            }
            Content::Manifest(manifest) if is_catalogued(manifest) => subjects.push(Subject {
                reference: image.reference.clone(),
                platform: platform.cloned(),
                manifest: (*document).clone(),
                destination: Arc::clone(destination),
                sboms: None,
                claimed: None,
            }),
            Content::Manifest(_) => {}
        }
    }
    subjects
}

/// As Zarf makes a file's name of an image's.
fn file_name(identifier: &str) -> String {
    let kept = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    identifier
        .chars()
        .map(|letter| if kept(letter) { letter } else { '_' })
        .collect()
}

fn entry(path: String, identity: Digest, origin: impl EntrySource + 'static) -> Entry {
    Entry {
        path,
        mode: 0o644,
        identity,
        origin: Arc::new(origin),
    }
}

/// An SBOM in the registry.
#[derive(Clone)]
struct Stored {
    blob: Descriptor,
    destination: Arc<dyn Destination>,
}

impl Stored {
    async fn content(&self) -> Result<Bytes, Fault> {
        let content = self.destination.blob(&self.blob.digest, CONTENT_LIMIT).await?;
        content.ok_or_else(|| {
            let (digest, repository) = (&self.blob.digest, self.destination.repository());
            Fault::retryable(
                Reason::PackageFailed,
                format!("the SBOM {digest} is not in repository `{repository}` any more; delete its referrer, and it is made again"),
            )
        })
    }
}

#[async_trait]
impl EntrySource for Stored {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        self.content().await?.open().await
    }
}

/// The page with an SBOM in it.
struct Page(Stored);

#[async_trait]
impl EntrySource for Page {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        let content = self.0.content().await?;
        let (before, after) = PAGE.split_once(PLACE).unwrap_or((PAGE, ""));
        let pieces = [
            Bytes::from_static(before.as_bytes()),
            content,
            Bytes::from_static(after.as_bytes()),
        ];
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Ok((size, stream::iter(pieces.map(Ok)).boxed()))
    }
}

#[cfg(test)]
mod tests;
