//! Chooses the node that an image of a docker engine or containerd is read from, and writes it into the image's status.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};

use super::assignment::{self, AgentNode, AssignmentDecision, NodeAnswers};
use super::image_context::ImageContext;
use super::lease::LEASE_RETRY;
use super::status_write::{StatusWrite, write_status};
use crate::api::v1alpha1::{Assignment, Conditions, JackalImage, JackalImageStatus, requested_at};
use crate::fault::{Disposition, Fault, Reason};
use crate::runtime::{AGENT_LEASE_PREFIX, CLAIM_STALE_AFTER, Failure, kube_fault, with_timeout};

/// How soon an image is reconciled again while another object has a tag that it writes.
const TAG_RECHECK: Duration = Duration::from_secs(10);

/// Assigns a node to `image`, or writes why it has none.
pub(super) async fn assign(context: &ImageContext, image: &JackalImage) -> Result<Action, Fault> {
    let generation = image.metadata.generation.unwrap_or_default();
    let owner = context
        .objects
        .plain_tag_owner(&context.client, &context.settings, image)
        .await;
    let plain_tag_owner = match owner {
        Ok(owner) => owner,
        Err(fault) if fault.disposition == Disposition::Blocked => {
            let action = write_assignment(context, image, Err(&fault)).await?;
            return Ok(with_tag_recheck(context, action));
        }
        Err(fault) => return Err(fault),
    };
    let is_tag_taken = plain_tag_owner.is_some();
    let waited = context.waited(image, generation);
    let agents = agents(context, image.spec.node_selector.is_some()).await?;
    let status = image.status.clone().unwrap_or_default();
    let answers = NodeAnswers {
        generation,
        agents: &agents,
        candidates: &status.candidates,
        current: status.assignment.as_ref(),
        is_complete: waited >= CLAIM_STALE_AFTER,
    };
    let action = match assignment::decide(&image.spec, &answers) {
        AssignmentDecision::Open => Action::requeue(CLAIM_STALE_AFTER.saturating_sub(waited)),
        AssignmentDecision::Assigned(assignment) => {
            let assignment = Assignment {
                plain_tag_owner,
                ..assignment
            };
            match status.assignment.as_ref() == Some(&assignment) {
                true => Action::await_change(),
                false => write_assignment(context, image, Ok(&assignment)).await?,
            }
        }
        AssignmentDecision::Refused(fault) => write_assignment(context, image, Err(&fault)).await?,
    };
    Ok(if is_tag_taken {
        with_tag_recheck(context, action)
    } else {
        action
    })
}

/// `action`, but no later than another object may have lost a tag.
fn with_tag_recheck(context: &ImageContext, action: Action) -> Action {
    match action == Action::await_change() {
        true => Action::requeue(TAG_RECHECK.min(context.settings.backoff.limit)),
        false => action,
    }
}

/// The nodes that run the agent, with their labels where `with_labels`.
async fn agents(context: &ImageContext, with_labels: bool) -> Result<Vec<AgentNode>, Fault> {
    let mut agents = Vec::new();
    for lease in context.agents.state() {
        let Some(name) = lease.name_any().strip_prefix(AGENT_LEASE_PREFIX).map(str::to_owned) else {
            continue;
        };
        let labels = match with_labels {
            true => node_labels(context, &name).await?,
            false => BTreeMap::new(),
        };
        agents.push(AgentNode { name, labels });
    }
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(agents)
}

async fn node_labels(context: &ImageContext, node: &str) -> Result<BTreeMap<String, String>, Fault> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let found: Option<PartialObjectMeta<Node>> = with_timeout(nodes.get_metadata_opt(node)).await.map_err(|error| {
        kube_fault(
            Reason::NodeUnavailable,
            &format!("reading the labels of the node {node}"),
            &error,
        )
    })?;
    Ok(found.and_then(|node| node.metadata.labels).unwrap_or_default())
}

/// Writes the assignment, or why there is none, and records an event of a new failure.
async fn write_assignment(
    context: &ImageContext,
    image: &JackalImage,
    assignment: Result<&Assignment, &Fault>,
) -> Result<Action, Fault> {
    let change = |current: &JackalImage, status: &mut JackalImageStatus| {
        let is_current = current.metadata.generation == image.metadata.generation && !current.spec.suspend;
        is_current.then(|| record_assignment(status, current, assignment))
    };
    let written = write_status(&context.client, &context.leadership, image, change)
        .await
        .map_err(|error| kube_fault(Reason::NodeUnavailable, "writing the assignment", &error))?;
    if let (Err(fault), StatusWrite::Written(true)) = (assignment, &written) {
        context
            .events
            .warning(image, &fault.reason.to_string(), &fault.message)
            .await;
    }
    Ok(match written {
        StatusWrite::NotLeading => Action::requeue(LEASE_RETRY),
        StatusWrite::Written(_) | StatusWrite::Outdated => Action::await_change(),
    })
}

/// Records the assignment of `image`, or why there is none. True where that is a new failure.
fn record_assignment(
    status: &mut JackalImageStatus,
    image: &JackalImage,
    assignment: Result<&Assignment, &Fault>,
) -> bool {
    status.assignment = assignment.ok().cloned();
    let Err(fault) = assignment else { return false };
    let generation = image.metadata.generation;
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let is_news = Failure(fault).record(&mut conditions, generation, Time(jiff::Timestamp::now()));
    status.conditions = conditions.0;
    status.observed_generation = generation;
    status.last_handled_reconcile_at = requested_at(image.annotations()).map(str::to_owned);
    is_news
}
