//! The user's credentials: the files of docker and podman, and the credential helpers that they name.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Mutex;

use super::credential_helper::{self, Failure};
use super::{UsageError, files};
use crate::fault::{Fault, Reason};
use crate::registry::{Credentials, Keychain};

/// The longest timeout of a helper.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// A location of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CredentialLocation {
    /// An environment variable: its name and value.
    Variable(&'static str, OsString),
    /// A file, which may not exist.
    File(PathBuf),
}

/// The locations of credentials in the order of the search. Each is read once, when it is reached.
pub(super) struct CredentialFiles {
    locations: Vec<CredentialLocation>,
    /// The timeout of a helper.
    limit: Duration,
    read: Mutex<ReadCredentials>,
}

/// What was read so far.
#[derive(Default)]
struct ReadCredentials {
    /// The name and content of the files that exist; `None` for one that does not.
    files: Vec<Option<(String, Keychain)>>,
    /// The credentials that helpers returned, by helper and server.
    answers: HashMap<(String, String), Option<Credentials>>,
}

impl CredentialFiles {
    /// The locations that the environment names. `limit` is the timeout of helpers, at most 30 s.
    pub fn of_environment(limit: Duration) -> Self {
        Self {
            locations: locations(|name| std::env::var_os(name).filter(|value| !value.is_empty())),
            limit: limit.min(HELPER_TIMEOUT),
            read: Mutex::default(),
        }
    }

