//! The custom resource definitions in the API server of the tests.

use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::process::run;
use super::program;
use super::wait::{SOON, eventually};

/// Applies `crds/` and waits until the API server serves them.
pub async fn define(client: &Client, kubeconfig: &Path) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    let kubeconfig = ["--kubeconfig", kubeconfig.to_str().expect("text")];
    let arguments = ["apply", "--server-side", "--force-conflicts", "--filename", folder];
    let arguments = [&kubeconfig[..], &arguments].concat();
    run(program("JACKAL_BIN_KUBECTL"), &arguments);
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    eventually(SOON, "the custom resources are established", async || {
        let list = api
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let ours = list
            .items
            .iter()
            .filter(|definition| definition.spec.group == "jackal.dev");
        let waiting = ours.filter(|definition| {
            let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
            !conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Established" && c.status == "True"))
        });
        let waiting: Vec<String> = waiting.map(|definition| definition.name_any()).collect();
        match waiting.is_empty() {
            true => Ok(()),
            false => Err(format!("not yet: {}", waiting.join(", "))),
        }
    })
    .await;
}
