//! The chart's rights: the operator's main tasks with only these; nothing is refused, and nothing is granted
//! needlessly.

use std::collections::BTreeSet;
use std::time::Duration;

use jackal_operator::api::v1alpha1::JackalImage;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{EXCLUSIVE, chart, clear, package, standalone_image};
use crate::cluster::{layered, unique};
use crate::docker::engines::DockerEngine;
use crate::support::cluster::{Cluster, condition, required};
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

const LOGIN: (&str, &str) = ("u", "p");
const ADMIN: &str = "JACKAL_KUBECONFIG_AUDITED";

/// `apiGroup/resource[/subresource] verb`.
type AccessRight = (String, String);

/// A right and its scope: in a namespace or in all (empty), for one object or for all (empty).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Granted {
    right: AccessRight,
    namespace: String,
    name: String,
}

/// The rights of the roles that are bound to the ServiceAccount `account`.
fn granted(rendered: &str, account: &str) -> BTreeSet<Granted> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple(rendered).unwrap();
    let bound = |role: &Value| {
        documents.iter().any(|binding| {
            binding["roleRef"]["name"] == role["metadata"]["name"]
                && binding["roleRef"]["kind"] == role["kind"]
                && binding["metadata"]["namespace"] == role["metadata"]["namespace"]
                && binding["subjects"][0]["name"] == account
        })
    };
    let mut rights = BTreeSet::new();
    for role in &documents {
        let is_role = matches!(role["kind"].as_str(), Some("Role" | "ClusterRole"));
        if !is_role || !bound(role) {
            continue;
        }
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
        for rule in role["rules"].as_array().unwrap() {
            let mut names = texts(&rule["resourceNames"]);
            if names.is_empty() {
                names.push(String::new());
            }
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        assert!(![&group, &resource, &verb].iter().any(|text| *text == "*"), "{rule}");
                        rights.extend(names.iter().map(|name| Granted {
                            right: (format!("{group}/{resource}"), verb.clone()),
                            namespace: namespace.to_owned(),
                            name: name.clone(),
                        }));
                    }
                }
            }
        }
    }
    assert!(!rights.is_empty(), "{account} has no roles");
    rights
}

/// The rights that the ServiceAccount `account` used, and its forbidden requests.
fn used(namespace: &str, account: &str) -> (BTreeSet<AccessRight>, Vec<Value>) {
    let log = std::fs::read_to_string(required("JACKAL_AUDIT")).unwrap();
    let (mut rights, mut forbidden) = (BTreeSet::new(), Vec::new());
    let name = format!("system:serviceaccount:{namespace}:{account}");
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if event["user"]["username"] != name.as_str() {
            continue;
        }
        let object = &event["objectRef"];
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let mut resource = format!("{}/{}", text("apiGroup"), text("resource"));
        if !text("subresource").is_empty() {
            resource = format!("{resource}/{}", text("subresource"));
        }
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        if code == 403 {
            forbidden.push(event);
            continue;
        }
        let verb = event["verb"].as_str().unwrap_or_default();
        rights.insert((resource.clone(), verb.to_owned()));
        // Applying an object that does not exist also requires the right to create it.
        if verb == "patch" && code == 201 {
            rights.insert((resource, "create".to_owned()));
        }
    }
    (rights, forbidden)
}

/// A kubeconfig like `admin` for the ServiceAccount `account`, with a token of a pod on `node` if there is one.
pub(crate) fn kubeconfig(
    cluster: &Cluster,
    admin: &str,
    folder: &std::path::Path,
    account: &str,
    node: Option<&str>,
) -> String {
    let admin = std::fs::read_to_string(required(admin)).unwrap();
    let mut config: Value = serde_saphyr::from_str(&admin).unwrap();
    let token = token(cluster, account, node);
    config["users"][0]["user"] = json!({ "token": token });
    let file = folder.join(format!("{account}-{}", node.unwrap_or_default()));
    std::fs::write(&file, config.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A token of the ServiceAccount `account`, bound to a pod on `node` or to none.
fn token(cluster: &Cluster, account: &str, node: Option<&str>) -> String {
    let mut arguments = vec!["create", "token", account, "--duration=1h"];
    let pod = format!("{account}-{}", node.unwrap_or_default());
    if let Some(node) = node {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": pod },
            "spec": { "nodeName": node, "serviceAccountName": account, "containers": [{ "name": "a", "image": "b" }] },
        });
        cluster.apply(&object.to_string());
        arguments.extend(["--bound-object-kind=Pod", "--bound-object-name", &pod]);
    }
    cluster.kubectl(&arguments).trim().to_owned()
}

