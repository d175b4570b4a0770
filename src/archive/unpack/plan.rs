//! Which files the tars have, in which order. No IO.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;

use super::chosen::Chosen;
use super::docker::DockerImage;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, distinct_blobs, distinct_foreign_layers};
use crate::package::REF_NAME;

/// The name of an image for containerd, which it prefers to [`REF_NAME`] (`images.AnnotationImageName`).
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The version of an OCI layout (OCI image specification, "oci-layout file").
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A file of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TarFile {
    /// Its path.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub content: Content,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// A blob of the archive.
    Blob(Digest),
    /// A blob of the archive in Zstandard, decompressed.
    Decompressed(Digest),
}

impl TarFile {
    fn of(path: impl Into<String>, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self {
            path: path.into(),
            size: content.len() as u64,
            content: Content::Bytes(content),
        }
    }
}

/// Bytes of the files together.
pub(super) fn total(files: &[TarFile]) -> u64 {
    files.iter().fold(0, |sum, file| file.size.saturating_add(sum))
}

/// The path of a blob in a layout: two parts of its digest, which are hexadecimal or the name of an algorithm.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The blobs of `image` that the archive holds, each once. It may lack foreign layers.
///
/// # Errors
/// A stalled fault that names the image, where another one is missing or has another length.
pub(super) fn blobs<'i>(
    image: &'i Chosen,
    held: &impl Fn(&Digest) -> Option<u64>,
) -> Result<Vec<(&'i Descriptor, Option<Bytes>)>, Fault> {
    let foreign = distinct_foreign_layers(&image.documents);
    let mut found = Vec::new();
    for blob in distinct_blobs(&image.documents)
        .into_iter()
        .chain(foreign.iter().copied())
    {
        match (held(&blob.digest), blob.inline_content()) {
            (Some(size), _) if size == blob.size => found.push((blob, None)),
            (None, Some(content)) => found.push((blob, Some(content))),
            (None, None) if foreign.contains(&blob) => {}
            (size, _) => {
                let what = match size {
                    Some(size) => format!(
                        "has the blob {} with {size} instead of {} bytes",
                        blob.digest, blob.size
                    ),
                    None => format!("lacks the blob {}", blob.digest),
                };
                return Err(Fault::stalled(
                    Reason::SourceNotFound,
                    format!(
                        "the archive {what} of {}; write it again with all content",
                        image.shown()
                    ),
                ));
            }
        }
    }
    Ok(found)
}

/// The tar of an OCI layout: what says which images there are, then the manifests, then everything else, each once. `held` is the
/// length of a blob in the archive.
///
/// # Errors
/// A stalled fault that names the image which is not complete.
pub(super) fn oci(images: &[Chosen], held: impl Fn(&Digest) -> Option<u64>) -> Result<Vec<TarFile>, Fault> {
    let mut entries = Vec::new();
    for image in images {
        let Some(root) = image.root() else { continue };
        let names = image.layout_names();
        if names.is_empty() {
            entries.push(root.descriptor.clone());
        }
        entries.extend(names.into_iter().map(|name| {
            Descriptor {
                annotations: [CONTAINERD_NAME, REF_NAME]
                    .map(|key| (key.to_owned(), name.clone()))
                    .into(),
                ..root.descriptor.clone()
            }
        }));
    }
    let index = Document::of_index(Index::new(entries))
        .map_err(|error| Fault::stalled(Reason::PackageFailed, format!("the list of images: {error}")))?;
    let mut files = vec![TarFile::of("oci-layout", LAYOUT), TarFile::of("index.json", index.raw)];
    let mut seen = HashSet::new();
    for document in images.iter().flat_map(|image| &image.documents) {
        if seen.insert(document.digest()) {
            files.push(TarFile::of(blob_path(document.digest()), document.raw.clone()));
        }
    }
    for image in images {
        for (blob, content) in blobs(image, &held)? {
            if !seen.insert(&blob.digest) {
                continue;
            }
            let path = blob_path(&blob.digest);
            files.push(match content {
                Some(content) => TarFile::of(path, content),
                None => TarFile {
                    path,
                    size: blob.size,
                    content: Content::Blob(blob.digest.clone()),
                },
            });
        }
    }
    Ok(files)
}

/// An entry of `manifest.json` (docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format").
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestEntry<'i> {
    config: String,
    repo_tags: &'i [String],
    layers: Vec<String>,
}

