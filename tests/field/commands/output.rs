//! What commands print, and to whom.

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
            input: "a reader that leaves, as head does",
            expected: "no panic, and no complaint",
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
                    // Both ends at once, as in `2>&1 | head`.
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
            input: "a disk that is full",
            expected: "a failure that says so",
            run: || {
                Box::pin(async {
                    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
                    let output = Workspace::new().command(&["crd"]).stdout(full).output().unwrap();
                    assert_eq!(output.status.code(), Some(1));
                    let said = stderr(&output);
                    assert!(
                        said.contains("No space left on device") && !said.contains("panicked"),
                        "{said}"
                    );
                })
            },
        },
        Case {
            report: "podman-container-tools/skopeo#1366",
            input: "build --to oci:DIR",
            expected: "names as skopeo takes them, and no address of a registry",
            run: || {
                Box::pin(async {
                    let folder = Workspace::with(empty("shop"));
                    let output = folder.run(&["build", "shop.yaml", "--to", "oci:out"]);
                    let said = stdout(&output);
                    assert!(said.contains("oci:out:shop:1.4.0 is sha256:"), "{said}");
                    assert!(said.contains("skopeo copy --all oci:out:shop:1.4.0 "), "{said}");
                    assert!(!said.contains("127.0.0.1"), "{said}");
                    let report = folder.builds();
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
            expected: "a script that knows the commands",
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
            expected: "it ends at once, without a line of the log",
            run: || {
                Box::pin(async {
                    let folder = Workspace::new();
                    for arguments in [&["convert", "-"][..], &["build", "-", "--to", "oci:out"]] {
                        let mut child = folder.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
                        let mut input = child.stdin.take().unwrap();
                        // More than a pipe holds: once it is written, the command has begun to read.
                        input.write_all(&[b'#'; 200_000]).unwrap();
                        let id = child.id().to_string();
                        process::run("kill", &["-INT", &id]);
                        let output = child.wait_with_output().unwrap();
                        let said = stderr(&output);
                        let status = (output.status.code(), output.status.signal());
                        assert!(
                            matches!(status, (Some(130), _) | (_, Some(2))),
                            "{arguments:?}: {status:?} {said}"
                        );
                        assert!(!said.contains("INFO"), "{said}");
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
