//! Reads an image from a classic store: a configuration and uncompressed layers, from the engine's directory or from an
//! export.
//!
//! The manifest is made here, from the layers as the destination stores them. It does not depend on manifests, times or order
//! in the export, so the same image has the same digest.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt};

use super::archive::{Archive, Entry, EntryKind};
use super::document::{DOCUMENT_LIMIT, verify};
use super::engine::{Engine, image_not_found};
use super::graph::Graph;
use super::push;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::source::reread::Rereads;
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Method};

/// Concurrent requests to the destination.
const CONCURRENCY: usize = 8;

/// Transfers the image `image_id`, whose uncompressed layers are `diff_ids`, to `sink`. The engine is read only when
/// something is missing there, and exports only what could not be read from its directory.
pub(super) async fn deliver(
    engine: &Engine,
    graph: &Graph,
    image_id: &Digest,
    diff_ids: &[Digest],
    sink: &dyn BlobSink,
) -> Result<Delivery, Fault> {
    let mut stored = StoredParts::find(image_id, diff_ids, sink).await?;
    let mut method = Method::Unchanged;
    let mut method_message = None;
    if !stored.is_complete() {
        method = Method::DockerGraph;
        let storage = engine.storage().await?;
        let is_missing = |diff_id: &Digest| !stored.layers.contains_key(diff_id);
        let transferred = graph.transfer(&storage, image_id, diff_ids, stored.config.is_none(), is_missing, sink);
        let transferred = transferred.await?;
        stored.config = stored.config.or(transferred.config);
        stored.layers.extend(transferred.layers);
        method_message = transferred.method_message;
        if let Some(method_message) = &method_message {
            tracing::info!(%image_id, method_message, "an image is exported by its engine");
        }
    }
    if !stored.is_complete() {
        method = Method::DockerSave;
        let mut rereads = Rereads::default();
        // What was stored of one export is skipped in the next.
        loop {
            match export(engine, image_id).await {
                Ok(content) => match stored.read(content, sink).await {
                    Err(fault) => rereads.retry_after(fault)?,
                    Ok(()) => break,
                },
                Err(refused) => {
                    let is_expected = |pushed: &Document| is_manifest_of(pushed, image_id, diff_ids);
                    return push::push_refused(refused, engine, image_id.as_str(), method_message, sink, is_expected)
                        .await;
                }
            }
        }
    }
    let document = stored.manifest()?;
    Ok(Delivery {
        documents: vec![document],
        method,
        method_message,
    })
}

// For an image that was removed meanwhile, 20.10 only says that one of its files is missing.
async fn export(engine: &Engine, image_id: &Digest) -> Result<ByteStream<'static>, Fault> {
    let name = image_id.as_str();
    match engine.export(name, None).await {
        Err(_) if matches!(engine.inspect(name).await, Ok(None)) => Err(image_not_found(name)),
        result => result,
    }
}

// Whether a manifest is one of the image, however its layers are compressed.
fn is_manifest_of(document: &Document, image_id: &Digest, diff_ids: &[Digest]) -> bool {
    let manifest = document.manifest();
    manifest.is_some_and(|manifest| manifest.config.digest == *image_id && manifest.layers.len() == diff_ids.len())
}

// The configuration and layers that exist in the destination.
struct StoredParts<'a> {
    image_id: &'a Digest,
    diff_ids: &'a [Digest],
    config: Option<u64>,
    layers: HashMap<Digest, Descriptor>,
}

impl<'a> StoredParts<'a> {
    async fn find(image_id: &'a Digest, diff_ids: &'a [Digest], sink: &dyn BlobSink) -> Result<Self, Fault> {
        let distinct: BTreeSet<Digest> = diff_ids.iter().cloned().collect();
        let layers = async {
            let lookups = futures::stream::iter(distinct).map(|diff_id| async move {
                let existing = sink.existing_layer(&diff_id).await?;
                Ok::<_, Fault>(existing.map(|stored| (diff_id, stored)))
            });
            let layers: Vec<_> = lookups.buffer_unordered(CONCURRENCY).try_collect().await?;
            Ok(layers.into_iter().flatten().collect())
        };
        let (config, layers) = futures::try_join!(sink.existing_size(image_id, None), layers)?;
        Ok(Self {
            image_id,
            diff_ids,
            config,
            layers,
        })
    }

