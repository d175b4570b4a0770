//! What the parts do together, against real registries. Run by `make test`, which says where they are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod registry;
mod support;
