//! Which node an image is read from, decided by what the nodes answer. No IO.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::api::v1alpha1::{Assignment, Candidate, JackalImageSpec, SourceKind};
use crate::fault::{Fault, Reason};
use crate::package::ImageRequest;

/// A node that runs the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentNode {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What the nodes answered about an image.
#[derive(Clone, Copy, Debug)]
pub struct NodeAnswers<'a> {
    /// The generation of the image; answers to others do not count.
    pub generation: i64,
    /// The nodes that run the agent.
    pub agents: &'a [AgentNode],
    /// Their answers.
    pub candidates: &'a [Candidate],
    /// The assignment so far. It is kept while it is as good as any other.
    pub current: Option<&'a Assignment>,
    /// Whether nodes that have not answered are no longer waited for.
    pub is_complete: bool,
}

/// Which node an image is read from.
#[derive(Clone, Debug, PartialEq)]
pub enum AssignmentDecision {
    /// Not every node has answered yet.
    Open,
    /// From this one.
    Assigned(Assignment),
    /// From none, and why.
    Refused(Fault),
}

/// Decides by the answers of the nodes.
pub fn decide(spec: &JackalImageSpec, answers: &NodeAnswers<'_>) -> AssignmentDecision {
    // No node can answer about an invalid spec. They do once it is valid.
    if let Err(fault) = ImageRequest::of_object(spec) {
        return AssignmentDecision::Refused(fault);
    }
    let NodeAnswers { agents, current, .. } = *answers;
    let selected: BTreeSet<&str> = agents
        .iter()
        .filter(|agent| spec.selects(&agent.name, &agent.labels))
        .map(|agent| agent.name.as_str())
        .collect();
    if selected.is_empty() {
        return AssignmentDecision::Refused(unavailable(spec, agents));
    }
    let answered: BTreeMap<&str, &Candidate> = answers
        .candidates
        .iter()
        .filter(|candidate| {
            candidate.observed_generation == answers.generation && selected.contains(candidate.node_name.as_str())
        })
        .map(|candidate| (candidate.node_name.as_str(), candidate))
        .collect();
    if answered.len() < selected.len() && !answers.is_complete {
        return AssignmentDecision::Open;
    }
    let holders: Vec<(&str, &str)> = answered
        .iter()
        .filter_map(|(node, candidate)| Some((*node, candidate.image_id.as_deref()?)))
        .collect();
    let distinct: BTreeSet<&str> = holders.iter().map(|(_, id)| *id).collect();
    if distinct.len() > 1 {
        return AssignmentDecision::Refused(ambiguous(&spec.image, &holders));
    }
    let Some((node, id)) = holders.first() else {
        return AssignmentDecision::Refused(not_held(spec, &selected, &answered));
    };
    let kept = current.filter(|current| holders.contains(&(current.node_name.as_str(), current.image_id.as_str())));
    let chosen = || Assignment {
        node_name: (*node).to_owned(),
        image_id: (*id).to_owned(),
        plain_tag_owner: None,
    };
    AssignmentDecision::Assigned(kept.cloned().unwrap_or_else(chosen))
}

/// That nodes hold different images.
fn ambiguous(image: &str, holders: &[(&str, &str)]) -> Fault {
    let held: Vec<String> = holders
        .iter()
        .map(|(node, id)| format!("{node} holds {}", short(id)))
        .collect();
    let message = format!(
        "nodes hold different images under the name {image}: {}. Set nodeName, name the image by its digest, or bring the same image to each of these nodes",
        held.join(", ")
    );
    Fault::retryable(Reason::AmbiguousSource, message)
}

/// That none of the `selected` nodes holds the image, by what they `answered`.
fn not_held(spec: &JackalImageSpec, selected: &BTreeSet<&str>, answered: &BTreeMap<&str, &Candidate>) -> Fault {
    let image = &spec.image;
    let failures: Vec<String> = answered
        .iter()
        .filter_map(|(node, answer)| Some(format!("{node}: {}", answer.message.as_deref()?)))
        .collect();
    if !failures.is_empty() {
        let message = format!("{image} cannot be read on any node: {}", failures.join("; "));
        let reason = common_reason(answered);
        return match reason {
            // Agents that are started with another policy answer again.
            Reason::PolicyDenied => Fault::stalled(reason, message),
            _ => Fault::retryable(reason, message),
        };
    }
    if answered.is_empty() {
        let silent: Vec<&str> = selected.iter().copied().collect();
        let message = format!("the agents on {} do not answer: see their logs", silent.join(", "));
        return Fault::retryable(Reason::NodeUnavailable, message);
    }
    let nodes: Vec<&str> = answered.keys().copied().collect();
    let bring = match spec.source {
        SourceKind::Containerd => "pull or import",
        _ => "build or load",
    };
    let message = format!(
        "no node holds {image} (asked: {}): {bring} it there, or set source: Registry",
        nodes.join(", ")
    );
    Fault::retryable(Reason::SourceNotFound, message)
}

