//! The custom resources, group `jackal.dev`.

pub mod schema;
pub mod v1alpha1;
