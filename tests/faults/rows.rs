//! The table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::rules::{
    MEBIBYTE, break_in_layer, carries_layer, empty_response, is_write, once_then, periodic_failures, reads_blob,
    reads_manifest, reads_upload_status, retry_after, shifted_range, token_protected, too_large,
};
use super::{Outcome, Row};
use crate::support::fault_proxy::{Action, FaultProxy, first};
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::RecordedRequest;

/// The registries.
pub struct Registries {
    pub source: TestRegistry,
    pub destination: Arc<TestRegistry>,
    /// A registry that is restarted.
    pub restarted: Arc<TestRegistry>,
    /// Other hosts, which forward to the source and to the destination.
    pub elsewhere: [Arc<FaultProxy>; 2],
}

impl Registries {
    /// Starts them.
    pub fn start() -> Self {
        let source = TestRegistry::start(Version::V31);
        let destination = TestRegistry::start(Version::V31);
        let elsewhere =
            [&source, &destination].map(|registry| Arc::new(FaultProxy::to(&registry.host, |_| Action::Pass)));
        Self {
            source,
            destination: Arc::new(destination),
            restarted: Arc::new(TestRegistry::start(Version::V31)),
            elsewhere,
        }
    }

    /// A row with a proxy before the source.
    fn before_source(
        &self,
        name: &'static str,
        outcome: Outcome,
        rule: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static,
    ) -> Row {
        Row {
            name,
            proxy: FaultProxy::to(&self.source.host, rule),
            source: true,
            destination: Arc::clone(&self.destination),
            layer: 3 << 20,
            spec: json!({}),
            outcome,
            holds: Box::new(|_| {}),
            counts: false,
        }
    }

    /// A row with a proxy before the destination.
    fn before_destination(
        &self,
        name: &'static str,
        outcome: Outcome,
        rule: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static,
    ) -> Row {
        Row {
            proxy: FaultProxy::to(&self.destination.host, rule),
            source: false,
            ..self.before_source(name, outcome, |_| Action::Pass)
        }
    }
}

impl Row {
    fn layer(mut self, layer: usize) -> Self {
        self.layer = layer;
        self
    }

    fn spec(mut self, spec: Value) -> Self {
        self.spec = spec;
        self
    }

    fn holds(mut self, holds: impl Fn(&FaultProxy) + 'static) -> Self {
        self.holds = Box::new(holds);
        self
    }

    /// Nothing is restarted: there is one upload for each of the two blobs.
    fn upload_is_resumed(self) -> Self {
        self.upload_count(2)
    }

    fn upload_count(mut self, upload_faults: usize) -> Self {
        let name = self.name;
        self.counts = true;
        self.holds(move |proxy| {
            assert_eq!(
                proxy.count("POST", "/uploads/"),
                upload_faults,
                "{name}: {:#?}",
                proxy.requests()
            )
        })
    }
}

fn fault(reason: &'static str, words: &[&'static str]) -> Outcome {
    Outcome::Fault(reason, words.to_vec())
}

/// Every fault.
pub fn rows(registries: &Registries) -> Vec<Row> {
    let mut rows = upload_faults(registries);
    rows.extend(download_faults(registries));
    rows.extend(read_and_write_faults(registries));
    rows
}

