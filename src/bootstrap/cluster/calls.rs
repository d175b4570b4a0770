//! Requests to the API server.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy};
use tokio::time::Instant;

use crate::bootstrap::install::{Kind, LABEL, Object};
use crate::bootstrap::text::clean;
use crate::fault::{Fault, Reason};
use crate::registry::backoff;
use crate::runtime::with_timeout;

/// The field manager of everything that is written.
const MANAGER: &str = "jackal-bootstrap";
/// How long a request is repeated while the API server does not answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The most objects of a list.
const LIST_LIMIT: u32 = 500;
/// The most characters of a message of the API server that are shown.
const SHOWN: usize = 600;
/// How long a namespace may take to be deleted.
const DELETION: Duration = Duration::from_secs(180);
/// How often the cluster is asked whether something happened.
const INTERVAL: Duration = Duration::from_millis(500);

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// The cluster of `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The API of `kind`, in a namespace or in all.
    pub(in crate::bootstrap) fn api(&self, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: kind.group().to_owned(),
            version: kind.version().to_owned(),
            api_version: kind.api_version.to_owned(),
            kind: kind.kind.to_owned(),
            plural: kind.plural.to_owned(),
        };
        match namespace {
            Some(namespace) if kind.namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// The object as the cluster has it.
    ///
    /// # Errors
    /// A fault that names the object.
    pub async fn get(&self, object: &Object) -> Result<Option<DynamicObject>, Fault> {
        let api = self.api(object.kind, object.namespace.as_deref());
        self.call(&format!("reading {object}"), async || api.get_opt(&object.name).await)
            .await
    }

    /// Applies the object by server-side apply. What others changed in the fields of the object is set again.
    ///
    /// # Errors
    /// A fault that names the object.
    pub async fn apply(&self, object: &Object) -> Result<DynamicObject, Fault> {
        let api = self.api(object.kind, object.namespace.as_deref());
        let params = PatchParams::apply(MANAGER).force();
        let doing = format!("applying {object}");
        self.call(&doing, async || {
            api.patch(&object.name, &params, &Patch::Apply(&object.content)).await
        })
        .await
    }

    /// Deletes an object and what depends on it. Says whether it was there.
    ///
    /// # Errors
    /// A fault that names the object.
    pub async fn delete(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<bool, Fault> {
        let api = self.api(kind, namespace);
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let doing = format!("deleting {} {name}", kind.kind);
        self.call(&doing, async || match api.delete(name, &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    /// The objects of `kind` of the installation, in all namespaces; none where the cluster does not know the kind.
    ///
    /// # Errors
    /// A fault that names the kind.
    pub async fn installed(&self, kind: &Kind) -> Result<Vec<DynamicObject>, Fault> {
        self.list(kind, None, LABEL).await
    }

    /// The objects of `kind` that `selector` (labels) selects, in `namespace` or in all.
    ///
    /// # Errors
    /// A fault that names the kind, also where there are more than a thousand.
    pub async fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<DynamicObject>, Fault> {
        let api = self.api(kind, namespace);
        let mut found = Vec::new();
        let mut params = ListParams::default().labels(selector).limit(LIST_LIMIT);
        let doing = format!("listing {}", kind.plural);
        loop {
            let page = self.call(&doing, async || match api.list(&params).await {
                Ok(page) => Ok(Some(page)),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error),
            });
            let Some(page) = page.await? else { return Ok(found) };
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if found.len() < 1000 => params.continue_token = Some(token),
                Some(_) => {
                    let message =
                        format!("{doing} gives more than a thousand objects; delete those that do not belong there");
                    return Err(Fault::stalled(Reason::InvalidSpec, message));
                }
                None => return Ok(found),
            }
        }
    }

    /// Waits until the object, a namespace, is not being deleted: it takes no objects until then.
    ///
    /// # Errors
    /// A retryable fault that names it.
    pub async fn wait_until_not_terminating(&self, object: &Object) -> Result<(), Fault> {
        self.wait(DELETION, async || {
            let found = self.get(object).await?;
            Ok(
                match found.is_some_and(|found| found.metadata.deletion_timestamp.is_some()) {
                    true => Err(format!("{object} is still being deleted")),
                    false => Ok(()),
                },
            )
        })
        .await
    }

    /// The result of `request`, which is repeated while the API server does not answer or asks to wait. `doing` says what fails.
    ///
    /// # Errors
    /// A stalled fault, where the API server refuses it; a retryable one after two minutes.
    pub async fn call<T>(
        &self,
        doing: &str,
        mut request: impl AsyncFnMut() -> Result<T, kube::Error>,
    ) -> Result<T, Fault> {
        let begin = Instant::now();
        let mut attempt = 0;
        loop {
            let error = match with_timeout(request()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let fault = fault_of(doing, &error);
            if fault.is_stalled() || begin.elapsed() > PATIENCE {
                return Err(fault);
            }
            tracing::debug!(message = fault.message, "a request is repeated");
            attempt += 1;
            tokio::time::sleep(backoff(attempt)).await;
        }
    }

    /// Waits until `state` says that something happened; it says else what is missing.
    ///
    /// # Errors
    /// A retryable fault that says what was missing after `limit`, or a fault of `state`.
    pub async fn wait<T>(
        &self,
        limit: Duration,
        mut state: impl AsyncFnMut() -> Result<Result<T, String>, Fault>,
    ) -> Result<T, Fault> {
        let begin = Instant::now();
        loop {
            match state().await? {
                Ok(done) => return Ok(done),
                Err(missing) if begin.elapsed() > limit => {
                    let minutes = limit.as_secs() / 60;
                    let message = format!("{missing} (after {minutes} minutes); a repetition continues");
                    return Err(Fault::retryable(Reason::NodeUnavailable, message));
                }
                Err(_) => tokio::time::sleep(INTERVAL).await,
            }
        }
    }
}

/// An error of the API server as a fault.
fn fault_of(doing: &str, error: &kube::Error) -> Fault {
    match error {
        kube::Error::Api(status) => {
            let message = clean(&status.message, SHOWN);
            match status.code {
                401 => Fault::stalled(
                    Reason::AuthenticationFailed,
                    format!(
                        "{doing} failed: the API server does not accept the credentials of the kubeconfig: {message}"
                    ),
                ),
                403 => Fault::stalled(
                    Reason::AuthenticationFailed,
                    format!(
                        "{doing} is forbidden to this account: {message}; use an account of a cluster administrator"
                    ),
                ),
                // A conflict, too many requests, and an admission webhook that is not up.
                409 | 429 | 500.. => Fault::retryable(Reason::PushFailed, format!("{doing} failed: {message}")),
                _ => Fault::stalled(Reason::InvalidSpec, format!("{doing} failed: {message}")),
            }
        }
        other => Fault::retryable(
            Reason::RegistryUnavailable,
            format!("{doing} failed: the API server cannot be reached: {other}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn messages_of_the_api_server_have_no_control_characters() {
        for (code, is_stalled) in [
            (401, true),
            (403, true),
            (409, false),
            (422, true),
            (429, false),
            (503, false),
        ] {
            let message = format!("refused\u{1b}[2J by a webhook{}", " and so on".repeat(1000));
            let status = Status::failure(&message, "Some").with_code(code);
            let fault = fault_of("applying it", &kube::Error::Api(Box::new(status)));
            assert_eq!(fault.is_stalled(), is_stalled, "{code}");
            assert!(fault.message.starts_with("applying it "), "{}", fault.message);
            assert!(
                fault.message.contains("refused\u{fffd}[2J by a webhook"),
                "{}",
                fault.message
            );
            assert!(fault.message.len() < 1000, "{}", fault.message.len());
        }
    }
}
