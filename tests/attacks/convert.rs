//! Converts a definition by an untrusted author that references files outside its directory.

use std::path::Path;

use futures::FutureExt as _;

use super::{Attack, check};
use crate::support::workspace::{Workspace, all_output, stderr, stdout};

/// A file next to the definition's directory that belongs to the user who converts it.
const SECRET: &str = "kind: Secret\napiVersion: v1\nmetadata: {name: s3cr3t}\n";

/// A folder with a secret, and a definition in `folder_with_definition` whose component has these lines.
fn folder_with_definition(lines: &str) -> Workspace {
    let folder = Workspace::new();
    std::fs::create_dir_all(folder.path("repository/values")).unwrap();
    folder.write("secret.yaml", SECRET);
    folder.write(
        "repository/own.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: own}\n",
    );
    let lines = lines.replace("FOLDER", folder.path("").to_str().unwrap().trim_end_matches('/'));
    folder.write(
        "repository/zarf.yaml",
        format!(
            "kind: ZarfPackageConfig\nmetadata: {{name: shop, version: 1.0.0}}\ncomponents:\n- name: web\n  images: ['nginx:1']\n{lines}"
        ),
    );
    folder
}

fn link(folder: &Workspace, to: impl AsRef<Path>, at: &str) {
    std::os::unix::fs::symlink(to, folder.path(at)).unwrap();
}

/// Expects the definition to be converted without the file, which is reported with its field and path.
fn assert_left_out(folder: &Workspace, field: &str, why: &str) {
    let output = folder.run(&["convert", "repository/zarf.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    assert!(!all_output(&output).contains("s3cr3t"), "{}", all_output(&output));
    assert!(stdout(&output).contains("nginx:1"), "{}", stdout(&output));
    let errors = stderr(&output);
    let line = errors.lines().find(|line| line.contains(field));
    assert!(
        line.is_some_and(|line| line.contains(why)),
        "`{field}` and `{why}` in {errors}"
    );
}

#[tokio::test]
async fn convert_reads_no_file_outside_the_definitions_directory() {
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that a user converts",
            attempt: "`files` with a source above the repository",
            expected: "the file is left out; the field and the path are reported",
            final_state: "the package does not contain the file",
            run: || {
                async {
                    let folder = folder_with_definition("  files: [{source: ../secret.yaml, target: /x}]\n");
                    assert_left_out(
                        &folder,
                        "components[web].files[0].source: ../secret.yaml",
                        "is outside of",
                    );
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that a user converts",
            attempt: "`manifests` with an absolute path",
            expected: "the file is left out; the field and the path are reported",
            final_state: "the package does not contain the file",
            run: || {
                async {
                    let folder = folder_with_definition("  manifests: [{name: m, files: [FOLDER/secret.yaml]}]\n");
                    assert_left_out(&folder, "components[web].manifests[0].files[0]", "is an absolute path");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that a user converts",
            attempt: "`manifests` with a link to a file of the user",
            expected: "the file is left out; the field and the path are reported",
            final_state: "the package does not contain the file",
            run: || {
                async {
                    let folder = folder_with_definition("  manifests: [{name: m, files: [own.yaml, linked.yaml]}]\n");
                    link(&folder, "../secret.yaml", "repository/linked.yaml");
                    assert_left_out(
                        &folder,
                        "components[web].manifests[0].files[1]: linked.yaml",
                        "is a symbolic link",
                    );
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that a user converts",
            attempt: "`values` of a chart below a link to a folder of the user",
            expected: "the file is left out; the field and the path are reported",
            final_state: "the package does not contain the file",
            run: || {
                async {
                    let folder = folder_with_definition(
                        "  charts: [{name: c, version: 1.0.0, namespace: n, url: 'oci://ghcr.io/x/c', valuesFiles: [up/secret.yaml]}]\n",
                    );
                    link(&folder, "..", "repository/up");
                    assert_left_out(&folder, "components[web].charts[c].valuesFiles[0]: up/secret.yaml", "is a symbolic link");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that a user converts",
            attempt: "`files` with a source that is a named pipe without a writer",
            expected: "the file is left out; the command ends",
            final_state: "the package does not contain the file",
            run: || {
                async {
                    let folder = folder_with_definition("  files: [{source: pipe, target: /x}]\n");
                    let pipe = folder.path("repository/pipe");
                    rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::RWXU).unwrap();
                    assert_left_out(
                        &folder,
                        "components[web].files[0].source: pipe",
                        "only files can be converted",
                    );
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that a user converts with --root",
            attempt: "`files` above the folder that --root allows",
            expected: "they are left out, and those below it are carried over",
            final_state: "the package contains only what is below --root",
            run: || {
                async {
                    let folder = folder_with_definition(
                        "  manifests: [{name: m, files: [../own.yaml]}]\n  files: [{source: ../../secret.yaml, target: /x}]\n",
                    );
                    std::fs::create_dir(folder.path("repository/web")).unwrap();
                    std::fs::rename(folder.path("repository/zarf.yaml"), folder.path("repository/web/zarf.yaml")).unwrap();
                    let output = folder.run(&["convert", "repository/web/zarf.yaml", "--root", "repository"]);
                    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
                    assert!(stdout(&output).contains("name: own"), "{}", stdout(&output));
                    assert!(!all_output(&output).contains("s3cr3t"), "{}", all_output(&output));
                    assert!(stderr(&output).contains("../../secret.yaml is outside of"), "{}", stderr(&output));
                }
                .boxed()
            },
        },
    ];
    check(ATTACKS).await;
}
