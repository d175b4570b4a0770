//! What belongs to an image of an archive without a name of its own: signatures, attestations, SBOMs and other referrers. `cosign
//! save` marks them by their kind, regctl by a tag, and oras lists them beside the image whose digest they have as their subject.

use std::collections::{HashMap, HashSet};

use super::contents::Archive;
use super::image_list::NamedImage;
use super::oci_layout::kind_of;
use crate::oci::{Digest, Reference};
use crate::package::REF_NAME;

/// What an image of an archive belongs to, and how.
pub(super) enum Attachment {
    /// To the image that the archive is about: the suffix of its tag.
    Kind(&'static str),
    /// To the manifest with this digest, by a tag.
    Tag(String, Digest),
    /// To the manifest with this digest, by its field `subject`.
    Subject(Digest),
}

impl Attachment {
    fn of(archive: &Archive, image: &NamedImage) -> Option<Self> {
        match kind_of(&image.root) {
            "sigs" => return Some(Self::Kind(".sig")),
            "atts" => return Some(Self::Kind(".att")),
            "sboms" => return Some(Self::Kind(".sbom")),
            _ => {}
        }
        if let Some(tag) = image.root.annotations.get(REF_NAME)
            && let Some(digest) = digest_in(tag)
        {
            return Some(Self::Tag(tag.clone(), digest));
        }
        let subject = &archive.document(&image.root.digest)?.subject()?.digest;
        let subject = Some(subject).filter(|subject| archive.document(subject).is_some());
        subject.cloned().map(Self::Subject)
    }

    /// The name of the attachment `image` of an image `owner` with the root `root`.
    fn name(&self, image: &NamedImage, owner: &Reference, root: &Digest) -> Option<Reference> {
        let repository = owner.name();
        let name = match self {
            Self::Kind(suffix) => format!("{repository}:{}-{}{suffix}", root.algorithm(), root.hex()),
            Self::Tag(tag, _) => format!("{repository}:{tag}"),
            Self::Subject(_) => format!("{repository}@{}", image.root.digest),
        };
        name.parse().ok()
    }
}

/// The digest in a tag of cosign, or of a list of referrers: `sha256-<hex>`, with a suffix or without.
fn digest_in(tag: &str) -> Option<Digest> {
    let (name, suffix) = tag.split_once('.').unwrap_or((tag, ""));
    let is_known = matches!(suffix, "" | "sig" | "att" | "sbom");
    name.replacen('-', ":", 1).parse().ok().filter(|_| is_known)
}

/// For every image of `archive`, in their order, to what it belongs.
pub(super) fn attachments(archive: &Archive) -> Vec<Option<Attachment>> {
    let images = archive.images().iter();
    images.map(|image| Attachment::of(archive, image)).collect()
}

/// Names the attachments of `archive` that have no name, where the image to which they belong has one.
pub(super) fn name_attachments(archive: &mut Archive) {
    let attached = attachments(archive);
    let nameless =
        |(image, attachment): (&NamedImage, &Option<Attachment>)| attachment.is_some() && image.name.is_none();
    if !archive.images().iter().zip(&attached).any(nameless) {
        return;
    }
    // By the digests of their manifests.
    let mut owners: HashMap<Digest, (&Reference, &Digest)> = HashMap::new();
    let mut roots = HashSet::new();
    for (image, attachment) in archive.images().iter().zip(&attached) {
        let root = &image.root.digest;
        if let (Some(name), None) = (&image.name, attachment)
            && roots.insert(root)
        {
            for document in archive.manifests(root) {
                owners.entry(document.digest().clone()).or_insert((name, root));
            }
        }
    }
    let only = archive.only_image().and_then(|root| owners.get(&root.digest).copied());
    let mut names = Vec::new();
    for (at, (image, attachment)) in archive.images().iter().zip(&attached).enumerate() {
        let Some(attachment) = attachment.as_ref().filter(|_| image.name.is_none()) else {
            continue;
        };
        let owner = match attachment {
            Attachment::Kind(_) => None,
            Attachment::Tag(_, subject) | Attachment::Subject(subject) => owners.get(subject).copied(),
        };
        // It may also be a referrer of a referrer.
        let name = owner
            .or(only)
            .and_then(|(owner, root)| attachment.name(image, owner, root));
        names.extend(name.map(|name| (at, name)));
    }
    for (at, name) in names {
        if let Some(image) = archive.contents_mut().images.get_mut(at) {
            image.name = Some(name);
        }
    }
}
