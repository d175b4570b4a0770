//! The settings of a process.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};

use super::health::Health;
use super::metrics::Metrics;
use super::registry_defaults::RegistryDefaults;
use super::task_table::Backoff;
use crate::api::v1alpha1::Period;
use crate::sbom::Syft;

/// The settings of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registry of objects whose spec names none.
    pub defaults: RegistryDefaults,
    /// The namespace to watch; all namespaces if absent.
    pub namespace: Option<String>,
    /// Concurrent transfers from one source.
    pub concurrency: usize,
    /// The delay between retries.
    pub backoff: Backoff,
    /// How often images that are ready are compared with their source, unless the object sets it.
    pub interval: Duration,
    /// How long a transfer may make no progress, unless the object sets it.
    pub idle: Duration,
    /// The longest such time that an object may set.
    pub longest_idle: Duration,
    /// How long an artifact is listed in a package's `status.garbage` before it is deleted.
    pub garbage_delay: Duration,
    /// The SBOM generator; none if this installation makes no SBOMs.
    pub syft: Option<Arc<Syft>>,
    /// The owner of this process's Lease; the API server deletes the Lease with it. None outside of a cluster.
    pub owner: Option<OwnerReference>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// The health of the process.
    pub health: Health,
}

impl Settings {
    /// The API for the objects of one kind in the watched namespace, or in all namespaces.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }

    /// The interval of an object that sets `own`; at least 10 s.
    pub fn interval(&self, own: Option<Period>) -> Duration {
        own.map_or(self.interval, Into::into).max(Duration::from_secs(10))
    }

    /// The idle timeout of an object that sets `own`; at least 1 s and at most `longest_idle`.
    pub fn idle(&self, own: Option<Period>) -> Duration {
        let requested: Duration = own.map_or(self.idle, Into::into);
        requested.min(self.longest_idle).max(Duration::from_secs(1))
    }
}
