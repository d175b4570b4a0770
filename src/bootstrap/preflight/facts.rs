//! What was read of a cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolume, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::dry_run::DryRun;
use super::permissions::Permission;

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The user of the kubeconfig may not read it.
    Forbidden,
    /// It does not exist.
    Absent,
    /// The request failed; the text says how.
    Failed(String),
}

/// What was read, or why not.
pub(super) type Read<T> = Result<T, Unread>;

/// Why a cluster cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// What happened.
    pub message: String,
    /// Whether another kubeconfig is needed, because the API server answered and refused.
    pub is_refusal: bool,
}

/// What is to be installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The storage class of the registry's claim; without one, the cluster's default.
    pub storage_class: Option<String>,
    /// The length of the registry's claim in bytes; without one, that of the chart.
    pub storage_size: Option<u64>,
    /// Whether the registry has no claim.
    pub ephemeral: bool,
}

/// The clocks of the API server and of this machine, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clocks {
    /// The time in an answer of the API server, a whole second.
    pub server: i64,
    /// When its request was sent.
    pub sent: i64,
    /// When its answer arrived.
    pub received: i64,
}

/// The file systems of a node, in bytes (kubelet's `stats/summary`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub available: u64,
    pub capacity: u64,
}

/// What says how NodePorts are served.
#[derive(Clone, Debug, Default)]
pub(super) struct ProxyFacts {
    /// `kube-proxy` and `kube-proxy-config` in `kube-system`, as far as they exist.
    pub config_maps: Vec<ConfigMap>,
    /// The DaemonSet `kube-proxy` in `kube-system`.
    pub daemon_set: Option<DaemonSet>,
    /// The pods of kube-proxy in `kube-system`, such as static ones.
    pub pods: Vec<Pod>,
    /// `cilium-config` in `kube-system`.
    pub cilium: Option<ConfigMap>,
    /// What kube-proxy itself says on a node, where it can be asked.
    pub measured: BTreeMap<String, String>,
    /// What could not be read.
    pub unread: Vec<String>,
}

/// What decides whether pods are admitted.
#[derive(Clone, Debug)]
pub(super) struct AdmissionFacts {
    /// The namespace of the temporary registry, as it would be made.
    pub namespace: DryRun,
    /// A pod as the temporary registry has it, in the namespace `pod_namespace`.
    pub pod: DryRun,
    /// Where the pod was tried: the namespace itself, where it exists, else another one.
    pub pod_namespace: String,
    pub validating: Read<Vec<ValidatingWebhookConfiguration>>,
    pub mutating: Read<Vec<MutatingWebhookConfiguration>>,
    /// The endpoints of the Services of webhooks, by namespace and name.
    pub endpoints: BTreeMap<(String, String), Read<Vec<EndpointSlice>>>,
}

/// What is in the cluster already.
#[derive(Clone, Debug)]
pub(super) struct ExistingFacts {
    /// The custom resource definitions of the operator.
    pub definitions: Vec<Read<CustomResourceDefinition>>,
    /// The newest record of the Helm release of this installation.
    pub releases: Read<Vec<Secret>>,
    /// `zarf/zarf-state` and `jackal/jackal-state`: whether they exist.
    pub states: BTreeMap<&'static str, Read<()>>,
    /// The namespaces of the operator and of the temporary registry.
    pub namespaces: BTreeMap<&'static str, Read<Namespace>>,
}

/// What was read of a cluster. Nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The address of the API server.
    pub server: String,
    /// The version of the API server, such as `v1.33.1+k3s1`.
    pub(super) version: Read<String>,
    pub(super) clocks: Option<Clocks>,
    pub(super) nodes: Read<Vec<Node>>,
    /// Whether there are more nodes than were read.
    pub(super) more_nodes: bool,
    /// The Leases of nodes.
    pub(super) leases: Read<Vec<Lease>>,
    pub(super) disks: BTreeMap<String, Read<Disk>>,
    pub(super) proxy: ProxyFacts,
    pub(super) storage_classes: Read<Vec<StorageClass>>,
    pub(super) drivers: Read<Vec<CSIDriver>>,
    pub(super) volumes: Read<Vec<PersistentVolume>>,
    pub(super) admission: AdmissionFacts,
    pub(super) permissions: Read<Vec<Permission>>,
    pub(super) existing: ExistingFacts,
    pub(super) services: Read<Vec<Service>>,
    /// A Service with the registry's port, as it would be made.
    pub(super) node_port: DryRun,
    /// The Service of the API server.
    pub(super) kubernetes: Read<Service>,
}
