//! Packages: their content and the artifact that contains it.
//!
//! - [`Plan`]: the images that a package needs, and where each is stored
//! - [`Definition`]: the document that Jackal's and Zarf's commands read
//! - [`component`]: the layout of everything besides images, and [`Archive`], the same as a tar
//! - [`Artifact`]: everything that the registry has to contain, computed without IO
//! - [`publish()`]: uploads the artifact; [`assemble`]: everything in order, differential packages and signatures included

mod archive;
mod artifact;
mod assembly;
pub mod component;
mod definition;
mod differential;
mod existing_index;
mod names;
mod packed;
mod plan;
mod provenance;
mod publish;
mod request;
mod requirement;
mod sboms;
mod selection;
mod signature;
mod verification;
mod yaml;

pub use archive::{Archive, Entry, EntrySource, ReusableTars, StoredTar};
pub use artifact::{Artifact, ArtifactContents, ArtifactImage, Mount, SignDefinition};
pub use assembly::{AssembledPackage, PackageParts, assemble};
pub use definition::Definition;
pub use names::NameOwners;
pub use packed::PackedImage;
pub use plan::{Plan, PlannedImage, check_images, package_reference};
pub use provenance::Material;
pub use publish::{PackageContents, PublishedPackage, TransferredImage, publish};
pub use request::ImageRequest;
pub use requirement::{EntryReader, requirements};
pub use sboms::PackageSboms;
pub use selection::{PolicyImage, Selection, has_policies, policy_images, with_selected_tags};
pub use signature::{SignedPackage, attest, sign};
pub use verification::{VerificationCache, VerifiedSource, applicable, verify};
pub use yaml::yaml;

/// The repository of a package's artifact: its name, below `prefix` (may be empty).
pub fn repository(prefix: &str, name: &str) -> String {
    match prefix.trim_matches('/') {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}
