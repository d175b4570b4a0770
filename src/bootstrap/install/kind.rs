//! The kinds of objects that an installation consists of.

/// When an object is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The namespace.
    Namespace,
    /// The definitions of custom resources.
    Definitions,
    /// Accounts and their rights.
    Permissions,
    /// What workloads read when they start: ConfigMaps, Secrets, Services, policies.
    Configuration,
    /// What runs on every node.
    NodeWorkloads,
    /// The registry.
    Registry,
    /// The other workloads.
    Workloads,
    /// The Service at which nodes pull, which takes the port over from the seed.
    NodePort,
}

/// A kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The API group and version, `v1` or `GROUP/VERSION`.
    pub api_version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The name of the resource in URLs.
    pub plural: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// When its objects are applied, unless the object says otherwise.
    pub stage: Stage,
}

impl Kind {
    /// The API group; empty for the core group.
    pub fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The version.
    pub fn version(&self) -> &'static str {
        self.api_version
            .split_once('/')
            .map_or(self.api_version, |(_, version)| version)
    }

    /// The kind of that version and name, if it is one of [`KINDS`].
    pub fn of(api_version: &str, kind: &str) -> Option<&'static Self> {
        KINDS
            .iter()
            .find(|known| known.api_version == api_version && known.kind == kind)
    }
}

const fn kind(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    stage: Stage,
) -> Kind {
    Kind {
        api_version,
        kind,
        plural,
        namespaced,
        stage,
    }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const ADMISSION: &str = "admissionregistration.k8s.io/v1";

/// All kinds that an installation may have. The list is closed, so that `--undo` finds every object without the archive that the
/// objects came from.
pub const KINDS: [Kind; 22] = [
    kind("v1", "Namespace", "namespaces", false, Stage::Namespace),
    kind(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
        Stage::Definitions,
    ),
    kind("v1", "ServiceAccount", "serviceaccounts", true, Stage::Permissions),
    kind(RBAC, "ClusterRole", "clusterroles", false, Stage::Permissions),
    kind(
        RBAC,
        "ClusterRoleBinding",
        "clusterrolebindings",
        false,
        Stage::Permissions,
    ),
    kind(RBAC, "Role", "roles", true, Stage::Permissions),
    kind(RBAC, "RoleBinding", "rolebindings", true, Stage::Permissions),
    kind(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        "priorityclasses",
        false,
        Stage::Permissions,
    ),
    kind("v1", "Secret", "secrets", true, Stage::Configuration),
    kind("v1", "ConfigMap", "configmaps", true, Stage::Configuration),
    kind(
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        true,
        Stage::Configuration,
    ),
    kind("v1", "Service", "services", true, Stage::Configuration),
    kind(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "networkpolicies",
        true,
        Stage::Configuration,
    ),
    kind(
        "policy/v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        true,
        Stage::Configuration,
    ),
    kind(
        ADMISSION,
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        false,
        Stage::Configuration,
    ),
    kind(
        ADMISSION,
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        false,
        Stage::Configuration,
    ),
    kind("apps/v1", "DaemonSet", "daemonsets", true, Stage::NodeWorkloads),
    kind("apps/v1", "StatefulSet", "statefulsets", true, Stage::Registry),
    kind("apps/v1", "Deployment", "deployments", true, Stage::Workloads),
    kind("batch/v1", "Job", "jobs", true, Stage::Workloads),
    kind("batch/v1", "CronJob", "cronjobs", true, Stage::Workloads),
    kind(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        true,
        Stage::Workloads,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_version_and_name() {
        let role = Kind::of(RBAC, "Role").unwrap();
        assert_eq!(
            (role.group(), role.version(), role.plural),
            ("rbac.authorization.k8s.io", "v1", "roles")
        );
        let secret = Kind::of("v1", "Secret").unwrap();
        assert_eq!((secret.group(), secret.version()), ("", "v1"));
        assert!(Kind::of("v1", "Pod").is_none());
        assert!(Kind::of("apps/v1beta1", "Deployment").is_none());
    }
}
