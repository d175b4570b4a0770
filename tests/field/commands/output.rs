//! The output of commands, and its destination.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use super::{Workspace, empty, stderr, stdout};
use crate::field::{Case, check};
use crate::support::process;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_follow_output_conventions() {
    check(&[
        Case {
            report: "sharkdp/fd#24",
            input: "a reader that closes the pipe, as head does",
            expected: "no panic, and no error message",
            run: || {
                Box::pin(async {
                    let folder = Workspace::with(empty("shop"));
                    for arguments in ["crd", "completion bash", "build shop.yaml --to oci:out", "--help"] {
                        // The other end is closed before anything is written.
                        let (reader, writer) = std::io::pipe().unwrap();
                        drop(reader);
                        let mut command = folder.command(&arguments.split(' ').collect::<Vec<_>>());
                        let output = command.stdout(writer).output().unwrap();
                        assert_eq!(stderr(&output), "", "{arguments}");
                        assert_eq!(output.status.code(), Some(0), "{arguments}");
                    }
                    // Both streams at once, as in `2>&1 | head`.
                    let (reader, writer) = std::io::pipe().unwrap();
                    drop(reader);
                    let mut command = folder.command(&["build", "nowhere.yaml", "--to", "oci:out"]);
                    command.stdout(writer.try_clone().unwrap());
                    assert_eq!(command.stderr(writer).status().unwrap().code(), Some(2));
                })
            },
        },
        Case {
            report: "GNU coreutils, \"echo x > /dev/full\"",
            input: "a full disk",
            expected: "a failure that says so",
            run: || {
                Box::pin(async {
                    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
                    let output = Workspace::new().command(&["crd"]).stdout(full).output().unwrap();
                    assert_eq!(output.status.code(), Some(1));
                    let message = stderr(&output);
                    assert!(
                        message.contains("No space left on device") && !message.contains("panicked"),
                        "{message}"
                    );
                })
            },
        },
        Case {
            report: "podman-container-tools/skopeo#1366",
            input: "build --to oci:DIR",
            expected: "names as skopeo accepts them, without a registry address",
            run: || {
                Box::pin(async {
                    let folder = Workspace::with(empty("shop"));
                    let output = folder.run(&["build", "shop.yaml", "--to", "oci:out"]);
                    let message = stdout(&output);
                    assert!(message.contains("oci:out:shop:1.4.0 is sha256:"), "{message}");
                    assert!(message.contains("skopeo copy --all oci:out:shop:1.4.0 "), "{message}");
                    assert!(!message.contains("127.0.0.1"), "{message}");
                    let report = folder.build_shop();
                    assert_eq!(report["layout"], "out");
                    assert_eq!(report["reference"], "oci:out:shop:1.4.0");
                    assert!(!report.to_string().contains("127.0.0.1"), "{report}");
                    let output = folder.run(&["build", "shop.yaml", "--to", "oci:out:shop:1"]);
                    assert_eq!(output.status.code(), Some(2));
                    assert!(
                        stderr(&output).contains("write oci:out without :shop:1"),
                        "{}",
                        stderr(&output)
                    );
                })
            },
        },
        Case {
            report: "bash reference manual, \"Programmable Completion\"",
            input: "completion for each shell",
            expected: "a script that contains the commands",
            run: || {
                Box::pin(async {
                    let folder = Workspace::new();
                    for shell in ["bash", "zsh", "fish", "powershell"] {
                        let output = folder.run(&["completion", shell]);
                        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
                        assert!(stdout(&output).contains("insecure-registry"), "{shell}");
                    }
                })
            },
        },
        Case {
            report: "bash reference manual, \"Signals\"",
            input: "Ctrl-C while a command waits for standard input",
            expected: "it ends immediately, without a log line",
            run: || {
                Box::pin(async {
                    let folder = Workspace::new();
                    for arguments in [&["convert", "-"][..], &["build", "-", "--to", "oci:out"]] {
                        let mut child = folder.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
                        let mut input = child.stdin.take().unwrap();
                        // More than a pipe can hold: once it is written, the command has begun to read.
                        input.write_all(&[b'#'; 200_000]).unwrap();
                        let id = child.id().to_string();
                        process::run("kill", &["-INT", &id]);
                        let output = child.wait_with_output().unwrap();
                        let message = stderr(&output);
                        let status = (output.status.code(), output.status.signal());
                        assert!(
                            matches!(status, (Some(130), _) | (_, Some(2))),
                            "{arguments:?}: {status:?} {message}"
                        );
                        assert!(!message.contains("INFO"), "{message}");
                    }
                })
            },
        },
        Case {
            report: "docker reference, \"docker push --quiet\"",
            input: "build --quiet",
            expected: "nothing on either output",
            run: || {
                Box::pin(async {
                    let folder = Workspace::with(empty("shop"));
                    let output = folder.run(&["build", "shop.yaml", "--to", "oci:out", "--quiet"]);
                    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
                    assert_eq!(stdout(&output) + &stderr(&output), "");
                })
            },
        },
    ])
    .await;
}
