//! The files of a package in the order in which a package file holds them. No IO.

use std::collections::BTreeSet;

use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Index, Manifest};
use crate::package::{LAYOUT_BLOBS, LAYOUT_INDEX, LAYOUT_MARKER, TITLE};

/// The longest path of a file, in bytes.
const PATH_LIMIT: usize = 4096;

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageFile {
    /// Its path in the package.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl PackageFile {
    /// Whether it says what the package is: the definition, its signature, the checksums, the list of images.
    pub(super) fn is_metadata(&self) -> bool {
        !self.path.contains('/') || matches!(self.path.as_str(), LAYOUT_INDEX | LAYOUT_MARKER)
    }

    /// Whether it is the blob `digest` of an image.
    fn is_blob(&self, digest: &Digest) -> bool {
        self.path.strip_prefix(LAYOUT_BLOBS) == Some(digest.hex())
    }
}

/// The files of a package with that manifest, each once, sorted by their paths.
///
/// # Errors
/// A stalled fault that names the file, where a path leads out of the package or two files have one path.
pub fn files_of(manifest: &Manifest) -> Result<Vec<PackageFile>, Fault> {
    let invalid = |what: String| {
        Fault::stalled(
            Reason::SourceFailed,
            format!("the manifest of the package lists {what}"),
        )
    };
    let mut files = Vec::with_capacity(manifest.layers.len());
    for layer in &manifest.layers {
        let Some(path) = layer.annotations.get(TITLE) else {
            return Err(invalid(format!(
                "the layer {}, which has no path (annotation {TITLE})",
                layer.digest
            )));
        };
        let shown: String = path.chars().take(100).collect();
        if !is_plain_path(path) {
            return Err(invalid(format!(
                "the path {shown:?}, which is not one of a file in the package"
            )));
        }
        files.push(PackageFile {
            path: path.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
        });
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    match files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        Some(pair) => Err(invalid(format!("the file {:?} twice", pair[0].path))),
        None => Ok(files),
    }
}

/// The path in the second tar of the content with that digest.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Whether `path` is relative, in normal form, and without `..` and control characters.
pub(super) fn is_plain_path(path: &str) -> bool {
    // Messages show paths, and a terminal obeys control characters.
    let is_wrong = |letter: char| letter == '\\' || letter.is_control();
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(is_wrong);
    path.len() <= PATH_LIMIT && path.split('/').all(is_plain)
}

/// Sorts `files` so that what describes the package comes first: its metadata, then the manifests of its images, by `manifests`,
/// then everything else; each group by path, so that the same package gives the same order.
pub(super) fn describe_first(files: &mut [PackageFile], manifests: &BTreeSet<Digest>) {
    files.sort_by_cached_key(|file| {
        let group = match file {
            file if file.is_metadata() => 0,
            file if file.path.starts_with(LAYOUT_BLOBS) && manifests.contains(&file.digest) => 1,
            _ => 2,
        };
        (group, file.path.clone())
    });
}

/// The files of `files` that are the manifests listed by `index`.
pub(super) fn listed<'f>(files: &'f [PackageFile], index: &Index) -> Vec<&'f PackageFile> {
    let is_listed = |file: &&PackageFile| {
        let mut entries = index.manifests.iter();
        entries.any(|entry| entry.is_manifest_or_untyped() && file.is_blob(&entry.digest))
    };
    files.iter().filter(is_listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Descriptor;

    fn manifest(paths: &[&str]) -> Manifest {
        let layers = paths.iter().map(|path| Descriptor {
            annotations: [(TITLE.to_owned(), (*path).to_owned())].into(),
            ..Descriptor::new("application/vnd.zarf.layer.v1.blob", Digest::of(path.as_bytes()), 1)
        });
        let config = Descriptor::new("application/vnd.zarf.config.v1+json", Digest::of(b"{}"), 2);
        Manifest::new(config, layers.collect())
    }

    #[test]
    fn paths_outside_the_package_are_refused() {
        for path in [
            "../a",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "",
            "a/.",
            "a\\b",
            "./a",
            "a\x1b[2Jb",
            "a\n",
        ] {
            let fault = files_of(&manifest(&["zarf.yaml", path])).unwrap_err();
            assert!(
                fault.is_stalled() && fault.message.contains("is not one of a file"),
                "{path}: {fault}"
            );
        }
        let twice = files_of(&manifest(&["a", "a"])).unwrap_err();
        assert!(twice.message.ends_with("the file \"a\" twice"), "{twice}");
    }

    #[test]
    fn metadata_and_manifests_come_first() {
        let (layer, image) = (Digest::of(b"layer"), Digest::of(b"image"));
        let blob = |digest: &Digest| format!("{LAYOUT_BLOBS}{}", digest.hex());
        let paths = [
            "components/a.tar",
            &blob(&layer),
            &blob(&image),
            LAYOUT_INDEX,
            "zarf.yaml",
            "checksums.txt",
        ];
        let mut files = files_of(&manifest(&paths)).unwrap();
        let manifests = files.iter().filter(|file| file.path == blob(&image));
        let manifests = manifests.map(|file| file.digest.clone()).collect();
        describe_first(&mut files, &manifests);
        let order: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let expected = [
            "checksums.txt",
            LAYOUT_INDEX,
            "zarf.yaml",
            &blob(&image),
            "components/a.tar",
            &blob(&layer),
        ];
        assert_eq!(order, expected);
    }
}
