//! A certificate with its chain, each behind its length in two bytes.

#![no_main]

use std::sync::LazyLock;

use jackal_operator::signing::{TrustedRoot, fuzzing};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

static TRUST: LazyLock<TrustedRoot> = LazyLock::new(|| {
    TrustedRoot::parse(include_bytes!("../../tests/signing/keyless/trusted_root.json")).expect("a trusted root")
});
// When the seeds were signed, in seconds of the Unix epoch.
const SIGNED: i64 = 1_795_720_689;

fn certificates(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((&[high, low], rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        found.push(rest[..length].to_vec());
        input = &rest[length..];
        if found.len() == 8 {
            break;
        }
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let certificates = certificates(input);
    let Some((leaf, between)) = certificates.split_first() else { return };
    let signed = Timestamp::from_second(SIGNED).expect("a time");
    let _ = fuzzing::chain(leaf, between, &TRUST, signed);
    // Long after the only certificate of the authorities had ended.
    assert!(fuzzing::chain(leaf, between, &TRUST, Timestamp::MAX).is_err());
});
