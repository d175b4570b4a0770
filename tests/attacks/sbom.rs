//! An image takes over the program that scans it. A script in place of the program attempts what an attacker with code
//! execution would, and prints the result.

use futures::FutureExt as _;

use super::{Attack, check};
use crate::docker::engines::required;
use crate::sbom::failures::{fault_of, script};
use crate::sbom::put_alpine;
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::wait::SOON;
use jackal_operator::sbom::Limits;

/// The output of the script `lines`, run in place of syft for an image of `registry`.
async fn output_of(registry: &TestRegistry, lines: &str) -> String {
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let folder = tempfile::tempdir().unwrap();
    // The fault message contains the last output.
    let program = script(folder.path(), &format!("{lines}\nexit 1"));
    fault_of(registry, &image, program, Limits::default()).await.message
}

async fn output_of_script(lines: &str) -> String {
    output_of(&TestRegistry::start(Version::V31), lines).await
}

fn is_refused(output: &str, secret: &str) {
    assert!(!output.contains(secret), "{output}");
    assert!(
        output.contains("ermission denied") || output.contains("not permitted"),
        "{output}"
    );
}

#[tokio::test]
async fn a_compromised_syft_gains_no_access() {
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
                    let output = output_of_script(&format!("cat '{}' >&2", token.display())).await;
                    is_refused(&output, "eyJhbGciOi");
                    let output = output_of_script("cat /etc/shadow >&2").await;
                    is_refused(&output, "root:");
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
                    let output = output_of_script("tr '\\0' ' ' </proc/$PPID/environ >&2").await;
                    is_refused(&output, "PATH=");
                    let output =
                        output_of_script("head -c 1 /proc/$PPID/maps | wc -c >&2; cat /proc/$PPID/maps >&2").await;
                    is_refused(&output, "r-xp");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "looks for the registry's address and credentials in its environment, its arguments and its folder",
            expected: "there are none",
            final_state: "the operator's credentials cannot be used to push",
            run: || {
                async {
                    let login = Options {
                        login: Some(("pusher", "se-cret")),
                        ..Options::default()
                    };
                    let registry = TestRegistry::start_with(Version::V31, login);
                    let all = "(env; echo \"$@\"; cd \"$TMPDIR\"; ls -a; cat *.* image/*.*) 2>/dev/null";
                    let output = output_of(
                        &registry,
                        &format!("found=$( {all} | tr '\\n' ' ')\necho found: $found >&2"),
                    )
                    .await;
                    assert!(output.contains("found: "), "{output}");
                    // The message contains only the beginning of the output, so the script searches too.
                    for part in ["se-cret", "pusher", &registry.host] {
                        let search = format!("{all} | grep -q '{part}' && echo LEAKED >&2 || echo nothing >&2");
                        let output = self::output_of(&registry, &search).await;
                        assert!(
                            output.contains("nothing") && !output.contains("LEAKED"),
                            "{part}: {output}"
                        );
                    }
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "sends what it found by TCP, UDP and to the engine's socket",
            expected: "no socket can be opened",
            final_state: "no data leaves, and no service is reached",
            run: || {
                async {
                    let registry = TestRegistry::start(Version::V31);
                    let way = registry.host.replace(':', "/");
                    for to in [format!("/dev/tcp/{way}"), format!("/dev/udp/{way}")] {
                        let attempt = format!("bash -c 'exec 3<>{to} && echo REACHED >&2'");
                        is_refused(&output_of(&registry, &attempt).await, "REACHED");
                    }
                    let socket = required("JACKAL_DOCKER_CLASSIC");
                    let socket = socket.strip_prefix("unix://").unwrap();
                    let ask = format!("curl -s --unix-socket {socket} http://docker/_ping");
                    let attempt = format!("[ \"$({ask})\" = OK ] && echo REACHED >&2 || echo not permitted >&2");
                    is_refused(&output_of(&registry, &attempt).await, "REACHED");
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
                    is_refused(&output_of_script(&attempt).await, "WRITTEN");
                    assert!(!file.exists());
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "puts a link to the operator's token, or a pipe without a writer, in place of its SBOM",
            expected: "no SBOM, without delay",
            final_state: "the operator reads neither",
            run: || {
                async {
                    let token = tempfile::NamedTempFile::new().unwrap();
                    let link = format!("ln -s '{}' \"$TMPDIR/syft.json\"", token.path().display());
                    for attempt in [link.as_str(), "mkfifo \"$TMPDIR/syft.json\""] {
                        let lines = format!("{attempt} && exit 0");
                        let output = tokio::time::timeout(SOON, output_of_script(&lines))
                            .await
                            .expect("an end");
                        assert!(output.contains("cannot be read: it is not a regular file"), "{output}");
                    }
                }
                .boxed()
            },
        },
        Attack {
            attacker: "builder of an image",
            capabilities: "runs code in place of syft",
            attempt: "kills another process of the operator's user",
            expected: "not permitted",
            final_state: "the process still runs",
            run: || {
                async {
                    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
                    let attempt = format!("kill -KILL {} && echo KILLED >&2", victim.id());
                    let output = output_of_script(&attempt).await;
                    let ended = victim.try_wait().unwrap();
                    victim.kill().unwrap();
                    victim.wait().unwrap();
                    is_refused(&output, "KILLED");
                    assert_eq!(ended, None);
                }
                .boxed()
            },
        },
    ];
    check(ATTACKS).await;
}
