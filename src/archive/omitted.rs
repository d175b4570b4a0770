//! Content that a package file leaves out, because the destination holds it already.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::contents::Archive;
use super::header::Packed;
use super::image_list::deliver_from;
use super::inventory::Holdings;
use super::load::Target;
use super::order::{PackageFile, files_of};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Platform, Reference, distinct_blobs};
use crate::source::{BlobSink, Delivery, ImageSource, Resolved};
use crate::transfer::{Destination, Upload};

/// Requests at once.
const PARALLEL: usize = 8;
/// The images that are named of each missing blob.
const NAMED: usize = 8;
/// The missing blobs that a message lists.
const SHOWN: usize = 20;

/// Removes the files from `files` whose content the destination holds, as `holdings` says, and returns them with the repositories
/// that hold them. Files that `must_stay` are kept, as are what describes the package.
pub(super) fn omit(
    files: &mut Vec<PackageFile>,
    holdings: &Holdings,
    must_stay: &BTreeSet<Digest>,
) -> BTreeMap<Digest, String> {
    let mut omitted = BTreeMap::new();
    files.retain(|file| {
        let held = holdings.blobs.get(&file.digest);
        match held.filter(|_| !file.is_metadata() && !must_stay.contains(&file.digest)) {
            Some(repository) => {
                omitted.insert(file.digest.clone(), repository.clone());
                false
            }
            None => true,
        }
    });
    omitted
}

/// Content that a package file leaves out and the destination does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The repository that held it when the inventory was made.
    pub repository: String,
    /// Images that need it, as far as they are known.
    pub images: Vec<String>,
}

/// An omitted blob on its way into the repository of its package.
struct Place {
    blob: Descriptor,
    /// The repository that held it when the inventory was made.
    seen_in: String,
    /// Where the destination holds it now.
    found: Option<Found>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// In the repository of the package.
    InPackage,
    /// Where the inventory says.
    WhereSeen,
}

/// Which omitted blobs of `package`, whose repository is `destination`, the target holds. Nothing is changed.
async fn look(package: &Packed, destination: &dyn Destination, target: &Target<'_>) -> Result<Vec<Place>, Fault> {
    let manifest = package.manifest.manifest();
    let files = manifest.map(files_of).transpose()?.unwrap_or_default();
    let mut seen = HashSet::new();
    let omitted = files.iter().filter(|file| seen.insert(file.digest.clone()));
    let omitted = omitted.filter_map(|file| Some((file, package.omitted.get(&file.digest)?)));
    let looks = omitted.map(|(file, seen_in)| async move {
        let blob = Descriptor::new("application/octet-stream", file.digest.clone(), file.size);
        let holds = async |repository: &dyn Destination| {
            let size = repository.holds(&file.digest).await?;
            Ok::<_, Fault>(size == Some(file.size))
        };
        let found = if holds(destination).await? {
            Some(Found::InPackage)
        } else if !seen_in.is_empty() && holds(&*(target.open)(seen_in)).await? {
            Some(Found::WhereSeen)
        } else {
            None
        };
        Ok::<_, Fault>(Place {
            blob,
            seen_in: seen_in.clone(),
            found,
        })
    });
    let looks: Vec<_> = looks.collect();
    stream::iter(looks).buffered(PARALLEL).try_collect().await
}

/// The content that `packages` leave out and `target` does not hold; each package with its repository. `archive` knows the images,
/// where there is one.
///
/// # Errors
/// A fault of the target.
pub(super) async fn missing(
    packages: &[(&Packed, String)],
    archive: Option<&Archive>,
    target: &Target<'_>,
) -> Result<Vec<Missing>, Fault> {
    let mut missing: BTreeMap<Digest, Missing> = BTreeMap::new();
    for (package, repository) in packages.iter().filter(|(package, _)| !package.omitted.is_empty()) {
        let destination = (target.open)(repository);
        let places = look(package, &*destination, target).await?;
        for place in places.into_iter().filter(|place| place.found.is_none()) {
            let entry = Missing {
                size: place.blob.size,
                repository: place.seen_in,
                images: Vec::new(),
                digest: place.blob.digest.clone(),
            };
            missing.insert(place.blob.digest, entry);
        }
    }
    let Some(archive) = archive.filter(|_| !missing.is_empty()) else {
        return Ok(missing.into_values().collect());
    };
    for image in archive.images() {
        let Some(name) = &image.name else { continue };
        for blob in distinct_blobs(&archive.manifests(&image.root.digest)) {
            if let Some(entry) = missing.get_mut(&blob.digest).filter(|entry| entry.images.len() < NAMED) {
                entry.images.push(name.to_string());
            }
        }
    }
    Ok(missing.into_values().collect())
}

