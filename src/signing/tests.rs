//! Signatures made by other tools are verified, and tampered ones are refused.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::oci::Digest;

macro_rules! made {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/", $name)).as_slice()
    };
}

mod identities;

const IDENTITY: &str = "https://github.com/acme/app/.github/workflows/release.yaml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

fn image() -> Digest {
    Digest::of(b"an image")
}

fn bundle(json: &[u8]) -> Vec<FoundSignature> {
    vec![FoundSignature {
        at: Digest::of(json),
        signature: Signature::Bundle(json.to_vec()),
    }]
}

fn simple(json: &[u8]) -> SimpleSignature {
    let read: Value = serde_json::from_slice(json).unwrap();
    SimpleSignature {
        payload: encoding::decode(read["payload"].as_str().unwrap()).unwrap(),
        annotations: serde_json::from_value(read["annotations"].clone()).unwrap(),
    }
}

fn found(simple: SimpleSignature) -> Vec<FoundSignature> {
    vec![FoundSignature {
        at: Digest::of(&simple.payload),
        signature: Signature::Simple(simple),
    }]
}

fn keyless(root: &[u8]) -> Requirement {
    Requirement {
        identities: vec![Identity {
            issuer: ISSUER.to_owned(),
            subject: SubjectMatch::Exact(IDENTITY.to_owned()),
        }],
        trust: Some(TrustedRoot::parse(root).unwrap()),
        ..Requirement::default()
    }
}

fn by(keys: &[&[u8]]) -> Requirement {
    Requirement {
        keys: keys.iter().map(|pem| PublicKey::from_pem(pem).unwrap()).collect(),
        ..Requirement::default()
    }
}

fn key() -> SigningKey {
    SigningKey::from_pem(made!("plain.key"), None).unwrap()
}

/// `json` with the value at `pointer` changed.
fn changed(json: &[u8], pointer: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut read: Value = serde_json::from_slice(json).unwrap();
    change(read.pointer_mut(pointer).unwrap());
    serde_json::to_vec(&read).unwrap()
}

/// Base64 with one bit of the byte at `at` flipped.
fn with_flipped_bit(value: &mut Value, at: usize) {
    let mut bytes = encoding::decode(value.as_str().unwrap()).unwrap();
    bytes[at] ^= 1;
    *value = json!(encoding::encode(&bytes));
}

#[test]
fn a_cosign_key_is_decrypted_only_with_its_password() {
    let pem = made!("cosign.key");
    let opened = SigningKey::from_pem(pem, Some(b"secret")).unwrap();
    assert_eq!(opened.public(), &PublicKey::from_pem(made!("cosign.pub")).unwrap());
    assert_eq!(opened.public(), key().public());
    // The label that cosign 1 writes.
    let older = String::from_utf8(pem.to_vec()).unwrap().replace("SIGSTORE", "COSIGN");
    assert!(SigningKey::from_pem(older.as_bytes(), Some(b"secret")).is_ok());
    let error = |pem: &[u8], password: Option<&[u8]>| SigningKey::from_pem(pem, password).unwrap_err();
    assert_eq!(error(pem, Some(b"Secret")), PrivateKeyError::WrongPassword);
    assert_eq!(error(pem, Some(b"")), PrivateKeyError::WrongPassword);
    assert_eq!(error(pem, None), PrivateKeyError::NoPassword);
    assert_eq!(error(b"secret", None), PrivateKeyError::NotPem);
    assert_eq!(
        error(made!("cosign.pub"), None),
        PrivateKeyError::Label("PUBLIC KEY".to_owned())
    );
    let labelled = |label: &str| {
        String::from_utf8(made!("plain.key").to_vec())
            .unwrap()
            .replace("PRIVATE KEY", label)
    };
    assert_eq!(
        error(labelled("ENCRYPTED PRIVATE KEY").as_bytes(), Some(b"x")),
        PrivateKeyError::OtherEncryption
    );
    assert_eq!(
        error(labelled("ENCRYPTED COSIGN PRIVATE KEY").as_bytes(), Some(b"x")),
        PrivateKeyError::Malformed
    );
    assert_eq!(error(made!("p384.key"), None), PrivateKeyError::Kind);
    assert!(!format!("{:?}", key()).contains("BEGIN"));
}

