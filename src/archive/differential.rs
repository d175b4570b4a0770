//! A package without the images that the site has, as one that Zarf reads: Zarf needs every file that the package lists, so images are left
//! out of the package itself, and its definition, checksums and list of images are written anew.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::image_list::NamedImage;
use super::inventory::Holdings;
use super::order::{PackageFile, files_of};
use super::packing::{missing, small};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Content, Descriptor, Digest, Document, Index, Location, MANIFEST_LIMIT, Naming, Reference, distinct_blobs,
    distinct_foreign_layers,
};
use crate::package::{BASE_NAME, CHECKSUMS, LAYOUT_BLOBS, LAYOUT_INDEX, PackedDefinition, REF_NAME};
use crate::signing::DEFINITION_SIGNATURE;
use crate::source::{ByteStream, RepositoryReader};
use crate::transfer::{Destination, Upload};

/// The most manifests of a package that are read.
const MANIFESTS: usize = 10_000;

/// A package that leaves out images.
pub struct DifferentialPackage<'a> {
    repository: &'a dyn Destination,
    manifest: Document,
    /// What is new: config, definition, checksums and list of images.
    content: HashMap<Digest, Bytes>,
    omitted: Vec<Reference>,
}

impl<'a> DifferentialPackage<'a> {
    /// The package `manifest` in `repository` without the images that `holdings` has under the names that Zarf gives them, with the
    /// same digests.
    ///
    /// # Errors
    /// A fault that names the document that cannot be read, or says that the package is signed.
    pub async fn of(repository: &'a dyn Destination, manifest: &Document, holdings: &Holdings) -> Result<Self, Fault> {
        let files = manifest.manifest().map(files_of).transpose()?.unwrap_or_default();
        let index = match file(&files, LAYOUT_INDEX) {
            Some(list) => Some(read_document(repository, &list.digest).await?),
            None => None,
        };
        let images = index
            .as_ref()
            .map(|index| NamedImage::of_index(&index.raw))
            .transpose()?;
        let images = images.unwrap_or_default();
        let (held, kept): (Vec<_>, Vec<_>) = images.into_iter().partition(|image| holdings.has_as_zarf(image));
        let omitted: Vec<Reference> = held.iter().filter_map(|image| image.name.clone()).collect();
        let unchanged = Self {
            repository,
            manifest: manifest.clone(),
            content: HashMap::new(),
            omitted: Vec::new(),
        };
        let (Some(index), false) = (index, omitted.is_empty()) else {
            return Ok(unchanged);
        };
        if let Some(signature) = files.iter().find(|file| is_signature(&file.path)) {
            let message = format!(
                "the package is signed, and {} does not fit a package without some of its images; build a signed one (differentialFrom), or leave out --zarf",
                signature.path
            );
            return Err(Fault::stalled(Reason::InvalidSpec, message));
        }
        let needed = contents(repository, &kept).await?;
        let lost: HashSet<Digest> = contents(repository, &held).await?;
        let lost: HashSet<&Digest> = lost.difference(&needed).collect();
        let names = omitted.iter().map(Reference::to_string).collect();
        let edited = Edited {
            files: files
                .into_iter()
                .filter(|file| !(file.path.starts_with(LAYOUT_BLOBS) && lost.contains(&file.digest)))
                .collect(),
            index: without(&index, &names)?,
            omitted: names,
        };
        edited.finish(repository, omitted).await
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Document {
        &self.manifest
    }

    /// The images that are left out.
    pub fn omitted(&self) -> &[Reference] {
        &self.omitted
    }
}

impl Holdings {
    /// Whether the registry has `image` under the name that Zarf gives it.
    fn has_as_zarf(&self, image: &NamedImage) -> bool {
        let prefix = self.registry.split_once('/').map_or("", |(_, prefix)| prefix);
        let digest = &image.root.digest;
        let (Some(name), Some(names)) = (&image.name, self.names.get(digest)) else {
            return false;
        };
        let Ok(location) = Location::under_prefix(name, "", prefix, Naming::Zarf, false) else {
            return false;
        };
        let repository = &location.repository;
        match (&location.digest, location.tags.first()) {
            (Some(_), _) => names.contains(&format!("{repository}@{digest}")),
            (None, Some(tag)) => names.contains(&format!("{repository}:{tag}")),
            (None, None) => false,
        }
    }
}

fn is_signature(path: &str) -> bool {
    let detached = path.strip_suffix(".sig");
    path == DEFINITION_SIGNATURE || detached.is_some_and(|file| PackedDefinition::files().any(|known| known == file))
}

fn file<'f>(files: &'f [PackageFile], path: &str) -> Option<&'f PackageFile> {
    files.iter().find(|file| file.path == path)
}

/// A package whose files that describe it are written anew.
struct Edited {
    /// Those that stay, with the former ones of these.
    files: Vec<PackageFile>,
    index: Document,
    omitted: BTreeSet<String>,
}

