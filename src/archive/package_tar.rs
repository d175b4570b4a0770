//! Packages as `package create` and `package pull` of Jackal and Zarf write them: a tar with the files of a package.

use std::collections::HashMap;
use std::sync::Arc;

use super::contents::{Archive, Contents};
use super::header::Packed;
use super::image_list::NamedImage;
use super::members::{Member, read_document, shown};
use super::read::invalid;
use super::tar_content::TarContent;
use crate::fault::Fault;
use crate::oci::Digest;
use crate::package::{CHECKSUMS, LAYOUT_BLOBS, LAYOUT_INDEX, PackedDefinition};

/// The definition in the package with `members`, if they are those of a package.
pub(super) fn definition_of(members: &HashMap<String, Member>) -> Option<&'static str> {
    PackedDefinition::files().find(|file| members.contains_key(*file))
}

/// The contents of the package with `members`, whose definition is the file `definition`. The manifest that its artifact has in a
/// registry is made of its files. Their digests are those of its checksums.
///
/// # Errors
/// A fault that names the file.
pub(super) async fn package_contents(
    tar: Arc<dyn TarContent>,
    members: &HashMap<String, Member>,
    definition: &str,
) -> Result<Contents, Fault> {
    let text = read_document(&*tar, members, definition).await?;
    let parsed = PackedDefinition::parse(definition, &text)?;
    let checksums = read_document(&*tar, members, CHECKSUMS).await?;
    let mut listed = parsed.checksums(&checksums)?;
    let mut contents = Contents {
        tar: Arc::clone(&tar),
        packages: Vec::new(),
        blobs: HashMap::with_capacity(members.len()),
        inline: HashMap::new(),
        images: Vec::new(),
    };
    let mut files = Vec::with_capacity(members.len());
    let mut index = None;
    for (path, member) in members {
        if member.is_link {
            return Err(invalid(&format!("{:?} is a link, which no package has", shown(path))));
        }
        let digest = match listed.remove(path) {
            Some(digest) => digest,
            None if parsed.is_unlisted(path) => Digest::of(&read_document(&*tar, members, path).await?),
            None => return Err(invalid(&format!("{CHECKSUMS} does not list {:?}", shown(path)))),
        };
        if path.strip_prefix(LAYOUT_BLOBS).is_some_and(|hex| hex != digest.hex()) {
            return Err(invalid(&format!(
                "{CHECKSUMS} has another digest for {:?}",
                shown(path)
            )));
        }
        if path == LAYOUT_INDEX {
            index = Some(digest.clone());
        }
        contents.blobs.insert(digest.clone(), member.extent);
        files.push((path.clone(), digest, member.extent.size));
    }
    if let Some(path) = listed.keys().next() {
        return Err(invalid(&format!("it lacks {:?}, which {CHECKSUMS} lists", shown(path))));
    }
    let manifest = parsed.manifest(files)?;
    let config = parsed.config().clone();
    contents.inline.insert(manifest.digest().clone(), manifest.raw.clone());
    contents.inline.insert(Digest::of(&config), config.clone());
    contents.packages.push(Packed {
        manifest,
        config,
        omitted: std::collections::BTreeMap::new(),
    });
    let Some(index) = index else { return Ok(contents) };
    let mut archive = Archive::new(contents).await?;
    if let Some(raw) = archive.blob(&index).await? {
        archive.contents_mut().images = NamedImage::of_index(&raw)?;
    }
    Ok(archive.into_contents())
}

#[cfg(test)]
mod tests;
