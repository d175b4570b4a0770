//! The files of the operator's image that an installation needs.

use bytes::Bytes;

use super::PackedImage;
use crate::archive::{Archive, LayerFile, layer_files};
use crate::bootstrap::install::{Expose, MANIFESTS_LIMIT};
use crate::fault::{Fault, Reason};

/// The program of the operator.
const PROGRAM: &str = "jackal-operator";
/// The program of the seed.
const SEED: &str = "jackal-seed";
/// The longest program of the operator, in bytes.
const PROGRAM_LIMIT: u64 = 512 << 20;
/// The longest program of a seed, in bytes: that of a ConfigMap.
const SEED_LIMIT: u64 = 1 << 20;

/// What one architecture of nodes needs.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    /// The program of the operator.
    pub program: LayerFile,
    /// The program of the seed.
    pub seed: Bytes,
    /// The objects that expose the registry by a NodePort.
    node_port: Bytes,
    /// The objects that expose it by a proxy.
    node_proxy: Bytes,
}

impl NodeFiles {
    /// The objects of an installation that exposes the registry by `expose`, as YAML.
    pub fn manifests(&self, expose: Expose) -> &Bytes {
        match expose {
            Expose::NodePort => &self.node_port,
            Expose::NodeProxy => &self.node_proxy,
        }
    }
}

/// Reads the files of the operator's image for nodes of `architecture`.
///
/// # Errors
/// A stalled fault that names what the image lacks.
pub async fn node_files(archive: &Archive, operator: &PackedImage, architecture: &str) -> Result<NodeFiles, Fault> {
    let within = |fault: Fault| fault.with_context(format_args!("image `{}` for {architecture}", operator.name));
    let document = operator.manifest(archive, architecture)?;
    let missing = |path: &str| {
        let message = format!("it has no file /{path}, which bootstrap needs; pack an operator's image of a release");
        within(Fault::stalled(Reason::SourceNotFound, message))
    };
    let (node_port, node_proxy) = (Expose::NodePort.manifests(), Expose::NodeProxy.manifests());
    let wanted = [
        (PROGRAM, PROGRAM_LIMIT),
        (SEED, SEED_LIMIT),
        (node_port, MANIFESTS_LIMIT),
        (node_proxy, MANIFESTS_LIMIT),
    ];
    let manifest = document.manifest().ok_or_else(|| missing(PROGRAM))?;
    let mut files = layer_files(archive, manifest, &wanted).await.map_err(within)?;
    let mut content = |path: &str| -> Result<Bytes, Fault> {
        // The limits are below that of what is kept.
        let file = files.remove(path).and_then(|file| file.content);
        file.ok_or_else(|| missing(path))
    };
    let (seed, node_port, node_proxy) = (content(SEED)?, content(node_port)?, content(node_proxy)?);
    Ok(NodeFiles {
        program: files.remove(PROGRAM).ok_or_else(|| missing(PROGRAM))?,
        seed,
        node_port,
        node_proxy,
    })
}
