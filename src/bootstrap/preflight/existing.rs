//! What is in the cluster already. No IO.

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};

use super::dry_run::{DryRun, Refusal};
use super::facts::{Facts, Unread};
use super::report::{Check, Findings};
use super::runtime::not_read;
use crate::bootstrap::install::{NAMESPACE, NODE_PORT, RELEASE};
use crate::bootstrap::seed::{SEED_NAMESPACE, SEED_PORT};
use crate::bootstrap::text::{clean, names};

/// The annotation that names the Helm release of an object.
const RELEASE_NAME: &str = "meta.helm.sh/release-name";
/// The annotation that names its namespace.
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";

/// Whether an operator or a registry is installed already, and by what.
pub(super) fn installations(facts: &Facts) -> Check {
    const NAME: &str = "existing-installation";
    let existing = &facts.existing;
    let mut findings = Findings::default();
    for definition in existing.definitions.iter().flatten() {
        let name = clean(definition.metadata.name.as_deref().unwrap_or_default(), 80);
        let annotations = definition.metadata.annotations.as_ref();
        let of = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
        match (of(RELEASE_NAME), of(RELEASE_NAMESPACE)) {
            (Some(RELEASE), Some(NAMESPACE)) => findings.ok(format!("{name} belongs to this installation")),
            (Some(release), Some(namespace)) => findings.failure(
                format!(
                    "{name} belongs to the release {} in {}",
                    clean(release, 60),
                    clean(namespace, 60)
                ),
                "a cluster has one operator: upgrade that release, or remove it first (docs/install.md, Removal)",
            ),
            _ => findings.warning(
                format!("{name} exists and belongs to no release"),
                "bootstrap takes it over",
            ),
        }
    }
    if let Ok(releases) = &existing.releases
        && let Some(release) = releases.iter().max_by_key(|release| revision(release))
    {
        let status = label(release, "status").unwrap_or("unknown");
        let found = format!(
            "Helm release {RELEASE}, revision {}, {}",
            revision(release),
            clean(status, 30)
        );
        match status.starts_with("pending") {
            true => findings.warning(
                found,
                "an upgrade is running or was interrupted: see helm history, and helm rollback",
            ),
            false => findings.ok(format!("{found}, which is upgraded")),
        }
    }
    for (state, read) in &existing.states {
        if read.is_ok() {
            findings.warning(
                format!("{state} exists: the cluster has a registry of {}", tool(state)),
                "load packages into that registry, or see that its webhook leaves the namespaces jackal-seed and jackal-system alone",
            );
        }
    }
    for (name, namespace) in &existing.namespaces {
        match namespace {
            Ok(namespace) if is_ending(namespace) => findings.failure(
                format!("the namespace {name} is being deleted"),
                "wait until it is gone; see: kubectl get namespace -o yaml",
            ),
            Ok(_) if *name == SEED_NAMESPACE => {
                findings.ok(format!(
                    "the namespace {name} exists: an earlier bootstrap was interrupted, and is continued"
                ));
            }
            Ok(_) => findings.ok(format!("the namespace {name} exists")),
            Err(_) => {}
        }
    }
    let forbidden = existing
        .definitions
        .iter()
        .any(|definition| definition.as_ref().err() == Some(&Unread::Forbidden));
    if forbidden {
        findings.warning(
            "the definitions of resources may not be read",
            "let the user get customresourcedefinitions",
        );
    }
    findings.check(NAME, "none")
}

fn tool(state: &str) -> &'static str {
    match state.starts_with("zarf") {
        true => "Zarf",
        false => "Jackal",
    }
}

fn label<'s>(secret: &'s Secret, key: &str) -> Option<&'s str> {
    secret.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn revision(secret: &Secret) -> u64 {
    label(secret, "version")
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

fn is_ending(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Terminating") || namespace.metadata.deletion_timestamp.is_some()
}

/// Whether the ports of the registry are free.
pub(super) fn ports(facts: &Facts) -> Check {
    const NAME: &str = "ports";
    let services = match &facts.services {
        Ok(services) => services,
        Err(unread) => return not_read(NAME, "services", unread),
    };
    let mut findings = Findings::default();
    let mut is_own = false;
    for port in [NODE_PORT, SEED_PORT] {
        let (own, others): (Vec<&Service>, Vec<&Service>) = services
            .iter()
            .filter(|service| has_node_port(service, port))
            .partition(|service| service.metadata.namespace.as_deref() == Some(NAMESPACE));
        is_own |= port == NODE_PORT && !own.is_empty();
        let others: Vec<String> = others.into_iter().map(place).collect();
        if !others.is_empty() {
            findings.failure(
                format!("the NodePort {port} is used by {}", names(&others)),
                format!("give that Service another port: pods name images 127.0.0.1:{NODE_PORT}/…"),
            );
        }
    }
    match &facts.node_port {
        _ if is_own => findings.ok(format!("{NODE_PORT} is this installation's")),
        DryRun::Accepted => findings.ok(format!("{NODE_PORT} is free and in the range of NodePorts")),
        DryRun::Refused(Refusal { message, .. }) if message.contains("not in the valid range") => findings.warning(
            format!("{NODE_PORT} is not in the range of NodePorts: {message}"),
            format!(
                "use --expose NodeProxy, or start the API server with a --service-node-port-range that has {NODE_PORT}"
            ),
        ),
        // Services that the user may not see have it; the list above has them otherwise.
        DryRun::Refused(Refusal { message, .. }) if message.contains("already allocated") => findings.warning(
            format!("{NODE_PORT} is allocated"),
            "see which Service has it: kubectl get services --all-namespaces",
        ),
        DryRun::Refused(refusal) => {
            findings.ok(format!(
                "a Service with the port {NODE_PORT} cannot be tried: {}",
                refusal.message
            ));
        }
        DryRun::Untried(_) => findings.ok(format!("no Service has the port {NODE_PORT}")),
    }
    findings.check(NAME, "free")
}

fn has_node_port(service: &Service, port: u16) -> bool {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    ports.iter().any(|entry| entry.node_port == Some(port.into()))
}

fn place(service: &Service) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", service.metadata.name.as_deref().unwrap_or_default())
}
