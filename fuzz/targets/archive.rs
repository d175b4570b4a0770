//! An image's tar, as an engine that breaks off or lies may send it.

#![no_main]

use std::sync::LazyLock;

use jackal_operator::source::docker::fuzzing;
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

const BLOCK: usize = 512;

// Headers whose checksum is wrong end the reading at once, so it is put right: an input has to find the rest.
fn with_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK) {
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        let sum: u32 = (0..BLOCK).map(|at| u32::from(if (148..156).contains(&at) { b' ' } else { block[at] })).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((&how, tar)) = input.split_first() else {
        return Corpus::Reject;
    };
    let mut tar = tar.to_vec();
    if how & 1 == 1 {
        with_checksums(&mut tar);
    }
    let piece = [1, 100, BLOCK, 65_536][usize::from(how >> 1) % 4];
    let _ = RUNTIME.block_on(fuzzing::archive(&tar, piece));
    Corpus::Keep
});
