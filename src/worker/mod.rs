//! Moving images that stand as objects: of registries, or of this node.

mod claim;
mod concurrency;
mod context;
mod prepare;
mod reconcile;
mod record;
mod task;
mod transfer;

pub use reconcile::run;