/// Waits until the API server applies the rights of `account`.
async fn wait_for_rights(cluster: &Cluster, account: &str, rights: &BTreeSet<Granted>) {
    let user = format!("system:serviceaccount:{}:{account}", cluster.namespace);
    for granted in rights {
        let (resource, verb) = &granted.right;
        let (group, resource) = resource.split_once('/').unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": { "user": user, "resourceAttributes": {
                "group": group, "resource": resource, "subresource": subresource, "verb": verb,
                "namespace": granted.namespace, "name": granted.name,
            } },
        });
        eventually(SOON, &format!("{account} may {verb} {resource}"), async || {
            let api =
                kube::Api::<k8s_openapi::api::authorization::v1::SubjectAccessReview>::all(cluster.client.clone());
            let review = serde_json::from_value(review.clone()).unwrap();
            let message = api
                .create(&Default::default(), &review)
                .await
                .map_err(|error| error.to_string())?;
            message
                .status
                .is_some_and(|status| status.allowed)
                .then_some(())
                .ok_or_else(|| "no".to_owned())
        })
        .await;
    }
}

fn secret(name: &str, host: &str) -> String {
    let auth = json!({ "auths": { host: { "username": LOGIN.0, "password": LOGIN.1 } } });
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": { "name": name },
        "stringData": { ".dockerconfigjson": auth.to_string() },
    })
    .to_string()
}

#[tokio::test]
async fn the_operator_needs_exactly_its_granted_rights() {
    let _guard = EXCLUSIVE.lock().await;
    let operator_namespace = Cluster::exclusive().await;
    let tenant = operator_namespace.another_namespace().await;
    run_main_tasks(&operator_namespace, &tenant, false).await;
}

#[tokio::test]
async fn watching_one_namespace_needs_no_rights_elsewhere() {
    let _guard = EXCLUSIVE.lock().await;
    let operator_namespace = Cluster::exclusive().await;
    let tenant = operator_namespace.another_namespace().await;
    run_main_tasks(&operator_namespace, &tenant, true).await;
}

