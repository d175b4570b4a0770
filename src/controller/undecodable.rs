//! Objects that the API server accepted and that cannot be decoded: a condition says so, and other objects are not affected.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::Action;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;
use tracing::warn;

use crate::api::v1alpha1::Conditions;
use crate::fault::Reason;
use crate::runtime::{Events, with_timeout};

/// How soon a status write is retried.
const RETRY: Duration = Duration::from_secs(10);

/// Writes into the status of `object` why it cannot be decoded, unless that is there already. Gives when a failed write is
/// retried.
pub(super) async fn report<K: Resource<DynamicType = ()>>(
    client: &Client,
    events: &Events,
    object: &InvalidObject,
) -> Action {
    let metadata = &object.metadata;
    let (namespace, name) = (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    );
    let message = format!("the object cannot be read: {}. Correct that field", object.error);
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let result = async {
        let Some(current) = with_timeout(api.get_opt(&name)).await? else {
            return Ok(());
        };
        let known = current.data.pointer("/status/conditions").cloned().unwrap_or_default();
        let mut conditions = Conditions(serde_json::from_value(known).unwrap_or_default());
        let before = conditions.clone();
        let reason = Reason::InvalidSpec.to_string();
        conditions.stalled(
            current.meta().generation,
            &reason,
            &message,
            Time(jiff::Timestamp::now()),
        );
        if conditions == before {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": current.resource_version() },
            "status": { "conditions": conditions.0, "observedGeneration": current.meta().generation },
        });
        with_timeout(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        let mut reference = current.object_ref(&resource);
        reference.kind = Some(K::kind(&()).into_owned());
        events.warning_on(&reference, &reason, &message).await;
        Ok::<_, kube::Error>(())
    };
    match result.await {
        Ok(()) => Action::await_change(),
        Err(error) => {
            warn!(kind = %K::kind(&()), object = format!("{namespace}/{name}"), %error, "the status of an object that cannot be decoded could not be written");
            Action::requeue(RETRY)
        }
    }
}