    /// The credentials for `repository` on `host` in the order of attempts: those of the first location that has any. An
    /// unreadable file and a failing helper are errors, because continuing without credentials would fail later with a
    /// misleading error.
    pub async fn candidates(&self, host: &str, repository: &str) -> anyhow::Result<Vec<Credentials>> {
        let mut read = self.read.lock().await;
        for (at, location) in self.locations.iter().enumerate() {
            if read.files.len() <= at {
                read.files.push(location.read().await?);
            }
            let Some((name, keychain)) = read.files[at].clone() else {
                continue;
            };
            let mut found = keychain.candidates(host, repository);
            if let Some(helper) = keychain.helper(host, repository) {
                let key = (helper.to_owned(), server(host));
                let answer = match read.answers.get(&key) {
                    Some(answer) => Ok(answer.clone()),
                    None => credential_helper::get(helper, &key.1, self.limit).await,
                };
                match answer {
                    Ok(answer) => {
                        read.answers.insert(key, answer.clone());
                        found.splice(0..0, answer);
                    }
                    // Credentials in the file itself need no helper.
                    Err(Failure::Missing) if !found.is_empty() => {}
                    Err(failure) => return Err(helper_fault(helper, host, &name, failure).into()),
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The credentials for pushing to `host` under the path `prefix`: the first of [`Self::candidates`], else those that
    /// docker finds by the host only.
    pub async fn for_pushing(&self, host: &str, prefix: &str) -> anyhow::Result<Option<Credentials>> {
        if let Some(first) = self.candidates(host, prefix).await?.into_iter().next() {
            return Ok(Some(first));
        }
        let read = self.read.lock().await;
        let mut keychains = read.files.iter().flatten();
        Ok(keychains.find_map(|(_, keychain)| keychain.for_pushing(host, prefix)))
    }
}

impl CredentialLocation {
    /// The keychain with the name of its file; none if the file does not exist.
    async fn read(&self) -> Result<Option<(String, Keychain)>, UsageError> {
        let (name, content) = match self {
            Self::Variable(name, text) => ((*name).to_owned(), text.as_encoded_bytes().to_vec()),
            Self::File(path) => match files::read(path).await {
                Ok(content) => (path.display().to_string(), content),
                Err(error) if error.kind() == io::ErrorKind::NotADirectory && is_in_docker_config(path) => {
                    return Err(UsageError(format!(
                        "cannot read the credentials in {}: DOCKER_CONFIG must name the directory of config.json, not the file",
                        path.display()
                    )));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                Err(error) => {
                    return Err(UsageError(format!(
                        "cannot read the credentials in {}: {error}; correct the permissions of the file, or remove it",
                        path.display()
                    )));
                }
            },
        };
        match Keychain::parse(&content) {
            Ok(keychain) => Ok(Some((name, keychain))),
            Err(reason) => Err(UsageError(format!(
                "cannot read the credentials in {name}: {reason}; correct it, or remove it"
            ))),
        }
    }
}

/// Whether `path` is in the directory that DOCKER_CONFIG names.
fn is_in_docker_config(path: &Path) -> bool {
    std::env::var_os("DOCKER_CONFIG").is_some_and(|folder| path.parent() == Some(Path::new(&folder)))
}

/// The locations of credentials, where `variable` returns environment variables: locations that a variable names before the
/// default ones, and docker before podman.
fn locations(variable: impl Fn(&'static str) -> Option<OsString>) -> Vec<CredentialLocation> {
    let mut found = Vec::new();
    let below = |folder: Option<OsString>, path: &str| {
        folder.map(|folder| CredentialLocation::File(PathBuf::from(folder).join(path)))
    };
    found.extend(variable("DOCKER_AUTH_CONFIG").map(|text| CredentialLocation::Variable("DOCKER_AUTH_CONFIG", text)));
    let docker = variable("DOCKER_CONFIG");
    let podman = variable("REGISTRY_AUTH_FILE");
    let by_default = docker.is_none();
    found.extend(below(docker, "config.json"));
    found.extend(podman.map(|path| CredentialLocation::File(path.into())));
    if by_default {
        found.extend(below(variable("HOME"), ".docker/config.json"));
    }
    found.extend(below(variable("XDG_RUNTIME_DIR"), "containers/auth.json"));
    let configuration = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let configuration = configuration.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
    found.extend(configuration.map(|folder| CredentialLocation::File(folder.join("containers/auth.json"))));
    found
}

/// The name of a registry for helpers.
fn server(host: &str) -> String {
    match host {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        host => host.to_owned(),
    }
}

fn helper_fault(helper: &str, host: &str, file: &str, failure: Failure) -> Fault {
    let what = match failure {
        Failure::Missing => "is not installed: the program is not in PATH".to_owned(),
        Failure::Failed(reason) => reason,
    };
    Fault::retryable(
        Reason::AuthenticationFailed,
        format!(
            "the credential helper docker-credential-{helper} for {host} (in {file}) {what}; correct it, or remove it from {file}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_docker_and_podman_are_searched() {
        let order = |set: &[(&'static str, &str)]| -> Vec<String> {
            let set: HashMap<&str, OsString> = set.iter().map(|(name, value)| (*name, (*value).into())).collect();
            let shown = |location| match location {
                CredentialLocation::Variable(name, _) => name.to_owned(),
                CredentialLocation::File(path) => path.display().to_string(),
            };
            locations(|name| set.get(name).cloned())
                .into_iter()
                .map(shown)
                .collect()
        };
        assert_eq!(order(&[]), [""; 0]);
        assert_eq!(
            order(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/1")]),
            [
                "/h/.docker/config.json",
                "/run/1/containers/auth.json",
                "/h/.config/containers/auth.json"
            ]
        );
        assert_eq!(
            order(&[
                ("HOME", "/h"),
                ("DOCKER_CONFIG", "/d"),
                ("REGISTRY_AUTH_FILE", "/a.json"),
                ("DOCKER_AUTH_CONFIG", "{}")
            ]),
            [
                "DOCKER_AUTH_CONFIG",
                "/d/config.json",
                "/a.json",
                "/h/.config/containers/auth.json"
            ]
        );
    }

    #[test]
    fn helpers_get_the_legacy_name_of_docker_hub() {
        assert_eq!(server("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(server("r:5000"), "r:5000");
    }
}