/// The main tasks, for objects of `tenant`, which is the only watched namespace if `narrow`.
async fn run_main_tasks(operator_namespace: &Cluster, tenant: &Cluster, narrow: bool) {
    let release = format!("r-{}", operator_namespace.namespace);
    let (account, agents) = (release.clone(), format!("{release}-agent"));
    let mut values = vec![
        "agent.enabled=true".to_owned(),
        format!("agent.secretNamespaces=[\"{}\"]", tenant.namespace),
    ];
    if narrow {
        values.push(format!("settings.watchNamespace=\"{}\"", tenant.namespace));
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let rendered = chart(operator_namespace, &release, &values);
    // Each object names its namespace.
    operator_namespace.apply_anywhere(&rendered);
    let (of_controller, of_agents) = (granted(&rendered, &account), granted(&rendered, &agents));
    wait_for_rights(operator_namespace, &account, &of_controller).await;
    wait_for_rights(operator_namespace, &agents, &of_agents).await;
    let folder = tempfile::tempdir().unwrap();
    let as_controller = kubeconfig(operator_namespace, ADMIN, folder.path(), &account, None);

    let login = Options {
        login: Some(LOGIN),
        ..Options::default()
    };
    let (source, registry) = (
        TestRegistry::start_with(Version::V31, login),
        TestRegistry::start_with(Version::V28, login),
    );
    multi_platform(&source.repository("team/app"), "1").await;
    let [engine, other, _] = DockerEngine::all();
    let name = unique("app:dev");
    let nodes = [format!("{release}-1"), format!("{release}-2")];
    for node in &nodes {
        operator_namespace.create_node(node, &[("disk", "fast")]).await;
    }
    engine.load(&layered(&name, "first").archive());
    other.load(&layered(&name, "first").archive());
    tenant.apply(&secret("push", &registry.host));
    tenant.apply(&secret("pull", &source.host));
    let builder = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "builder" },
        "imagePullSecrets": [{ "name": "pull" }],
    });
    tenant.apply(&builder.to_string());

    let as_controller = [
        ("KUBECONFIG", as_controller.as_str()),
        ("POD_SERVICE_ACCOUNT", account.as_str()),
    ];
    let only = ["--watch-namespace", &tenant.namespace];
    let only = if narrow { &only[..] } else { &[] };
    let flags = ["--insecure-registry", &source.host, "--garbage-delay", "0s"];
    let flags = [&flags[..], only].concat();
    let mut controllers = [
        operator_namespace.controller_with(&flags, &as_controller),
        operator_namespace.controller_with(&flags, &as_controller),
    ];
    let on = |node: &str, docker: &str| {
        let kubeconfig = kubeconfig(operator_namespace, ADMIN, folder.path(), &agents, Some(node));
        operator_namespace.agent_with(node, docker, only, &[("KUBECONFIG", &kubeconfig)])
    };
    let mut workers = [on(&nodes[0], &engine.host), on(&nodes[1], &other.host)];

    // Otherwise only the first one would be asked.
    eventually(SOON, "both agents are registered", async || {
        let leases = operator_namespace
            .api::<Lease>()
            .list(&ListParams::default().labels("jackal.dev/agent"))
            .await;
        let count = leases.map_err(|error| error.to_string())?.items.len();
        (count == 2).then_some(()).ok_or_else(|| format!("{count} are"))
    })
    .await;

    // A package with both kinds of images, another version, a rebuilt image, a repeat.
    let to = format!(
        "registry: {{address: '{}', insecure: true, secretRef: {{name: push}}}}",
        registry.host
    );
    let more = format!(
        "{to}\n  naming: Plain\n  serviceAccountName: builder\n  deletionPolicy: Delete\n  retention: {{revisions: 1}}\n  interval: 10s"
    );
    let lines = [
        format!("{{image: '{}/team/app:1'}}", source.host),
        format!("{{image: '{name}', source: Docker, nodeSelector: {{disk: fast}}}}"),
    ];
    let lines = [lines[0].as_str(), lines[1].as_str()];
    tenant.apply(&package("shop", "1", &lines, &more));
    tenant.ready("shop").await;
    tenant.apply(&package("shop", "2", &lines, &more));
    let second = tenant.ready("shop").await.status.unwrap();
    for engine in [&engine, &other] {
        engine.load(&layered(&name, "second").archive());
    }
    let rebuilt = |package: &jackal_operator::api::v1alpha1::JackalPackage| {
        let status = package.status.as_ref()?;
        let ready = condition(&status.conditions, "Ready")?.status == "True";
        (ready && status.images[1].digest != second.images[1].digest && status.history.len() == 1).then_some(())
    };
    tenant
        .package_where("shop", "rebuilt, and rid of what was before", rebuilt)
        .await;
    tenant.request("shop", "again").await;
    tenant
        .package_where("shop", "looked at again", |package| {
            let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
            (handled == Some("again")).then_some(())
        })
        .await;

    // Failures, and undecodable objects.
    tenant.apply(&standalone_image(
        "missing",
        &format!("{}/team/none:1", source.host),
        &more.replace("retention: {revisions: 1}", "suspend: false"),
    ));
    failing(tenant, "missing", "SourceNotFound").await;
    tenant.apply(&standalone_image(
        "unverified",
        &format!("{}/team/app:1", source.host),
        &format!("{to}\n  serviceAccountName: builder\n  verify: [{{publicKeys: [{{configMapRef: {{name: none}}}}]}}]"),
    ));
    failing(tenant, "unverified", "ConfigMapUnavailable").await;
    let bad = "interval: 99999999999999999999h";
    tenant.apply(&package("bad", "1", &lines, &format!("{to}\n  {bad}")));
    tenant.apply(&standalone_image(
        "bad",
        &format!("{}/team/app:1", source.host),
        &format!("{to}\n  {bad}"),
    ));
    for kind in ["jkpkg", "jkimg"] {
        let wait = ["wait", "--for=condition=Stalled", "--timeout=60s"];
        tenant.kubectl(&[&wait[..], &[&format!("{kind}/bad")]].concat());
        // No typed client can decode a list with it.
        tenant.kubectl(&["delete", kind, "bad", "--timeout=30s"]);
    }
    // An image is removed from the package, and the source returns another.
    let newer = image(&source.repository("team/app"), "linux/amd64", noise(9, 1000)).await;
    put(&source.repository("team/app"), &newer, Some("1")).await;
    tenant.apply(&package("shop", "3", &lines[..1], &more));
    let left = eventually(SOON, "only the package's one image is left", async || {
        let images = tenant.images().await;
        let mine = |image: &&JackalImage| image.spec.image == name;
        match images.iter().find(mine) {
            None => Ok(images.len()),
            Some(_) => Err(format!("{} images", images.len())),
        }
    })
    .await;
    assert_eq!(left, 3, "it, the one that is missing, and the one that is not verified");
    tenant.ready("shop").await;

    // Manifests from a ConfigMap.
    let manifests = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "manifests" },
        "data": { "pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" },
    });
    tenant.apply(&manifests.to_string());
    let configured = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "configured" },
        "spec": {
            "version": "1",
            "registry": { "address": registry.host, "insecure": true, "secretRef": { "name": "push" } },
            "components": [{ "name": "main", "manifests": [{ "name": "a", "configMapRef": { "name": "manifests" } }] }],
        },
    });
    tenant.apply(&configured.to_string());
    tenant.ready("configured").await;

    // Everything is deleted and stopped.
    clear(&[tenant]);
    for operator in controllers.iter_mut().chain(&mut workers) {
        operator.signal("TERM");
        operator.ends(Duration::from_secs(20)).await;
    }
    for (name, granted) in [(&account, of_controller), (&agents, of_agents)] {
        let (used, forbidden) = used(&operator_namespace.namespace, name);
        assert!(forbidden.is_empty(), "{name} was refused: {forbidden:#?}");
        let granted: BTreeSet<AccessRight> = granted.into_iter().map(|granted| granted.right).collect();
        let idle: Vec<_> = granted.difference(&used).collect();
        assert!(idle.is_empty(), "{name} was granted what it never used: {idle:?}");
    }
    remove_release(operator_namespace, &release);
}

/// Deletes the cluster-wide objects of a release.
pub(crate) fn remove_release(cluster: &Cluster, release: &str) {
    let kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy,clusterrolebinding,clusterrole";
    cluster.kubectl(&["delete", kinds, "-l", &format!("app.kubernetes.io/instance={release}")]);
}

async fn failing(cluster: &Cluster, name: &str, reason: &str) {
    cluster
        .image_where(name, reason, |image| {
            let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
            (ready.reason == reason).then_some(())
        })
        .await;
}
