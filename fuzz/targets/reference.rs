//! An image's name, as somebody may have written it.

#![no_main]

use jackal_operator::oci::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else { return };
    let written = reference.to_string();
    let again: Reference = written.parse().expect("what is written can be read");
    assert_eq!(again, reference, "{written}");
    let name = reference.engine_name();
    assert_eq!(name.parse::<Reference>().expect("an engine's name").name(), reference.name(), "{name}");
    let familiar = reference.familiar();
    assert_eq!(familiar.parse::<Reference>().expect("docker's name").name(), reference.name(), "{familiar}");
    assert!(!reference.repository().starts_with('/') && !reference.repository().contains(".."), "{written}");
});
