//! Admission, permissions, and what is in the cluster already.

use serde_json::{Value, json};

use super::{Facts, Status, expect, kubeadm, object};
use crate::bootstrap::preflight::dry_run::{DryRun, Refusal};
use crate::bootstrap::preflight::facts::Unread;
use crate::bootstrap::preflight::permissions::{Permission, rights};

fn refused(code: u16, message: &str) -> DryRun {
    DryRun::Refused(Refusal {
        code,
        message: message.to_owned(),
    })
}

#[test]
fn refusals_of_pods() {
    let security = "pods \"jackal-preflight\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
                    (hostNetwork=true)";
    let kyverno = "admission webhook \"validate.kyverno.svc-fail\" denied the request: resource Pod/default/jackal-preflight \
                   was blocked due to the following policies disallow-host-namespaces";
    let policy = "pods \"jackal-preflight\" is forbidden: ValidatingAdmissionPolicy 'no-host-network' with binding 'all' denied \
                  request: failed expression";
    let scc = "pods \"jackal-preflight\" is forbidden: unable to validate against any security context constraint: [provider \
               \"restricted-v2\": Forbidden: not usable by user or serviceaccount]";
    let right = "pods is forbidden: User \"jane\" cannot create resource \"pods\" in API group \"\" in the namespace \"default\"";
    for (namespace, message, status, words) in [
        // The label of the namespace decides, and it will be privileged.
        ("default", security, Status::Ok, "but not with enforce=privileged"),
        (
            "jackal-seed",
            security,
            Status::Failure,
            "kubectl label --overwrite namespace jackal-seed",
        ),
        ("default", kyverno, Status::Warning, "disallow-host-namespaces"),
        (
            "jackal-seed",
            kyverno,
            Status::Failure,
            "exempt the namespaces jackal-seed and jackal-system",
        ),
        ("default", policy, Status::Warning, "no-host-network"),
        ("jackal-seed", policy, Status::Failure, "no-host-network"),
        ("default", scc, Status::Warning, "restricted-v2"),
        ("default", right, Status::Warning, "let the user create pods"),
        (
            "default",
            "admission webhook \"x\" does not support dry run",
            Status::Warning,
            "cannot be tried",
        ),
    ] {
        let mut facts = kubeadm();
        facts.admission.pod_namespace = namespace.to_owned();
        facts.admission.pod = refused(403, message);
        expect(&facts, "pod-security", status, &[words]);
    }
}

#[test]
fn refusals_of_the_namespace() {
    for (code, message, status, words) in [
        (409, "namespaces \"jackal-seed\" already exists", Status::Ok, "exists"),
        (
            403,
            "admission webhook \"ns.example\" denied the request: no privileged namespaces",
            Status::Failure,
            "exempt",
        ),
        (
            403,
            "namespaces is forbidden: User \"jane\" cannot create resource \"namespaces\"",
            Status::Warning,
            "create namespaces",
        ),
        (
            400,
            "admission webhook \"ns.example\" does not support dry run",
            Status::Warning,
            "cannot be tried",
        ),
    ] {
        let mut facts = kubeadm();
        facts.admission.namespace = refused(code, message);
        expect(&facts, "pod-security", status, &[words]);
    }
    let mut facts = kubeadm();
    facts.admission.namespace = DryRun::Untried(Unread::Failed("no answer within 15 s".to_owned()));
    expect(&facts, "pod-security", Status::Warning, &["no answer within 15 s"]);
}

/// A webhook of Gatekeeper's kind; `more` replaces fields of it.
fn with_webhook(more: Value, endpoints: Value) -> Facts {
    let mut hook = json!({
        "name": "check.gatekeeper.sh",
        "clientConfig": { "service": { "namespace": "gatekeeper", "name": "webhook", "path": "/v1/admit" } },
        "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"] }],
        "namespaceSelector": { "matchExpressions": [
            { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["gatekeeper", "kube-system"] },
            { "key": "admission.gatekeeper.sh/ignore", "operator": "DoesNotExist" },
        ] },
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    for (key, value) in more.as_object().unwrap() {
        hook[key] = value.clone();
    }
    let mut facts = kubeadm();
    facts.admission.validating = Ok(vec![object(
        json!({ "metadata": { "name": "gatekeeper" }, "webhooks": [hook] }),
    )]);
    let key = ("gatekeeper".to_owned(), "webhook".to_owned());
    facts.admission.endpoints.insert(key, Ok(object(endpoints)));
    facts
}

