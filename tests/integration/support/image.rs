//! Generated images.

use std::io::Write;

use bytes::Bytes;
use futures::StreamExt;
use jackal_operator::oci::{Descriptor, Digest, Document, Index, Manifest, media_type};
use jackal_operator::registry::Repository;
use jackal_operator::source::ByteStream;

/// `content` in chunks of at most 64 KiB.
pub fn stream(content: impl Into<Bytes>) -> ByteStream<'static> {
    let mut rest: Bytes = content.into();
    let chunks = std::iter::from_fn(move || {
        let next = rest.split_to(rest.len().min(64 * 1024));
        (!next.is_empty()).then_some(Ok(next))
    });
    futures::stream::iter(chunks.collect::<Vec<_>>()).boxed()
}

/// Incompressible bytes, determined by the seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; length];
    random.fill(&mut content);
    content.into()
}

/// A tar archive of one file.
fn archive(content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..4].copy_from_slice(b"file");
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padding = content.len().next_multiple_of(512) - content.len();
    [&header[..], content, &vec![0; padding + 1024]].concat()
}

fn gzip(content: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap().into()
}

/// An image of one layer with a file of `content` for `platform`; its blobs are pushed, its manifest is neither pushed
/// nor tagged. Its serialisation differs from our own.
pub async fn image(repository: &Repository, platform: &str, content: Bytes) -> Document {
    // A valid layer, because crane reads it.
    of_layer(repository, platform, &archive(&content)).await
}

/// The same with the tar `diff` as its layer.
pub async fn of_layer(repository: &Repository, platform: &str, diff: &[u8]) -> Document {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
    let layer = gzip(diff);
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"{os}","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(diff)
    );
    let config = push(repository, media_type::OCI_CONFIG, config.into()).await;
    let layer = push(repository, media_type::OCI_LAYER_GZIP, layer).await;
    spaced(&Document::of_manifest(Manifest::new(config, vec![layer])).unwrap())
}

/// An attestation of BuildKit for `image`.
pub async fn attestation(repository: &Repository, image: &Document) -> (Document, Descriptor) {
    let statement = format!(r#"{{"about":"{}"}}"#, image.digest());
    let statement = push(repository, "application/vnd.in-toto+json", statement.into()).await;
    let config = push(
        repository,
        media_type::OCI_CONFIG,
        r#"{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#.into(),
    )
    .await;
    let document = spaced(&Document::of_manifest(Manifest::new(config, vec![statement])).unwrap());
    let mut entry = entry(&document, "unknown/unknown");
    entry.annotations = [
        ("vnd.docker.reference.type", "attestation-manifest"),
        ("vnd.docker.reference.digest", image.digest().as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    (document, entry)
}

/// An index of amd64 and arm64 images with attestations under `tag`; the images in that order.
pub async fn multi_platform(repository: &Repository, tag: &str) -> (Document, Vec<Document>) {
    let mut images = Vec::new();
    let mut entries = Vec::new();
    let mut abouts = Vec::new();
    for (seed, platform) in [(1, "linux/amd64"), (2, "linux/arm64"), (3, "linux/s390x")] {
        let image = image(repository, platform, noise(seed, 200_000)).await;
        let (about, entry_about) = attestation(repository, &image).await;
        put(repository, &image, None).await;
        put(repository, &about, None).await;
        entries.push(entry(&image, platform));
        abouts.push(entry_about);
        images.push(image);
    }
    entries.extend(abouts);
    let index = spaced(&Document::of_index(Index::new(entries)).unwrap());
    put(repository, &index, Some(tag)).await;
    (index, images)
}

/// An entry of an index.
pub fn entry(document: &Document, platform: &str) -> Descriptor {
    let mut entry = document.descriptor.clone();
    entry.platform = Some(platform.parse().unwrap());
    entry
}

/// A referrer of `subject` of the type `kind` with `content`; its blobs are pushed, its manifest is not. Its
/// serialisation differs from our own.
pub async fn referrer(repository: &Repository, subject: &Document, kind: &str, content: impl Into<Bytes>) -> Document {
    let config = push(repository, "application/vnd.oci.empty.v1+json", "{}".into()).await;
    let layer = push(repository, kind, content.into()).await;
    let mut manifest = Manifest::new(config, vec![layer]);
    manifest.artifact_type = Some(kind.to_owned());
    manifest.subject = Some(subject.descriptor.clone());
    manifest
        .annotations
        .insert("org.example.of".to_owned(), subject.digest().to_string());
    spaced(&Document::of_manifest(manifest).unwrap())
}

/// Pushes a manifest.
pub async fn put(repository: &Repository, document: &Document, tag: Option<&str>) {
    let identifier = tag.unwrap_or(document.digest().as_str());
    repository.put_manifest(document, identifier).await.unwrap();
}

/// Pushes a blob.
pub async fn push(repository: &Repository, kind: &str, content: Bytes) -> Descriptor {
    let digest = Digest::of(&content);
    let length = content.len() as u64;
    let stored = repository.upload(Some(&digest), Some(length), stream(content)).await;
    stored.unwrap();
    Descriptor::new(kind, digest, length)
}

/// The same document with white space, as other tools write it.
fn spaced(document: &Document) -> Document {
    let value: serde_json::Value = serde_json::from_slice(&document.raw).unwrap();
    let raw = serde_json::to_vec_pretty(&value).unwrap();
    Document::parse(Some(&document.descriptor.media_type), raw.into()).unwrap()
}
