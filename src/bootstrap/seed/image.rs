//! The choice of an image that all nodes have, for the pods of the seed. No IO.
//!
//! The image itself is not used: the seed is a static program, so any image will do. What matters is that every node has it under the
//! same name, and that the kubelet lets any pod use it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerState, Node, Pod, PodSpec, Taint, Toleration};

use crate::bootstrap::text::clean;

/// The label of nodes with their architecture.
pub(super) const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";
/// The label of nodes with their operating system.
const SYSTEM_LABEL: &str = "kubernetes.io/os";
/// The namespace whose images are usually public or imported.
const SYSTEM_NAMESPACE: &str = "kube-system";
/// The most candidates.
const MAX_CANDIDATES: usize = 12;
/// The most characters of a message of the kubelet that are shown.
const SHOWN: usize = 500;
/// The reasons of a waiting container that another image may resolve.
const IMAGE_REASONS: [&str; 8] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// The Linux nodes by their architecture.
pub fn by_architecture(nodes: &[Node]) -> BTreeMap<String, Vec<Node>> {
    let mut groups: BTreeMap<String, Vec<Node>> = BTreeMap::new();
    for node in nodes {
        let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        if label(SYSTEM_LABEL).is_some_and(|system| system == "linux")
            && let Some(architecture) = label(ARCHITECTURE_LABEL)
        {
            groups.entry(architecture.clone()).or_default().push(node.clone());
        }
    }
    groups
}

/// How likely all nodes have an image and let a pod of another namespace use it. The first is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// A DaemonSet of `kube-system` runs it on all nodes.
    System,
    /// All nodes report it, and its name is that of the sandbox image, which no Secret is needed for.
    Pause,
    /// Another DaemonSet runs it on all nodes.
    DaemonSet,
    /// All nodes report it. They report their 50 largest images only.
    Reported,
    /// A DaemonSet runs it on all nodes and names a Secret to pull it. Since Kubernetes 1.35 the kubelet may refuse it to pods
    /// without that Secret.
    Secret,
    /// A DaemonSet should run it on all nodes, but not all of its pods are ready.
    Incomplete,
}

/// Images that `nodes`, the Linux nodes of one architecture, probably have. The best comes first. Empty if there is none: then the
/// user names one.
pub fn candidates(daemon_sets: &[DaemonSet], nodes: &[Node]) -> Vec<String> {
    let mut ranked: Vec<(Rank, u64, String)> = Vec::new();
    for set in daemon_sets {
        let Some(rank) = rank_of(set, nodes) else { continue };
        let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let images = pod
            .into_iter()
            .flat_map(|pod| &pod.containers)
            .filter_map(|container| container.image.clone());
        ranked.extend(images.map(|image| (rank, 0, image)));
    }
    for (image, size) in reported_by_all(nodes) {
        let repository = image.split(['@', ':']).next().unwrap_or_default();
        let rank = match repository.rsplit('/').next().is_some_and(|last| last.contains("pause")) {
            true => Rank::Pause,
            false => Rank::Reported,
        };
        ranked.push((rank, size, image));
    }
    ranked.sort();
    let mut known = BTreeSet::new();
    let images = ranked.into_iter().map(|(_, _, image)| image);
    images
        .filter(|image| known.insert(image.clone()))
        .take(MAX_CANDIDATES)
        .collect()
}

/// `None` if the pods of the DaemonSet are not on all nodes.
fn rank_of(set: &DaemonSet, nodes: &[Node]) -> Option<Rank> {
    let spec = set.spec.as_ref()?;
    let pod = spec.template.spec.as_ref()?;
    let status = set.status.as_ref()?;
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let is_own = namespace == super::objects::NAMESPACE;
    if is_own || nodes.is_empty() || !nodes.iter().all(|node| runs_on(pod, node)) {
        return None;
    }
    let is_current = status.observed_generation >= set.metadata.generation;
    let wanted = status.desired_number_scheduled;
    let is_everywhere = wanted > 0 && status.number_ready >= wanted && status.updated_number_scheduled >= Some(wanted);
    Some(if !is_current || !is_everywhere {
        Rank::Incomplete
    } else if pod
        .image_pull_secrets
        .as_ref()
        .is_some_and(|secrets| !secrets.is_empty())
    {
        Rank::Secret
    } else if namespace == SYSTEM_NAMESPACE {
        Rank::System
    } else {
        Rank::DaemonSet
    })
}

/// Whether a DaemonSet with this pod has one on the node. One with required affinity is not considered.
fn runs_on(pod: &PodSpec, node: &Node) -> bool {
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    if affinity.is_some_and(|affinity| affinity.required_during_scheduling_ignored_during_execution.is_some()) {
        return false;
    }
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let mut selector = pod.node_selector.iter().flatten();
    if !selector.all(|(name, value)| labels.get(name) == Some(value)) {
        return false;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let mut taints = taints.into_iter().flatten();
    taints.all(|taint| is_tolerated(taint, pod.tolerations.as_deref().unwrap_or_default()))
}

fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    // The DaemonSet controller tolerates what the node's condition causes.
    if taint.effect == "PreferNoSchedule" || taint.key.starts_with("node.kubernetes.io/") {
        return true;
    }
    tolerations.iter().any(|toleration| {
        let has_key = toleration
            .key
            .as_ref()
            .is_none_or(|key| key.is_empty() || *key == taint.key);
        let has_effect = toleration
            .effect
            .as_ref()
            .is_none_or(|effect| effect.is_empty() || *effect == taint.effect);
        let has_value = match toleration.operator.as_deref() {
            Some("Exists") => true,
            _ => {
                toleration.key.is_some()
                    && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
        };
        has_key && has_effect && has_value
    })
}

/// The names of images that every node reports, with the largest of their sizes. An image counts once, by its first tag.
fn reported_by_all(nodes: &[Node]) -> Vec<(String, u64)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for node in nodes {
        let names: BTreeSet<&str> = images_of(node).flat_map(|(names, _)| names).collect();
        for name in names {
            *counts.entry(name).or_default() += 1;
        }
    }
    let Some(first) = nodes.first() else { return Vec::new() };
    let everywhere = |name: &&str| counts.get(*name) == Some(&nodes.len());
    let images = images_of(first).filter_map(|(names, size)| {
        let names: Vec<&str> = names.into_iter().filter(everywhere).collect();
        // A tag is the shorter name, and what other pods use.
        let name = names.iter().find(|name| !name.contains('@')).or(names.first())?;
        Some(((*name).to_owned(), size))
    });
    images.collect()
}

/// The names and the size of each image that the node reports.
fn images_of(node: &Node) -> impl Iterator<Item = (Vec<&str>, u64)> {
    let images = node.status.as_ref().and_then(|status| status.images.as_ref());
    images.into_iter().flatten().map(|image| {
        let names = image
            .names
            .iter()
            .flatten()
            .map(String::as_str)
            .filter(|name| !name.contains("<none>"));
        let size = image.size_bytes.and_then(|size| u64::try_from(size).ok());
        (names.collect(), size.unwrap_or_default())
    })
}

/// Why the pod cannot run its image: the reason and message of the kubelet. Another image may do.
pub fn image_failure(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let Some(ContainerState {
            waiting: Some(waiting), ..
        }) = &status.state
        else {
            return None;
        };
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().unwrap_or("no message");
        IMAGE_REASONS
            .contains(&reason)
            .then(|| format!("{reason}: {}", clean(message, SHOWN)))
    })
}

#[cfg(test)]
mod tests;
