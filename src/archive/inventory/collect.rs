//! Finds what a repository holds.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;

use super::RepositoryContent;
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, distinct_blobs};
use crate::registry::{Kind, Repository};
use crate::source::RepositoryReader as _;
use crate::transfer::LayoutDestination;

/// Requests at once. Each holds one manifest.
const PARALLEL: usize = 4;
/// The most manifests and blobs of a repository.
const ENTRIES: usize = 1_000_000;
/// The most manifests that are named because they cannot be read.
const UNREADABLE: usize = 100;

/// Where a repository is.
pub enum Place {
    /// In a registry.
    Registry(Repository),
    /// In an OCI layout.
    Layout(LayoutDestination),
}

/// A tag of a repository.
pub struct Tag {
    /// The tag.
    pub name: String,
    /// What the manifest is asked for by: the tag in a registry, the digest in a layout.
    pub identifier: String,
}

/// A manifest that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its tag or digest.
    pub identifier: String,
    /// What is wrong with it.
    pub message: String,
}

/// What came of a manifest that was asked for.
enum Looked {
    Found(Box<Document>),
    Absent,
    Unreadable(String),
}

impl Place {
    fn name(&self) -> String {
        match self {
            Self::Registry(repository) => format!("{}/{}", repository.registry().host(), repository.name()),
            Self::Layout(layout) => layout.name(),
        }
    }

    async fn document(&self, identifier: &str) -> Result<Looked, Fault> {
        let found = match self {
            Self::Layout(layout) => layout.document(identifier).await?,
            Self::Registry(repository) => match repository.manifest(identifier).await {
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::Unsupported | Kind::Protocol | Kind::TooLarge | Kind::DigestMismatch
                    ) =>
                {
                    return Ok(Looked::Unreadable(error.to_string()));
                }
                read => read.map_err(|error| error.into_read_fault(&self.name()))?,
            },
        };
        Ok(found.map_or(Looked::Absent, |document| Looked::Found(Box::new(document))))
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        match self {
            Self::Layout(layout) => layout.referrers(subject).await,
            // Without the API, referrers are listed under tags, which are listed anyway.
            Self::Registry(repository) if !repository.may_list_referrers() => Ok(Vec::new()),
            Self::Registry(repository) => {
                let listed = repository.referrers(subject).await;
                listed.map_err(|error| error.into_read_fault(&self.name()))
            }
        }
    }
}

/// What is asked of a place.
enum Visit {
    /// To read this manifest.
    Manifest(Digest),
    /// To list the referrers of this one, which was read.
    Referrers(Digest),
}

/// The answer to it.
enum Answer {
    Manifest(Digest, Looked),
    Referrers(Vec<Descriptor>),
}

/// Reads what the repository `name` at `place` holds under `tags`: manifests, the manifests that these list, their referrers, and
/// the blobs of all. Says which manifests cannot be read; what is under these is left out.
///
/// # Errors
/// A fault that names the repository.
pub async fn collect(place: &Place, name: &str, tags: Vec<Tag>) -> Result<(RepositoryContent, Vec<Unreadable>), Fault> {
    let mut search = Search {
        content: RepositoryContent {
            repository: name.to_owned(),
            ..RepositoryContent::default()
        },
        open: Vec::new(),
        unreadable: BTreeMap::new(),
    };
    let looks = tags.into_iter().map(|tag| async move {
        let looked = place.document(&tag.identifier).await;
        (tag, looked)
    });
    let mut looks = stream::iter(looks).buffer_unordered(PARALLEL);
    while let Some((tag, looked)) = looks.next().await {
        match looked? {
            Looked::Found(document) => {
                search.content.tags.insert(tag.name, document.digest().clone());
                search.add(&document)?;
            }
            // It was deleted since the tags were listed.
            Looked::Absent => {}
            Looked::Unreadable(message) => search.unreadable(tag.name, message),
        }
    }
    drop(looks);
    while !search.open.is_empty() {
        let batch = search.open.split_off(search.open.len().saturating_sub(16 * PARALLEL));
        let answers = batch.into_iter().map(|visit| visit.ask(place));
        let mut answers = stream::iter(answers).buffer_unordered(PARALLEL);
        while let Some(answer) = answers.next().await {
            match answer? {
                Answer::Manifest(_, Looked::Found(document)) => search.add(&document)?,
                // An index may list platforms that were not copied.
                Answer::Manifest(_, Looked::Absent) => {}
                Answer::Manifest(digest, Looked::Unreadable(message)) => {
                    search.unreadable(digest.to_string(), message);
                }
                Answer::Referrers(listed) => search.manifests(listed.into_iter().map(|entry| entry.digest)),
            }
        }
    }
    let unreadable = search.unreadable.into_iter();
    let unreadable = unreadable.map(|(identifier, message)| Unreadable { identifier, message });
    Ok((search.content, unreadable.collect()))
}

impl Visit {
    async fn ask(self, place: &Place) -> Result<Answer, Fault> {
        Ok(match self {
            Self::Manifest(digest) => {
                let looked = place.document(digest.as_str()).await?;
                Answer::Manifest(digest, looked)
            }
            Self::Referrers(subject) => Answer::Referrers(place.referrers(&subject).await?),
        })
    }
}

struct Search {
    content: RepositoryContent,
    open: Vec<Visit>,
    unreadable: BTreeMap<String, String>,
}

impl Search {
    fn add(&mut self, document: &Document) -> Result<(), Fault> {
        let digest = document.digest().clone();
        if self.content.manifests.contains_key(&digest) {
            return Ok(());
        }
        self.content.manifests.insert(digest.clone(), document.raw.len() as u64);
        self.open.push(Visit::Referrers(digest));
        if let Content::Index(index) = &document.content {
            let entries = index.manifests.iter().filter(|entry| entry.is_manifest_or_untyped());
            self.manifests(entries.map(|entry| entry.digest.clone()));
        }
        for blob in distinct_blobs(std::slice::from_ref(document)) {
            self.content.blobs.insert(blob.digest.clone(), blob.size);
        }
        let entries = self.content.manifests.len() + self.content.blobs.len() + self.open.len();
        if entries > ENTRIES {
            let message = format!(
                "{} holds more than {ENTRIES} manifests and blobs",
                self.content.repository
            );
            return Err(Fault::stalled(Reason::SourceFailed, message));
        }
        Ok(())
    }

    fn manifests(&mut self, digests: impl Iterator<Item = Digest>) {
        let new = digests.filter(|digest| !self.content.manifests.contains_key(digest));
        let new: Vec<Visit> = new.map(Visit::Manifest).collect();
        self.open.extend(new);
    }

    fn unreadable(&mut self, identifier: String, message: String) {
        if self.unreadable.len() < UNREADABLE {
            self.unreadable.insert(identifier, message);
        }
    }
}
