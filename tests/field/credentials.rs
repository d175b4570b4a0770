//! Credentials as docker, podman and crane read them.

use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::workspace::{CommandResult as _, Workspace, package_of, stderr};
use super::{Case, check, on_one_thread};
use crate::support::image::{image, noise, put};
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

const LOGIN: (&str, &str) = ("jackal", "pass:word");

/// A registry with the image `team/app:1`, with or without authentication.
pub async fn registry(login: bool) -> TestRegistry {
    let options = Options {
        login: login.then_some(LOGIN),
        tls: false,
    };
    let registry = TestRegistry::start_with(Version::V28, options);
    let repository = registry.repository("team/app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &document, Some("1")).await;
    registry
}

/// `auth` of the login, or with another password.
fn auth(password: &str) -> String {
    STANDARD.encode(format!("{}:{password}", LOGIN.0))
}

/// A `config.json` with these entries.
fn auths(auths: Value) -> String {
    json!({ "auths": auths }).to_string()
}

/// An entry with the right password.
pub fn valid_entry() -> Value {
    json!({ "auth": auth(LOGIN.1) })
}

/// An entry with another password.
pub fn invalid_entry() -> Value {
    json!({ "auth": auth("wrong") })
}

async fn build(folder: &Workspace, registry: &TestRegistry) -> Output {
    let image = format!("{}/team/app:1", registry.host);
    let flags = ["--insecure-registry", &registry.host];
    folder.build_image(&image, &flags)
}

/// Builds from a registry with authentication, with the `config.json` that `config` returns for its host.
async fn build_with_config(config: impl FnOnce(&str) -> String) -> Output {
    let registry = registry(true).await;
    let folder = Workspace::new().file(".docker/config.json", config(&registry.host));
    build(&folder, &registry).await
}

/// The same with one entry under the key that `key` returns for the host.
fn with_key(key: fn(&str) -> String, entry: fn() -> Value) -> BoxFuture<'static, ()> {
    async move {
        build_with_config(|host| auths(json!({ key(host): entry() })))
            .await
            .succeeded()
    }
    .boxed()
}

/// Builds with the credential helper `test`, which runs `script`, from a registry with or without authentication.
async fn build_with_helper(login: bool, config: impl FnOnce(&str) -> Value, script: &str, more: &[&str]) -> Output {
    let registry = registry(login).await;
    let folder = Workspace::new()
        .file(".docker/config.json", config(&registry.host).to_string())
        .program("docker-credential-test", script);
    let image = format!("{}/team/app:1", registry.host);
    let flags = [&["--insecure-registry", &registry.host], more].concat();
    folder.build_image(&image, &flags)
}