#[test]
fn a_key_that_needs_too_much_memory_is_refused() {
    let encrypted = json!({
        "kdf": { "name": "scrypt", "params": { "N": 1u64 << 32, "r": 8, "p": 1 }, "salt": "AAAA" },
        "cipher": { "name": "nacl/secretbox", "nonce": encoding::encode(&[0; 24]) }, "ciphertext": "AAAA",
    });
    let pem = x509_cert::der::pem::encode_string(
        "ENCRYPTED SIGSTORE PRIVATE KEY",
        x509_cert::der::pem::LineEnding::LF,
        encrypted.to_string().as_bytes(),
    );
    let refused = SigningKey::from_pem(pem.unwrap().as_bytes(), Some(b"x")).unwrap_err();
    assert_eq!(refused, PrivateKeyError::Malformed);
}

#[test]
fn public_keys_of_all_supported_kinds_are_read() {
    for (pem, kind) in [
        (made!("cosign.pub"), "ECDSA P-256"),
        (made!("p384.pub"), "ECDSA P-384"),
        (made!("ed25519.pub"), "Ed25519"),
        (made!("rsa.pub"), "RSA"),
    ] {
        assert_eq!(PublicKey::from_pem(pem).unwrap().kind(), kind);
    }
    assert_eq!(
        PublicKey::from_pem(made!("p521.pub")).unwrap_err(),
        PublicKeyError::Kind
    );
    assert_eq!(
        PublicKey::from_pem(made!("plain.key")).unwrap_err(),
        PublicKeyError::Private
    );
    assert_eq!(PublicKey::from_pem(b"-----BEGIN").unwrap_err(), PublicKeyError::NotPem);
}

#[test]
fn signatures_by_cosign_with_a_key_are_verified() {
    let signed = bundle(made!("image.bundle.json"));
    let by_cosign = by(&[made!("p384.pub"), made!("cosign.pub")]);
    by_cosign.verify_image(&image(), &signed).unwrap();
    let reason = by_cosign.verify_image(&Digest::of(b"another"), &signed).unwrap_err();
    assert!(reason.ends_with("it is for another digest"), "{reason}");
    let reason = by(&[made!("p384.pub")]).verify_image(&image(), &signed).unwrap_err();
    assert!(
        reason.contains("it was not made with the ECDSA P-384 key sha256:"),
        "{reason}"
    );
    assert_eq!(
        by_cosign.verify_image(&image(), &[]).unwrap_err(),
        "it has no signature"
    );
    by_cosign.verify_blob(b"an image", made!("blob.bundle.json")).unwrap();
    assert!(by_cosign.verify_blob(b"another", made!("blob.bundle.json")).is_err());
    // The signature of a file is not a signature of an image with the same digest.
    let reason = by_cosign
        .verify_image(&image(), &bundle(made!("blob.bundle.json")))
        .unwrap_err();
    assert!(reason.ends_with("it signs a file, not an image"), "{reason}");
}

