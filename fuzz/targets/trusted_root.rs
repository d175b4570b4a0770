//! A trusted root as somebody may have written it, and what is verified by it.

#![no_main]

use jackal_operator::oci::Digest;
use jackal_operator::signing::{Found, Identity, Requirement, Signature, SubjectMatch, TrustedRoot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(trust) = TrustedRoot::parse(json) else { return };
    assert_eq!(trust.digest(), &Digest::of(json));
    let requirement = Requirement {
        keys: Vec::new(),
        identities: vec![Identity {
            issuer: "https://token.actions.githubusercontent.com".to_owned(),
            subject: SubjectMatch::pattern(".*").expect("a pattern"),
        }],
        trust: Some(trust),
    };
    let signed: [&[u8]; 2] = [
        include_bytes!("../../tests/signing/keyless/logged.json"),
        include_bytes!("../../tests/signing/keyless/tiled.json"),
    ];
    for bundle in signed {
        let found = [Found {
            at: Digest::of(bundle),
            signature: Signature::Bundle(bundle.to_vec()),
        }];
        let _ = requirement.verify_image(&Digest::of(b"an image"), &found);
        assert!(requirement.verify_image(&Digest::of(b"never signed"), &found).is_err());
    }
});