fn store(_: &str) -> Value {
    json!({ "auths": {}, "credsStore": "test" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_files_are_read_like_docker_and_podman_do() {
    check(&[
        Case {
            report: "google/go-containerregistry#1431",
            input: "keys for the host and for a path in it, of which only the key of the path has the right password",
            expected: "the longest path takes precedence",
            run: || {
                async {
                    let config =
                        |host: &str| auths(json!({ host: invalid_entry(), format!("{host}/team"): valid_entry() }));
                    build_with_config(config).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "kubernetes/kubernetes#119941",
            input: "a key with `*` for a part of the host",
            expected: "its credentials are used",
            run: || with_key(|host| host.replacen("127", "*", 1), valid_entry),
        },
        Case {
            report: "docker/cli#4414",
            input: "`auths` is null",
            expected: "anonymous: the registry requires a login, and the message names docker's file and no Secret",
            run: || {
                async {
                    let ended = build_with_config(|_| json!({ "auths": null }).to_string()).await;
                    ended.failed(1, &["cannot read", "docker login", "config.json"]);
                    for field in ["Secret", "imagePullSecrets", "secretRef"] {
                        assert!(!stderr(&ended).contains(field), "{ended:?}");
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "opentofu/opentofu#2732",
            input: "an entry that is null and one with credentials",
            expected: "the credentials are used",
            run: || {
                async {
                    let config = |host: &str| auths(json!({ "other.example.com": null, host: valid_entry() }));
                    build_with_config(config).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config/configfile",
            input: "empty username and password next to auth",
            expected: "auth takes precedence",
            run: || {
                with_key(
                    str::to_owned,
                    || json!({ "username": "", "password": "", "auth": auth(LOGIN.1) }),
                )
            },
        },
        Case {
            report: "getwud/wud#343",
            input: "auth followed by a line break",
            expected: "the line break is ignored",
            run: || with_key(str::to_owned, || json!({ "auth": format!("{}\n", auth(LOGIN.1)) })),
        },
        Case {
            report: "google/go-containerregistry#555",
            input: "auth made by `echo user:password | base64`, which contains the line break",
            expected: "the line break is ignored",
            run: || {
                let broken = || json!({ "auth": STANDARD.encode(format!("{}:{}\n", LOGIN.0, LOGIN.1)) });
                with_key(str::to_owned, broken)
            },
        },
        Case {
            report: "RFC 8259 section 8.1",
            input: "a byte order mark",
            expected: "it is ignored",
            run: || {
                async {
                    build_with_config(|host| format!("\u{feff}{}", auths(json!({ host: valid_entry() }))))
                        .await
                        .succeeded()
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config",
            input: "a file that is not JSON, and one that cannot be read",
            expected: "an error that names the file, and none of its content",
            run: || {
                async {
                    let ended = build_with_config(|_| "{\"auths\": {\"r\": hunter2".to_owned()).await;
                    ended.failed(2, &["/.docker/config.json: not a docker config.json (line 1"]);
                    assert!(!stderr(&ended).contains("hunter2"), "{ended:?}");
                    let registry = registry(false).await;
                    let folder = Workspace::new().file(".docker/config.json/in-the-way", "");
                    let ended = build(&folder, &registry).await;
                    ended.failed(2, &["the credentials in", "/.docker/config.json: ", "correct"]);
                }
                .boxed()
            },
        },
        Case {
            report: "openshift/oc-mirror#216",
            input: "a login of podman only: $XDG_RUNTIME_DIR/containers/auth.json",
            expected: "it is used",
            run: || {
                async {
                    let registry = registry(true).await;
                    let folder = Workspace::new()
                        .file(
                            "run/containers/auth.json",
                            auths(json!({ &*registry.host: valid_entry() })),
                        )
                        .file(".docker/config.json", auths(json!({ "other": invalid_entry() })))
                        .set("XDG_RUNTIME_DIR", "~/run");
                    build(&folder, &registry).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "oras-project/oras#1597",
            input: "a key for a path of the destination host",
            expected: "its credentials are used, as by docker",
            run: || {
                async {
                    let (source, to) = (registry(false).await, registry(true).await);
                    let key = format!("{}/team", to.host);
                    let folder = Workspace::new().file(".docker/config.json", auths(json!({ key: valid_entry() })));
                    folder.write("shop.yaml", package_of(&[format!("'{}/team/app:1'", source.host)]));
                    let flags = ["--insecure", "--insecure-registry", &source.host];
                    let arguments = [&["build", "shop.yaml", "--to", &to.host], &flags[..]].concat();
                    folder.run(&arguments).succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config: DOCKER_CONFIG",
            input: "DOCKER_CONFIG names the file",
            expected: "an error that says that it must name a folder",
            run: || {
                async {
                    let registry = registry(false).await;
                    let folder = Workspace::new()
                        .file("config.json", auths(json!({ &*registry.host: valid_entry() })))
                        .set("DOCKER_CONFIG", "~/config.json");
                    let ended = build(&folder, &registry).await;
                    ended.failed(2, &["/config.json/config.json: DOCKER_CONFIG must name the directory"]);
                }
                .boxed()
            },
        },
        Case {
            report: "google/go-containerregistry#1914",
            input: "REGISTRY_AUTH_FILE",
            expected: "it is used",
            run: || {
                async {
                    let registry = registry(true).await;
                    let folder = Workspace::new()
                        .file("auth.json", auths(json!({ &*registry.host: valid_entry() })))
                        .set("REGISTRY_AUTH_FILE", "~/auth.json");
                    build(&folder, &registry).await.succeeded();
                }
                .boxed()
            },
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_helpers_are_called_like_docker_does() {
    check(&[
        Case {
            report: "google/go-containerregistry#156",
            input: "credsStore without an entry: exit 1, `credentials not found in native keychain`",
            expected: "anonymous",
            run: || {
                async {
                    let script = "echo credentials not found in native keychain; exit 1";
                    build_with_helper(false, store, script, &[]).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers, credentials: ErrCredentialsNotFound",
            input: "the same on the helper's standard error",
            expected: "anonymous",
            run: || {
                async {
                    let script = "echo credentials not found in native keychain >&2; exit 1";
                    build_with_helper(false, store, script, &[]).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config/configfile",
            input: "an empty credsStore",
            expected: "no helper is called",
            run: || {
                async {
                    build_with_helper(false, |_| json!({ "credsStore": "" }), "exit 1", &[])
                        .await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers README",
            input: "a helper for this registry only, which gets the host on its input",
            expected: "its answer is used",
            run: || {
                async {
                    let config = |host: &str| json!({ "credHelpers": { format!("https://{host}"): "test" } });
                    let script = format!(
                        r#"read -r host; case $host in 127.0.0.1:*) echo '{{"ServerURL":"x","Username":"{}","Secret":"{}"}}';; *) exit 3;; esac"#,
                        LOGIN.0, LOGIN.1
                    );
                    // `read` fails without a newline, but has read the input.
                    build_with_helper(true, config, &script, &[]).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "containerd/nerdctl#830",
            input: "a helper that is not installed",
            expected: "an error that names it, its file and the host",
            run: || {
                async {
                    let config = |_: &str| json!({ "auths": {}, "credsStore": "desktop.absent" });
                    let ended = build_with_helper(false, config, "exit 0", &[]).await;
                    let expected = ["docker-credential-desktop.absent", "/.docker/config.json", "not installed", "127.0.0.1:"];
                    ended.failed(1, &expected);
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers#296",
            input: "a helper that fails: `pass not initialized`",
            expected: "an error that names it and contains its message",
            run: || {
                async {
                    let ended = build_with_helper(false, store, "echo pass not initialized; exit 1", &[]).await;
                    ended.failed(1, &["docker-credential-test", "pass not initialized"]);
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers#355",
            input: "a helper that never answers",
            expected: "an error after the timeout; the helper and its child processes are killed",
            run: || {
                on_one_thread(|| async {
                    let script = "sleep 1000 & echo $! > child; echo $$ > parent; wait";
                    let registry = registry(false).await;
                    let folder = Workspace::new()
                        .file(".docker/config.json", store("").to_string())
                        .program("docker-credential-test", script);
                    let image = format!("{}/team/app:1", registry.host);
                    let flags = ["--insecure-registry", &registry.host, "--stall-timeout", "1s"];
                    let ended = folder.build_image(&image, &flags);
                    ended.failed(1, &["docker-credential-test", "did not finish in 1 s"]);
                    for process in ["child", "parent"] {
                        let id = std::fs::read_to_string(folder.path(process)).expect("it was started");
                        eventually(SOON, "the helper is gone", async || {
                            let state = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
                            match state {
                                Ok(state) if !state.contains(") Z ") => Err(format!("the {process} runs")),
                                _ => Ok(()),
                            }
                        })
                        .await;
                    }
                })
            },
        },
    ])
    .await;
}