    fn is_complete(&self) -> bool {
        self.config.is_some() && self.diff_ids.iter().all(|diff_id| self.layers.contains_key(diff_id))
    }

    async fn read(&mut self, export: ByteStream<'static>, sink: &dyn BlobSink) -> Result<(), Fault> {
        let mut archive = Archive::new(export);
        let legacy_ids = legacy_layer_ids(self.diff_ids);
        while let Some(entry) = archive.next().await? {
            match classify(&entry, self.image_id, self.diff_ids, &legacy_ids) {
                EntryRole::Config if self.config.is_none() => self.store_config(&mut archive, &entry, sink).await?,
                EntryRole::Layer(Some(diff_id)) if self.layers.contains_key(&diff_id) => {}
                EntryRole::Layer(diff_id) => {
                    let blob = Blob {
                        form: Form::Diff,
                        digest: diff_id,
                        size: Some(entry.size),
                        bytes: archive.content(None),
                    };
                    let layer = sink.store(blob).await;
                    let layer = layer.map_err(|fault| archive.cause(fault))?;
                    if !self.diff_ids.contains(&layer.content_digest) {
                        let message = format!(
                            "the docker engine exported the layer {}, which the image {} does not have; \
                             remove the image there and build or load it again",
                            layer.content_digest, self.image_id
                        );
                        return Err(Fault::retryable(Reason::DigestMismatch, message));
                    }
                    self.layers.insert(layer.content_digest, layer.descriptor);
                }
                EntryRole::Config | EntryRole::Other => {}
            }
        }
        Ok(())
    }

    async fn store_config(&mut self, archive: &mut Archive, entry: &Entry, sink: &dyn BlobSink) -> Result<(), Fault> {
        if entry.size > DOCUMENT_LIMIT {
            let message = format!(
                "the configuration of the image {} has {} bytes, more than the limit of {DOCUMENT_LIMIT}",
                self.image_id, entry.size
            );
            return Err(Fault::stalled(Reason::SourceFailed, message));
        }
        let content = archive.read_content(None).await?;
        verify(&content, self.image_id)?;
        let blob = Blob {
            form: Form::Exact,
            digest: Some(self.image_id.clone()),
            size: Some(entry.size),
            bytes: futures::stream::iter([Ok(content)]).boxed(),
        };
        sink.store(blob).await?;
        self.config = Some(entry.size);
        Ok(())
    }

