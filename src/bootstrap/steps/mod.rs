//! The steps of an installation. Each looks at the cluster first, so that a repetition continues, or does nothing.
//!
//! Nodes pull at the same address from the seed and from the registry. So the images of the archive are first served by seeds; when
//! the registry runs and holds them, the nodes' Service is made (or their proxies take the port when the seeds are gone), and the seeds
//! are deleted. Where the registry serves already, it takes the images of another archive before the objects change, and no seed is
//! needed.

mod begin;
mod images;
mod prepare;
mod run;
mod seeds;
mod settings;
mod upload;

use std::time::Duration;

pub use self::begin::{Begin, Wanted, begin};
pub use self::prepare::{Prepared, prepare};
pub use self::run::{Bootstrap, SeedRequest, Seeds};
pub use self::seeds::NodeSeeds;
pub use self::settings::{Settings, StorageFlags, storage_of};
pub use self::upload::Uploaded;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// What the cluster lacks is found before anything is changed.
    Preflight,
    /// The images of the operator and the registry are served on, or imported into, each node.
    Seed,
    /// The objects are applied.
    Objects,
    /// The registry starts.
    Registry,
    /// The images and packages of the archive are uploaded.
    Upload,
    /// The nodes have the images of another version.
    Images,
    /// The nodes pull from the registry.
    Nodes,
    /// The seed is deleted.
    Cleanup,
    /// The operator starts.
    Operator,
    /// All steps are done.
    Finished,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Preflight,
        Self::Seed,
        Self::Objects,
        Self::Registry,
        Self::Upload,
        Self::Images,
        Self::Nodes,
        Self::Cleanup,
        Self::Operator,
        Self::Finished,
    ];

    /// The name, in the ConfigMap and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Seed => "seed",
            Self::Objects => "objects",
            Self::Registry => "registry",
            Self::Upload => "upload",
            Self::Images => "images",
            Self::Nodes => "nodes",
            Self::Cleanup => "cleanup",
            Self::Operator => "operator",
            Self::Finished => "finished",
        }
    }

    /// The step of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// A step that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneStep {
    /// The step.
    pub step: Step,
    /// How long it took.
    pub elapsed: Duration,
    /// What was done.
    pub what: String,
}

/// Sees the steps.
pub trait Observer: Send + Sync {
    /// A step begins.
    fn begins(&self, step: Step);
    /// A step ended.
    fn done(&self, done: &DoneStep);
    /// Something that a user should know.
    fn note(&self, text: &str);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_their_names() {
        for step in Step::ALL {
            assert_eq!(Step::named(step.name()), Some(step));
        }
        assert_eq!(Step::named("other"), None);
    }
}
