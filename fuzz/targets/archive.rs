//! An image's tar, as an engine that breaks off or lies may send it.

#![no_main]

#[path = "shared/checksums.rs"]
mod checksums;

use std::sync::LazyLock;

use jackal_operator::source::docker::fuzzing;
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((&how, tar)) = input.split_first() else {
        return Corpus::Reject;
    };
    let mut tar = tar.to_vec();
    if how & 1 == 1 {
        checksums::put_right(&mut tar);
    }
    let piece = [1, 100, checksums::BLOCK, 65_536][usize::from(how >> 1) % 4];
    let _ = RUNTIME.block_on(fuzzing::archive(&tar, piece));
    Corpus::Keep
});
