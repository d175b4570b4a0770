//! Taking an image out of a classic store: a configuration and uncompressed layers, from the engine's folder or
//! from an export.
//!
//! The manifest is made here, from the layers as they stand in the destination. Nothing of the export's own
//! manifests, times or order enters it, so the same image gives the same digest.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt};

use super::archive::{Archive, Entry, Kind};
use super::engine::{Engine, absent};
use super::graph::Graph;
use super::{DOCUMENT_LIMIT, push, verify};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::source::reread::Rereads;
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Method};

/// Questions to the destination at once.
const ASKED_AT_ONCE: usize = 8;

/// Brings the image `image_id`, whose uncompressed layers are `diff_ids`, to `sink`. The engine is only read
/// when something is missing there, and only exports what its folder did not give.
pub(super) async fn deliver(
    engine: &Engine,
    graph: &Graph,
    image_id: &Digest,
    diff_ids: &[Digest],
    sink: &dyn BlobSink,
) -> Result<Delivery, Fault> {
    let mut parts = Parts::held(image_id, diff_ids, sink).await?;
    let mut method = Method::Unchanged;
    let mut declined = None;
    if !parts.complete() {
        method = Method::DockerGraph;
        let storage = engine.storage().await?;
        let is_missing = |diff_id: &Digest| !parts.layers.contains_key(diff_id);
        let brought = graph.bring(&storage, image_id, diff_ids, parts.config.is_none(), is_missing, sink);
        let brought = brought.await?;
        parts.config = parts.config.or(brought.config);
        parts.layers.extend(brought.layers);
        declined = brought.declined;
        if let Some(declined) = &declined {
            tracing::info!(%image_id, declined, "an image is exported by its engine");
        }
    }
    if !parts.complete() {
        method = Method::DockerSave;
        let mut readings = Rereads::default();
        // What arrived of one export is left out of the next.
        loop {
            match export(engine, image_id).await {
                Ok(content) => match parts.read(content, sink).await {
                    Err(fault) => readings.again(fault)?,
                    Ok(()) => break,
                },
                Err(refused) => {
                    let is_it = |pushed: &Document| is_of(pushed, image_id, diff_ids);
                    return push::delivered(refused, engine, image_id.as_str(), declined, sink, is_it).await;
                }
            }
        }
    }
    let document = parts.manifest()?;
    Ok(Delivery {
        documents: vec![document],
        method,
        declined,
    })
}

// 20.10 knows no better for an image that was removed meanwhile than that a file of its own is missing.
async fn export(engine: &Engine, image_id: &Digest) -> Result<ByteStream<'static>, Fault> {
    let name = image_id.as_str();
    match engine.export(name, None).await {
        Err(_) if matches!(engine.inspect(name).await, Ok(None)) => Err(absent(name)),
        answered => answered,
    }
}

// Whether a manifest is one of the image, whatever form its layers have.
fn is_of(document: &Document, image_id: &Digest, diff_ids: &[Digest]) -> bool {
    let manifest = document.manifest();
    manifest.is_some_and(|manifest| manifest.config.digest == *image_id && manifest.layers.len() == diff_ids.len())
}

// What stands in the destination already.
struct Parts<'a> {
    image_id: &'a Digest,
    diff_ids: &'a [Digest],
    config: Option<u64>,
    layers: HashMap<Digest, Descriptor>,
}

impl<'a> Parts<'a> {
    async fn held(image_id: &'a Digest, diff_ids: &'a [Digest], sink: &dyn BlobSink) -> Result<Self, Fault> {
        let distinct: BTreeSet<Digest> = diff_ids.iter().cloned().collect();
        let layers = async {
            let asked = futures::stream::iter(distinct).map(|diff_id| async move {
                let held = sink.holds_diff(&diff_id).await?;
                Ok::<_, Fault>(held.map(|stored| (diff_id, stored)))
            });
            let answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
            Ok(answers.into_iter().flatten().collect())
        };
        let (config, layers) = futures::try_join!(sink.holds(image_id, None), layers)?;
        Ok(Self {
            image_id,
            diff_ids,
            config,
            layers,
        })
    }

    fn complete(&self) -> bool {
        self.config.is_some() && self.diff_ids.iter().all(|diff_id| self.layers.contains_key(diff_id))
    }

