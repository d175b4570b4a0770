//! Which node an image is read from: a pure decision over what the nodes say they hold.

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

/// What the nodes' answers come to.
#[derive(Clone, Debug, PartialEq)]
pub enum AssignmentDecision {
    /// Not every node has answered yet.
    Open,
    /// This node is read.
    Assigned(Assignment),
    /// None is read, and why.
    Refused(Fault),
}

/// Decides from the answers that nodes gave for `generation`. `patient` is false once nodes that have not
/// answered were waited for long enough. `standing` is kept while it is as good as any.
pub fn decide(
    spec: &JackalImageSpec,
    generation: i64,
    agents: &[AgentNode],
    candidates: &[Candidate],
    standing: Option<&Assignment>,
    patient: bool,
) -> AssignmentDecision {
    // No node can answer what nobody can read; with the right spec they will.
    if let Err(fault) = ImageRequest::of_object(spec) {
        return AssignmentDecision::Refused(fault);
    }
    let matching: BTreeSet<&str> = agents
        .iter()
        .filter(|agent| spec.selects(&agent.name, &agent.labels))
        .map(|agent| agent.name.as_str())
        .collect();
    let image = &spec.image;
    if matching.is_empty() {
        return AssignmentDecision::Refused(unavailable(spec, agents));
    }
    let answers: BTreeMap<&str, &Candidate> = candidates
        .iter()
        .filter(|candidate| {
            candidate.observed_generation == generation && matching.contains(candidate.node_name.as_str())
        })
        .map(|candidate| (candidate.node_name.as_str(), candidate))
        .collect();
    if answers.len() < matching.len() && patient {
        return AssignmentDecision::Open;
    }
    let holders: Vec<(&str, &str)> = answers
        .iter()
        .filter_map(|(node, candidate)| Some((*node, candidate.image_id.as_deref()?)))
        .collect();
    let distinct: BTreeSet<&str> = holders.iter().map(|(_, id)| *id).collect();
    if distinct.len() > 1 {
        let held: Vec<String> = holders
            .iter()
            .map(|(node, id)| format!("{node} holds {}", short(id)))
            .collect();
        let message = format!(
            "nodes hold different images under the name {image}: {}. Set nodeName, name the image by its digest, or bring the same image to each of these nodes",
            held.join(", ")
        );
        return AssignmentDecision::Refused(Fault::retryable(Reason::AmbiguousSource, message));
    }
    if let Some((node, id)) = holders.first() {
        let kept =
            standing.filter(|standing| holders.contains(&(standing.node_name.as_str(), standing.image_id.as_str())));
        let chosen = Assignment {
            node_name: (*node).to_owned(),
            image_id: (*id).to_owned(),
            plain_tag_owner: None,
        };
        return AssignmentDecision::Assigned(kept.cloned().unwrap_or(chosen));
    }
    let told: Vec<String> = answers
        .iter()
        .filter_map(|(node, answer)| Some(format!("{node}: {}", answer.message.as_deref()?)))
        .collect();
    if !told.is_empty() {
        let message = format!("{image} cannot be read on any node: {}", told.join("; "));
        let reason = common_reason(&answers);
        return AssignmentDecision::Refused(match reason {
            // Agents that are started with another policy answer anew.
            Reason::PolicyDenied => Fault::stalled(reason, message),
            _ => Fault::retryable(reason, message),
        });
    }
    let silent: Vec<&str> = matching
        .iter()
        .copied()
        .filter(|node| !answers.contains_key(node))
        .collect();
    if !silent.is_empty() && answers.is_empty() {
        let message = format!("the agents on {} do not answer: see their logs", silent.join(", "));
        return AssignmentDecision::Refused(Fault::retryable(Reason::NodeUnavailable, message));
    }
    let nodes: Vec<&str> = answers.keys().copied().collect();
    let bring = match spec.source {
        SourceKind::Containerd => "pull or import",
        _ => "build or load",
    };
    let message = format!(
        "no node holds {image} (asked: {}): {bring} it there, or set source: Registry",
        nodes.join(", ")
    );
    AssignmentDecision::Refused(Fault::retryable(Reason::SourceNotFound, message))
}

