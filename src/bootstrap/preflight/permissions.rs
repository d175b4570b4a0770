//! What the user of the kubeconfig must be allowed to do. No IO.

use std::collections::BTreeMap;

use super::facts::{Facts, Unread};
use super::report::Check;
use super::runtime::not_read;
use crate::bootstrap::install::NAMESPACE;
use crate::bootstrap::seed::SEED_NAMESPACE;

/// A right: a verb on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    /// The namespace; empty for resources without one, or for all namespaces.
    pub namespace: &'static str,
    /// The API group.
    pub group: &'static str,
    /// The resource, with its subresource after a slash.
    pub resource: &'static str,
    pub verb: &'static str,
}

/// Whether the user has a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permission {
    pub right: Right,
    /// Whether it is allowed; `None` where the API server did not say.
    pub allowed: Option<bool>,
}

/// Verbs for objects that are applied, waited for and deleted.
const APPLY: &[&str] = &["get", "list", "create", "patch", "delete"];
/// Verbs for objects that are changed only by their controllers.
const FOLLOW: &[&str] = &["get", "list", "watch"];

/// What `bootstrap` does, by namespace, group and resource.
const NEEDED: &[(&str, &str, &str, &[&str])] = &[
    ("", "", "namespaces", APPLY),
    ("", "", "nodes", &["get", "list"]),
    ("", "storage.k8s.io", "storageclasses", &["get", "list"]),
    ("", "apiextensions.k8s.io", "customresourcedefinitions", APPLY),
    ("", "rbac.authorization.k8s.io", "clusterroles", APPLY),
    ("", "rbac.authorization.k8s.io", "clusterrolebindings", APPLY),
    ("", "admissionregistration.k8s.io", "validatingadmissionpolicies", APPLY),
    (
        "",
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        APPLY,
    ),
    (SEED_NAMESPACE, "", "configmaps", APPLY),
    (SEED_NAMESPACE, "", "pods", FOLLOW),
    (SEED_NAMESPACE, "", "pods/log", &["get"]),
    // By WebSocket, the API server asks for both.
    (SEED_NAMESPACE, "", "pods/portforward", &["get", "create"]),
    (SEED_NAMESPACE, "apps", "daemonsets", APPLY),
    (NAMESPACE, "", "configmaps", APPLY),
    (NAMESPACE, "", "secrets", APPLY),
    (NAMESPACE, "", "services", APPLY),
    (NAMESPACE, "", "serviceaccounts", APPLY),
    (NAMESPACE, "", "persistentvolumeclaims", APPLY),
    (NAMESPACE, "", "pods", FOLLOW),
    (NAMESPACE, "", "pods/portforward", &["get", "create"]),
    (NAMESPACE, "apps", "daemonsets", APPLY),
    (NAMESPACE, "apps", "deployments", APPLY),
    (NAMESPACE, "apps", "statefulsets", APPLY),
    (NAMESPACE, "networking.k8s.io", "networkpolicies", APPLY),
    (NAMESPACE, "rbac.authorization.k8s.io", "roles", APPLY),
    (NAMESPACE, "rbac.authorization.k8s.io", "rolebindings", APPLY),
    ("kube-public", "", "configmaps", &["get", "create", "patch", "delete"]),
];

/// The right to everything, which an administrator of the cluster has.
pub(super) const EVERYTHING: Right = Right {
    namespace: "",
    group: "*",
    resource: "*",
    verb: "*",
};

/// The rights to make roles that have more than the user.
const ESCALATE: [Right; 2] = [
    Right {
        namespace: "",
        group: "rbac.authorization.k8s.io",
        resource: "clusterroles",
        verb: "escalate",
    },
    Right {
        namespace: "",
        group: "rbac.authorization.k8s.io",
        resource: "clusterroles",
        verb: "bind",
    },
];

/// Every right that is asked about, if the user has not the one to [`EVERYTHING`].
pub(super) fn rights() -> Vec<Right> {
    let needed = NEEDED.iter().flat_map(|(namespace, group, resource, verbs)| {
        verbs.iter().map(|verb| Right {
            namespace,
            group,
            resource,
            verb,
        })
    });
    needed.chain(ESCALATE).collect()
}

/// Whether the user may do what `bootstrap` does.
pub(super) fn permissions(facts: &Facts) -> Check {
    const NAME: &str = "permissions";
    let permissions = match &facts.permissions {
        Ok(permissions) => permissions,
        Err(unread @ (Unread::Forbidden | Unread::Absent | Unread::Failed(_))) => {
            return not_read(NAME, "selfsubjectaccessreviews", unread);
        }
    };
    let missing = permissions
        .iter()
        .filter(|permission| permission.allowed == Some(false));
    let (escalations, missing): (Vec<&Permission>, Vec<&Permission>) =
        missing.partition(|permission| ESCALATE.contains(&permission.right));
    let unknown = permissions
        .iter()
        .filter(|permission| permission.allowed.is_none())
        .count();
    if !missing.is_empty() {
        return Check::failure(
            NAME,
            format!("not allowed: {}", listed(&missing)),
            "use a kubeconfig of an administrator (ClusterRole cluster-admin), or get these rights",
        );
    }
    if unknown > 0 {
        return Check::warning(
            NAME,
            format!("{unknown} of {} rights could not be asked about", permissions.len()),
            "run the command again",
        );
    }
    if !escalations.is_empty() {
        return Check::warning(
            NAME,
            format!("not allowed: {}", listed(&escalations)),
            "the API server accepts roles only from users who have every right in them; use a kubeconfig of an administrator if it \
             refuses a ClusterRole",
        );
    }
    let found = match permissions.as_slice() {
        [one] if one.right == EVERYTHING => "the user may do everything".to_owned(),
        all => format!("all {} rights that bootstrap uses", all.len()),
    };
    Check::ok(NAME, found)
}

/// The rights, those on one resource together: `secrets in jackal-system (create, patch)`.
fn listed(permissions: &[&Permission]) -> String {
    let mut verbs: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for Permission { right, .. } in permissions {
        let key = (right.namespace, right.group, right.resource);
        verbs.entry(key).or_default().push(right.verb);
    }
    let texts: Vec<String> = verbs
        .into_iter()
        .map(|((namespace, group, resource), verbs)| {
            let group = if group.is_empty() {
                String::new()
            } else {
                format!(".{group}")
            };
            let place = if namespace.is_empty() {
                String::new()
            } else {
                format!(" in {namespace}")
            };
            format!("{resource}{group}{place} ({})", verbs.join(", "))
        })
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_on_one_resource_are_listed_together() {
        let rights = rights();
        let in_system: Vec<Permission> = rights
            .iter()
            .filter(|right| right.namespace == NAMESPACE && right.resource == "secrets" && right.verb != "get")
            .map(|right| Permission {
                right: *right,
                allowed: Some(false),
            })
            .collect();
        let all: Vec<&Permission> = in_system.iter().collect();
        assert_eq!(listed(&all), "secrets in jackal-system (list, create, patch, delete)");
        let mut distinct = rights.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), rights.len());
    }
}
