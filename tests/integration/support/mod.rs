//! Real components, started for one test and stopped with it.

pub mod api_proxy;
pub mod charts;
pub mod cluster;
pub mod copy;
mod definitions;
pub mod fault_proxy;
pub mod file_server;
pub mod image;
pub mod independent;
pub mod objects;
pub mod operator;
pub mod process;
pub mod registry;
pub mod scripted;
pub mod table;
pub mod throttle;
pub mod wait;
pub mod workspace;

use std::path::PathBuf;

/// The program that `variable` names, such as `JACKAL_BIN_CRANE`.
pub fn program(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => panic!("{variable} is not set: run the tests by `make test`"),
    }
}

/// As the binary's `main` does first.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
