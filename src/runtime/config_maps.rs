//! ConfigMaps that objects name. They are read when needed and not cached.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use super::status::{kube_fault, with_timeout};
use crate::fault::{Fault, Reason};

/// The data of the ConfigMap `name` in `namespace`. A missing ConfigMap is a retryable fault.
pub async fn read_config_map(client: &Client, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, Fault> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = with_timeout(api.get_opt(name)).await.map_err(|error| {
        let what = format!("reading the ConfigMap {namespace}/{name}");
        kube_fault(Reason::ConfigMapUnavailable, &what, &error)
    })?;
    let found = found.ok_or_else(|| {
        let what = format!("the ConfigMap {namespace}/{name} does not exist: create it, or remove the reference");
        Fault::retryable(Reason::ConfigMapUnavailable, what)
    })?;
    Ok(found.data.unwrap_or_default())
}
