//! How uncompressed layers are stored.

use serde::{Deserialize, Serialize};

use super::media_type;

/// How layers are stored that have no compressed form yet, which is those of a docker engine. Layers that
/// have one are carried as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Compression {
    /// Uncompressed: the fastest to push and to pull on a network that is no bottleneck.
    #[default]
    None,
    /// gzip, which every runtime reads.
    Gzip,
    /// zstd, which needs containerd 1.5 or docker 23.
    Zstd,
}

impl Compression {
    /// The media type of a layer in that form.
    pub fn layer_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER,
            Self::Gzip => media_type::OCI_LAYER_GZIP,
            Self::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }
}