fn upload_faults(registries: &Registries) -> Vec<Row> {
    let restarted = Arc::clone(&registries.restarted);
    let restart = move || {
        let registry = Arc::clone(&restarted);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            registry.restart();
        });
        break_in_layer()
    };
    let elsewhere = Arc::clone(&registries.elsewhere[1]);
    let other = elsewhere.host.clone();
    vec![
        registries
            .before_destination(
                "reset-upload",
                Outcome::Nothing,
                first(1, carries_layer, break_in_layer),
            )
            .upload_is_resumed(),
        registries
            .before_destination(
                "reset-upload-often",
                Outcome::Nothing,
                first(4, carries_layer, || Action::BreakRequest(600_000)),
            )
            .upload_is_resumed(),
        registries
            .before_destination(
                "refused-after-n-bytes",
                Outcome::Nothing,
                first(3, carries_layer, || empty_response(500)),
            )
            .upload_is_resumed(),
        registries.before_destination("session-lost", Outcome::Nothing, {
            let lost = AtomicUsize::new(0);
            once_then(carries_layer, break_in_layer, move |seen| {
                match reads_upload_status(seen) && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                    true => empty_response(404),
                    false => Action::Pass,
                }
            })
        }),
        registries
            .before_destination("session-lost-late", Outcome::Nothing, {
                let lost = AtomicUsize::new(0);
                once_then(
                    carries_layer,
                    || Action::BreakRequest(20 * MEBIBYTE),
                    move |seen| match reads_upload_status(seen) && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                        true => empty_response(404),
                        false => Action::Pass,
                    },
                )
            })
            .layer(24 << 20)
            .upload_count(3),
        registries
            .before_destination(
                "answer-lost",
                Outcome::Nothing,
                first(1, carries_layer, || Action::LoseAnswer),
            )
            .upload_is_resumed(),
        registries.before_destination("offset-lies-once", Outcome::Nothing, {
            once_then(
                carries_layer,
                break_in_layer,
                first(1, reads_upload_status, || shifted_range(-70_000)),
            )
        }),
        registries.before_destination("offset-lies-always", Outcome::Nothing, {
            once_then(carries_layer, break_in_layer, |seen| {
                if reads_upload_status(seen) {
                    shifted_range(-70_000)
                } else {
                    Action::Pass
                }
            })
        }),
        registries.before_destination("offset-lies-ahead", Outcome::Nothing, {
            once_then(carries_layer, break_in_layer, |seen| {
                if reads_upload_status(seen) {
                    shifted_range(100_000_000)
                } else {
                    Action::Pass
                }
            })
        }),
        registries
            .before_destination(
                "token-ends",
                Outcome::Nothing,
                token_protected(carries_layer, first(1, carries_layer, break_in_layer)),
            )
            .upload_is_resumed(),
        registries
            .before_destination("cut-by-time", Outcome::Nothing, |seen| match carries_layer(seen) {
                true => Action::Cut(20 * MEBIBYTE, Duration::from_secs(1)),
                false => Action::Pass,
            })
            .layer(24 << 20),
        registries
            .before_destination("too-large-for-a-proxy", Outcome::Nothing, too_large(4 * MEBIBYTE))
            .layer(12 << 20),
        registries.before_destination(
            "too-large-always",
            fault("PushFailed", &["413", "raise the limit of the registry or its proxy"]),
            too_large(100),
        ),
        registries
            .before_destination(
                "stuck-upload",
                fault("TimedOut", &["cannot push to", "made no progress for 1 s"]),
                |seen| match carries_layer(seen) {
                    true => Action::StallRequest(MEBIBYTE, Duration::from_secs(5)),
                    false => Action::Pass,
                },
            )
            .layer(24 << 20)
            .spec(json!({ "stallTimeout": "1s" })),
        Row {
            proxy: FaultProxy::to(&registries.restarted.host, first(1, carries_layer, restart)),
            destination: Arc::clone(&registries.restarted),
            ..registries.before_destination("restarted", Outcome::Nothing, |_| Action::Pass)
        },
        registries
            .before_destination(
                "upload-elsewhere",
                Outcome::Nothing,
                token_protected(
                    |_| false,
                    move |seen| match seen.method == "POST" {
                        true => {
                            let (own, other) = (seen.headers["host"].clone(), other.clone());
                            Action::Header("location", Box::new(move |location| location.replace(&own, &other)))
                        }
                        false => Action::Pass,
                    },
                ),
            )
            .holds(move |_| assert_no_token_sent(&elsewhere, "PUT")),
    ]
}

fn assert_no_token_sent(elsewhere: &FaultProxy, method: &str) {
    let seen = elsewhere.requests();
    assert!(seen.iter().any(|seen| seen.method == method), "{seen:#?}");
    assert!(
        !seen.iter().any(|seen| seen.headers.contains_key("authorization")),
        "{seen:#?}"
    );
}

