//! Signatures by keys whose validity period has ended or has not begun.

use futures::FutureExt as _;
use serde_json::{Value, json};

use super::{Attack, check};
use crate::signing::keyless::{IDENTITY, ISSUER, signed_image};
use crate::signing::{SigningWorkspace, attach};
use crate::support::registry::{TestRegistry, Version};

/// A validity period in a trusted root.
enum Validity {
    /// It ended a day before the signature.
    Before,
    /// It begins a day after the signature.
    After,
    /// It begins and ends within the second of the signature.
    AtThatSecond,
}

/// The result of `verify` for an image with a signature of the form `form`, by a trusted root whose keys at these
/// pointers have these validity periods.
async fn verified(form: &str, root: &str, counts: &[(&str, Validity)]) -> Result<String, String> {
    let workspace = SigningWorkspace::new();
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/app");
    let document = signed_image(&workspace, &repository, 1).await;
    let json = std::fs::read(workspace.path(&format!("{form}.json"))).unwrap();
    attach(&repository, &document, &json).await;
    let mut trusted: Value = serde_json::from_slice(&std::fs::read(workspace.path(root)).unwrap()).unwrap();
    let day = jiff::SignedDuration::from_hours(24);
    let second = integration_time(&json);
    for (pointer, when) in counts {
        let instances = trusted[*pointer].as_array_mut().unwrap();
        for instance in instances {
            let key = match instance.get("publicKey") {
                Some(_) => &mut instance["publicKey"],
                None => &mut *instance,
            };
            key["validFor"] = match when {
                Validity::Before => json!({ "start": "2020-01-01T00:00:00Z", "end": (second - day).to_string() }),
                Validity::After => json!({ "start": (second + day).to_string() }),
                Validity::AtThatSecond => json!({ "start": second.to_string(), "end": second.to_string() }),
            };
        }
    }
    std::fs::write(workspace.path("root.json"), trusted.to_string()).unwrap();
    let reference = format!("{}/team/app@{}", registry.host, document.digest());
    let identity = ["--identity", IDENTITY, "--issuer", ISSUER, "--trust-root", "root.json"];
    workspace.run_operator(&[&["verify", &reference, "--insecure"], &identity[..]].concat())
}

/// The time of the log entry, or now if the entry has none.
fn integration_time(bundle: &[u8]) -> jiff::Timestamp {
    let bundle: Value = serde_json::from_slice(bundle).unwrap();
    let time = bundle.pointer("/verificationMaterial/tlogEntries/0/integratedTime");
    let seconds = time.and_then(Value::as_str).and_then(|seconds| seconds.parse().ok());
    seconds.map_or_else(jiff::Timestamp::now, |seconds| {
        jiff::Timestamp::from_second(seconds).unwrap()
    })
}

async fn refused(form: &str, root: &str, counts: &[(&str, Validity)], why: &str) {
    let reason = verified(form, root, counts).await.unwrap_err();
    assert!(reason.contains(why), "{reason}");
}

#[tokio::test]
async fn a_key_is_accepted_only_within_its_validity_period() {
    const ROOT: &str = "trusted_root.json";
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "holder of a retired log's key",
            capabilities: "makes entries with proofs of inclusion, which contain no time (Rekor v2)",
            attempt: "a current signature with such an entry and a timestamp",
            expected: "the signature is not accepted",
            final_state: "no image is copied because of it",
            run: || {
                async {
                    let why = "from a time at which the log was not valid";
                    refused("tiled", ROOT, &[("tlogs", Validity::Before)], why).await;
                    refused("tiled", ROOT, &[("tlogs", Validity::After)], why).await;
                }
                .boxed()
            },
        },
        Attack {
            attacker: "holder of a retired log's key",
            capabilities: "makes signed entry timestamps with any time (Rekor v1)",
            attempt: "a signature with such an entry",
            expected: "the signature is not accepted",
            final_state: "no image is copied because of it",
            run: || {
                async {
                    let why = "from a time at which the log was not valid";
                    refused("logged", ROOT, &[("tlogs", Validity::Before)], why).await;
                    refused("logged", ROOT, &[("tlogs", Validity::After)], why).await;
                }
                .boxed()
            },
        },
        Attack {
            attacker: "holder of a retired key of a certificate log, a certificate authority or a timestamp authority",
            capabilities: "signs anything that such a key can sign",
            attempt: "a current signature with it",
            expected: "the signature is not accepted",
            final_state: "no image is copied because of it",
            run: || {
                async {
                    let why = "is not in a certificate log";
                    refused("logged", ROOT, &[("ctlogs", Validity::Before)], why).await;
                    let why = "was not issued by an authority";
                    refused("logged", ROOT, &[("certificateAuthorities", Validity::Before)], why).await;
                    let why = "its timestamp is not from an authority";
                    let authorities = "timestampAuthorities";
                    refused(
                        "stamped",
                        "trusted_root_tsa.json",
                        &[(authorities, Validity::Before)],
                        why,
                    )
                    .await;
                    refused("tiled", ROOT, &[(authorities, Validity::After)], why).await;
                }
                .boxed()
            },
        },
        Attack {
            attacker: "none",
            capabilities: "signs within the validity periods of all keys, including the first and the last second",
            attempt: "a valid signature",
            expected: "it is accepted",
            final_state: "legitimate use still works",
            run: || {
                async {
                    verified("logged", ROOT, &[("tlogs", Validity::AtThatSecond)])
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