impl Edited {
    async fn finish(
        self,
        repository: &dyn Destination,
        omitted: Vec<Reference>,
    ) -> Result<DifferentialPackage<'_>, Fault> {
        let lacks = |what: &str| Fault::stalled(Reason::SourceFailed, format!("the package has no {what}"));
        let mut definitions = PackedDefinition::files();
        let definition = definitions.find_map(|path| file(&self.files, path));
        let definition = definition.ok_or_else(|| lacks("definition"))?;
        let text = read(repository, &definition.digest).await?;
        let sums = file(&self.files, CHECKSUMS).ok_or_else(|| lacks(CHECKSUMS))?;
        let sums = read(repository, &sums.digest).await?;
        let mut sums = PackedDefinition::parse(&definition.path, &text)?.checksums(&sums)?;
        sums.retain(|path, _| file(&self.files, path).is_some());
        sums.insert(LAYOUT_INDEX.to_owned(), self.index.digest().clone());
        let sums: String = sums
            .iter()
            .map(|(path, digest)| format!("{} {path}\n", digest.hex()))
            .collect();
        let sums = Bytes::from(sums);
        let text = PackedDefinition::without_images(&definition.path, &text, &self.omitted, &Digest::of(&sums))?;
        let parsed = PackedDefinition::parse(&definition.path, text.as_bytes())?;
        let new = HashMap::from([
            (definition.path.as_str(), Bytes::from(text)),
            (CHECKSUMS, sums),
            (LAYOUT_INDEX, self.index.raw.clone()),
        ]);
        let files = self.files.iter().map(|file| match new.get(file.path.as_str()) {
            Some(content) => (file.path.clone(), Digest::of(content), content.len() as u64),
            None => (file.path.clone(), file.digest.clone(), file.size),
        });
        let manifest = parsed.manifest(files)?;
        let content = new.into_values().chain([parsed.config().clone()]);
        Ok(DifferentialPackage {
            repository,
            manifest,
            content: content.map(|content| (Digest::of(&content), content)).collect(),
            omitted,
        })
    }
}

/// The list of images `index` without those of the names `omitted`.
fn without(index: &Document, omitted: &BTreeSet<String>) -> Result<Document, Fault> {
    let name = |entry: &Descriptor| {
        let name = entry
            .annotations
            .get(REF_NAME)
            .or_else(|| entry.annotations.get(BASE_NAME));
        Some(name?.parse::<Reference>().ok()?.to_string())
    };
    let mut list = index.index().cloned().unwrap_or_else(|| Index::new(Vec::new()));
    list.manifests
        .retain(|entry| !name(entry).is_some_and(|name| omitted.contains(&name)));
    Document::of_index(list).map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))
}

/// The digests of all manifests and blobs of `images`.
async fn contents(repository: &dyn Destination, images: &[NamedImage]) -> Result<HashSet<Digest>, Fault> {
    let mut found = HashSet::new();
    let mut open: Vec<Digest> = images.iter().map(|image| image.root.digest.clone()).collect();
    let mut read = 0;
    while let Some(digest) = open.pop() {
        if !found.insert(digest.clone()) {
            continue;
        }
        // An image may leave out some of its platforms.
        let Some(raw) = repository.blob(&digest, MANIFEST_LIMIT).await? else {
            continue;
        };
        read += 1;
        if read > MANIFESTS {
            let message = format!("the package has more than {MANIFESTS} manifests");
            return Err(Fault::stalled(Reason::SourceFailed, message));
        }
        let document = parse(&digest, raw)?;
        match &document.content {
            Content::Index(index) => open.extend(
                index
                    .manifests
                    .iter()
                    .filter(|entry| entry.is_manifest_or_untyped())
                    .map(|entry| entry.digest.clone()),
            ),
            Content::Manifest(_) => {
                let documents = [document];
                let blobs = distinct_blobs(&documents)
                    .into_iter()
                    .chain(distinct_foreign_layers(&documents));
                found.extend(blobs.map(|blob| blob.digest.clone()));
            }
        }
    }
    Ok(found)
}

async fn read(repository: &dyn Destination, digest: &Digest) -> Result<Bytes, Fault> {
    small(repository, &Descriptor::new("", digest.clone(), 0)).await
}

async fn read_document(repository: &dyn Destination, digest: &Digest) -> Result<Document, Fault> {
    let raw = repository.blob(digest, MANIFEST_LIMIT).await?;
    parse(digest, raw.ok_or_else(|| missing(repository, digest))?)
}

fn parse(digest: &Digest, raw: Bytes) -> Result<Document, Fault> {
    Document::parse(None, raw)
        .map_err(|error| Fault::stalled(Reason::SourceFailed, format!("{digest} cannot be read: {error}")))
}

#[async_trait]
impl RepositoryReader for DifferentialPackage<'_> {
    fn name(&self) -> String {
        self.repository.name()
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        self.repository.digest_of(identifier).await
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        self.repository.document(identifier).await
    }

    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault> {
        match self.content.get(digest) {
            Some(content) => Ok(Some(content.clone())),
            None => self.repository.blob(digest, limit).await,
        }
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        self.repository.referrers(subject).await
    }
}

#[async_trait]
impl Destination for DifferentialPackage<'_> {
    fn repository(&self) -> &str {
        self.repository.repository()
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault> {
        let Some(content) = self.content.get(&blob.digest).cloned() else {
            return self.repository.read(blob).await;
        };
        Ok(Some(stream::once(async move { Ok(content) }).boxed()))
    }

    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        match self.content.get(digest) {
            Some(content) => Ok(Some(content.len() as u64)),
            None => self.repository.holds(digest).await,
        }
    }

    async fn mount(&self, _: &Descriptor, _: &str) -> Result<bool, Fault> {
        Ok(false)
    }

    async fn upload(&self, _: Upload<'_>) -> Result<(Digest, u64), Fault> {
        Err(read_only())
    }

    async fn publish(&self, _: &Document, _: Option<&str>) -> Result<(), Fault> {
        Err(read_only())
    }

    async fn attach(&self, _: &Document) -> Result<(), Fault> {
        Err(read_only())
    }
}

fn read_only() -> Fault {
    let message = "a package that leaves out images is not stored in a repository";
    Fault::stalled(Reason::PackageFailed, message)
}
