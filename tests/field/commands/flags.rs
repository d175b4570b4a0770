//! Command line flags as users write them.

use std::process::Command;

use super::{Workspace, empty, stderr, stdout};
use crate::field::{Case, check};

/// Expects that `build` rejects the arguments with all of `words` before it does anything.
fn refused(arguments: &[&str], words: &[&str]) {
    let folder = Workspace::with(empty("shop"));
    let output = folder.run(&[&["build", "shop.yaml"], arguments].concat());
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "", "{arguments:?}");
    for words in words {
        assert!(stderr(&output).contains(words), "`{words}`: {}", stderr(&output));
    }
    let files = std::fs::read_dir(folder.path(".")).unwrap().count();
    assert_eq!(files, 1, "{arguments:?} wrote something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_flags_are_rejected_with_the_expected_form() {
    check(&[
        Case {
            report: "Azure/draft-classic#830",
            input: "--to HOST/prefix:tag, and with a digest",
            expected: "the value without the tag is suggested",
            run: || {
                Box::pin(async {
                    refused(&["--to", "127.0.0.1:1/team:1.4.0"], &["write 127.0.0.1:1/team"]);
                    refused(&["--to", "127.0.0.1:1/team@sha256:00"], &["write 127.0.0.1:1/team"]);
                })
            },
        },
        Case {
            report: "skopeo manual, \"IMAGE NAMES\"",
            input: "--to with a directory, a path, or a transport of skopeo",
            expected: "the form of a layout, and no request is sent",
            run: || {
                Box::pin(async {
                    refused(&["--to", "./out"], &["write oci:./out"]);
                    refused(&["--to", "/srv/out"], &["write oci:/srv/out"]);
                    refused(&["--to", "dir:out"], &["`dir:out` is not a host", "oci:DIR"]);
                    refused(&["--to", "oci-archive:out.tar"], &["is not a host", "oci:DIR"]);
                })
            },
        },
        Case {
            report: "RFC 3986 section 3.2.2",
            input: "--to with an IPv6 address without brackets, a port out of range, a user",
            expected: "what is wrong with the host",
            run: || {
                Box::pin(async {
                    refused(&["--to", "::1/team"], &["write an IPv6 address in brackets"]);
                    refused(&["--to", "r.example:99999"], &["`r.example:99999` is not a host"]);
                    refused(&["--to", "ann:secret@r.example"], &["is not a host"]);
                })
            },
        },
        Case {
            report: "moby/moby#29988",
            input: "--insecure-registry http://HOST",
            expected: "it is rejected, because it would match nothing",
            run: || {
                Box::pin(async {
                    refused(
                        &["--to", "oci:out", "--insecure-registry", "http://127.0.0.1:1"],
                        &["--insecure-registry", "write host[:port], without a scheme or a path"],
                    );
                })
            },
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shell_completion_offers_commands_and_flags() {
    check(&[Case {
        report: "clap-rs/clap#6421",
        input: "the script for bash, sourced in a shell without the package bash-completion",
        expected: "commands, and flags, values and files of each command are completed",
        run: || {
            Box::pin(async {
                let folder = Workspace::with(empty("shop"));
                folder.write("script", folder.run(&["completion", "bash"]).stdout);
                for (words, completed) in [
                    ("jackal-operator bui", "build"),
                    ("jackal-operator build --check --ca-f", "--ca-file"),
                    ("jackal-operator build --output js", "json"),
                    // Without completions, bash completes file names.
                    ("jackal-operator build sho", ""),
                    ("jackal-operator build --ca-file sho", "shop.yaml"),
                    ("jackal-operator completion fi", "fish"),
                ] {
                    assert_eq!(complete(&folder, words), completed, "{words}");
                }
            })
        },
    }])
    .await;
}

/// The completions of bash for the last of `words`, with the generated script.
fn complete(folder: &Workspace, words: &str) -> String {
    let asked = "source ./script
        words=($1); COMP_WORDS=(\"${words[@]}\"); COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE=$1; COMP_POINT=${#1}
        spec=$(complete -p jackal-operator); [[ $spec =~ -F\\ ([^ ]+) ]]
        \"${BASH_REMATCH[1]}\" jackal-operator \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"
        echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "-c", asked, "bash", words]);
    let output = bash.current_dir(folder.path(".")).output().unwrap();
    assert_eq!(stderr(&output), "", "{words}");
    stdout(&output).trim().to_owned()
}