fn download_faults(registries: &Registries) -> Vec<Row> {
    let elsewhere = Arc::clone(&registries.elsewhere[0]);
    let other = elsewhere.host.clone();
    let endless = |path: &'static str, status: u16| {
        move |seen: &RecordedRequest| match seen.path.contains(path) {
            true => Action::Endless(status),
            false => Action::Pass,
        }
    };
    let altered = "check for a proxy that alters content";
    vec![
        registries.before_source(
            "reset-download",
            Outcome::Nothing,
            first(2, reads_blob, || Action::BreakAnswer(MEBIBYTE)),
        ),
        registries.before_source(
            "truncated",
            fault("DigestMismatch", &["cannot read", "bytes, but received", altered]),
            |seen| {
                if reads_blob(seen) {
                    Action::Truncate(50)
                } else {
                    Action::Pass
                }
            },
        ),
        registries.before_source(
            "other-content",
            fault("DigestMismatch", &["cannot read", "but the content has", altered]),
            |seen| {
                if reads_blob(seen) {
                    Action::Flip(20)
                } else {
                    Action::Pass
                }
            },
        ),
        registries.before_source(
            "lying-digest",
            fault("DigestMismatch", &["cannot read", "but the content has", altered]),
            |seen| match reads_manifest(seen) {
                true => Action::Header(
                    "docker-content-digest",
                    Box::new(|_| format!("sha256:{}", "0".repeat(64))),
                ),
                false => Action::Pass,
            },
        ),
        registries.before_source(
            "endless-manifest",
            fault(
                "SourceFailed",
                &["cannot read", "the response is longer than the limit of"],
            ),
            endless("/manifests/", 200),
        ),
        registries.before_source(
            "endless-error",
            fault("SourceFailed", &["cannot read", "the registry answered 400"]),
            endless("/manifests/", 400),
        ),
        Row {
            proxy: FaultProxy::with(
                &registries.source.host,
                {
                    let (token, guard) = (endless("/token", 200), token_protected(|_| false, |_| Action::Pass));
                    move |seen| match token(seen) {
                        Action::Pass => guard(seen),
                        endless => endless,
                    }
                },
                token_protected(|_| false, |_| Action::Pass),
            ),
            ..registries.before_source(
                "endless-token",
                fault(
                    "AuthenticationFailed",
                    &["/token: the response is longer than the limit of"],
                ),
                |_| Action::Pass,
            )
        },
        registries
            .before_source(
                "trickle",
                fault(
                    "TimedOut",
                    &[
                        "cannot read",
                        "made no progress for 1 s",
                        "check the registry and the network",
                    ],
                ),
                |seen| match reads_blob(seen) {
                    true => Action::Trickle(50, Duration::from_secs(3)),
                    false => Action::Pass,
                },
            )
            .spec(json!({ "stallTimeout": "1s" })),
        registries
            .before_source(
                "blob-elsewhere",
                Outcome::Nothing,
                token_protected(
                    |_| false,
                    move |seen| match reads_blob(seen) {
                        true => {
                            let location = format!("http://{other}{}", seen.path);
                            Action::Answer(307, vec![("Location", location)], String::new())
                        }
                        false => Action::Pass,
                    },
                ),
            )
            .holds(move |_| assert_no_token_sent(&elsewhere, "GET")),
    ]
}

fn read_and_write_faults(registries: &Registries) -> Vec<Row> {
    let delay = |_: &RecordedRequest| Action::Delay(Duration::from_millis(200));
    vec![
        registries.before_source("latency-reading", Outcome::Nothing, delay),
        registries.before_destination("latency-writing", Outcome::Nothing, delay),
        registries.before_source(
            "patience-reading",
            Outcome::Nothing,
            first(2, |_| true, || retry_after(1)),
        ),
        registries.before_destination(
            "patience-writing",
            Outcome::Nothing,
            first(2, is_write, || retry_after(1)),
        ),
        registries.before_destination(
            "patience-for-long",
            Outcome::Waits(
                "RateLimited",
                vec!["the registry answered 429 TOOMANYREQUESTS", "retried automatically"],
            ),
            |seen| if is_write(seen) { retry_after(120) } else { Action::Pass },
        ),
        registries.before_source("burst-reading", Outcome::Nothing, periodic_failures()),
        registries.before_destination("burst-writing", Outcome::Nothing, periodic_failures()),
        registries.before_source(
            "down-reading",
            fault(
                "RegistryUnavailable",
                &["cannot read", "503", "check that the registry is running"],
            ),
            |_| empty_response(503),
        ),
        registries.before_destination(
            "down-writing",
            fault(
                "RegistryUnavailable",
                &["cannot push to", "502", "check that the registry is running"],
            ),
            |seen| {
                if is_write(seen) {
                    empty_response(502)
                } else {
                    Action::Pass
                }
            },
        ),
        registries.before_destination(
            "failing-writes",
            fault("PushFailed", &["cannot push to", "the registry answered 500"]),
            |seen| {
                if carries_layer(seen) {
                    empty_response(500)
                } else {
                    Action::Pass
                }
            },
        ),
    ]
}
