//! A layer's tar-split, as whoever made the layer may have written it.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use jackal_operator::source::docker::fuzzing;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

// What a layer may hold: files, one that leads out, one that nobody may wait for.
static LAYER: LazyLock<TempDir> = LazyLock::new(|| {
    let layer = TempDir::new().expect("a directory for the layer");
    let at = |name: &str| layer.path().join(name);
    std::fs::write(at("a"), b"hello").expect("a file");
    std::fs::create_dir(at("d")).expect("a folder");
    std::fs::write(at("d/b"), vec![7; 70_000]).expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", at("out")).expect("a link");
    std::os::unix::fs::symlink("..", at("d/up")).expect("a link");
    layer
});

fuzz_target!(|input: &[u8]| {
    let folder: &Path = LAYER.path();
    // Most inputs are lines, since few bytes are gzip by chance.
    match input.split_first() {
        Some((0, gzip)) => drop(fuzzing::tar_split(gzip, folder)),
        _ => drop(fuzzing::tar_split(&fuzzing::gzip(input), folder)),
    }
});
