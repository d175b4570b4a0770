//! An archive that somebody carries into the network: a file of `pack`, a package, an OCI archive or a file of `docker save`.

#![no_main]

#[path = "shared/checksums.rs"]
mod checksums;

use std::sync::LazyLock;

use jackal_operator::archive::fuzzing;
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

// The first byte says whether the checksums of the tar are put right, so that more than its first header is read.
fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((&how, file)) = input.split_first() else {
        return Corpus::Reject;
    };
    let mut file = file.to_vec();
    if how & 1 == 1 {
        checksums::put_right(&mut file);
    }
    let _ = RUNTIME.block_on(fuzzing::open(&file));
    Corpus::Keep
});
