//! How uncompressed layers are stored.

use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, media_type};

/// The annotation of a layer that says which encoder made it, so that no other's output is taken for it.
const ENCODING: &str = "dev.jackal.encoding";

/// How layers are stored that have no compressed form yet, which is those of a docker engine. Layers that
/// have one are carried as they are, and so are those that get no shorter: random bytes, archives, media, the weights of
/// models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Compression {
    /// Uncompressed: the fastest to push and to pull on a network that is no bottleneck, and of another digest only where
    /// the content is another.
    None,
    /// gzip, which every runtime reads.
    Gzip,
    /// zstd, which containerd 1.5, CRI-O 1.20 and docker 23 read, and later ones: the fastest to push and to pull over
    /// networks of any speed, taken together.
    #[default]
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

    /// The descriptor of a layer that we stored in that form. A compressed one says by which encoder, since
    /// others make other bytes of the same content: whoever finds it again knows that the same content gives the
    /// same digest. The number goes up with every change of what the encoder gives, that of its libraries
    /// included; a test holds the digests.
    pub fn layer(self, digest: Digest, size: u64) -> Descriptor {
        self.noted(Descriptor::new(self.layer_type(), digest, size))
    }

    /// The descriptor of a layer that we stored uncompressed because that form makes it no shorter: which layers those
    /// are is told by their content alone. [`Compression::None`] leaves all.
    pub fn left(self, digest: Digest, size: u64) -> Descriptor {
        self.noted(Descriptor::new(Self::None.layer_type(), digest, size))
    }

    fn noted(self, mut layer: Descriptor) -> Descriptor {
        let encoding = match self {
            Self::None => return layer,
            Self::Gzip => "gzip/2",
            Self::Zstd => "zstd/3",
        };
        layer.annotations.insert(ENCODING.to_owned(), encoding.to_owned());
        layer
    }

    /// Whether `layer` is one that we stored in that form, or left as it was.
    pub fn made(self, layer: &Descriptor) -> bool {
        let (digest, size) = (layer.digest.clone(), layer.size);
        *layer == self.layer(digest.clone(), size) || *layer == self.left(digest, size)
    }
}
