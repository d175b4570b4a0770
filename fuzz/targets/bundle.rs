//! A signature as whoever writes to a registry may have put it there.

#![no_main]

use std::sync::LazyLock;

use jackal_operator::oci::Digest;
use jackal_operator::signing::{Bundle, Found, Identity, PublicKey, Requirement, Signature, SubjectMatch, TrustedRoot};
use libfuzzer_sys::fuzz_target;

static REQUIREMENT: LazyLock<Requirement> = LazyLock::new(|| Requirement {
    keys: vec![PublicKey::from_pem(include_bytes!("../../tests/signing/cosign.pub")).expect("a key")],
    identities: vec![Identity {
        issuer: "https://token.actions.githubusercontent.com".to_owned(),
        subject: SubjectMatch::pattern("https://github[.]com/acme/.*").expect("a pattern"),
    }],
    trust: Some(
        TrustedRoot::parse(include_bytes!("../../tests/signing/keyless/trusted_root.json")).expect("a trusted root"),
    ),
});

fuzz_target!(|json: &[u8]| {
    let found = [Found {
        at: Digest::of(json),
        signature: Signature::Bundle(json.to_vec()),
    }];
    // The seeds sign another one.
    assert!(REQUIREMENT.verify_image(&Digest::of(b"never signed"), &found).is_err());
    let _ = REQUIREMENT.verify_image(&Digest::of(b"an image"), &found);
    assert!(REQUIREMENT.verify_blob(b"never signed", json).is_err());
    if let Ok(bundle) = Bundle::parse(json) {
        assert_eq!(Bundle::parse(&bundle.json()).expect("what was written can be read"), bundle);
    }
});
