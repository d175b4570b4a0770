//! What others made is verified, and what was tampered with is not.

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
    SigningKey::read(made!("plain.key"), None).unwrap()
}

/// `json` with the value at `pointer` changed.
fn changed(json: &[u8], pointer: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut read: Value = serde_json::from_slice(json).unwrap();
    change(read.pointer_mut(pointer).unwrap());
    serde_json::to_vec(&read).unwrap()
}

/// Base64 with one bit of the byte at `at` turned.
fn bent(value: &mut Value, at: usize) {
    let mut bytes = encoding::decode(value.as_str().unwrap()).unwrap();
    bytes[at] ^= 1;
    *value = json!(encoding::encode(&bytes));
}

#[test]
fn a_key_of_cosign_opens_by_its_password_alone() {
    let pem = made!("cosign.key");
    let opened = SigningKey::read(pem, Some(b"secret")).unwrap();
    assert_eq!(opened.public(), &PublicKey::from_pem(made!("cosign.pub")).unwrap());
    assert_eq!(opened.public(), key().public());
    // The label of cosign 1.
    let elder = String::from_utf8(pem.to_vec()).unwrap().replace("SIGSTORE", "COSIGN");
    assert!(SigningKey::read(elder.as_bytes(), Some(b"secret")).is_ok());
    let error = |pem: &[u8], password: Option<&[u8]>| SigningKey::read(pem, password).unwrap_err();
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
fn a_key_that_asks_for_much_memory_is_refused_before_it_gets_it() {
    let encrypted = json!({
        "kdf": { "name": "scrypt", "params": { "N": 1u64 << 32, "r": 8, "p": 1 }, "salt": "AAAA" },
        "cipher": { "name": "nacl/secretbox", "nonce": encoding::encode(&[0; 24]) }, "ciphertext": "AAAA",
    });
    let pem = x509_cert::der::pem::encode_string(
        "ENCRYPTED SIGSTORE PRIVATE KEY",
        x509_cert::der::pem::LineEnding::LF,
        encrypted.to_string().as_bytes(),
    );
    let refused = SigningKey::read(pem.unwrap().as_bytes(), Some(b"x")).unwrap_err();
    assert_eq!(refused, PrivateKeyError::Malformed);
}

#[test]
fn public_keys_are_read_by_their_kind() {
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
fn what_cosign_signed_by_a_key_is_verified() {
    let signed = bundle(made!("image.bundle.json"));
    let by_cosign = by(&[made!("p384.pub"), made!("cosign.pub")]);
    by_cosign.image(&image(), &signed).unwrap();
    let reason = by_cosign.image(&Digest::of(b"another"), &signed).unwrap_err();
    assert!(reason.ends_with("it is about another digest"), "{reason}");
    let reason = by(&[made!("p384.pub")]).image(&image(), &signed).unwrap_err();
    assert!(reason.contains("it is not by the ECDSA P-384 key sha256:"), "{reason}");
    assert_eq!(by_cosign.image(&image(), &[]).unwrap_err(), "it has no signature");
    by_cosign.blob(b"an image", made!("blob.bundle.json")).unwrap();
    assert!(by_cosign.blob(b"another", made!("blob.bundle.json")).is_err());
    // The signature of a file is none of an image of the same digest.
    let reason = by_cosign
        .image(&image(), &bundle(made!("blob.bundle.json")))
        .unwrap_err();
    assert!(
        reason.ends_with("it signs a file and says nothing of an image"),
        "{reason}"
    );
}

#[test]
fn what_is_signed_here_is_verified_and_the_same_each_time() {
    let key = key();
    let sign = || {
        Bundle::of_statement(&key, &Statement::signature(&image()))
            .unwrap()
            .json()
    };
    assert_eq!(sign(), sign());
    let own = by(&[made!("cosign.pub")]);
    own.image(&image(), &bundle(&sign())).unwrap();
    own.blob(b"an image", &Bundle::of_blob(&key, b"an image").json())
        .unwrap();
    // What cosign made of the same differs in nothing but the random part of its signature, and spaces.
    let shape = |json: &[u8]| {
        let mut read: Value = serde_json::from_slice(json).unwrap();
        let envelope = &mut read["dsseEnvelope"];
        let payload = encoding::decode(envelope["payload"].as_str().unwrap()).unwrap();
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        // cosign writes these also where there are none.
        statement["subject"][0].as_object_mut().unwrap().remove("annotations");
        envelope["payload"] = statement;
        envelope["signatures"][0]["sig"].take();
        read
    };
    assert_eq!(shape(&sign()), shape(made!("image.bundle.json")));

    let attested = Statement::new(vec![Subject::of(&image())], "https://slsa.dev/provenance/v1", json!({}));
    let attested = Bundle::of_statement(&key, &attested).unwrap();
    let reason = own.image(&image(), &bundle(&attested.json())).unwrap_err();
    assert!(
        reason.ends_with("it attests `https://slsa.dev/provenance/v1` and signs nothing"),
        "{reason}"
    );
}

#[test]
fn a_tampered_bundle_of_a_key_does_not_count() {
    let own = by(&[made!("cosign.pub")]);
    let json = Bundle::of_statement(&key(), &Statement::signature(&image()))
        .unwrap()
        .json();
    let other = serde_json::to_vec(&Statement::signature(&Digest::of(b"another"))).unwrap();
    let payload = changed(&json, "/dsseEnvelope/payload", |value| {
        *value = json!(encoding::encode(&other))
    });
    assert!(own.image(&Digest::of(b"another"), &bundle(&payload)).is_err());
    for (pointer, at) in [("/dsseEnvelope/payload", 3), ("/dsseEnvelope/signatures/0/sig", 20)] {
        let bent = changed(&json, pointer, |value| bent(value, at));
        assert!(own.image(&image(), &bundle(&bent)).is_err(), "{pointer}");
    }
    for bad in [
        &b"{}"[..],
        b"[",
        b"",
        br#"{"mediaType":"text/plain","verificationMaterial":{}}"#,
    ] {
        assert!(
            own.image(&image(), &bundle(bad))
                .unwrap_err()
                .contains("it is no Sigstore bundle")
        );
    }
}

#[test]
fn signatures_of_cosign_2_are_verified_by_key_and_identity() {
    let root = made!("keyless/trusted_root.json");
    let whole = simple(made!("keyless/simple.json"));
    let without = |key: &str| {
        let mut simple = whole.clone();
        simple.annotations.retain(|name, _| !name.ends_with(key));
        keyless(root).image(&image(), &found(simple))
    };
    // The chain is in the trusted root as well.
    without("/chain").unwrap();
    for (key, why) in [
        ("/signature", "has no annotation"),
        ("/certificate", "made by a key and not by an identity"),
        ("/bundle", "it is in no transparency log"),
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
    let reason = keyless(root).image(&other, &found(tampered.clone())).unwrap_err();
    assert!(reason.contains("does not fit what it is said to sign"), "{reason}");
    assert!(
        keyless(root)
            .image(&image(), &found(tampered))
            .unwrap_err()
            .contains("about another digest")
    );

    let by_key = SimpleSignature {
        annotations: BTreeMap::from([(
            "dev.cosignproject.cosign/signature".to_owned(),
            encoding::encode(&key().sign(&whole.payload)),
        )]),
        payload: whole.payload,
    };
    by(&[made!("cosign.pub")])
        .image(&image(), &found(by_key.clone()))
        .unwrap();
    assert!(by(&[made!("rsa.pub")]).image(&image(), &found(by_key)).is_err());
}

#[test]
fn a_trusted_root_that_proves_nothing_is_refused() {
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
    // A log whose key cannot be used is there all the same: nothing counts that is in no log.
    let logged = made!("keyless/trusted_root.json");
    let json = changed(logged, "/tlogs", |logs| {
        for log in logs.as_array_mut().unwrap() {
            log["publicKey"]["rawBytes"] = json!("AAAA");
        }
    });
    let reason = keyless(&json)
        .image(&image(), &bundle(made!("keyless/tiled.json")))
        .unwrap_err();
    assert!(reason.contains("did not sign"), "{reason}");
}

#[test]
fn two_that_ask_for_the_same_have_the_same_fingerprint() {
    let root = made!("keyless/trusted_root.json");
    assert_eq!(keyless(root).fingerprint(), keyless(root).fingerprint());
    let mut marks = vec![
        keyless(root).fingerprint(),
        keyless(made!("foreign/trusted_root.json")).fingerprint(),
        by(&[made!("cosign.pub")]).fingerprint(),
        by(&[made!("rsa.pub")]).fingerprint(),
        by(&[made!("cosign.pub"), made!("rsa.pub")]).fingerprint(),
    ];
    marks.sort();
    marks.dedup();
    assert_eq!(marks.len(), 5);
}

#[test]
fn a_referrer_is_what_cosign_finds() {
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