    async fn read(&mut self, export: ByteStream<'static>, sink: &dyn BlobSink) -> Result<(), Fault> {
        let mut archive = Archive::new(export);
        let elder = elder_ids(self.diff_ids);
        while let Some(entry) = archive.next().await? {
            match what(&entry, self.image_id, self.diff_ids, &elder) {
                What::Config if self.config.is_none() => self.take_config(&mut archive, &entry, sink).await?,
                What::Layer(Some(diff_id)) if self.layers.contains_key(&diff_id) => {}
                What::Layer(diff_id) => {
                    let blob = Blob {
                        form: Form::Diff,
                        digest: diff_id,
                        size: Some(entry.size),
                        bytes: archive.content(None),
                    };
                    let landed = sink.take(blob).await;
                    let landed = landed.map_err(|fault| archive.cause(fault))?;
                    if !self.diff_ids.contains(&landed.content) {
                        let message = format!(
                            "the docker engine exported the layer {}, which the image {} does not have; \
                             remove the image there and build or load it again",
                            landed.content, self.image_id
                        );
                        return Err(Fault::retryable(Reason::DigestMismatch, message));
                    }
                    self.layers.insert(landed.content, landed.stored);
                }
                What::Config | What::Other => {}
            }
        }
        Ok(())
    }

    async fn take_config(&mut self, archive: &mut Archive, entry: &Entry, sink: &dyn BlobSink) -> Result<(), Fault> {
        if entry.size > DOCUMENT_LIMIT {
            let message = format!(
                "the configuration of the image {} has {} bytes, more than the {DOCUMENT_LIMIT} that are read",
                self.image_id, entry.size
            );
            return Err(Fault::stalled(Reason::SourceFailed, message));
        }
        let content = archive.whole(None).await?;
        verify(&content, self.image_id)?;
        let blob = Blob {
            form: Form::Exact,
            digest: Some(self.image_id.clone()),
            size: Some(entry.size),
            bytes: futures::stream::iter([Ok(content)]).boxed(),
        };
        sink.take(blob).await?;
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
enum What {
    Config,
    // With its digest, where the name tells.
    Layer(Option<Digest>),
    Other,
}

// Docker 25 and newer name everything `blobs/sha256/<hex>`; elder ones name the configuration
// `<hex>.json` and a layer `<elder id>/layer.tar`. A layer that the image has twice comes once, the second
// time as a link.
fn what(entry: &Entry, image_id: &Digest, diff_ids: &[Digest], elder: &HashMap<String, Digest>) -> What {
    if entry.kind != Kind::File {
        return What::Other;
    }
    if let Some(hex) = entry.path.strip_prefix("blobs/sha256/") {
        if hex == image_id.hex() {
            return What::Config;
        }
        let layer = diff_ids.iter().find(|diff_id| diff_id.hex() == hex);
        return layer.map_or(What::Other, |diff_id| What::Layer(Some(diff_id.clone())));
    }
    if entry.path.strip_suffix(".json") == Some(image_id.hex()) {
        return What::Config;
    }
    match entry.path.strip_suffix("/layer.tar") {
        Some(id) if !id.contains('/') => What::Layer(elder.get(id).cloned()),
        _ => What::Other,
    }
}

/// What moby writes of a layer that is not the topmost, before its chain and parent (image/v1, `CreateID`).
const ELDER_CONFIG: &str = concat!(
    r#"{"container_config":{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"#,
    r#""AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","#,
    r#""Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},"#,
    r#""created":"1970-01-01T00:00:00Z","layer_id":""#
);

// Elder engines name a layer by a hash over its chain, which is known for all but the topmost. A name that is
// found here is a layer for certain, so one that the destination holds need not be compressed to be known. An
// engine whose clock is not UTC makes other names; then nothing is found, and layers are known once hashed.
fn elder_ids(diff_ids: &[Digest]) -> HashMap<String, Digest> {
    let mut ids = HashMap::new();
    let mut chain: Option<Digest> = None;
    let mut parent: Option<Digest> = None;
    for diff_id in diff_ids.split_last().map(|(_, lower)| lower).unwrap_or_default() {
        let link = match &chain {
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        let mut config = format!(r#"{ELDER_CONFIG}{link}""#);
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
    fn elder_names_are_those_of_docker() {
        let diff_ids: Vec<Digest> = [
            "sha256:ec1c40d85cfd173c4371e32735c01619d8e45119b89d4e201942dad745138436",
            "sha256:2ab05fb3dd569e0352cb11d76a88c3de7a2b419979234f1a6423d942509ba660",
            "sha256:ec1c40d85cfd173c4371e32735c01619d8e45119b89d4e201942dad745138436",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        let ids = elder_ids(&diff_ids);
        assert_eq!(ids.len(), 2);
        assert_eq!(
            ids["f885176b938dd959285b69f1ef42aba974f599556966e7d1b22effa5925cf767"],
            diff_ids[0]
        );
        assert_eq!(
            ids["9bb463655339a119a77b76e6d9de3f219340b8181ee4d69912eba4bc44947508"],
            diff_ids[1]
        );
        assert!(elder_ids(&[]).is_empty());
    }
}
