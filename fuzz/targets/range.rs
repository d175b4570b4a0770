//! The ranges that a registry answers with.

#![no_main]

use jackal_operator::registry::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(start) = fuzzing::content_range(text) {
        assert_eq!(fuzzing::content_range(&format!("bytes {start}-{start}/*")), Some(start));
    }
    // One byte is said as none is, and counts as none.
    if let Some(count @ 2..) = fuzzing::range(text) {
        assert_eq!(fuzzing::range(&format!("0-{}", count - 1)), Some(count));
    }
});
