//! `kubectl jackal reconcile`, `suspend` and `resume`: small changes of a package.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::super::print;
use super::objects::{condition, no_package, package, requested};
use super::scope::{Scope, ScopeFlags};
use crate::api::v1alpha1::{JackalPackage, Period, REQUESTED_AT};

/// How often a package is read while a command waits for it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Check the sources of a package now.
#[derive(Debug, Args)]
pub(super) struct Reconcile {
    /// The package.
    #[arg(value_name = "PACKAGE")]
    name: String,
    #[command(flatten)]
    scope: ScopeFlags,
    /// Wait until the request was handled and the package is ready.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "10m", value_name = "DURATION", requires = "wait")]
    timeout: Period,
}

/// Stop checking and copying a package.
#[derive(Debug, Args)]
pub(super) struct Suspend {
    /// The package.
    #[arg(value_name = "PACKAGE")]
    name: String,
    #[command(flatten)]
    scope: ScopeFlags,
}

/// Continue a suspended package.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The package.
    #[arg(value_name = "PACKAGE")]
    name: String,
    #[command(flatten)]
    scope: ScopeFlags,
}

impl Reconcile {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        if package(&scope, &self.name).await?.spec.suspend {
            bail!(
                "{0} is suspended; resume it first: kubectl jackal resume {0}",
                self.name
            );
        }
        let request = jiff::Timestamp::now().to_string();
        let annotations = json!({ "metadata": { "annotations": { REQUESTED_AT[0]: &request } } });
        patch(&scope, &self.name, annotations).await?;
        if !self.wait {
            print::line(format_args!(
                "jackalpackage.jackal.dev/{} is to be reconciled",
                self.name
            ));
            return Ok(());
        }
        let waited = tokio::time::timeout(self.timeout.into(), wait(&scope, &self.name, &request)).await;
        match waited {
            Ok(ready) => ready,
            Err(_) => {
                let package = package(&scope, &self.name).await?;
                let ready = condition(&package, "Ready").filter(|ready| ready.status != "True");
                let why = ready.map_or_else(String::new, |ready| format!(": {}: {}", ready.reason, ready.message));
                bail!(
                    "{0} is not ready after --timeout{1}; see: kubectl jackal explain {0}",
                    self.name,
                    print::shown(&why)
                )
            }
        }
    }
}

impl Suspend {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        patch(&scope, &self.name, json!({ "spec": { "suspend": true } })).await?;
        print::line(format_args!("jackalpackage.jackal.dev/{} is suspended", self.name));
        Ok(())
    }
}

impl Resume {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        patch(&scope, &self.name, json!({ "spec": { "suspend": null } })).await?;
        print::line(format_args!("jackalpackage.jackal.dev/{} is resumed", self.name));
        Ok(())
    }
}

async fn patch(scope: &Scope, name: &str, change: Value) -> anyhow::Result<()> {
    let packages = scope.packages();
    let parameters = PatchParams {
        field_manager: Some("kubectl-jackal".to_owned()),
        ..PatchParams::default()
    };
    let what = format!("cannot change the JackalPackage {name}");
    let patched = requested(&what, packages.patch(name, &parameters, &Patch::Merge(change))).await;
    let is_absent = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
    match patched {
        Err(error) if error.downcast_ref().is_some_and(is_absent) => Err(no_package(scope, name).await),
        patched => patched.map(drop),
    }
}

/// Whether `request` was handled: `None` not yet, else whether the package is ready.
fn handled(package: &JackalPackage, request: &str) -> Option<Result<(), String>> {
    let status = package.status.as_ref()?;
    let is_handled = status.last_handled_reconcile_at.as_deref() == Some(request);
    let ready = condition(package, "Ready").filter(|_| is_handled)?;
    let is_current = ready.observed_generation == package.metadata.generation;
    match ready.status.as_str() {
        "True" if is_current => Some(Ok(())),
        "False" => Some(Err(format!("{}: {}", ready.reason, ready.message))),
        _ => None,
    }
}

async fn wait(scope: &Scope, name: &str, request: &str) -> anyhow::Result<()> {
    loop {
        match handled(&package(scope, name).await?, request) {
            Some(Ok(())) => {
                print::line(format_args!("jackalpackage.jackal.dev/{name} is ready"));
                return Ok(());
            }
            Some(Err(why)) => bail!("{name} is not ready: {}", print::shown(&why)),
            None => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}
