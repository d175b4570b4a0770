//! How a process works.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};

use super::health::Health;
use super::metrics::Metrics;
use super::registry_target::RegistryDefaults;
use super::task_table::Backoff;
use crate::api::v1alpha1::Period;
use crate::sbom::Syft;

/// How a process works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What holds for objects that say nothing of the registry.
    pub defaults: RegistryDefaults,
    /// The namespace to watch; all when absent.
    pub namespace: Option<String>,
    /// Images that move at once out of one source.
    pub concurrency: usize,
    /// How the delay between two tries grows.
    pub backoff: Backoff,
    /// How often sources are looked at again, where an object says nothing.
    pub interval: Duration,
    /// How long a transfer may stand still, where an object says nothing.
    pub idle: Duration,
    /// How long a transfer may stand still at most, whatever an object says.
    pub longest_idle: Duration,
    /// How long what is to be deleted stands in a package's status before it is.
    pub garbage_delay: Duration,
    /// What makes SBOMs; none where this installation makes none.
    pub syft: Option<Arc<Syft>>,
    /// What this process' Lease belongs to in the API server, which deletes the one after the other. None where it runs
    /// outside of a cluster.
    pub owner: Option<OwnerReference>,
    /// What it counts of its work.
    pub metrics: Metrics,
    /// Whether it is able to work.
    pub health: Health,
}

impl Settings {
    /// The objects of one kind that this process works on: of the namespace that it watches, or of all.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }

    /// The interval of an object; at least ten seconds.
    pub fn interval(&self, own: Option<Period>) -> Duration {
        own.map_or(self.interval, Into::into).max(Duration::from_secs(10))
    }

    /// The idle limit of an object; at least a second, and no longer than the administrator allows.
    pub fn idle(&self, own: Option<Period>) -> Duration {
        let asked: Duration = own.map_or(self.idle, Into::into);
        asked.min(self.longest_idle).max(Duration::from_secs(1))
    }
}
