//! `WWW-Authenticate` of a registry, one header a line.

#![no_main]

use jackal_operator::registry::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(asked) = fuzzing::challenge(text.lines()) {
        assert!(asked.starts_with("http://") || asked.starts_with("https://"), "{asked}");
    }
});
