//! What a package consists of, and the artifact that holds it.
//!
//! [`Plan`] says which images a package needs and where each lands, [`Definition`] is the document that
//! Jackal's and Zarf's commands read, [`component`] lays out what it holds beside images, [`Archive`] is that as a tar,
//! [`Artifact`] is everything that the registry has to hold, computed without IO, and [`publish`] brings it there.

mod archive;
mod artifact;
mod assembly;
pub mod component;
mod definition;
mod differential;
mod names;
mod packed;
mod plan;
mod provenance;
mod publish;
mod recipe;
mod request;
mod requirement;
mod sboms;
mod selection;
mod signature;
mod verification;
mod yaml;

pub use archive::{Archive, Entry, EntrySource, ReusableTars, StoredTar};
pub use artifact::{Artifact, ArtifactContents, ArtifactImage, Mount, SignDefinition};
pub use definition::Definition;
pub use names::Names;
pub use packed::PackedImage;
pub use plan::{Plan, PlannedImage, check_images, listed};
pub use provenance::Material;
pub use publish::{PackageContents, Published, TransferredImage, publish};
pub use recipe::{BuildHost, BuiltPackage, Recipe, SbomProgress, build_package};
pub use request::ImageRequest;
pub use requirement::{EntryReader, requirements};
pub use sboms::PackageSboms;
pub use selection::{PolicyImage, Selection, effective, followed, follows};
pub use signature::{SignedPackage, attest, sign};
pub use verification::{SignatureStore, Stored, VerificationCache, VerifiedSource, applicable, verify};
pub use yaml::yaml;

/// The repository of a package's artifact: its name, below `prefix` (may be empty).
pub fn repository(prefix: &str, name: &str) -> String {
    match prefix.trim_matches('/') {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}
