//! Whether a workload runs as it was applied.

use kube::api::DynamicObject;
use serde_json::Value;

/// The state of a Deployment, DaemonSet or StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// All pods are current and ready.
    Complete,
    /// What is missing, such as `1 of 2 pods are ready`.
    Waiting(String),
}

impl Rollout {
    /// The state of `object`.
    pub fn of(object: &DynamicObject) -> Self {
        let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
        let status = &object.data["status"];
        let number = |value: &Value| value.as_i64().unwrap_or(0);
        if number(&status["observedGeneration"]) < object.metadata.generation.unwrap_or(0) {
            return Self::Waiting("the controllers of the cluster have not seen it yet".to_owned());
        }
        let (wanted, updated, ready) = match kind {
            "DaemonSet" => (
                number(&status["desiredNumberScheduled"]),
                number(&status["updatedNumberScheduled"]),
                number(&status["numberReady"]),
            ),
            _ => {
                let wanted = object.data["spec"]["replicas"].as_i64().unwrap_or(1);
                (
                    wanted,
                    number(&status["updatedReplicas"]),
                    number(&status["readyReplicas"]),
                )
            }
        };
        // A StatefulSet says nothing of old pods that are still ready, but the total is that of the new ones then.
        let all = number(&status["replicas"]).max(wanted);
        match updated >= wanted && ready >= wanted && (kind == "DaemonSet" || all == wanted) {
            true => Self::Complete,
            false => Self::Waiting(format!(
                "{} of {wanted} pods are ready",
                ready.min(updated).clamp(0, wanted.max(0))
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(kind: &str, spec: Value, status: Value) -> Rollout {
        let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a", "generation": 2}, "spec": spec, "status": status});
        Rollout::of(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_rollout_is_complete_when_all_pods_are_new_and_ready() {
        let waiting = |text: &str| Rollout::Waiting(text.to_owned());
        let unseen = of(
            "Deployment",
            json!({}),
            json!({"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 1}),
        );
        assert_eq!(unseen, waiting("the controllers of the cluster have not seen it yet"));
        let status = |updated: u32, ready: u32, all: u32| json!({"observedGeneration": 2, "updatedReplicas": updated, "readyReplicas": ready, "replicas": all});
        assert_eq!(
            of("Deployment", json!({"replicas": 2}), status(2, 2, 2)),
            Rollout::Complete
        );
        assert_eq!(
            of("Deployment", json!({"replicas": 2}), status(1, 2, 3)),
            waiting("1 of 2 pods are ready")
        );
        assert_eq!(
            of("StatefulSet", json!({}), json!({"observedGeneration": 2})),
            waiting("0 of 1 pods are ready")
        );
        let daemons = |updated: u32, ready: u32| json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberReady": ready});
        assert_eq!(of("DaemonSet", json!({}), daemons(2, 2)), Rollout::Complete);
        assert_eq!(
            of("DaemonSet", json!({}), daemons(2, 1)),
            waiting("1 of 2 pods are ready")
        );
        assert_eq!(
            of("DaemonSet", json!({}), daemons(1, 2)),
            waiting("1 of 2 pods are ready")
        );
    }
}
