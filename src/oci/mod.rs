//! Names and documents of the OCI image and distribution specifications. No IO.

mod compression;
mod descriptor;
mod digest;
mod host;
mod host_pattern;
mod location;
mod manifest;
pub mod media_type;
mod package;
mod pattern;
mod platform;
mod reference;
mod referrer;
mod select;
mod unknown_fields;

pub use compression::Compression;
pub use descriptor::Descriptor;
pub use digest::{Digest, DigestError, Hasher};
pub use host::{canonical_host, is_host, normalised_host, same_host, split_port, without_default_port};
pub use host_pattern::{HostPattern, HostPatternError};
pub use location::{Location, LocationError, Naming, OmittedTag};
pub use manifest::{
    Content, Document, DocumentError, Index, MANIFEST_LIMIT, MAX_JSON_VALUES, Manifest, distinct_blobs,
    distinct_foreign_layers, total_size,
};
pub use package::PACKAGE_OS;
pub use pattern::matches_pattern;
pub use platform::{Platform, PlatformError, PlatformMatch};
pub use reference::{Reference, ReferenceError};
pub use referrer::{ReferrersPolicy, add_referrer, referrers_tag};
pub use select::{MissingPlatforms, Selection, select, select_by};
pub use unknown_fields::UnknownFields;