#[test]
fn webhooks_without_endpoints() {
    let none = || json!([{ "addressType": "IPv4", "endpoints": null }]);
    let ready = json!([{ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.1.1.1"], "conditions": { "ready": true } }] }]);
    let starting = json!([{ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.1.1.1"], "conditions": { "ready": false } }] }]);
    let facts = with_webhook(json!({}), ready);
    expect(&facts, "admission-webhooks", Status::Ok, &["1 webhook must agree"]);
    for endpoints in [json!([]), none(), starting] {
        let facts = with_webhook(json!({}), endpoints);
        let words = [
            "check.gatekeeper.sh of gatekeeper must agree to every pod, but its Service gatekeeper/webhook has no endpoint",
        ];
        expect(&facts, "admission-webhooks", Status::Failure, &words);
    }
    for (more, status) in [
        (json!({ "failurePolicy": "Ignore" }), Status::Ok),
        (json!({ "failurePolicy": "Fail" }), Status::Failure),
        (
            json!({ "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"] }] }),
            Status::Failure,
        ),
        (
            json!({ "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"] }] }),
            Status::Ok,
        ),
        (
            json!({ "rules": [{ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["*"] }] }),
            Status::Ok,
        ),
        (
            json!({ "namespaceSelector": { "matchLabels": { "team": "a" } } }),
            Status::Ok,
        ),
        (
            json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "jackal-seed" } } }),
            Status::Failure,
        ),
        (json!({ "namespaceSelector": null }), Status::Failure),
        (
            json!({ "objectSelector": { "matchExpressions": [{ "key": "inject", "operator": "Exists" }] } }),
            Status::Ok,
        ),
        (
            json!({ "objectSelector": { "matchExpressions": [{ "key": "x", "operator": "NotIn", "values": ["y"] }] } }),
            Status::Failure,
        ),
        (
            json!({ "matchConditions": [{ "name": "x", "expression": "false" }] }),
            Status::Warning,
        ),
        (
            json!({ "clientConfig": { "url": "https://policy.example" } }),
            Status::Ok,
        ),
    ] {
        let text = more.to_string();
        let facts = with_webhook(more, none());
        let check = super::check(&facts, "admission-webhooks");
        assert_eq!(check.status, status, "{text}: {check:?}");
    }
    let mut facts = kubeadm();
    facts.admission.mutating = Err(Unread::Forbidden);
    expect(&facts, "admission-webhooks", Status::Warning, &["may not read"]);
}

#[test]
fn permissions_that_are_missing_are_listed_together() {
    let mut facts = kubeadm();
    let all = |allowed: &dyn Fn(&str, &str) -> Option<bool>| {
        let rights = rights().into_iter();
        Ok(rights
            .map(|right| Permission {
                right,
                allowed: allowed(right.resource, right.verb),
            })
            .collect())
    };
    facts.permissions = all(&|_, _| Some(true));
    expect(
        &facts,
        "permissions",
        Status::Ok,
        &["all", "rights that bootstrap uses"],
    );
    facts.permissions = all(&|resource, verb| Some(resource != "secrets" && (resource, verb) != ("nodes", "list")));
    let words = [
        "nodes (list); secrets in jackal-system (get, list, create, patch, delete)",
        "cluster-admin",
    ];
    expect(&facts, "permissions", Status::Failure, &words);
    facts.permissions = all(&|_, verb| Some(verb != "escalate" && verb != "bind"));
    let words = ["clusterroles.rbac.authorization.k8s.io (escalate, bind)"];
    expect(&facts, "permissions", Status::Warning, &words);
    facts.permissions = all(&|_, verb| (verb != "patch").then_some(true));
    expect(&facts, "permissions", Status::Warning, &["could not be asked about"]);
    facts.permissions = Err(Unread::Failed("500".to_owned()));
    expect(&facts, "permissions", Status::Warning, &["run the command again"]);
}

