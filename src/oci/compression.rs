//! Compression of layers that the source has uncompressed.

use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, media_type};

/// The annotation that names the encoder of a layer, so that output of other encoders is not mistaken for it.
const ENCODING: &str = "dev.jackal.encoding";

/// Compression of layers that have no compressed form yet, such as those of a docker engine. Compressed layers are
/// copied unchanged. Layers that do not get smaller stay uncompressed: random bytes, archives, media, model weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Compression {
    /// Uncompressed: the fastest to push and pull on a fast network. The digest depends only on the content.
    None,
    /// gzip, which every runtime supports.
    Gzip,
    /// zstd, which containerd 1.5, CRI-O 1.20, docker 23 and later versions support: the fastest to push and pull over
    /// most networks.
    #[default]
    Zstd,
}

impl Compression {
    /// The media type of a layer with this compression.
    pub fn layer_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER,
            Self::Gzip => media_type::OCI_LAYER_GZIP,
            Self::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }

    /// The descriptor of a layer that was stored with this compression. For a compressed layer it names the encoder,
    /// since other encoders produce other bytes: an existing layer with the same annotation has the digest that
    /// encoding the same content again would give. The version number increases with every change of the output,
    /// including changes of the libraries; a test checks the digests.
    pub fn layer(self, digest: Digest, size: u64) -> Descriptor {
        self.with_encoding(Descriptor::new(self.layer_type(), digest, size))
    }

    /// The descriptor of a layer that was stored uncompressed because this compression does not make it smaller, which
    /// depends only on its content. [`Compression::None`] stores all layers uncompressed.
    pub fn uncompressed_layer(self, digest: Digest, size: u64) -> Descriptor {
        self.with_encoding(Descriptor::new(Self::None.layer_type(), digest, size))
    }

    fn with_encoding(self, mut layer: Descriptor) -> Descriptor {
        let encoding = match self {
            Self::None => return layer,
            Self::Gzip => "gzip/2",
            Self::Zstd => "zstd/3",
        };
        layer.annotations.insert(ENCODING.to_owned(), encoding.to_owned());
        layer
    }

    /// Whether `layer` was stored with this compression, or uncompressed because it does not get smaller.
    pub fn has_encoded(self, layer: &Descriptor) -> bool {
        let (digest, size) = (layer.digest.clone(), layer.size);
        *layer == self.layer(digest.clone(), size) || *layer == self.uncompressed_layer(digest, size)
    }
}
