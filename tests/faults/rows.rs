//! The table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::rules::{
    MEBIBYTE, answers, asks_patience, asks_status, breaks, burst, carries, guarded, lying, once_then, reads_blob,
    reads_manifest, too_large, writes,
};
use super::{Row, Sees};
use crate::support::faulty::Seen;
use crate::support::front::{Act, Front, first};
use crate::support::registry::{TestRegistry, Version};

/// The registries.
pub struct World {
    pub source: TestRegistry,
    pub destination: Arc<TestRegistry>,
    /// One that is restarted.
    pub restarted: Arc<TestRegistry>,
    /// Another host, which leads to the source and to the destination.
    pub elsewhere: [Arc<Front>; 2],
}

impl World {
    /// Starts them.
    pub fn start() -> Self {
        let source = TestRegistry::start(Version::V31);
        let destination = TestRegistry::start(Version::V31);
        let elsewhere = [&source, &destination].map(|registry| Arc::new(Front::to(&registry.host, |_| Act::Pass)));
        Self {
            source,
            destination: Arc::new(destination),
            restarted: Arc::new(TestRegistry::start(Version::V31)),
            elsewhere,
        }
    }

    /// A row before the source.
    fn reading(&self, name: &'static str, sees: Sees, rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Row {
        Row {
            name,
            front: Front::to(&self.source.host, rule),
            source: true,
            destination: Arc::clone(&self.destination),
            layer: 3 << 20,
            spec: json!({}),
            sees,
            holds: Box::new(|_| {}),
            counts: false,
        }
    }

    /// A row before the destination.
    fn writing(&self, name: &'static str, sees: Sees, rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Row {
        Row {
            front: Front::to(&self.destination.host, rule),
            source: false,
            ..self.reading(name, sees, |_| Act::Pass)
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

    fn holds(mut self, holds: impl Fn(&Front) + 'static) -> Self {
        self.holds = Box::new(holds);
        self
    }

    /// Nothing was begun again: there is one upload for each of the two blobs.
    fn gone_on_with(self) -> Self {
        self.begun(2)
    }

    fn begun(mut self, uploads: usize) -> Self {
        let name = self.name;
        self.counts = true;
        self.holds(move |front| assert_eq!(front.count("POST", "/uploads/"), uploads, "{name}: {:#?}", front.seen()))
    }
}

fn fault(reason: &'static str, words: &[&'static str]) -> Sees {
    Sees::Fault(reason, words.to_vec())
}

/// Every fault.
pub fn rows(world: &World) -> Vec<Row> {
    let mut rows = uploads(world);
    rows.extend(downloads(world));
    rows.extend(both(world));
    rows
}

fn uploads(world: &World) -> Vec<Row> {
    let restarted = Arc::clone(&world.restarted);
    let restart = move || {
        let registry = Arc::clone(&restarted);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            registry.restart();
        });
        breaks()
    };
    let elsewhere = Arc::clone(&world.elsewhere[1]);
    let other = elsewhere.host.clone();
    vec![
        world
            .writing("reset-upload", Sees::Nothing, first(1, carries, breaks))
            .gone_on_with(),
        world
            .writing(
                "reset-upload-often",
                Sees::Nothing,
                first(4, carries, || Act::BreakRequest(600_000)),
            )
            .gone_on_with(),
        world
            .writing(
                "refused-after-n-bytes",
                Sees::Nothing,
                first(3, carries, || answers(500)),
            )
            .gone_on_with(),
        world.writing("session-lost", Sees::Nothing, {
            let lost = AtomicUsize::new(0);
            once_then(carries, breaks, move |seen| {
                match asks_status(seen) && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                    true => answers(404),
                    false => Act::Pass,
                }
            })
        }),
        world
            .writing("session-lost-late", Sees::Nothing, {
                let lost = AtomicUsize::new(0);
                once_then(
                    carries,
                    || Act::BreakRequest(20 * MEBIBYTE),
                    move |seen| match asks_status(seen) && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                        true => answers(404),
                        false => Act::Pass,
                    },
                )
            })
            .layer(24 << 20)
            .begun(3),
        world
            .writing("answer-lost", Sees::Nothing, first(1, carries, || Act::LoseAnswer))
            .gone_on_with(),
        world.writing("offset-lies-once", Sees::Nothing, {
            once_then(carries, breaks, first(1, asks_status, || lying(-70_000)))
        }),
        world.writing("offset-lies-always", Sees::Nothing, {
            once_then(carries, breaks, |seen| {
                if asks_status(seen) { lying(-70_000) } else { Act::Pass }
            })
        }),
        world.writing("offset-lies-ahead", Sees::Nothing, {
            once_then(carries, breaks, |seen| {
                if asks_status(seen) {
                    lying(100_000_000)
                } else {
                    Act::Pass
                }
            })
        }),
        world
            .writing("token-ends", Sees::Nothing, guarded(carries, first(1, carries, breaks)))
            .gone_on_with(),
        world
            .writing("cut-by-time", Sees::Nothing, |seen| match carries(seen) {
                true => Act::Cut(20 * MEBIBYTE, Duration::from_secs(1)),
                false => Act::Pass,
            })
            .layer(24 << 20),
        world
            .writing("too-large-for-a-proxy", Sees::Nothing, too_large(4 * MEBIBYTE))
            .layer(12 << 20),
        world.writing(
            "too-large-always",
            fault("PushFailed", &["413", "raise the limit of the registry or its proxy"]),
            too_large(100),
        ),
        world
            .writing(
                "stuck-upload",
                fault("TimedOut", &["cannot push to", "made no progress for 1 s"]),
                |seen| match carries(seen) {
                    true => Act::StallRequest(MEBIBYTE, Duration::from_secs(5)),
                    false => Act::Pass,
                },
            )
            .layer(24 << 20)
            .spec(json!({ "stallTimeout": "1s" })),
        Row {
            front: Front::to(&world.restarted.host, first(1, carries, restart)),
            destination: Arc::clone(&world.restarted),
            ..world.writing("restarted", Sees::Nothing, |_| Act::Pass)
        },
        world
            .writing(
                "upload-elsewhere",
                Sees::Nothing,
                guarded(
                    |_| false,
                    move |seen| match seen.method == "POST" {
                        true => {
                            let (own, other) = (seen.headers["host"].clone(), other.clone());
                            Act::Header("location", Box::new(move |location| location.replace(&own, &other)))
                        }
                        false => Act::Pass,
                    },
                ),
            )
            .holds(move |_| went_without_token(&elsewhere, "PUT")),
    ]
}

