//! The parts together with the real ones around them: registries, docker engines, an API server. Run by
//! `make test`, which starts them and says where they are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod docker;
mod package;
mod registry;
mod support;