/// The fault that says what `missing` is needed; none where nothing is.
pub(super) fn check(missing: &[Missing], target: &Target<'_>) -> Result<(), Fault> {
    if missing.is_empty() {
        return Ok(());
    }
    let bytes = missing.iter().fold(0, |sum, blob| blob.size.saturating_add(sum));
    let lines = missing.iter().take(SHOWN).map(|blob| {
        let images = match blob.images.as_slice() {
            [] => String::new(),
            images => format!(" of {}", images.join(", ")),
        };
        format!("\n  {} ({} bytes{images})", blob.digest, blob.size)
    });
    let lines: String = lines.collect();
    let rest = match missing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        rest => format!("\n  and {rest} more"),
    };
    let place = match (target.address, target.prefix) {
        ("", _) => "the layout".to_owned(),
        (address, "") => address.to_owned(),
        (address, prefix) => format!("{address}/{prefix}"),
    };
    Err(Fault::stalled(
        Reason::SourceNotFound,
        format!(
            "the package file leaves out content that {place} does not hold: {} blobs, {bytes} bytes. Nothing was changed. Write a new inventory here (`jackal-operator inventory`), and pack again with it (`pack --have`), or without --have:{lines}{rest}",
            missing.len()
        ),
    ))
}

/// Makes the omitted content of `package` stand in its repository `destination`: by mounts, or where the registry refuses these, by
/// reading it there. Says how many bytes were sent.
///
/// # Errors
/// A fault that names the blob.
pub(super) async fn place(package: &Packed, destination: &dyn Destination, target: &Target<'_>) -> Result<u64, Fault> {
    if package.omitted.is_empty() {
        return Ok(0);
    }
    let mut sent = 0;
    for place in look(package, destination, target).await? {
        let blob = &place.blob;
        match place.found {
            Some(Found::InPackage) => continue,
            Some(Found::WhereSeen) if destination.mount(blob, &place.seen_in).await? => continue,
            Some(Found::WhereSeen) => {}
            None => return Err(lost(blob)),
        }
        let source = (target.open)(&place.seen_in);
        let bytes = source.read(blob).await?.ok_or_else(|| lost(blob))?;
        let upload = Upload {
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes,
        };
        sent += destination.upload(upload).await?.1;
    }
    Ok(sent)
}

fn lost(blob: &Descriptor) -> Fault {
    let message = format!(
        "the package file leaves out {}, and the destination does not hold it any more",
        blob.digest
    );
    Fault::stalled(Reason::SourceNotFound, message)
}

/// The images of an archive that leaves content out, which the repositories of its packages hold by now.
pub(super) struct CompletedArchive {
    pub archive: Arc<Archive>,
    pub repositories: Vec<Arc<dyn Destination>>,
}

#[async_trait]
impl ImageSource for CompletedArchive {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        self.archive.resolve(reference, platforms).await
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        deliver_from(image, sink, |blob| async move {
            if let Some(content) = self.archive.read(&blob.digest) {
                return Ok(Some(content));
            }
            for repository in &self.repositories {
                if let Some(content) = repository.read(&blob).await? {
                    return Ok(Some(content));
                }
            }
            Ok(None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_describes_the_package_is_never_left_out() {
        let file = |path: &str| PackageFile {
            path: path.to_owned(),
            digest: Digest::of(path.as_bytes()),
            size: 1,
        };
        let paths = [
            "zarf.yaml",
            "images/index.json",
            "manifest",
            "components/a.tar",
            "components/b.tar",
        ];
        let mut files = paths.map(file).to_vec();
        files[2].path = "images/blobs/sha256/a".to_owned();
        let held = ["zarf.yaml", "images/index.json", "manifest", "components/a.tar"];
        let holdings = Holdings {
            registry: String::new(),
            blobs: held
                .map(|path| (Digest::of(path.as_bytes()), "team/a".to_owned()))
                .into(),
            ..Holdings::default()
        };
        let omitted = omit(&mut files, &holdings, &[Digest::of(b"manifest")].into());
        assert_eq!(omitted, [(Digest::of(b"components/a.tar"), "team/a".to_owned())].into());
        assert_eq!(files.len(), 4);
    }
}