fn went_without_token(elsewhere: &Front, method: &str) {
    let seen = elsewhere.seen();
    assert!(seen.iter().any(|seen| seen.method == method), "{seen:#?}");
    assert!(
        !seen.iter().any(|seen| seen.headers.contains_key("authorization")),
        "{seen:#?}"
    );
}

fn downloads(world: &World) -> Vec<Row> {
    let elsewhere = Arc::clone(&world.elsewhere[0]);
    let other = elsewhere.host.clone();
    let endless = |path: &'static str, status: u16| {
        move |seen: &Seen| match seen.path.contains(path) {
            true => Act::Endless(status),
            false => Act::Pass,
        }
    };
    let altered = "check for a proxy that alters content";
    vec![
        world.reading(
            "reset-download",
            Sees::Nothing,
            first(2, reads_blob, || Act::BreakAnswer(MEBIBYTE)),
        ),
        world.reading(
            "truncated",
            fault("DigestMismatch", &["cannot read", "bytes, but received", altered]),
            |seen| if reads_blob(seen) { Act::Truncate(50) } else { Act::Pass },
        ),
        world.reading(
            "other-content",
            fault("DigestMismatch", &["cannot read", "but the content has", altered]),
            |seen| if reads_blob(seen) { Act::Flip(20) } else { Act::Pass },
        ),
        world.reading(
            "lying-digest",
            fault("DigestMismatch", &["cannot read", "but the content has", altered]),
            |seen| match reads_manifest(seen) {
                true => Act::Header(
                    "docker-content-digest",
                    Box::new(|_| format!("sha256:{}", "0".repeat(64))),
                ),
                false => Act::Pass,
            },
        ),
        world.reading(
            "endless-manifest",
            fault(
                "SourceFailed",
                &["cannot read", "the response is longer than the limit of"],
            ),
            endless("/manifests/", 200),
        ),
        world.reading(
            "endless-error",
            fault("SourceFailed", &["cannot read", "the registry answered 400"]),
            endless("/manifests/", 400),
        ),
        Row {
            front: Front::with(
                &world.source.host,
                {
                    let (token, guard) = (endless("/token", 200), guarded(|_| false, |_| Act::Pass));
                    move |seen| match token(seen) {
                        Act::Pass => guard(seen),
                        endless => endless,
                    }
                },
                guarded(|_| false, |_| Act::Pass),
            ),
            ..world.reading(
                "endless-token",
                fault(
                    "AuthenticationFailed",
                    &["/token: the response is longer than the limit of"],
                ),
                |_| Act::Pass,
            )
        },
        world
            .reading(
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
                    true => Act::Trickle(50, Duration::from_secs(3)),
                    false => Act::Pass,
                },
            )
            .spec(json!({ "stallTimeout": "1s" })),
        world
            .reading(
                "blob-elsewhere",
                Sees::Nothing,
                guarded(
                    |_| false,
                    move |seen| match reads_blob(seen) {
                        true => {
                            let location = format!("http://{other}{}", seen.path);
                            Act::Answer(307, vec![("Location", location)], String::new())
                        }
                        false => Act::Pass,
                    },
                ),
            )
            .holds(move |_| went_without_token(&elsewhere, "GET")),
    ]
}

fn both(world: &World) -> Vec<Row> {
    let delay = |_: &Seen| Act::Delay(Duration::from_millis(200));
    vec![
        world.reading("latency-reading", Sees::Nothing, delay),
        world.writing("latency-writing", Sees::Nothing, delay),
        world.reading(
            "patience-reading",
            Sees::Nothing,
            first(2, |_| true, || asks_patience(1)),
        ),
        world.writing("patience-writing", Sees::Nothing, first(2, writes, || asks_patience(1))),
        world.writing(
            "patience-for-long",
            Sees::Waits(
                "RateLimited",
                vec!["the registry answered 429 TOOMANYREQUESTS", "retried automatically"],
            ),
            |seen| if writes(seen) { asks_patience(120) } else { Act::Pass },
        ),
        world.reading("burst-reading", Sees::Nothing, burst()),
        world.writing("burst-writing", Sees::Nothing, burst()),
        world.reading(
            "down-reading",
            fault(
                "RegistryUnavailable",
                &["cannot read", "503", "check that the registry is running"],
            ),
            |_| answers(503),
        ),
        world.writing(
            "down-writing",
            fault(
                "RegistryUnavailable",
                &["cannot push to", "502", "check that the registry is running"],
            ),
            |seen| if writes(seen) { answers(502) } else { Act::Pass },
        ),
        world.writing(
            "failing-writes",
            fault("PushFailed", &["cannot push to", "the registry answered 500"]),
            |seen| if carries(seen) { answers(500) } else { Act::Pass },
        ),
    ]
}
