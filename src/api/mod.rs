//! The custom resources, group `jackal.dev`.

pub mod v1alpha1;
