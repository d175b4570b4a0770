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

/// A registry that wants a login, or does not, with the image `team/app:1`.
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

/// `auth` of the login, or of another password.
fn auth(password: &str) -> String {
    STANDARD.encode(format!("{}:{password}", LOGIN.0))
}

/// A `config.json` with these entries.
fn auths(auths: Value) -> String {
    json!({ "auths": auths }).to_string()
}

/// An entry with the login.
pub fn right() -> Value {
    json!({ "auth": auth(LOGIN.1) })
}

/// An entry with another password.
pub fn wrong() -> Value {
    json!({ "auth": auth("wrong") })
}

async fn build(folder: &Workspace, registry: &TestRegistry) -> Output {
    let image = format!("{}/team/app:1", registry.host);
    let flags = ["--insecure-registry", &registry.host];
    folder.build_image(&image, &flags)
}

/// Builds from a registry that wants a login, with the `config.json` that `config` makes of its host.
async fn with(config: impl FnOnce(&str) -> String) -> Output {
    let registry = registry(true).await;
    let folder = Workspace::new().file(".docker/config.json", config(&registry.host));
    build(&folder, &registry).await
}

/// The same with one entry under the key that `key` makes of the host.
fn with_key(key: fn(&str) -> String, entry: fn() -> Value) -> BoxFuture<'static, ()> {
    async move { with(|host| auths(json!({ key(host): entry() }))).await.succeeded() }.boxed()
}

/// Builds where `config` names the helper `test`, which does what `script` says, from a registry that wants a `login` or
/// does not.
async fn helped(login: bool, config: impl FnOnce(&str) -> Value, script: &str, more: &[&str]) -> Output {
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
            input: "keys for the host and for a path in it, of which only the path's is right",
            expected: "the longest path wins",
            run: || {
                async {
                    let config = |host: &str| auths(json!({ host: wrong(), format!("{host}/team"): right() }));
                    with(config).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "kubernetes/kubernetes#119941",
            input: "a key with `*` for a part of the host",
            expected: "its credentials are used",
            run: || with_key(|host| host.replacen("127", "*", 1), right),
        },
        Case {
            report: "docker/cli#4414",
            input: "`auths` is null",
            expected: "anonymous: the registry wants a login, and the message names docker's file, no Secret",
            run: || {
                async {
                    let ended = with(|_| json!({ "auths": null }).to_string()).await;
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
            input: "an entry that is null beside one with credentials",
            expected: "the credentials are used",
            run: || {
                async {
                    let config = |host: &str| auths(json!({ "other.example.com": null, host: right() }));
                    with(config).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config/configfile",
            input: "empty username and password beside auth",
            expected: "auth wins",
            run: || {
                with_key(
                    str::to_owned,
                    || json!({ "username": "", "password": "", "auth": auth(LOGIN.1) }),
                )
            },
        },
        Case {
            report: "getwud/wud#343",
            input: "auth with a line break behind it",
            expected: "it does not count",
            run: || with_key(str::to_owned, || json!({ "auth": format!("{}\n", auth(LOGIN.1)) })),
        },
        Case {
            report: "google/go-containerregistry#555",
            input: "auth made by `echo user:password | base64`: the line break is in it",
            expected: "it does not count",
            run: || {
                let broken = || json!({ "auth": STANDARD.encode(format!("{}:{}\n", LOGIN.0, LOGIN.1)) });
                with_key(str::to_owned, broken)
            },
        },
        Case {
            report: "RFC 8259 section 8.1",
            input: "a byte order mark",
            expected: "it is passed over",
            run: || {
                async {
                    with(|host| format!("\u{feff}{}", auths(json!({ host: right() }))))
                        .await
                        .succeeded()
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config",
            input: "a file that is no JSON, and one that cannot be read",
            expected: "an error that names the file, and nothing of what it holds",
            run: || {
                async {
                    let ended = with(|_| "{\"auths\": {\"r\": hunter2".to_owned()).await;
                    ended.failed(
                        2,
                        &["/.docker/config.json cannot be read: not a docker config.json (line 1"],
                    );
                    assert!(!stderr(&ended).contains("hunter2"), "{ended:?}");
                    let registry = registry(false).await;
                    let folder = Workspace::new().file(".docker/config.json/in-the-way", "");
                    let ended = build(&folder, &registry).await;
                    ended.failed(
                        2,
                        &["the credentials in", "/.docker/config.json cannot be read", "correct"],
                    );
                }
                .boxed()
            },
        },
        Case {
            report: "openshift/oc-mirror#216",
            input: "a login of podman alone: $XDG_RUNTIME_DIR/containers/auth.json",
            expected: "it is used",
            run: || {
                async {
                    let registry = registry(true).await;
                    let folder = Workspace::new()
                        .file("run/containers/auth.json", auths(json!({ &*registry.host: right() })))
                        .file(".docker/config.json", auths(json!({ "other": wrong() })))
                        .set("XDG_RUNTIME_DIR", "~/run");
                    build(&folder, &registry).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "oras-project/oras#1597",
            input: "a key for a path of the host that everything is pushed to",
            expected: "its credentials are used, as docker uses them",
            run: || {
                async {
                    let (source, to) = (registry(false).await, registry(true).await);
                    let key = format!("{}/team", to.host);
                    let folder = Workspace::new().file(".docker/config.json", auths(json!({ key: right() })));
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
            expected: "an error that says that it names a folder",
            run: || {
                async {
                    let registry = registry(false).await;
                    let folder = Workspace::new()
                        .file("config.json", auths(json!({ &*registry.host: right() })))
                        .set("DOCKER_CONFIG", "~/config.json");
                    let ended = build(&folder, &registry).await;
                    ended.failed(
                        2,
                        &["/config.json/config.json cannot be read: DOCKER_CONFIG names a folder"],
                    );
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
                        .file("auth.json", auths(json!({ &*registry.host: right() })))
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
                    helped(false, store, script, &[]).await.succeeded();
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
                    helped(false, store, script, &[]).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/cli cli/config/configfile",
            input: "an empty credsStore",
            expected: "there is no helper",
            run: || {
                async {
                    helped(false, |_| json!({ "credsStore": "" }), "exit 1", &[])
                        .await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers README",
            input: "a helper for this registry alone, which gets the host on its input",
            expected: "its answer is used",
            run: || {
                async {
                    let config = |host: &str| json!({ "credHelpers": { format!("https://{host}"): "test" } });
                    let script = format!(
                        r#"read -r host; case $host in 127.0.0.1:*) echo '{{"ServerURL":"x","Username":"{}","Secret":"{}"}}';; *) exit 3;; esac"#,
                        LOGIN.0, LOGIN.1
                    );
                    // `read` fails where no line ends, and has read it all the same.
                    helped(true, config, &script, &[]).await.succeeded();
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
                    let ended = helped(false, config, "exit 0", &[]).await;
                    let said = ["docker-credential-desktop.absent", "/.docker/config.json", "not installed", "127.0.0.1:"];
                    ended.failed(1, &said);
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers#296",
            input: "a helper that fails: `pass not initialized`",
            expected: "an error that names it and repeats its words",
            run: || {
                async {
                    let ended = helped(false, store, "echo pass not initialized; exit 1", &[]).await;
                    ended.failed(1, &["docker-credential-test", "pass not initialized"]);
                }
                .boxed()
            },
        },
        Case {
            report: "docker/docker-credential-helpers#355",
            input: "a helper that never answers",
            expected: "an error after the timeout, and neither it nor what it started runs any more",
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
                    ended.failed(1, &["docker-credential-test", "did not answer within 1 s"]);
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
