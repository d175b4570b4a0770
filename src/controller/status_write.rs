//! Status writes of the leader.

use std::fmt::Debug;

use kube::core::NamespaceResourceScope;
use kube::core::object::HasStatus;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lease::Leadership;
use crate::runtime::update_status;

/// The result of a status write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusWrite<T> {
    /// The status is as wanted; the value that the change gave.
    Written(T),
    /// The object was deleted or has changed, so nothing was written. Its own events request another reconciliation.
    Outdated,
    /// The lease was not held at that moment, so nothing was written.
    NotLeading,
}

/// Changes the status of `object`, as long as this process leads. `change` gets the object as it is now, and gives none
/// where it differs from what the change is about. It is called again after each conflict, and must not depend on earlier
/// calls.
pub(super) async fn write_status<K, T>(
    client: &Client,
    leadership: &Leadership,
    object: &K,
    change: impl Fn(&K, &mut K::Status) -> Option<T>,
) -> Result<StatusWrite<T>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug,
    K::Status: Default + Clone + PartialEq,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let mut last = StatusWrite::Outdated;
    let attempt = |current: &K, status: &mut K::Status| {
        last = match leadership.is_held() {
            true => change(current, status).map_or(StatusWrite::Outdated, StatusWrite::Written),
            false => StatusWrite::NotLeading,
        };
        matches!(last, StatusWrite::Written(_))
    };
    let written = update_status(&api, &object.name_any(), &object.uid().unwrap_or_default(), attempt).await?;
    Ok(match (written, last) {
        // The object was deleted between the change and its write.
        (None, StatusWrite::Written(_)) => StatusWrite::Outdated,
        (_, last) => last,
    })
}