/// The tar of `docker save`: the list of images, their configurations, then the layers, each once.
///
/// # Errors
/// Where the list cannot be written.
pub(super) fn docker(images: &[DockerImage]) -> Result<Vec<TarFile>, Fault> {
    let entries: Vec<ManifestEntry<'_>> = images
        .iter()
        .map(|image| ManifestEntry {
            config: blob_path(&image.config_digest),
            repo_tags: &image.tags,
            layers: image.layers.iter().map(|layer| blob_path(layer.name())).collect(),
        })
        .collect();
    let list = serde_json::to_vec(&entries)
        .map_err(|error| Fault::stalled(Reason::PackageFailed, format!("the list of images: {error}")))?;
    let mut files = vec![TarFile::of("manifest.json", list)];
    let mut seen = HashSet::new();
    for image in images {
        if seen.insert(&image.config_digest) {
            files.push(TarFile::of(blob_path(&image.config_digest), image.config.clone()));
        }
    }
    for layer in images.iter().flat_map(|image| &image.layers) {
        if !seen.insert(layer.name()) {
            continue;
        }
        files.push(TarFile {
            path: blob_path(layer.name()),
            size: layer.size,
            content: match &layer.diff_id {
                Some(_) => Content::Decompressed(layer.digest.clone()),
                None => Content::Blob(layer.digest.clone()),
            },
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::unpack::docker::DockerLayer;
    use crate::oci::{Manifest, media_type};

    fn blob(text: &str) -> Descriptor {
        Descriptor::new(media_type::OCI_LAYER, Digest::of(text.as_bytes()), text.len() as u64)
    }

    fn image(names: &[&str], layers: &[&str]) -> Chosen {
        let config = Descriptor {
            media_type: media_type::OCI_CONFIG.to_owned(),
            ..blob(&format!("config of {layers:?}"))
        };
        let layers = layers.iter().map(|layer| blob(layer)).collect();
        let manifest = Document::of_manifest(Manifest::new(config, layers)).unwrap();
        Chosen {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            listed: manifest.digest().clone(),
            documents: vec![manifest],
        }
    }

    fn of_index(images: &[&Chosen]) -> Chosen {
        let children: Vec<Document> = images.iter().flat_map(|image| image.documents.clone()).collect();
        let entries = children.iter().map(|child| child.descriptor.clone()).collect();
        let index = Document::of_index(Index::new(entries)).unwrap();
        Chosen {
            names: vec!["multi:1".parse().unwrap()],
            listed: index.digest().clone(),
            documents: [children, vec![index]].concat(),
        }
    }

    fn paths(files: &[TarFile]) -> Vec<&str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    /// The archive holds every blob of these tests, whose length is that of its text.
    fn all(images: &[Chosen]) -> impl Fn(&Digest) -> Option<u64> {
        let documents: Vec<Document> = images.iter().flat_map(|image| image.documents.clone()).collect();
        move |digest| {
            let blobs = distinct_blobs(&documents);
            blobs.iter().find(|blob| blob.digest == *digest).map(|blob| blob.size)
        }
    }

    #[test]
    fn a_layout_has_its_lists_then_manifests_then_blobs_each_once() {
        let (one, other) = (image(&["a:1", "b:2"], &["base", "one"]), image(&[], &["base", "other"]));
        let multi = of_index(&[&one, &other]);
        let images = [one.clone(), multi.clone(), other.clone()];
        let files = oci(&images, all(&images)).unwrap();
        let config = |image: &Chosen| image.documents[0].manifest().unwrap().config.digest.clone();
        let digests = [
            one.listed.clone(),
            other.listed.clone(),
            multi.listed.clone(),
            config(&one),
            Digest::of(b"base"),
            Digest::of(b"one"),
            config(&other),
            Digest::of(b"other"),
        ];
        let mut expected = vec!["oci-layout".to_owned(), "index.json".to_owned()];
        expected.extend(digests.iter().map(|digest| format!("blobs/sha256/{}", digest.hex())));
        assert_eq!(paths(&files), expected);
        assert_eq!(files[6].size, "base".len() as u64);
        assert_eq!(total(&files), files.iter().map(|file| file.size).sum::<u64>());
        let Content::Bytes(index) = &files[1].content else {
            panic!("{:?}", files[1])
        };
        let index: Index = serde_json::from_slice(index).unwrap();
        let names: Vec<_> = index
            .manifests
            .iter()
            .map(|entry| entry.annotations.get(CONTAINERD_NAME))
            .collect();
        let full = |name: &str| Some(format!("docker.io/library/{name}"));
        let expected = [full("a:1"), full("b:2"), full("multi:1"), None];
        assert_eq!(names, expected.each_ref().map(Option::as_ref));
        for entry in &index.manifests {
            assert_eq!(entry.annotations.get(REF_NAME), entry.annotations.get(CONTAINERD_NAME));
        }
    }

    #[test]
    fn names_with_digests_are_found_by_tag_and_by_digest() {
        let plain = image(&["r.example/a:1"], &["x"]);
        let digest = plain.listed.clone();
        let named = image(
            &[&format!("r.example/a:1@{digest}"), &format!("r.example/b@{digest}")],
            &["x"],
        );
        let expected = ["a:1", &format!("a@{digest}"), &format!("b@{digest}")].map(|name| format!("r.example/{name}"));
        assert_eq!(named.layout_names(), expected);
        assert_eq!(named.docker_tags(), ["r.example/a:1"]);
        assert_eq!(
            image(&["nginx", "me/app:1"], &[]).docker_tags(),
            ["nginx:latest", "me/app:1"]
        );
    }

    #[test]
    fn what_the_archive_lacks_is_named() {
        let one = image(&["a:1"], &["base", "one"]);
        let images = [one.clone()];
        let held = all(&images);
        let lacks = oci(&images, |digest| held(digest).filter(|_| *digest != Digest::of(b"one"))).unwrap_err();
        let digest = Digest::of(b"one");
        assert!(
            lacks
                .message
                .contains(&format!("lacks the blob {digest} of docker.io/library/a:1")),
            "{lacks}"
        );
        let longer = oci(&images, |digest| held(digest).map(|size| size + 1)).unwrap_err();
        assert!(longer.is_stalled() && longer.message.contains("instead of"), "{longer}");
        // Foreign layers may be left out, and embedded content need not be there.
        let mut foreign = blob("foreign");
        foreign.media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned();
        let manifest = Document::of_manifest(Manifest::new(Descriptor::empty(), vec![foreign])).unwrap();
        let image = Chosen {
            names: Vec::new(),
            listed: manifest.digest().clone(),
            documents: vec![manifest],
        };
        let files = oci(&[image], |_| None).unwrap();
        assert_eq!(files.len(), 4);
        assert_eq!(files[3].content, Content::Bytes(Bytes::from_static(b"{}")));
    }

    #[test]
    fn docker_gets_its_list_then_configurations_then_layers_each_once() {
        let layer = |text: &str, diff_id: Option<&str>| DockerLayer {
            digest: Digest::of(text.as_bytes()),
            diff_id: diff_id.map(|text| Digest::of(text.as_bytes())),
            size: 7,
        };
        let image = |name: &str, layers: Vec<DockerLayer>| DockerImage {
            tags: vec![name.to_owned()],
            config_digest: Digest::of(name.as_bytes()),
            config: Bytes::copy_from_slice(name.as_bytes()),
            layers,
        };
        let zstd = layer("zstd", Some("content"));
        let images = [
            image("a:1", vec![layer("gzip", None), zstd.clone(), layer("gzip", None)]),
            image("b:1", vec![zstd, layer("content", None)]),
        ];
        let files = docker(&images).unwrap();
        let path = |text: &str| format!("blobs/sha256/{}", Digest::of(text.as_bytes()).hex());
        let expected = [
            "manifest.json".to_owned(),
            path("a:1"),
            path("b:1"),
            path("gzip"),
            path("content"),
        ];
        assert_eq!(paths(&files), expected);
        assert_eq!(files[4].content, Content::Decompressed(Digest::of(b"zstd")));
        let Content::Bytes(list) = &files[0].content else {
            panic!("{:?}", files[0])
        };
        let list: serde_json::Value = serde_json::from_slice(list).unwrap();
        assert_eq!(list[0]["RepoTags"], serde_json::json!(["a:1"]));
        assert_eq!(
            list[0]["Layers"],
            serde_json::json!([path("gzip"), path("content"), path("gzip")])
        );
        assert_eq!(list[1]["Config"], path("b:1"));
    }
}
