//! An image takes over the program that looks into it. The program is played by a script that tries what somebody would
//! who runs code there, and tells what came of it.

use futures::FutureExt as _;

use super::{Attack, check};
use crate::docker::engines::required;
use crate::sbom::bad::{fault_of, script};
use crate::sbom::put_alpine;
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::wait::SOON;
use jackal_operator::sbom::Limits;

/// What the script `lines` tells, after it ran in place of syft over an image of `registry`.
async fn told(registry: &TestRegistry, lines: &str) -> String {
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let folder = tempfile::tempdir().unwrap();
    // What it says last is what the message holds.
    let program = script(folder.path(), &format!("{lines}\nexit 1"));
    fault_of(registry, &image, program, Limits::default()).await.message
}

async fn told_anywhere(lines: &str) -> String {
    told(&TestRegistry::start(Version::V31), lines).await
}

fn is_refused(told: &str, secret: &str) {
    assert!(!told.contains(secret), "{told}");
    assert!(
        told.contains("ermission denied") || told.contains("not permitted"),
        "{told}"
    );
}

#[tokio::test]
async fn whoever_takes_over_syft_has_nothing() {
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "reads the ServiceAccount's token and other files of the operator",
            expected: "permission denied",
            final_state: "the token stays with the operator",
            run: || {
                async {
                    let folder = tempfile::tempdir().unwrap();
                    let token = folder.path().join("token");
                    std::fs::write(&token, "eyJhbGciOi").unwrap();
                    let told = told_anywhere(&format!("cat '{}' >&2", token.display())).await;
                    is_refused(&told, "eyJhbGciOi");
                    let told = told_anywhere("cat /etc/shadow >&2").await;
                    is_refused(&told, "root:");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "reads the environment and the memory of the operator",
            expected: "permission denied",
            final_state: "the credentials in them stay with the operator",
            run: || {
                async {
                    let told = told_anywhere("tr '\\0' ' ' </proc/$PPID/environ >&2").await;
                    is_refused(&told, "PATH=");
                    let told = told_anywhere("head -c 1 /proc/$PPID/maps | wc -c >&2; cat /proc/$PPID/maps >&2").await;
                    is_refused(&told, "r-xp");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "looks for the registry's address and credentials in its environment, its arguments and its folder",
            expected: "there are none",
            final_state: "nobody pushes by the operator's credentials",
            run: || {
                async {
                    let login = Options {
                        login: Some(("pusher", "se-cret")),
                        ..Options::default()
                    };
                    let registry = TestRegistry::start_with(Version::V31, login);
                    let all = "(env; echo \"$@\"; cd \"$TMPDIR\"; ls -a; cat *.* image/*.*) 2>/dev/null";
                    let told = told(
                        &registry,
                        &format!("found=$( {all} | tr '\\n' ' ')\necho found: $found >&2"),
                    )
                    .await;
                    assert!(told.contains("found: "), "{told}");
                    // The message holds the beginning alone, so the script looks as well.
                    for part in ["se-cret", "pusher", &registry.host] {
                        let search = format!("{all} | grep -q '{part}' && echo LEAKED >&2 || echo nothing >&2");
                        let told = self::told(&registry, &search).await;
                        assert!(told.contains("nothing") && !told.contains("LEAKED"), "{part}: {told}");
                    }
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "sends what it found by TCP, UDP and to the engine's socket",
            expected: "no socket is opened",
            final_state: "nothing leaves, and no service is reached",
            run: || {
                async {
                    let registry = TestRegistry::start(Version::V31);
                    let way = registry.host.replace(':', "/");
                    for to in [format!("/dev/tcp/{way}"), format!("/dev/udp/{way}")] {
                        let attempt = format!("bash -c 'exec 3<>{to} && echo REACHED >&2'");
                        is_refused(&told(&registry, &attempt).await, "REACHED");
                    }
                    let socket = required("JACKAL_DOCKER_CLASSIC");
                    let socket = socket.strip_prefix("unix://").unwrap();
                    let ask = format!("curl -s --unix-socket {socket} http://docker/_ping");
                    let attempt = format!("[ \"$({ask})\" = OK ] && echo REACHED >&2 || echo not permitted >&2");
                    is_refused(&told(&registry, &attempt).await, "REACHED");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "writes outside its folder, such as into the folder of another run",
            expected: "permission denied",
            final_state: "nothing is written there",
            run: || {
                async {
                    let folder = tempfile::tempdir().unwrap();
                    let file = folder.path().join("other");
                    let attempt = format!("echo x >'{0}' && echo WRITTEN >&2", file.display());
                    is_refused(&told_anywhere(&attempt).await, "WRITTEN");
                    assert!(!file.exists());
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "puts a link to the operator's token, or a pipe that nobody writes to, where its SBOM should be",
            expected: "no SBOM, and soon",
            final_state: "the operator reads neither",
            run: || {
                async {
                    let token = tempfile::NamedTempFile::new().unwrap();
                    let link = format!("ln -s '{}' \"$TMPDIR/syft.json\"", token.path().display());
                    for attempt in [link.as_str(), "mkfifo \"$TMPDIR/syft.json\""] {
                        let lines = format!("{attempt} && exit 0");
                        let told = tokio::time::timeout(SOON, told_anywhere(&lines)).await.expect("an end");
                        assert!(told.contains("cannot be read: it is not a regular file"), "{told}");
                    }
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "ends another process of the operator's user",
            expected: "not permitted",
            final_state: "the process runs",
            run: || {
                async {
                    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
                    let attempt = format!("kill -KILL {} && echo KILLED >&2", victim.id());
                    let told = told_anywhere(&attempt).await;
                    let ended = victim.try_wait().unwrap();
                    victim.kill().unwrap();
                    victim.wait().unwrap();
                    is_refused(&told, "KILLED");
                    assert_eq!(ended, None);
                }
                .boxed()
            },
        },
    ];
    check(ATTACKS).await;
}
