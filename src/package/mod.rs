//! What a package consists of, and the artifact that holds it.
//!
//! [`Plan`] says which images a package needs and where each lands, [`Definition`] is the document that
//! Jackal's and Zarf's commands read, [`Artifact`] is everything that the registry has to hold, computed
//! without IO, and [`publish`] brings it there.

mod artifact;
mod definition;
mod plan;
mod publish;

pub use artifact::{Artifact, ArtifactImage, Mount};
pub use definition::Definition;
pub use plan::{Plan, PlannedImage, listed};
pub use publish::{BroughtImage, Published, publish};

/// The repository of a package's artifact: its name, below `prefix` (may be empty).
pub fn repository(prefix: &str, name: &str) -> String {
    match prefix.trim_matches('/') {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}