#[test]
fn own_signatures_are_verified_and_deterministic() {
    let key = key();
    let sign = || {
        Bundle::of_statement(&key, &Statement::signature(&image()))
            .unwrap()
            .json()
    };
    assert_eq!(sign(), sign());
    let own = by(&[made!("cosign.pub")]);
    own.verify_image(&image(), &bundle(&sign())).unwrap();
    own.verify_blob(b"an image", &Bundle::of_blob(&key, b"an image").json())
        .unwrap();
    assert_eq!(
        Bundle::of_digest(&key, &image()).unwrap(),
        Bundle::of_blob(&key, b"an image")
    );
    // A bundle by cosign for the same statement differs only in the random part of the signature and in white space.
    let shape = |json: &[u8]| {
        let mut read: Value = serde_json::from_slice(json).unwrap();
        let envelope = &mut read["dsseEnvelope"];
        let payload = encoding::decode(envelope["payload"].as_str().unwrap()).unwrap();
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        // cosign also writes empty annotations.
        statement["subject"][0].as_object_mut().unwrap().remove("annotations");
        envelope["payload"] = statement;
        envelope["signatures"][0]["sig"].take();
        read
    };
    assert_eq!(shape(&sign()), shape(made!("image.bundle.json")));

    let attested = Statement::new(vec![Subject::of(&image())], "https://slsa.dev/provenance/v1", json!({}));
    let attested = Bundle::of_statement(&key, &attested).unwrap();
    let reason = own.verify_image(&image(), &bundle(&attested.json())).unwrap_err();
    assert!(
        reason.ends_with("it is an attestation of type `https://slsa.dev/provenance/v1`, not a signature"),
        "{reason}"
    );
}

#[test]
fn a_tampered_bundle_with_a_key_is_refused() {
    let own = by(&[made!("cosign.pub")]);
    let json = Bundle::of_statement(&key(), &Statement::signature(&image()))
        .unwrap()
        .json();
    let other = serde_json::to_vec(&Statement::signature(&Digest::of(b"another"))).unwrap();
    let payload = changed(&json, "/dsseEnvelope/payload", |value| {
        *value = json!(encoding::encode(&other))
    });
    assert!(own.verify_image(&Digest::of(b"another"), &bundle(&payload)).is_err());
    for (pointer, at) in [("/dsseEnvelope/payload", 3), ("/dsseEnvelope/signatures/0/sig", 20)] {
        let with_flipped_bit = changed(&json, pointer, |value| with_flipped_bit(value, at));
        assert!(
            own.verify_image(&image(), &bundle(&with_flipped_bit)).is_err(),
            "{pointer}"
        );
    }
    for bad in [
        &b"{}"[..],
        b"[",
        b"",
        br#"{"mediaType":"text/plain","verificationMaterial":{}}"#,
    ] {
        assert!(
            own.verify_image(&image(), &bundle(bad))
                .unwrap_err()
                .contains("it is not a Sigstore bundle")
        );
    }
}

