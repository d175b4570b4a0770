//! Signatures by identities, proven by a log or a timestamp.

use super::*;

#[test]
fn identities_are_proven_by_a_log_or_a_timestamp() {
    let root = made!("keyless/trusted_root.json");
    for json in [made!("keyless/logged.json"), made!("keyless/tiled.json")] {
        keyless(root).verify_image(&image(), &bundle(json)).unwrap();
    }
    keyless(root)
        .verify_image(&image(), &found(simple(made!("keyless/simple.json"))))
        .unwrap();
    let stamped = bundle(made!("keyless/stamped.json"));
    keyless(made!("keyless/trusted_root_tsa.json"))
        .verify_image(&image(), &stamped)
        .unwrap();
    let reason = keyless(root).verify_image(&image(), &stamped).unwrap_err();
    assert!(
        reason.ends_with("it is not in a transparency log of the trusted root"),
        "{reason}"
    );
}

#[test]
fn identities_without_every_proof_are_refused() {
    let root = made!("keyless/trusted_root.json");
    for (json, why) in [
        (
            made!("keyless/expired.json"),
            "was not valid when the signature was made",
        ),
        (made!("keyless/unlisted.json"), "is not in a certificate log"),
        (made!("keyless/foreign.json"), "was not issued by an authority"),
        (
            made!("keyless/misstamped.json"),
            "its timestamp is for another signature",
        ),
        (made!("keyless/forged.json"), "does not match the signed content"),
    ] {
        let reason = keyless(root).verify_image(&image(), &bundle(json)).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
    let reason = keyless(made!("foreign/trusted_root.json"))
        .verify_image(&image(), &bundle(made!("keyless/logged.json")))
        .unwrap_err();
    assert!(
        reason.contains("is not from a transparency log of the trusted root"),
        "{reason}"
    );
    let reason = keyless(root)
        .verify_image(&Digest::of(b"another"), &bundle(made!("keyless/logged.json")))
        .unwrap_err();
    assert!(reason.contains("for another digest"), "{reason}");
    let reason = keyless(root)
        .verify_image(&image(), &bundle(made!("image.bundle.json")))
        .unwrap_err();
    assert!(
        reason.ends_with("it was made with a key and not by an identity"),
        "{reason}"
    );
}

#[test]
fn only_the_required_identity_is_accepted() {
    let logged = bundle(made!("keyless/logged.json"));
    let ask = |issuer: &str, subject: SubjectMatch| {
        let mut requirement = keyless(made!("keyless/trusted_root.json"));
        requirement.identities[0] = Identity {
            issuer: issuer.to_owned(),
            subject,
        };
        requirement.verify_image(&image(), &logged)
    };
    let pattern = |text: &str| SubjectMatch::pattern(text).unwrap();
    ask(ISSUER, pattern("https://github[.]com/acme/.*")).unwrap();
    ask(ISSUER, pattern("a|https://github[.]com/acme/.*")).unwrap();
    for (issuer, subject) in [
        (ISSUER, pattern("https://github[.]com/acme/")),
        (ISSUER, pattern("github[.]com/acme/.*")),
        (ISSUER, SubjectMatch::Exact("https://github.com/acme/app".to_owned())),
        ("https://accounts.google.com", SubjectMatch::Exact(IDENTITY.to_owned())),
    ] {
        let reason = ask(issuer, subject).unwrap_err();
        assert!(
            reason.contains(&format!(
                "it was made by `{IDENTITY}` of {ISSUER}, which is not one of the identities"
            )),
            "{reason}"
        );
    }
    assert!(SubjectMatch::pattern("(").is_err());
    assert!(SubjectMatch::pattern(&"a".repeat(2000)).is_err());
}

#[test]
fn a_tampered_proof_is_refused() {
    let root = made!("keyless/trusted_root.json");
    let entry = "/verificationMaterial/tlogEntries/0";
    let refused = |json: &[u8], pointer: &str, change: &dyn Fn(&mut Value), why: &str| {
        let json = changed(json, pointer, change);
        let reason = keyless(root).verify_image(&image(), &bundle(&json)).unwrap_err();
        assert!(reason.contains(why), "{pointer}: {reason}");
    };
    let logged = made!("keyless/logged.json");
    let bend = |at: usize| move |value: &mut Value| with_flipped_bit(value, at);
    let promise = "an inclusion promise that the log did not sign";
    refused(
        logged,
        &format!("{entry}/inclusionPromise/signedEntryTimestamp"),
        &bend(20),
        promise,
    );
    refused(
        logged,
        &format!("{entry}/integratedTime"),
        &|value| *value = json!("1700000000"),
        promise,
    );
    refused(
        logged,
        &format!("{entry}/logIndex"),
        &|value| *value = json!("7"),
        promise,
    );
    let path = "an inclusion proof that does not lead to the log's root";
    refused(logged, &format!("{entry}/inclusionProof/hashes/0"), &bend(0), path);
    refused(logged, &format!("{entry}/inclusionProof/rootHash"), &bend(0), path);
    refused(
        logged,
        &format!("{entry}/inclusionProof/treeSize"),
        &|value| *value = json!("3"),
        path,
    );
    let unsigned = "a checkpoint that the log did not sign";
    for json in [logged, made!("keyless/tiled.json")] {
        refused(
            json,
            &format!("{entry}/inclusionProof/checkpoint/envelope"),
            &|value| *value = json!(value.as_str().unwrap().replace("\n2\n", "\n3\n")),
            unsigned,
        );
    }
    refused(
        logged,
        entry,
        &|value| {
            value
                .as_object_mut()
                .unwrap()
                .retain(|key, _| !key.starts_with("inclusion"));
        },
        "neither an inclusion promise nor an inclusion proof",
    );
    refused(logged, "/verificationMaterial/certificate/rawBytes", &bend(300), "");
}

#[test]
fn a_tampered_timestamp_is_refused() {
    let root = made!("keyless/trusted_root.json");
    let stamp = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let tiled = made!("keyless/tiled.json");
    let read: Value = serde_json::from_slice(tiled).unwrap();
    let length = encoding::decode(read.pointer(stamp).unwrap().as_str().unwrap())
        .unwrap()
        .len();
    // A flipped bit in the signed part invalidates the timestamp. The unsigned part only says who signed and how, which is
    // known otherwise.
    let mut survived = 0;
    for at in 0..length {
        let json = changed(tiled, stamp, |value| with_flipped_bit(value, at));
        survived += usize::from(keyless(root).verify_image(&image(), &bundle(&json)).is_ok());
    }
    assert!(survived < length / 3, "{survived} of {length}");
    let foreign = {
        let other: Value = serde_json::from_slice(made!("keyless/stamped.json")).unwrap();
        other.pointer(stamp).unwrap().clone()
    };
    // Any timestamp for the same signature is accepted.
    let swapped = changed(tiled, stamp, |value| *value = foreign);
    keyless(root).verify_image(&image(), &bundle(&swapped)).unwrap();
    let bare = changed(tiled, "/verificationMaterial", |value| {
        value.as_object_mut().unwrap().remove("timestampVerificationData");
    });
    let reason = keyless(root).verify_image(&image(), &bundle(&bare)).unwrap_err();
    assert!(reason.contains("its time is not proven"), "{reason}");
}

#[test]
fn an_entry_for_another_signature_is_refused() {
    let root = made!("keyless/trusted_root.json");
    let entries = |json: &[u8]| {
        let read: Value = serde_json::from_slice(json).unwrap();
        read["verificationMaterial"]["tlogEntries"].clone()
    };
    let unlisted = entries(made!("keyless/unlisted.json"));
    let json = changed(
        made!("keyless/logged.json"),
        "/verificationMaterial/tlogEntries",
        |value| *value = unlisted,
    );
    let reason = keyless(root).verify_image(&image(), &bundle(&json)).unwrap_err();
    assert!(reason.contains("its log entry is for another signature"), "{reason}");
}
