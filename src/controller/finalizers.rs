//! Adds and removes finalizers, which keep an object until its content is deleted.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::children::FIELD_MANAGER;
use crate::fault::{Fault, Reason};
use crate::runtime::{kube_fault, with_timeout};

/// The most attempts of a write that conflicts with others.
const CONFLICTS: u32 = 10;

/// Adds `finalizer` to `object`, or removes it.
pub(super) async fn set<K>(client: &Client, object: &K, finalizer: &str, wanted: bool) -> Result<(), Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let failed = |error: &kube::Error| kube_fault(Reason::PackageFailed, "setting the finalizer", error);
    let name = object.name_any();
    let mut metadata = object.meta().clone();
    for _ in 0..CONFLICTS {
        let current = metadata.finalizers.as_deref().unwrap_or_default();
        if current.iter().any(|known| known == finalizer) == wanted {
            return Ok(());
        }
        let others = current.iter().map(String::as_str).filter(|known| *known != finalizer);
        let finalizers: Vec<&str> = others.chain(wanted.then_some(finalizer)).collect();
        // The resource version makes sure that finalizers which others added meanwhile are not lost.
        let patch = json!({ "metadata": { "resourceVersion": metadata.resource_version, "finalizers": finalizers } });
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match with_timeout(api.patch_metadata(&name, &parameters, &Patch::Merge(patch))).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            // The object changed meanwhile, mostly its status.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(&error)),
        }
        match with_timeout(api.get_metadata_opt(&name)).await {
            Ok(Some(object)) if object.metadata.uid == metadata.uid => metadata = object.metadata,
            Ok(_) => return Ok(()),
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(Fault::retryable(
        Reason::PackageFailed,
        format!("the object {name} changed under each of {CONFLICTS} tries to set its finalizer; it is tried again"),
    ))
}