/// The reason of all nodes that cannot read the image; `SourceFailed` where they have several.
fn common_reason(answers: &BTreeMap<&str, &Candidate>) -> Reason {
    let failed = answers.values().filter(|answer| answer.message.is_some());
    let reasons: BTreeSet<Option<&str>> = failed.map(|answer| answer.reason.as_deref()).collect();
    let only = reasons.first().filter(|_| reasons.len() == 1);
    serde_json::from_value(json!(only)).unwrap_or(Reason::SourceFailed)
}

fn unavailable(spec: &JackalImageSpec, agents: &[AgentNode]) -> Fault {
    let wanted = match (&spec.node_name, &spec.node_selector) {
        (Some(name), _) => format!("no agent runs on the node {name}"),
        (None, Some(selector)) => {
            let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("no agent runs on a node labelled {}", labels.join(","))
        }
        (None, None) => "no node runs the agent".to_owned(),
    };
    let running: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    let running = if running.is_empty() {
        "none".to_owned()
    } else {
        running.join(", ")
    };
    let message =
        format!("{wanted} (agents run on: {running}): start `jackal-operator agent` there, or choose another node");
    Fault::retryable(Reason::NodeUnavailable, message)
}

fn short(id: &str) -> &str {
    id.get(.."sha256:".len() + 12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Disposition;

    fn spec(text: &str) -> JackalImageSpec {
        serde_saphyr::from_str(text).unwrap()
    }

    fn agents(names: &[&str]) -> Vec<AgentNode> {
        names
            .iter()
            .map(|name| AgentNode {
                name: (*name).to_owned(),
                labels: BTreeMap::from([("disk".to_owned(), format!("d-{name}"))]),
            })
            .collect()
    }

    fn holds(node: &str, id: Option<&str>) -> Candidate {
        Candidate {
            node_name: node.to_owned(),
            image_id: id.map(str::to_owned),
            reason: None,
            message: None,
            observed_generation: 1,
        }
    }

    fn decided(
        spec: &JackalImageSpec,
        generation: i64,
        agents: &[AgentNode],
        candidates: &[Candidate],
        current: Option<&Assignment>,
        is_complete: bool,
    ) -> AssignmentDecision {
        let answers = NodeAnswers {
            generation,
            agents,
            candidates,
            current,
            is_complete,
        };
        decide(spec, &answers)
    }

    fn reason(decision: AssignmentDecision) -> (Reason, String) {
        match decision {
            AssignmentDecision::Refused(fault) => (fault.reason, fault.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_holder_is_assigned_after_all_selected_nodes_answered() {
        for source in ["Docker", "Containerd"] {
            takes_the_first(&spec(&format!("image: app:dev\nsource: {source}")));
        }
    }

    fn takes_the_first(spec: &JackalImageSpec) {
        let nodes = agents(&["n1", "n2"]);
        let one = [holds("n2", Some("sha256:a"))];
        assert_eq!(decided(spec, 1, &nodes, &one, None, false), AssignmentDecision::Open);
        assert!(
            matches!(decided(spec, 1, &nodes, &one, None, true), AssignmentDecision::Assigned(a) if a.node_name == "n2")
        );
        let both = [holds("n2", Some("sha256:a")), holds("n1", Some("sha256:a"))];
        assert!(
            matches!(decided(spec, 1, &nodes, &both, None, false), AssignmentDecision::Assigned(a) if a.node_name == "n1")
        );
        let current = Assignment {
            node_name: "n2".to_owned(),
            image_id: "sha256:a".to_owned(),
            plain_tag_owner: None,
        };
        assert_eq!(
            decided(spec, 1, &nodes, &both, Some(&current), false),
            AssignmentDecision::Assigned(current)
        );
        assert_eq!(
            decided(spec, 2, &nodes, &both, None, false),
            AssignmentDecision::Open,
            "answers to an older spec"
        );
    }

    #[test]
    fn different_images_under_one_name_are_refused() {
        let (plain, nodes) = (spec("image: app:dev\nsource: Docker"), agents(&["n1", "n2"]));
        let both = [
            holds("n1", Some("sha256:aaaaaaaaaaaaaaaa")),
            holds("n2", Some("sha256:bbbbbbbbbbbbbbbb")),
        ];
        let (why, message) = reason(decided(&plain, 1, &nodes, &both, None, false));
        assert_eq!(why, Reason::AmbiguousSource);
        assert!(
            message.contains("n1 holds sha256:aaaaaaaaaaaa,") && message.contains("n2 holds"),
            "{message}"
        );
        let named = spec("image: app:dev\nsource: Docker\nnodeName: n2");
        assert!(
            matches!(decided(&named, 1, &nodes, &both, None, false), AssignmentDecision::Assigned(a) if a.node_name == "n2")
        );
        let labelled = spec("image: app:dev\nsource: Docker\nnodeSelector: {disk: d-n1}");
        assert!(
            matches!(decided(&labelled, 1, &nodes, &both, None, false), AssignmentDecision::Assigned(a) if a.node_name == "n1")
        );
    }

    #[test]
    fn a_refusal_names_what_is_missing() {
        let (plain, nodes) = (spec("image: app:dev\nsource: Docker"), agents(&["n1"]));
        assert_eq!(
            reason(decided(&plain, 1, &[], &[], None, false)).0,
            Reason::NodeUnavailable
        );
        let named = spec("image: app:dev\nsource: Docker\nnodeName: n9");
        let (why, message) = reason(decided(&named, 1, &nodes, &[], None, false));
        assert!(
            why == Reason::NodeUnavailable && message.contains("n9") && message.contains("agents run on: n1"),
            "{message}"
        );
        assert_eq!(
            reason(decided(&plain, 1, &nodes, &[holds("n1", None)], None, false)).0,
            Reason::SourceNotFound
        );
        let down = Candidate {
            message: Some("docker is down".to_owned()),
            ..holds("n1", None)
        };
        let (why, message) = reason(decided(&plain, 1, &nodes, &[down], None, false));
        assert!(
            why == Reason::SourceFailed && message.contains("n1: docker is down"),
            "{message}"
        );
        assert_eq!(
            reason(decided(&plain, 1, &nodes, &[], None, true)).0,
            Reason::NodeUnavailable
        );
    }

    #[test]
    fn a_reason_that_all_nodes_share_is_kept() {
        let (plain, nodes) = (spec("image: app:dev\nsource: Docker"), agents(&["n1", "n2"]));
        let cannot = |node: &str, why: &str| Candidate {
            reason: Some(why.to_owned()),
            message: Some("because".to_owned()),
            ..holds(node, None)
        };
        for (answers, expected) in [
            (
                [cannot("n1", "DigestMismatch"), cannot("n2", "DigestMismatch")],
                Reason::DigestMismatch,
            ),
            (
                [cannot("n1", "DigestMismatch"), holds("n2", None)],
                Reason::DigestMismatch,
            ),
            (
                [cannot("n1", "DigestMismatch"), cannot("n2", "SourceFailed")],
                Reason::SourceFailed,
            ),
            ([cannot("n1", "NoSuchReason"), holds("n2", None)], Reason::SourceFailed),
        ] {
            assert_eq!(reason(decided(&plain, 1, &nodes, &answers, None, false)).0, expected);
        }
    }

    #[test]
    fn an_invalid_spec_is_refused_without_answers() {
        for (text, expected) in [
            ("image: App:dev\nsource: Docker", Reason::InvalidReference),
            (
                "image: app:dev\nsource: Docker\nplatforms: [linux]",
                Reason::InvalidSpec,
            ),
            (
                "image: app:dev\nsource: Containerd\nplatforms: [linux]",
                Reason::InvalidSpec,
            ),
        ] {
            let decision = decided(&spec(text), 1, &agents(&["n1"]), &[], None, false);
            let AssignmentDecision::Refused(fault) = decision else {
                panic!("{text}: {decision:?}")
            };
            assert_eq!(
                (fault.reason, fault.disposition),
                (expected, Disposition::Stalled),
                "{text}"
            );
        }
    }
}
