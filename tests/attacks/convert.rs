//! A definition of somebody else is converted, which names files that are none of its business.

use std::path::Path;

use futures::FutureExt as _;

use super::{Attack, check};
use crate::support::workspace::{Workspace, all_output, stderr, stdout};

/// What lies beside the folder of the definition, and belongs to whoever converts it.
const SECRET: &str = "kind: Secret\napiVersion: v1\nmetadata: {name: s3cr3t}\n";

/// A folder with a secret, and with a definition below `repository` whose component has these lines.
fn repository(lines: &str) -> Workspace {
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

/// That the definition is converted without the file, which is told by its field and path.
fn refuses(folder: &Workspace, field: &str, why: &str) {
    let output = folder.run(&["convert", "repository/zarf.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    assert!(!all_output(&output).contains("s3cr3t"), "{}", all_output(&output));
    assert!(stdout(&output).contains("nginx:1"), "{}", stdout(&output));
    let told = stderr(&output);
    let line = told.lines().find(|line| line.contains(field));
    assert!(
        line.is_some_and(|line| line.contains(why)),
        "`{field}` and `{why}` in {told}"
    );
}

#[tokio::test]
async fn convert_reads_no_file_outside_the_definitions_directory() {
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that somebody converts",
            attempt: "files with a source above the repository",
            expected: "the file is left out; the field and the path are told",
            final_state: "the package holds nothing of it",
            run: || {
                async {
                    let folder = repository("  files: [{source: ../secret.yaml, target: /x}]\n");
                    refuses(
                        &folder,
                        "components[web].files[0].source: ../secret.yaml",
                        "leads out of",
                    );
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that somebody converts",
            attempt: "manifests with an absolute path",
            expected: "the file is left out; the field and the path are told",
            final_state: "the package holds nothing of it",
            run: || {
                async {
                    let folder = repository("  manifests: [{name: m, files: [FOLDER/secret.yaml]}]\n");
                    refuses(&folder, "components[web].manifests[0].files[0]", "is an absolute path");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that somebody converts",
            attempt: "manifests with a link to a file of the user",
            expected: "the file is left out; the field and the path are told",
            final_state: "the package holds nothing of it",
            run: || {
                async {
                    let folder = repository("  manifests: [{name: m, files: [own.yaml, linked.yaml]}]\n");
                    link(&folder, "../secret.yaml", "repository/linked.yaml");
                    refuses(
                        &folder,
                        "components[web].manifests[0].files[1]: linked.yaml",
                        "is a link",
                    );
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that somebody converts",
            attempt: "values of a chart below a link to a folder of the user",
            expected: "the file is left out; the field and the path are told",
            final_state: "the package holds nothing of it",
            run: || {
                async {
                    let folder = repository(
                        "  charts: [{name: c, version: 1.0.0, namespace: n, url: 'oci://ghcr.io/x/c', valuesFiles: [up/secret.yaml]}]\n",
                    );
                    link(&folder, "..", "repository/up");
                    refuses(&folder, "components[web].charts[c].valuesFiles[0]: up/secret.yaml", "is a link");
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that somebody converts",
            attempt: "files with a source that is a named pipe, which nobody writes to",
            expected: "the file is left out; the command ends",
            final_state: "the package holds nothing of it",
            run: || {
                async {
                    let folder = repository("  files: [{source: pipe, target: /x}]\n");
                    let pipe = folder.path("repository/pipe");
                    rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::RWXU).unwrap();
                    refuses(
                        &folder,
                        "components[web].files[0].source: pipe",
                        "only files can be carried over",
                    );
                }
                .boxed()
            },
        },
        Attack {
            attacker: "author of a definition",
            capabilities: "writes a repository that somebody converts with --root",
            attempt: "files above the folder that --root admits",
            expected: "they are left out, and those beneath it are carried over",
            final_state: "the package holds what lies beneath --root alone",
            run: || {
                async {
                    let folder = repository(
                        "  manifests: [{name: m, files: [../own.yaml]}]\n  files: [{source: ../../secret.yaml, target: /x}]\n",
                    );
                    std::fs::create_dir(folder.path("repository/web")).unwrap();
                    std::fs::rename(folder.path("repository/zarf.yaml"), folder.path("repository/web/zarf.yaml")).unwrap();
                    let output = folder.run(&["convert", "repository/web/zarf.yaml", "--root", "repository"]);
                    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
                    assert!(stdout(&output).contains("name: own"), "{}", stdout(&output));
                    assert!(!all_output(&output).contains("s3cr3t"), "{}", all_output(&output));
                    assert!(stderr(&output).contains("../../secret.yaml leads out of"), "{}", stderr(&output));
                }
                .boxed()
            },
        },
    ];
    check(ATTACKS).await;
}
