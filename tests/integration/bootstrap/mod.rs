//! The installation of a cluster that has no registry.

mod export;
mod preflight;
