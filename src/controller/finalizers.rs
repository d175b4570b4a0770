//! Finalizers: what keeps an object until its work is done.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::children::FIELD_MANAGER;
use crate::fault::{Fault, Reason};
use crate::worker::{kube_fault, within};

/// Sees to it that `object` has `finalizer`, or has it not.
pub(super) async fn set<K>(client: &Client, object: &K, finalizer: &str, wanted: bool) -> Result<(), Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    if object.finalizers().iter().any(|known| known == finalizer) == wanted {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let others = object
        .finalizers()
        .iter()
        .map(String::as_str)
        .filter(|known| *known != finalizer);
    let finalizers: Vec<&str> = others.chain(wanted.then_some(finalizer)).collect();
    // The resource version makes sure that nobody else's finalizer is lost.
    let patch = json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers } });
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match within(api.patch_metadata(&object.name_any(), &parameters, &Patch::Merge(patch))).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(kube_fault(Reason::PackageFailed, "setting the finalizer", &error)),
    }
}
