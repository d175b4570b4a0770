//! Keys that no longer count sign, or did not count yet.

use futures::FutureExt as _;
use serde_json::{Value, json};

use super::{Attack, check};
use crate::signing::keyless::{IDENTITY, ISSUER, signed_image};
use crate::signing::{Person, attach};
use crate::support::registry::{TestRegistry, Version};

/// A period of a trusted root.
enum Counts {
    /// It ended a day before anything was signed.
    Before,
    /// It begins a day after everything was signed.
    After,
    /// It ends and begins within the second of the signature.
    AtThatSecond,
}

/// What `verify` says of an image whose signature is of the form `form`, by a trusted root whose keys at these pointers count
/// then.
async fn verified(form: &str, root: &str, counts: &[(&str, Counts)]) -> Result<String, String> {
    let person = Person::new();
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/app");
    let document = signed_image(&person, &repository, 1).await;
    let json = std::fs::read(person.path(&format!("{form}.json"))).unwrap();
    attach(&repository, &document, &json).await;
    let mut trusted: Value = serde_json::from_slice(&std::fs::read(person.path(root)).unwrap()).unwrap();
    let day = jiff::SignedDuration::from_hours(24);
    let second = integrated(&json);
    for (pointer, when) in counts {
        let instances = trusted[*pointer].as_array_mut().unwrap();
        for instance in instances {
            let key = match instance.get("publicKey") {
                Some(_) => &mut instance["publicKey"],
                None => &mut *instance,
            };
            key["validFor"] = match when {
                Counts::Before => json!({ "start": "2020-01-01T00:00:00Z", "end": (second - day).to_string() }),
                Counts::After => json!({ "start": (second + day).to_string() }),
                Counts::AtThatSecond => json!({ "start": second.to_string(), "end": second.to_string() }),
            };
        }
    }
    std::fs::write(person.path("root.json"), trusted.to_string()).unwrap();
    let reference = format!("{}/team/app@{}", registry.host, document.digest());
    let identity = ["--identity", IDENTITY, "--issuer", ISSUER, "--trust-root", "root.json"];
    person.ours(&[&["verify", &reference, "--insecure"], &identity[..]].concat())
}

/// When the log took it, where it says so; else about now.
fn integrated(bundle: &[u8]) -> jiff::Timestamp {
    let bundle: Value = serde_json::from_slice(bundle).unwrap();
    let said = bundle.pointer("/verificationMaterial/tlogEntries/0/integratedTime");
    let seconds = said.and_then(Value::as_str).and_then(|seconds| seconds.parse().ok());
    seconds.map_or_else(jiff::Timestamp::now, |seconds| {
        jiff::Timestamp::from_second(seconds).unwrap()
    })
}

async fn refused(form: &str, root: &str, counts: &[(&str, Counts)], why: &str) {
    let reason = verified(form, root, counts).await.unwrap_err();
    assert!(reason.contains(why), "{reason}");
}

#[tokio::test]
async fn a_key_counts_within_its_period_alone() {
    const ROOT: &str = "trusted_root.json";
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "holder of a retired log's key",
            capabilities: "makes entries with proofs of inclusion, which hold no time (Rekor v2)",
            attempt: "a signature with such an entry and a timestamp of today",
            expected: "the signature does not count",
            final_state: "no image is brought by it",
            run: || {
                async {
                    let why = "from a time at which the log was not valid";
                    refused("tiled", ROOT, &[("tlogs", Counts::Before)], why).await;
                    refused("tiled", ROOT, &[("tlogs", Counts::After)], why).await;
                }
                .boxed()
            },
        },
        Attack {
            attacker: "holder of a retired log's key",
            capabilities: "promises to keep entries, at any time (Rekor v1)",
            attempt: "a signature with such an entry",
            expected: "the signature does not count",
            final_state: "no image is brought by it",
            run: || {
                async {
                    let why = "from a time at which the log was not valid";
                    refused("logged", ROOT, &[("tlogs", Counts::Before)], why).await;
                    refused("logged", ROOT, &[("tlogs", Counts::After)], why).await;
                }
                .boxed()
            },
        },
        Attack {
            attacker: "holder of a retired key of a certificate log, a certificate authority or a timestamp authority",
            capabilities: "signs whatever such a key signs",
            attempt: "a signature of today with it",
            expected: "the signature does not count",
            final_state: "no image is brought by it",
            run: || {
                async {
                    let why = "is not in a certificate log";
                    refused("logged", ROOT, &[("ctlogs", Counts::Before)], why).await;
                    let why = "was not issued by an authority";
                    refused("logged", ROOT, &[("certificateAuthorities", Counts::Before)], why).await;
                    let why = "its timestamp is not from an authority";
                    let authorities = "timestampAuthorities";
                    refused(
                        "stamped",
                        "trusted_root_tsa.json",
                        &[(authorities, Counts::Before)],
                        why,
                    )
                    .await;
                    refused("tiled", ROOT, &[(authorities, Counts::After)], why).await;
                }
                .boxed()
            },
        },
        Attack {
            attacker: "nobody",
            capabilities: "signs within the periods of all keys, the first and the last second included",
            attempt: "a signature that counts",
            expected: "it counts",
            final_state: "legitimate use keeps working",
            run: || {
                async {
                    verified("logged", ROOT, &[("tlogs", Counts::AtThatSecond)])
                        .await
                        .unwrap();
                    verified("tiled", ROOT, &[]).await.unwrap();
                }
                .boxed()
            },
        },
    ];
    check(ATTACKS).await;
}