#[test]
fn signatures_by_cosign_2_are_verified_by_key_and_identity() {
    let root = made!("keyless/trusted_root.json");
    let whole = simple(made!("keyless/simple.json"));
    let without = |key: &str| {
        let mut simple = whole.clone();
        simple.annotations.retain(|name, _| !name.ends_with(key));
        keyless(root).verify_image(&image(), &found(simple))
    };
    // The chain is in the trusted root as well.
    without("/chain").unwrap();
    for (key, why) in [
        ("/signature", "has no annotation"),
        ("/certificate", "made with a key and not by an identity"),
        ("/bundle", "it is not in a transparency log"),
    ] {
        let reason = without(key).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
    let payload = String::from_utf8(whole.payload.clone()).unwrap();
    let other = Digest::of(b"another");
    let tampered = SimpleSignature {
        payload: payload.replace(image().as_str(), other.as_str()).into_bytes(),
        ..whole.clone()
    };
    let reason = keyless(root)
        .verify_image(&other, &found(tampered.clone()))
        .unwrap_err();
    assert!(reason.contains("does not match the signed content"), "{reason}");
    assert!(
        keyless(root)
            .verify_image(&image(), &found(tampered))
            .unwrap_err()
            .contains("for another digest")
    );

    let by_key = SimpleSignature {
        annotations: BTreeMap::from([(
            "dev.cosignproject.cosign/signature".to_owned(),
            encoding::encode(&key().sign(&whole.payload)),
        )]),
        payload: whole.payload,
    };
    by(&[made!("cosign.pub")])
        .verify_image(&image(), &found(by_key.clone()))
        .unwrap();
    assert!(by(&[made!("rsa.pub")]).verify_image(&image(), &found(by_key)).is_err());
}

#[test]
fn an_incomplete_trusted_root_is_refused() {
    let root = made!("keyless/trusted_root_tsa.json");
    let without = |field: &str| {
        let json = changed(root, "", |value| {
            value.as_object_mut().unwrap().remove(field);
        });
        TrustedRoot::parse(&json).unwrap_err()
    };
    assert_eq!(without("certificateAuthorities"), TrustedRootError::NoAuthority);
    assert_eq!(without("timestampAuthorities"), TrustedRootError::NoTime);
    assert!(matches!(without("mediaType"), TrustedRootError::Malformed(_)));
    assert!(matches!(TrustedRoot::parse(b"no"), Err(TrustedRootError::Malformed(_))));
    // A log with an unsupported key still requires that signatures are in a log.
    let logged = made!("keyless/trusted_root.json");
    let json = changed(logged, "/tlogs", |logs| {
        for log in logs.as_array_mut().unwrap() {
            log["publicKey"]["rawBytes"] = json!("AAAA");
        }
    });
    let reason = keyless(&json)
        .verify_image(&image(), &bundle(made!("keyless/tiled.json")))
        .unwrap_err();
    assert!(reason.contains("did not sign"), "{reason}");
}

#[test]
fn equal_requirements_have_equal_fingerprints() {
    let root = made!("keyless/trusted_root.json");
    assert_eq!(keyless(root).fingerprint(), keyless(root).fingerprint());
    let mut fingerprints = vec![
        keyless(root).fingerprint(),
        keyless(made!("foreign/trusted_root.json")).fingerprint(),
        by(&[made!("cosign.pub")]).fingerprint(),
        by(&[made!("rsa.pub")]).fingerprint(),
        by(&[made!("cosign.pub"), made!("rsa.pub")]).fingerprint(),
    ];
    let by_identity = |issuer: &str, subject: SubjectMatch| {
        let issuer = issuer.to_owned();
        let identities = vec![Identity { issuer, subject }];
        Requirement {
            identities,
            ..Requirement::default()
        }
    };
    let exact = |issuer: &str, subject: &str| by_identity(issuer, SubjectMatch::Exact(subject.to_owned()));
    fingerprints.extend([
        exact("c", "a of b").fingerprint(),
        exact("b of c", "a").fingerprint(),
        exact("c", "/.*/").fingerprint(),
        by_identity("c", SubjectMatch::pattern(".*").unwrap()).fingerprint(),
    ]);
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 9);
}

#[test]
fn the_referrer_has_the_format_of_cosign() {
    let subject = crate::oci::Descriptor::new(crate::oci::media_type::OCI_MANIFEST, image(), 8);
    let statement = Statement::signature(&image());
    let bundle = Bundle::of_statement(&key(), &statement).unwrap();
    let referrer = Referrer::of(&subject, &statement.predicate_type, &bundle).unwrap();
    let json: Value = serde_json::from_slice(&referrer.document.raw).unwrap();
    assert_eq!(json["artifactType"], BUNDLE);
    assert_eq!(
        json["config"]["digest"],
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    );
    assert_eq!(json["subject"]["digest"], image().as_str());
    assert_eq!(json["annotations"]["dev.sigstore.bundle.predicateType"], SIGN_PREDICATE);
    let layer: Digest = json["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(referrer.blobs[&layer], bundle.json());
    assert_eq!(referrer.blobs.len(), 2);
}

#[test]
fn a_bundle_says_whether_a_key_or_an_identity_signed() {
    for (json, keyless) in [
        (made!("image.bundle.json"), false),
        (made!("blob.bundle.json"), false),
        (made!("keyless/logged.json"), true),
        (made!("keyless/stamped.json"), true),
    ] {
        assert_eq!(Bundle::parse(json).unwrap().is_keyless(), keyless);
    }
}
