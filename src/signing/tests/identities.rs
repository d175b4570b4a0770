//! Signatures of identities, which a log or a timestamp proves.

use super::*;

#[test]
fn identities_count_by_a_log_or_by_a_timestamp() {
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
        reason.ends_with("it is in no transparency log, and the trusted root has one"),
        "{reason}"
    );
}

#[test]
fn identities_do_not_count_without_every_proof() {
    let root = made!("keyless/trusted_root.json");
    for (json, why) in [
        (made!("keyless/expired.json"), "was not valid when it was signed"),
        (made!("keyless/unlisted.json"), "is in no certificate log"),
        (made!("keyless/foreign.json"), "was given by no authority"),
        (
            made!("keyless/misstamped.json"),
            "its timestamp is of another signature",
        ),
        (made!("keyless/forged.json"), "does not fit what it is said to sign"),
    ] {
        let reason = keyless(root).verify_image(&image(), &bundle(json)).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
    let reason = keyless(made!("foreign/trusted_root.json"))
        .verify_image(&image(), &bundle(made!("keyless/logged.json")))
        .unwrap_err();
    assert!(
        reason.contains("is of no transparency log of the trusted root"),
        "{reason}"
    );
    let reason = keyless(root)
        .verify_image(&Digest::of(b"another"), &bundle(made!("keyless/logged.json")))
        .unwrap_err();
    assert!(reason.contains("about another digest"), "{reason}");
    let reason = keyless(root)
        .verify_image(&image(), &bundle(made!("image.bundle.json")))
        .unwrap_err();
    assert!(
        reason.ends_with("it was made by a key and not by an identity"),
        "{reason}"
    );
}

#[test]
fn only_the_identity_that_is_asked_for_counts() {
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
                "it is by `{IDENTITY}` of {ISSUER}, who is none of the identities"
            )),
            "{reason}"
        );
    }
    assert!(SubjectMatch::pattern("(").is_err());
    assert!(SubjectMatch::pattern(&"a".repeat(2000)).is_err());
}

#[test]
fn a_tampered_proof_does_not_count() {
    let root = made!("keyless/trusted_root.json");
    let entry = "/verificationMaterial/tlogEntries/0";
    let refused = |json: &[u8], pointer: &str, change: &dyn Fn(&mut Value), why: &str| {
        let json = changed(json, pointer, change);
        let reason = keyless(root).verify_image(&image(), &bundle(&json)).unwrap_err();
        assert!(reason.contains(why), "{pointer}: {reason}");
    };
    let logged = made!("keyless/logged.json");
    let bend = |at: usize| move |value: &mut Value| bent(value, at);
    let promise = "a promise that the log did not give";
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
    let path = "a proof that does not lead to the log's root";
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
        "neither a promise nor a proof",
    );
    refused(logged, "/verificationMaterial/certificate/rawBytes", &bend(300), "");
    let stamp = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let tiled = made!("keyless/tiled.json");
    let read: Value = serde_json::from_slice(tiled).unwrap();
    let length = encoding::decode(read.pointer(stamp).unwrap().as_str().unwrap())
        .unwrap()
        .len();
    // Wherever a bit is turned of what is signed, there is no time any more. What is not signed says who signed, and how,
    // which is known besides.
    let mut survived = 0;
    for at in 0..length {
        let json = changed(tiled, stamp, |value| bent(value, at));
        survived += usize::from(keyless(root).verify_image(&image(), &bundle(&json)).is_ok());
    }
    assert!(survived < length / 3, "{survived} of {length}");
    let foreign = {
        let other: Value = serde_json::from_slice(made!("keyless/stamped.json")).unwrap();
        other.pointer(stamp).unwrap().clone()
    };
    // A timestamp of the same signature is as good as another.
    let swapped = changed(tiled, stamp, |value| *value = foreign);
    keyless(root).verify_image(&image(), &bundle(&swapped)).unwrap();
    let bare = changed(tiled, "/verificationMaterial", |value| {
        value.as_object_mut().unwrap().remove("timestampVerificationData");
    });
    let reason = keyless(root).verify_image(&image(), &bundle(&bare)).unwrap_err();
    assert!(reason.contains("nobody says when it was made"), "{reason}");
}

#[test]
fn an_entry_of_another_signature_does_not_count() {
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
    assert!(reason.contains("its log entry is of another signature"), "{reason}");
}
