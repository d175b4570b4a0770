//! The credentials of whoever runs a command: the files of docker and podman, and the helpers that they name.

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

/// How long a helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

/// Where credentials are written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CredentialLocation {
    /// In a variable of the environment.
    Variable(&'static str, OsString),
    /// In a file, which need not exist.
    File(PathBuf),
}

/// The files, in the order in which they are searched. Each is read when it is reached, once.
pub(super) struct CredentialFiles {
    places: Vec<CredentialLocation>,
    /// How long a helper may take.
    limit: Duration,
    read: Mutex<Read>,
}

/// What was read.
#[derive(Default)]
struct Read {
    /// The name and content of the files that exist; `None` for one that does not.
    files: Vec<Option<(String, Keychain)>>,
    /// What helpers answered, by the helper and the server.
    answers: HashMap<(String, String), Option<Credentials>>,
}

impl CredentialFiles {
    /// Those that the environment names. A helper may take `limit`, and never more than 30 s.
    pub fn of_environment(limit: Duration) -> Self {
        Self {
            places: places(|name| std::env::var_os(name).filter(|value| !value.is_empty())),
            limit: limit.min(HELPER_LIMIT),
            read: Mutex::default(),
        }
    }

    /// The credentials for `repository` on `host`, in the order in which they are to be tried: those of the first file
    /// that has any. A file that cannot be read and a helper that fails are errors: going on without credentials would only
    /// fail later, for a reason that nobody understands.
    pub async fn candidates(&self, host: &str, repository: &str) -> anyhow::Result<Vec<Credentials>> {
        let mut read = self.read.lock().await;
        for (at, place) in self.places.iter().enumerate() {
            if read.files.len() <= at {
                read.files.push(place.read().await?);
            }
            let Some((name, keychain)) = read.files[at].clone() else {
                continue;
            };
            let mut found = keychain.candidates(host, repository);
            if let Some(helper) = keychain.helper(host, repository) {
                let asked = (helper.to_owned(), server(host));
                let answer = match read.answers.get(&asked) {
                    Some(answer) => Ok(answer.clone()),
                    None => credential_helper::get(helper, &asked.1, self.limit).await,
                };
                match answer {
                    Ok(answer) => {
                        read.answers.insert(asked, answer.clone());
                        found.splice(0..0, answer);
                    }
                    // What stands in the file itself needs no helper.
                    Err(Failure::Missing) if !found.is_empty() => {}
                    Err(failure) => return Err(of_helper(helper, host, &name, failure).into()),
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The credentials for pushing to `host` below the path `prefix`: the first of [`Self::candidates`], else those that
    /// docker finds by the host alone.
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
    /// The keychain, with the name of its file; none where the file does not exist.
    async fn read(&self) -> Result<Option<(String, Keychain)>, UsageError> {
        let (name, content) = match self {
            Self::Variable(name, text) => ((*name).to_owned(), text.as_encoded_bytes().to_vec()),
            Self::File(path) => match files::read(path).await {
                Ok(content) => (path.display().to_string(), content),
                Err(error) if error.kind() == io::ErrorKind::NotADirectory && names_folder(path) => {
                    return Err(UsageError(format!(
                        "the credentials in {} cannot be read: DOCKER_CONFIG names a folder, in which config.json lies, not the file",
                        path.display()
                    )));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                Err(error) => {
                    return Err(UsageError(format!(
                        "the credentials in {} cannot be read: {error}; correct the file's permissions, or remove it",
                        path.display()
                    )));
                }
            },
        };
        match Keychain::parse(&content) {
            Ok(keychain) => Ok(Some((name, keychain))),
            Err(reason) => Err(UsageError(format!(
                "the credentials in {name} cannot be read: {reason}; correct it, or remove it"
            ))),
        }
    }
}

/// Whether `path` lies in what DOCKER_CONFIG names as a folder.
fn names_folder(path: &Path) -> bool {
    std::env::var_os("DOCKER_CONFIG").is_some_and(|folder| path.parent() == Some(Path::new(&folder)))
}

/// Where credentials are, by what `variable` says of the environment: what a variable names before what lies in its usual
/// place, and docker before podman.
fn places(variable: impl Fn(&'static str) -> Option<OsString>) -> Vec<CredentialLocation> {
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

/// What helpers call a registry.
fn server(host: &str) -> String {
    match host {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        host => host.to_owned(),
    }
}

fn of_helper(helper: &str, host: &str, file: &str, failure: Failure) -> Fault {
    let what = match failure {
        Failure::Missing => "is not installed: there is no such program in PATH".to_owned(),
        Failure::Failed(reason) => reason,
    };
    Fault::retryable(
        Reason::AuthenticationFailed,
        format!(
            "the credential helper docker-credential-{helper}, which {file} names for {host}, {what}; repair it, or remove it from {file}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_searched_where_docker_and_podman_keep_them() {
        let order = |set: &[(&'static str, &str)]| -> Vec<String> {
            let set: HashMap<&str, OsString> = set.iter().map(|(name, value)| (*name, (*value).into())).collect();
            let shown = |place| match place {
                CredentialLocation::Variable(name, _) => name.to_owned(),
                CredentialLocation::File(path) => path.display().to_string(),
            };
            places(|name| set.get(name).cloned()).into_iter().map(shown).collect()
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
    fn helpers_know_the_hub_by_its_old_name() {
        assert_eq!(server("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(server("r:5000"), "r:5000");
    }
}
