//! What may refuse the pods of an installation. No IO.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, RuleWithOperations, ServiceReference, ValidatingWebhook, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::dry_run::{DryRun, POD_LABELS, Refusal, namespace_labels};
use super::facts::{AdmissionFacts, Facts, Unread};
use super::report::{Check, Findings};
use super::runtime::not_read;
use crate::bootstrap::seed::SEED_NAMESPACE;
use crate::bootstrap::text::clean;

/// What Pod Security writes where it refuses a pod.
const POD_SECURITY: &str = "violates PodSecurity";
/// What the API server writes where a webhook would have an effect in spite of the dry run.
const NO_DRY_RUN: &str = "does not support dry run";

/// Whether the namespace of the temporary registry and its pods are admitted.
pub(super) fn pod_security(facts: &Facts) -> Check {
    const NAME: &str = "pod-security";
    let admission = &facts.admission;
    let mut findings = Findings::default();
    match &admission.namespace {
        DryRun::Accepted => findings.ok(format!(
            "the namespace {SEED_NAMESPACE} with enforce=privileged is accepted"
        )),
        // It exists.
        DryRun::Refused(Refusal { code: 409, .. }) => findings.ok(format!("the namespace {SEED_NAMESPACE} exists")),
        DryRun::Refused(refusal) if refusal.message.contains(NO_DRY_RUN) => findings.warning(
            format!("the namespace cannot be tried: {}", refusal.message),
            "see that the webhook admits the namespaces jackal-seed and jackal-system",
        ),
        DryRun::Refused(Refusal { code: 403, message }) if is_missing_right(message) => {
            findings.warning(
                format!("the namespace cannot be tried: {message}"),
                "let the user create namespaces",
            );
        }
        DryRun::Refused(refusal) => findings.failure(
            format!("the namespace {SEED_NAMESPACE} is refused: {}", refusal.message),
            "exempt the namespaces jackal-seed and jackal-system from the policy that refuses",
        ),
        DryRun::Untried(unread) => findings.warning(untried("the namespace", unread), "run the command again"),
    }
    judge_pod(admission, &mut findings);
    findings.check(NAME, "nothing was tried")
}

fn judge_pod(admission: &AdmissionFacts, findings: &mut Findings) {
    let place = &admission.pod_namespace;
    let is_own = place == SEED_NAMESPACE;
    match &admission.pod {
        DryRun::Accepted => findings.ok(format!("a pod with the host's network is accepted in {place}")),
        DryRun::Refused(Refusal { message, .. }) if message.contains(POD_SECURITY) && !is_own => {
            findings.ok(format!("Pod Security refuses a pod with the host's network in {place}, but not with enforce=privileged"));
        }
        DryRun::Refused(Refusal { message, .. }) if message.contains(POD_SECURITY) => findings.failure(
            format!("Pod Security refuses a pod with the host's network in {place}: {message}"),
            format!("label it: kubectl label --overwrite namespace {SEED_NAMESPACE} pod-security.kubernetes.io/enforce=privileged"),
        ),
        DryRun::Refused(Refusal { code: 403, message }) if is_missing_right(message) => findings.warning(
            format!("a pod cannot be tried in {place}: {message}"),
            "let the user create pods, or see yourself that pods with the host's network are admitted",
        ),
        DryRun::Refused(Refusal { message, .. }) if message.contains(NO_DRY_RUN) || message.contains("serviceaccount") => findings
            .warning(
                format!("a pod cannot be tried in {place}: {message}"),
                "see yourself that pods with the host's network are admitted",
            ),
        DryRun::Refused(Refusal { message, .. }) if is_own => findings.failure(
            format!("a pod with the host's network is refused in {place}: {message}"),
            "exempt the namespaces jackal-seed and jackal-system from the policy that refuses",
        ),
        DryRun::Refused(Refusal { message, .. }) => findings.warning(
            format!("a pod with the host's network is refused in {place}, the only namespace where it can be tried: {message}"),
            "exempt the namespaces jackal-seed and jackal-system from the policy that refuses, if it applies there too",
        ),
        DryRun::Untried(unread) => findings.warning(untried("a pod", unread), "run the command again"),
    }
}

/// Whether a refusal is for want of a right, and not by an admission plugin.
fn is_missing_right(message: &str) -> bool {
    message.contains("cannot create resource")
}

fn untried(what: &str, unread: &Unread) -> String {
    match unread {
        Unread::Forbidden => format!("{what} may not be tried"),
        Unread::Absent => format!("{what} cannot be tried: its namespace does not exist"),
        Unread::Failed(message) => format!("{what} cannot be tried: {message}"),
    }
}

/// A webhook of any type.
struct Webhook<'f> {
    configuration: &'f str,
    name: &'f str,
    rules: &'f [RuleWithOperations],
    client: &'f WebhookClientConfig,
    namespaces: Option<&'f LabelSelector>,
    objects: Option<&'f LabelSelector>,
    fails: bool,
    has_conditions: bool,
}

impl<'f> Webhook<'f> {
    fn validating(configuration: Option<&'f String>, hook: &'f ValidatingWebhook) -> Self {
        Self {
            configuration: configuration.map_or("", String::as_str),
            name: &hook.name,
            rules: hook.rules.as_deref().unwrap_or_default(),
            client: &hook.client_config,
            namespaces: hook.namespace_selector.as_ref(),
            objects: hook.object_selector.as_ref(),
            fails: hook.failure_policy.as_deref() != Some("Ignore"),
            has_conditions: hook.match_conditions.as_ref().is_some_and(|all| !all.is_empty()),
        }
    }

