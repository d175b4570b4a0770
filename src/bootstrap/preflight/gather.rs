//! Reads a cluster.

mod disks;
mod modes;

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admission;
use super::dry_run;
use super::facts::{AdmissionFacts, Clocks, ExistingFacts, Facts, Read, Unreachable, Unread};
use super::permissions::{EVERYTHING, Permission, Right, rights};
use super::read::Reader;
use crate::bootstrap::install::{NAMESPACE, RELEASE};
use crate::bootstrap::seed::SEED_NAMESPACE;

/// The most nodes that are read.
const NODES: usize = 5000;
/// The most objects of another kind that are read.
const OBJECTS: usize = 5000;
/// Requests at the same time.
const CONCURRENCY: usize = 8;

/// What the API server says about itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    git_version: String,
}

/// An answer to the question whether something is allowed (`SelfSubjectAccessReview`).
#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
struct ReviewStatus {
    allowed: bool,
}

/// Reads the cluster of `client`, whose API server has the address `server`.
///
/// # Errors
/// Where the API server does not answer, or does not know the user.
pub async fn gather(client: &Client, server: &str) -> Result<Facts, Unreachable> {
    let reader = Reader::new(client.clone());
    let (version, clocks) = first(&reader).await?;
    let nodes = reader.list::<Node>("/api/v1/nodes", NODES).await;
    let (nodes, more_nodes) = split(nodes);
    let names: Vec<String> = nodes
        .as_deref()
        .unwrap_or_default()
        .iter()
        .filter_map(|node| node.metadata.name.clone())
        .filter(|name| is_name(name))
        .collect();
    let (leases, disks, proxy) = tokio::join!(
        reader.list::<Lease>("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", NODES),
        disks::of_nodes(&reader, &names),
        modes::proxy(&reader, &names),
    );
    let (storage_classes, drivers, volumes) = tokio::join!(
        reader.list("/apis/storage.k8s.io/v1/storageclasses", OBJECTS),
        reader.list("/apis/storage.k8s.io/v1/csidrivers", OBJECTS),
        reader.list("/api/v1/persistentvolumes", OBJECTS),
    );
    let (admission, permissions, existing) = tokio::join!(admission(&reader), permissions(&reader), existing(&reader));
    let object = dry_run::service();
    let (services, node_port, kubernetes) = tokio::join!(
        reader.list::<Service>("/api/v1/services", OBJECTS),
        reader.dry_run("/api/v1/namespaces/default/services", &object),
        reader.get("/api/v1/namespaces/default/services/kubernetes"),
    );
    Ok(Facts {
        server: server.to_owned(),
        version,
        clocks,
        nodes,
        more_nodes,
        leases: split(leases).0,
        disks,
        proxy,
        storage_classes: split(storage_classes).0,
        drivers: split(drivers).0,
        volumes: split(volumes).0,
        admission,
        permissions,
        existing,
        services: split(services).0,
        node_port,
        kubernetes,
    })
}

/// The version, and the clocks. A first request that fails says that the others would.
async fn first(reader: &Reader) -> Result<(Read<String>, Option<Clocks>), Unreachable> {
    let (version, clocks) = match reader.first::<VersionAnswer>("/version").await {
        Ok(answer) => answer,
        Err((status, message)) => {
            return Err(Unreachable {
                message,
                is_refusal: status == 401,
            });
        }
    };
    // An API server's error is not a cluster that can be judged.
    if let Err(Unread::Failed(message)) = version {
        return Err(Unreachable {
            message,
            is_refusal: false,
        });
    }
    Ok((version.map(|version| version.git_version), clocks))
}

fn split<T>(list: Read<(Vec<T>, bool)>) -> (Read<Vec<T>>, bool) {
    match list {
        Ok((items, more)) => (Ok(items), more),
        Err(unread) => (Err(unread), false),
    }
}

/// Whether a name can be part of a path.
fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && name.len() <= 253 && name.bytes().all(is_part) && !name.starts_with('.')
}

async fn admission(reader: &Reader) -> AdmissionFacts {
    let path = format!("/api/v1/namespaces/{SEED_NAMESPACE}");
    let pod_namespace = match reader.get::<Value>(&path).await {
        Ok(_) => SEED_NAMESPACE,
        Err(_) => "default",
    };
    let (namespace, pod) = (dry_run::namespace(), dry_run::pod());
    let pods = format!("/api/v1/namespaces/{pod_namespace}/pods");
    let (namespace, pod, validating, mutating) = tokio::join!(
        reader.dry_run("/api/v1/namespaces", &namespace),
        reader.dry_run(&pods, &pod),
        reader.list(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            OBJECTS
        ),
        reader.list(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
            OBJECTS
        ),
    );
    let mut facts = AdmissionFacts {
        namespace,
        pod,
        pod_namespace: pod_namespace.to_owned(),
        validating: split(validating).0,
        mutating: split(mutating).0,
        endpoints: BTreeMap::new(),
    };
    let services: Vec<(String, String)> = admission::services(&facts)
        .into_iter()
        .map(|service| (service.namespace.clone(), service.name.clone()))
        .filter(|(namespace, name)| is_name(namespace) && is_name(name))
        .take(100)
        .collect();
    for (namespace, name) in services {
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
        );
        let slices = split(reader.list(&path, OBJECTS).await).0;
        facts.endpoints.insert((namespace, name), slices);
    }
    facts
}

/// Asks which of the rights that are needed the user has.
async fn permissions(reader: &Reader) -> Read<Vec<Permission>> {
    let everything = allowed(reader, EVERYTHING).await?;
    if everything {
        return Ok(vec![Permission {
            right: EVERYTHING,
            allowed: Some(true),
        }]);
    }
    let asked = stream::iter(rights()).map(|right| async move {
        Permission {
            right,
            allowed: allowed(reader, right).await.ok(),
        }
    });
    Ok(asked.buffered(CONCURRENCY).collect().await)
}

async fn allowed(reader: &Reader, right: Right) -> Read<bool> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": {
            "namespace": right.namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
        } },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review: Review = reader.ask(path, &review).await?;
    Ok(review.status.allowed)
}

async fn existing(reader: &Reader) -> ExistingFacts {
    let mut definitions = Vec::new();
    for name in ["jackalpackages.jackal.dev", "jackalimages.jackal.dev"] {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        match reader.get(&path).await {
            Err(Unread::Absent) => {}
            definition => definitions.push(definition),
        }
    }
    // Records of releases contain their whole manifests; a release keeps ten of them.
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets?labelSelector=owner%3Dhelm%2Cname%3D{RELEASE}");
    let releases = split(reader.list(&path, 20).await).0;
    let mut states = BTreeMap::new();
    for (state, path) in [
        ("zarf/zarf-state", "/api/v1/namespaces/zarf/secrets/zarf-state"),
        ("jackal/jackal-state", "/api/v1/namespaces/jackal/secrets/jackal-state"),
    ] {
        states.insert(state, reader.get::<Value>(path).await.map(|_| ()));
    }
    let mut namespaces = BTreeMap::new();
    for name in [NAMESPACE, SEED_NAMESPACE] {
        namespaces.insert(name, reader.get(&format!("/api/v1/namespaces/{name}")).await);
    }
    ExistingFacts {
        definitions,
        releases,
        states,
        namespaces,
    }
}
