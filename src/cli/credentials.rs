//! The credentials of whoever runs a command: docker's `config.json`, and the helpers that it names.

use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::registry::Credentials;

/// The credentials for `host`, if docker knows any. A helper that fails is an error: going on without
/// credentials would only fail later, for a reason that nobody understands.
pub(super) async fn of(host: &str) -> anyhow::Result<Option<Credentials>> {
    let server = match host {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        host => host.to_owned(),
    };
    // Helpers are programs that are waited for.
    let found = tokio::task::spawn_blocking(move || docker_credential::get_credential(&server)).await?;
    match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => Ok(Some(Credentials::new(username, password))),
        Ok(DockerCredential::IdentityToken(_)) => {
            anyhow::bail!(
                "docker's config.json has an identity token for {host}, which is not spoken: log in with a user and a password or token"
            )
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => Ok(None),
        Err(error) => anyhow::bail!("docker's credentials for {host} cannot be had: {error}"),
    }
}
