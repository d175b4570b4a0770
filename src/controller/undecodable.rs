//! Objects that the API server let in and that we cannot read: they say so themselves, and stall no others.

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

/// When it is tried again to tell an object so.
const AGAIN: Duration = Duration::from_secs(10);

/// Says in the status of `object` why it cannot be read, unless it says so already. Gives when that is to be tried
/// again.
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
        let Some(standing) = with_timeout(api.get_opt(&name)).await? else {
            return Ok(());
        };
        let known = standing.data.pointer("/status/conditions").cloned().unwrap_or_default();
        let mut conditions = Conditions(serde_json::from_value(known).unwrap_or_default());
        let before = conditions.clone();
        let reason = Reason::InvalidSpec.to_string();
        conditions.stalled(
            standing.meta().generation,
            &reason,
            &message,
            Time(jiff::Timestamp::now()),
        );
        if conditions == before {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": standing.resource_version() },
            "status": { "conditions": conditions.0, "observedGeneration": standing.meta().generation },
        });
        with_timeout(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        let mut reference = standing.object_ref(&resource);
        reference.kind = Some(K::kind(&()).into_owned());
        events.warning_on(&reference, &reason, &message).await;
        Ok::<_, kube::Error>(())
    };
    match result.await {
        Ok(()) => Action::await_change(),
        Err(error) => {
            warn!(kind = %K::kind(&()), object = format!("{namespace}/{name}"), %error, "an undecodable object could not be told so");
            Action::requeue(AGAIN)
        }
    }
}
