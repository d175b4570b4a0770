//! Pods, and why they do not run.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use super::Cluster;
use crate::bootstrap::install::NAMESPACE;
use crate::bootstrap::text::clean;
use crate::fault::Fault;

/// The most characters of a message of the cluster that are shown.
const SHOWN: usize = 300;

/// A container that does not run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingContainer {
    /// The pod.
    pub pod: String,
    /// The reason and message of the cluster.
    pub why: String,
}

/// All containers of `pod`, those of its start first.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let first = status.and_then(|status| status.init_container_statuses.as_deref());
    let rest = status.and_then(|status| status.container_statuses.as_deref());
    first.into_iter().chain(rest).flatten()
}

impl WaitingContainer {
    /// What keeps `pod` from running; `None` where nothing is known.
    pub fn of(pod: &Pod) -> Option<Self> {
        let waiting = containers(pod).find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref().unwrap_or_default();
            if ["ContainerCreating", "PodInitializing", ""].contains(&reason) {
                return None;
            }
            let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let message = waiting
                .message
                .as_deref()
                .or_else(|| last.and_then(|last| last.message.as_deref()))
                .unwrap_or_default();
            Some(format!(
                "container {}: {reason}: {}",
                container.name,
                clean(message, SHOWN)
            ))
        });
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let unscheduled = conditions.into_iter().flatten().find_map(|condition| {
            let failed = condition.type_ == "PodScheduled" && condition.status == "False";
            failed.then(|| clean(condition.message.as_deref().unwrap_or_default(), SHOWN))
        });
        Some(Self {
            pod: pod.name_any(),
            why: waiting.or(unscheduled)?,
        })
    }
}

/// Whether every container of the pod has its image on the node.
pub fn has_images(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let first = spec.and_then(|spec| spec.init_containers.as_ref()).map_or(0, Vec::len);
    let wanted = first + spec.map_or(0, |spec| spec.containers.len());
    containers(pod)
        .filter(|container| !container.image_id.is_empty())
        .count()
        >= wanted
}

/// The first of `pods` that is ready and not being deleted.
pub fn ready_pod(pods: &[Pod]) -> Option<&Pod> {
    pods.iter().find(|pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        ready && pod.metadata.deletion_timestamp.is_none()
    })
}

impl Cluster {
    /// The pods of the installation's namespace that `selector` (labels) selects.
    ///
    /// # Errors
    /// A fault of the API server.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>, Fault> {
        let api: Api<Pod> = Api::namespaced(self.client().clone(), NAMESPACE);
        let params = ListParams::default().labels(selector).limit(5000);
        let doing = format!("listing pods in {NAMESPACE}");
        let pods = self.call(&doing, async || api.list(&params).await);
        Ok(pods.await?.items)
    }

    /// What keeps the pods that `selector` selects from running: what their containers, the scheduler or the latest warnings of the
    /// namespace say.
    pub async fn why_waiting(&self, selector: &str) -> String {
        let Ok(pods) = self.pods(selector).await else {
            return String::new();
        };
        if let Some(WaitingContainer { pod, why }) = pods.iter().find_map(WaitingContainer::of) {
            return format!("; pod {pod}: {why}");
        }
        let api: Api<Event> = Api::namespaced(self.client().clone(), NAMESPACE);
        let params = ListParams::default().fields("type=Warning").limit(500);
        let events = self.call("listing events", async || api.list(&params).await).await;
        let mut events = events.map(|events| events.items).unwrap_or_default();
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        match events.last().and_then(|event| event.message.as_deref()) {
            Some(message) => format!("; the last warning in {NAMESPACE}: {}", clean(message, SHOWN)),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}, "status": status});
        serde_json::from_value(pod).unwrap()
    }

    fn container(name: &str, state: Value, image: &str) -> Value {
        json!({"name": name, "state": state, "image": "", "imageID": image, "ready": false, "restartCount": 0})
    }

    #[test]
    fn the_cause_of_a_waiting_pod_is_found() {
        let creating = container("c", json!({"waiting": {"reason": "ContainerCreating"}}), "");
        assert_eq!(
            WaitingContainer::of(&pod(json!({"containerStatuses": [creating]}))),
            None
        );
        let pull = container(
            "i",
            json!({"waiting": {"reason": "ErrImagePull", "message": "no\nhost"}}),
            "",
        );
        let found = WaitingContainer::of(&pod(
            json!({"initContainerStatuses": [pull], "containerStatuses": [creating]}),
        ));
        assert_eq!(found.unwrap().why, "container i: ErrImagePull: no host");
        let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no volume"}]});
        assert_eq!(WaitingContainer::of(&pod(unscheduled)).unwrap().why, "no volume");
    }

    #[test]
    fn a_pod_with_all_images_and_a_ready_pod_are_known() {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let (first, second) = (container("i", json!({}), "sha256:1"), container("c", state, "sha256:2"));
        assert!(has_images(&pod(
            json!({"initContainerStatuses": [first], "containerStatuses": [second]})
        )));
        assert!(!has_images(&pod(json!({"initContainerStatuses": [first]}))));
        let ready = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let mut deleted = ready.clone();
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(ready_pod(&[deleted, pod(json!({}))]).is_none());
        assert!(ready_pod(&[pod(json!({})), ready]).is_some());
    }
}