/// The reason that all give who cannot read the image, or that there are several.
fn common_reason(answers: &BTreeMap<&str, &Candidate>) -> Reason {
    let told = answers.values().filter(|answer| answer.message.is_some());
    let reasons: BTreeSet<Option<&str>> = told.map(|answer| answer.reason.as_deref()).collect();
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

    fn reason(verdict: AssignmentDecision) -> (Reason, String) {
        match verdict {
            AssignmentDecision::Refused(fault) => (fault.reason, fault.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waits_for_every_matching_node_and_then_takes_the_first() {
        for source in ["Docker", "Containerd"] {
            takes_the_first(&spec(&format!("image: app:dev\nsource: {source}")));
        }
    }

    fn takes_the_first(spec: &JackalImageSpec) {
        let nodes = agents(&["n1", "n2"]);
        let one = [holds("n2", Some("sha256:a"))];
        assert_eq!(decide(spec, 1, &nodes, &one, None, true), AssignmentDecision::Open);
        assert!(
            matches!(decide(spec, 1, &nodes, &one, None, false), AssignmentDecision::Assigned(a) if a.node_name == "n2")
        );
        let both = [holds("n2", Some("sha256:a")), holds("n1", Some("sha256:a"))];
        assert!(
            matches!(decide(spec, 1, &nodes, &both, None, true), AssignmentDecision::Assigned(a) if a.node_name == "n1")
        );
        let standing = Assignment {
            node_name: "n2".to_owned(),
            image_id: "sha256:a".to_owned(),
            plain_tag_owner: None,
        };
        assert_eq!(
            decide(spec, 1, &nodes, &both, Some(&standing), true),
            AssignmentDecision::Assigned(standing)
        );
        assert_eq!(
            decide(spec, 2, &nodes, &both, None, true),
            AssignmentDecision::Open,
            "answers to an older spec"
        );
    }

    #[test]
    fn never_guesses() {
        let (plain, nodes) = (spec("image: app:dev\nsource: Docker"), agents(&["n1", "n2"]));
        let both = [
            holds("n1", Some("sha256:aaaaaaaaaaaaaaaa")),
            holds("n2", Some("sha256:bbbbbbbbbbbbbbbb")),
        ];
        let (why, message) = reason(decide(&plain, 1, &nodes, &both, None, true));
        assert_eq!(why, Reason::AmbiguousSource);
        assert!(
            message.contains("n1 holds sha256:aaaaaaaaaaaa,") && message.contains("n2 holds"),
            "{message}"
        );
        let named = spec("image: app:dev\nsource: Docker\nnodeName: n2");
        assert!(
            matches!(decide(&named, 1, &nodes, &both, None, true), AssignmentDecision::Assigned(a) if a.node_name == "n2")
        );
        let labelled = spec("image: app:dev\nsource: Docker\nnodeSelector: {disk: d-n1}");
        assert!(
            matches!(decide(&labelled, 1, &nodes, &both, None, true), AssignmentDecision::Assigned(a) if a.node_name == "n1")
        );
    }

    #[test]
    fn says_what_is_missing() {
        let (plain, nodes) = (spec("image: app:dev\nsource: Docker"), agents(&["n1"]));
        assert_eq!(
            reason(decide(&plain, 1, &[], &[], None, true)).0,
            Reason::NodeUnavailable
        );
        let named = spec("image: app:dev\nsource: Docker\nnodeName: n9");
        let (why, message) = reason(decide(&named, 1, &nodes, &[], None, true));
        assert!(
            why == Reason::NodeUnavailable && message.contains("n9") && message.contains("agents run on: n1"),
            "{message}"
        );
        assert_eq!(
            reason(decide(&plain, 1, &nodes, &[holds("n1", None)], None, true)).0,
            Reason::SourceNotFound
        );
        let down = Candidate {
            message: Some("docker is down".to_owned()),
            ..holds("n1", None)
        };
        let (why, message) = reason(decide(&plain, 1, &nodes, &[down], None, true));
        assert!(
            why == Reason::SourceFailed && message.contains("n1: docker is down"),
            "{message}"
        );
        assert_eq!(
            reason(decide(&plain, 1, &nodes, &[], None, false)).0,
            Reason::NodeUnavailable
        );
    }

    #[test]
    fn keeps_a_reason_that_all_nodes_share() {
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
            assert_eq!(reason(decide(&plain, 1, &nodes, &answers, None, true)).0, expected);
        }
    }

    #[test]
    fn asks_no_node_for_what_nobody_can_read() {
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
            let verdict = decide(&spec(text), 1, &agents(&["n1"]), &[], None, true);
            let AssignmentDecision::Refused(fault) = verdict else {
                panic!("{text}: {verdict:?}")
            };
            assert_eq!(
                (fault.reason, fault.disposition),
                (expected, Disposition::Stalled),
                "{text}"
            );
        }
    }
}
