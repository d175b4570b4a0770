//! The engine against real parts: registries, docker engines, an API server.

mod docker;
