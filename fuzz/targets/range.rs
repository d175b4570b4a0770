//! The ranges that a registry answers with.

#![no_main]

use jackal_operator::registry::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(start) = fuzzing::content_range(text) {
        assert_eq!(fuzzing::content_range(&format!("bytes {start}-{start}/*")), Some(start));
    }
});