    fn mutating(configuration: Option<&'f String>, hook: &'f MutatingWebhook) -> Self {
        Self {
            configuration: configuration.map_or("", String::as_str),
            name: &hook.name,
            rules: hook.rules.as_deref().unwrap_or_default(),
            client: &hook.client_config,
            namespaces: hook.namespace_selector.as_ref(),
            objects: hook.object_selector.as_ref(),
            fails: hook.failure_policy.as_deref() != Some("Ignore"),
            has_conditions: hook.match_conditions.as_ref().is_some_and(|all| !all.is_empty()),
        }
    }

    /// Whether the creation of a pod of the temporary registry is sent to it, as far as labels and rules say.
    fn takes_pods(&self) -> bool {
        self.rules.iter().any(matches_pods)
            && self
                .namespaces
                .is_none_or(|selector| selects(selector, &namespace_labels()))
            && self.objects.is_none_or(|selector| selects(selector, &POD_LABELS))
    }
}

/// Whether a rule applies to the creation of pods.
fn matches_pods(rule: &RuleWithOperations) -> bool {
    let any = |values: &Option<Vec<String>>, wanted: &[&str]| {
        let values = values.as_deref().unwrap_or_default();
        values
            .iter()
            .any(|value| value == "*" || wanted.contains(&value.as_str()))
    };
    any(&rule.operations, &["CREATE"])
        && any(&rule.api_groups, &[""])
        && any(&rule.api_versions, &["v1"])
        && any(&rule.resources, &["pods", "*/*", "pods/*"])
        && rule.scope.as_deref() != Some("Cluster")
}

/// Whether `selector` selects an object with `labels`.
fn selects(selector: &LabelSelector, labels: &[(&str, &str)]) -> bool {
    let value = |key: &str| labels.iter().find(|(label, _)| *label == key).map(|(_, value)| *value);
    let mut exact = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    exact.all(|(key, wanted)| value(key) == Some(wanted))
        && expressions.all(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            let is_in = |value: &str| values.iter().any(|one| one == value);
            match (expression.operator.as_str(), value(&expression.key)) {
                ("In", Some(value)) => is_in(value),
                ("NotIn", Some(value)) => !is_in(value),
                ("NotIn" | "DoesNotExist", None) | ("Exists", Some(_)) => true,
                _ => false,
            }
        })
}

/// The Services of webhooks that take pods and must answer.
pub(super) fn services(facts: &AdmissionFacts) -> Vec<&ServiceReference> {
    let mut found: Vec<&ServiceReference> = Vec::new();
    for webhook in strict_webhooks(facts) {
        if let Some(service) = &webhook.client.service
            && !found.contains(&service)
        {
            found.push(service);
        }
    }
    found
}

fn strict_webhooks(facts: &AdmissionFacts) -> Vec<Webhook<'_>> {
    let validating = facts
        .validating
        .as_deref()
        .unwrap_or_default()
        .iter()
        .flat_map(|configuration| {
            let hooks = configuration.webhooks.as_deref().unwrap_or_default();
            hooks
                .iter()
                .map(|hook| Webhook::validating(configuration.metadata.name.as_ref(), hook))
        });
    let mutating = facts
        .mutating
        .as_deref()
        .unwrap_or_default()
        .iter()
        .flat_map(|configuration| {
            let hooks = configuration.webhooks.as_deref().unwrap_or_default();
            hooks
                .iter()
                .map(|hook| Webhook::mutating(configuration.metadata.name.as_ref(), hook))
        });
    validating
        .chain(mutating)
        .filter(|webhook| webhook.fails && webhook.takes_pods())
        .collect()
}

/// Whether the webhooks that must agree to pods answer.
pub(super) fn webhooks(facts: &Facts) -> Check {
    const NAME: &str = "admission-webhooks";
    let admission = &facts.admission;
    let unread = admission
        .validating
        .as_ref()
        .err()
        .or(admission.mutating.as_ref().err());
    if let Some(unread) = unread {
        return not_read(NAME, "webhookconfigurations", unread);
    }
    let mut findings = Findings::default();
    let strict = strict_webhooks(admission);
    for webhook in &strict {
        let name = clean(&format!("{} of {}", webhook.name, webhook.configuration), 120);
        let Some(service) = &webhook.client.service else {
            continue;
        };
        let key = (service.namespace.clone(), service.name.clone());
        let place = clean(&format!("{}/{}", key.0, key.1), 120);
        let ready = match admission.endpoints.get(&key) {
            Some(Ok(slices)) => slices.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                conditions.and_then(|conditions| conditions.ready) != Some(false)
            }),
            // Without a right to read them, nothing is said.
            Some(Err(_)) | None => true,
        };
        match (ready, webhook.has_conditions) {
            (true, _) => {}
            (false, false) => findings.failure(
                format!("{name} must agree to every pod, but its Service {place} has no endpoint"),
                "repair the webhook, or delete its configuration if its program was removed",
            ),
            (false, true) => findings.warning(
                format!("{name} must agree to some pods, but its Service {place} has no endpoint"),
                "repair the webhook, or delete its configuration if its program was removed",
            ),
        }
    }
    let nothing = match strict.len() {
        0 => "no webhook must agree to the pods".to_owned(),
        1 => "1 webhook must agree to the pods, and has endpoints".to_owned(),
        count => format!("{count} webhooks must agree to the pods, and have endpoints"),
    };
    findings.check(NAME, &nothing)
}
