//! The response of a timestamp authority (RFC 3161).

#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jackal_operator::signing::{TrustedRoot, fuzzing};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static TRUST: LazyLock<TrustedRoot> = LazyLock::new(|| {
    TrustedRoot::parse(include_bytes!("../../tests/signing/keyless/trusted_root_tsa.json")).expect("a trusted root")
});
// What was stamped, and when, as the seeds say.
static STAMPED: LazyLock<(Vec<u8>, Vec<Timestamp>)> = LazyLock::new(|| {
    let bundle = include_bytes!("../../tests/signing/keyless/stamped.json");
    let bundle: Value = serde_json::from_slice(bundle).expect("JSON");
    let signature = bundle["dsseEnvelope"]["signatures"][0]["sig"].as_str().expect("a signature");
    let signature = STANDARD.decode(signature).expect("base64");
    let seeds: [&[u8]; 2] = [
        include_bytes!("../seeds/timestamp/stamped"),
        include_bytes!("../seeds/timestamp/tiled"),
    ];
    let times = seeds.iter().filter_map(|seed| fuzzing::timestamp(seed, &signature, &TRUST).ok());
    let times = times.collect();
    (signature, times)
});

fuzz_target!(|token: &[u8]| {
    let (signature, times) = &*STAMPED;
    assert!(!times.is_empty());
    if let Ok(time) = fuzzing::timestamp(token, signature, &TRUST) {
        assert!(times.contains(&time), "{time}");
    }
    assert!(fuzzing::timestamp(token, b"never stamped", &TRUST).is_err());
});