    fn manifest(&self) -> Result<Document, Fault> {
        let missing = |what: &str| {
            let message = format!(
                "the docker engine left {what} out of its export of the image {}; \
                 remove the image there and build or load it again",
                self.image_id
            );
            Fault::retryable(Reason::DigestMismatch, message)
        };
        let size = self.config.ok_or_else(|| missing("the configuration"))?;
        let layers = self.diff_ids.iter().map(|diff_id| {
            let layer = self.layers.get(diff_id).cloned();
            layer.ok_or_else(|| missing(&format!("the layer {diff_id}")))
        });
        let manifest = Manifest::for_image(self.image_id.clone(), size, layers.collect::<Result<_, _>>()?);
        Document::of_manifest(manifest).map_err(|error| Fault::stalled(Reason::SourceFailed, error.to_string()))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum EntryRole {
    Config,
    // With its digest, if the path shows it.
    Layer(Option<Digest>),
    Other,
}

// Docker 25 and newer name everything `blobs/sha256/<hex>`; older versions name the configuration `<hex>.json` and a layer
// `<legacy ID>/layer.tar`; podman names a layer `<hex>.tar`. A layer that the image has twice is written once, and then as a link.
fn classify(entry: &Entry, image_id: &Digest, diff_ids: &[Digest], legacy_ids: &HashMap<String, Digest>) -> EntryRole {
    if entry.kind != EntryKind::File {
        return EntryRole::Other;
    }
    let layer = |hex: &str| {
        let layer = diff_ids.iter().find(|diff_id| diff_id.hex() == hex);
        layer.map_or(EntryRole::Other, |diff_id| EntryRole::Layer(Some(diff_id.clone())))
    };
    if let Some(hex) = entry.path.strip_prefix("blobs/sha256/") {
        return match hex == image_id.hex() {
            true => EntryRole::Config,
            false => layer(hex),
        };
    }
    if entry.path.strip_suffix(".json") == Some(image_id.hex()) {
        return EntryRole::Config;
    }
    match entry.path.strip_suffix("/layer.tar") {
        Some(id) if !id.contains('/') => EntryRole::Layer(legacy_ids.get(id).cloned()),
        Some(_) => EntryRole::Other,
        None => entry.path.strip_suffix(".tar").map_or(EntryRole::Other, layer),
    }
}

/// What moby hashes for the legacy ID of a layer, before its chain ID and parent (image/v1, `CreateID`). The topmost layer
/// has another text.
const LEGACY_CONFIG: &str = concat!(
    r#"{"container_config":{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"#,
    r#""AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","#,
    r#""Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},"#,
    r#""created":"1970-01-01T00:00:00Z","layer_id":""#
);

// Older engines name a layer by a hash over its chain, which is known for all but the topmost. So a layer that the
// destination holds is recognised by its path, without reading it. An engine whose time zone is not UTC has other names;
// then layers are recognised by their digest after they were read.
fn legacy_layer_ids(diff_ids: &[Digest]) -> HashMap<String, Digest> {
    let mut ids = HashMap::new();
    let mut chain: Option<Digest> = None;
    let mut parent: Option<Digest> = None;
    for diff_id in diff_ids.split_last().map(|(_, lower)| lower).unwrap_or_default() {
        let link = match &chain {
            Some(chain) => Digest::of(format!("{chain} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        let mut config = format!(r#"{LEGACY_CONFIG}{link}""#);
        if let Some(parent) = &parent {
            config.push_str(&format!(r#","parent":"{parent}""#));
        }
        config.push('}');
        let id = Digest::of(config.as_bytes());
        ids.insert(id.hex().to_owned(), diff_id.clone());
        (chain, parent) = (Some(link), Some(id));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    // As docker 20.10 exported an image of these three layers.
    #[test]
    fn legacy_layer_ids_are_those_of_docker() {
        let diff_ids: Vec<Digest> = [
            "sha256:ec1c40d85cfd173c4371e32735c01619d8e45119b89d4e201942dad745138436",
            "sha256:2ab05fb3dd569e0352cb11d76a88c3de7a2b419979234f1a6423d942509ba660",
            "sha256:ec1c40d85cfd173c4371e32735c01619d8e45119b89d4e201942dad745138436",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        let ids = legacy_layer_ids(&diff_ids);
        assert_eq!(ids.len(), 2);
        assert_eq!(
            ids["f885176b938dd959285b69f1ef42aba974f599556966e7d1b22effa5925cf767"],
            diff_ids[0]
        );
        assert_eq!(
            ids["9bb463655339a119a77b76e6d9de3f219340b8181ee4d69912eba4bc44947508"],
            diff_ids[1]
        );
        assert!(legacy_layer_ids(&[]).is_empty());
    }

    #[test]
    fn configurations_and_layers_are_found_as_every_engine_names_them() {
        let (image_id, diff_ids) = (Digest::of(b"{}"), [Digest::of(b"lower"), Digest::of(b"upper")]);
        let ids = legacy_layer_ids(&diff_ids);
        let role = |path: &str, kind: EntryKind| {
            let (path, target) = (path.to_owned(), None);
            let entry = Entry {
                path,
                kind,
                target,
                size: 5,
            };
            classify(&entry, &image_id, &diff_ids, &ids)
        };
        let (config, upper) = (image_id.hex(), diff_ids[1].hex());
        let known = || EntryRole::Layer(Some(diff_ids[1].clone()));
        for (path, expected) in [
            (format!("blobs/sha256/{config}"), EntryRole::Config),
            (format!("blobs/sha256/{upper}"), known()),
            (format!("{config}.json"), EntryRole::Config),
            (format!("{upper}/layer.tar"), EntryRole::Layer(None)),
            // podman, which writes a link `<legacy ID>/layer.tar` to it.
            (format!("{upper}.tar"), known()),
            (format!("{config}.tar"), EntryRole::Other),
            (format!("{upper}/json"), EntryRole::Other),
            ("manifest.json".to_owned(), EntryRole::Other),
        ] {
            assert_eq!(role(&path, EntryKind::File), expected, "{path}");
            assert_eq!(role(&path, EntryKind::Link), EntryRole::Other, "{path}");
        }
    }
}
