//! A chart as its repository may send it, or the index of a repository.

#![no_main]

#[path = "shared/checksums.rs"]
mod checksums;

use std::sync::LazyLock;

use jackal_operator::fetch::fuzzing;
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|input: &[u8]| -> Corpus {
    match input.split_first() {
        None => return Corpus::Reject,
        Some((0, tar)) => {
            let mut tar = tar.to_vec();
            checksums::put_right(&mut tar);
            let _ = RUNTIME.block_on(fuzzing::images(&tar));
        }
        Some((_, index)) => {
            let _ = fuzzing::listed(&String::from_utf8_lossy(index), "web", "1.0.0");
        }
    }
    Corpus::Keep
});