#[test]
fn an_existing_installation() {
    let definition = |annotations: Value| {
        Ok(object(
            json!({ "metadata": { "name": "jackalimages.jackal.dev", "annotations": annotations }, "spec": {
            "group": "jackal.dev", "names": { "kind": "JackalImage", "plural": "jackalimages" }, "scope": "Namespaced", "versions": [],
        } }),
        ))
    };
    let release = |name: &str, namespace: &str| {
        definition(json!({ "meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace }))
    };
    for (found, status, words) in [
        (
            release("jackal-operator", "jackal-system"),
            Status::Ok,
            "belongs to this installation",
        ),
        (
            release("jackal", "tools"),
            Status::Failure,
            "belongs to the release jackal in tools",
        ),
        (definition(json!({})), Status::Warning, "belongs to no release"),
        (Err(Unread::Forbidden), Status::Warning, "may not be read"),
    ] {
        let mut facts = kubeadm();
        facts.existing.definitions = vec![found];
        expect(&facts, "existing-installation", status, &[words]);
    }
    let mut facts = kubeadm();
    expect(&facts, "existing-installation", Status::Ok, &["none"]);
    let secret = |version: &str, status: &str| {
        object(
            json!({ "metadata": { "name": "x", "labels": { "owner": "helm", "version": version, "status": status } } }),
        )
    };
    facts.existing.releases = Ok(vec![secret("10", "deployed"), secret("9", "superseded")]);
    expect(
        &facts,
        "existing-installation",
        Status::Ok,
        &["revision 10, deployed, which is upgraded"],
    );
    facts.existing.releases = Ok(vec![secret("10", "pending-upgrade")]);
    expect(&facts, "existing-installation", Status::Warning, &["helm rollback"]);
    facts.existing.states.insert("zarf/zarf-state", Ok(()));
    expect(
        &facts,
        "existing-installation",
        Status::Warning,
        &["zarf/zarf-state exists: the cluster has a registry of Zarf"],
    );
    let ending = object(json!({ "metadata": { "name": "jackal-seed" }, "status": { "phase": "Terminating" } }));
    facts.existing.namespaces.insert("jackal-seed", Ok(ending));
    expect(
        &facts,
        "existing-installation",
        Status::Failure,
        &["jackal-seed is being deleted"],
    );
}

#[test]
fn ports_that_are_used() {
    let service = |namespace: &str, port: u16| {
        object(json!({
            "metadata": { "name": "registry", "namespace": namespace },
            "spec": { "type": "NodePort", "ports": [{ "port": 80 }, { "port": 5000, "nodePort": port }] },
        }))
    };
    let mut facts = kubeadm();
    facts.services = Ok(vec![service("web", 30000)]);
    expect(&facts, "ports", Status::Ok, &["31999 is free"]);
    facts.node_port = refused(
        422,
        "Service \"jackal-preflight\" is invalid: spec.ports[0].nodePort: Invalid value: 31999: provided port is already allocated",
    );
    facts.services = Ok(vec![service("jackal-system", 31999)]);
    expect(&facts, "ports", Status::Ok, &["31999 is this installation's"]);
    facts.services = Ok(vec![service("zarf", 31999), service("x", 31998)]);
    expect(
        &facts,
        "ports",
        Status::Failure,
        &["31999 is used by zarf/registry; the NodePort 31998 is used by x/registry"],
    );
    facts.services = Ok(Vec::new());
    expect(&facts, "ports", Status::Warning, &["31999 is allocated"]);
    facts.node_port = refused(
        422,
        "provided port is not in the valid range. The range of valid ports is 20000-22767",
    );
    expect(
        &facts,
        "ports",
        Status::Warning,
        &["20000-22767", "--expose NodeProxy", "--service-node-port-range"],
    );
    facts.services = Err(Unread::Forbidden);
    expect(&facts, "ports", Status::Warning, &["may not read services"]);
}
