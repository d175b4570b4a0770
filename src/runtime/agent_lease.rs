//! The Lease by which an agent registers its node with the leader.

/// The label of these Leases.
pub const AGENT_LABEL: &str = "jackal.dev/agent";

/// What their names begin with; the node's name follows. The API server lets an agent write the Lease of its own node only
/// (the chart's policy), so the leader reads the name and nothing else.
pub const AGENT_LEASE_PREFIX: &str = "jackal-agent-";

/// The name of the Lease of the agent of `node`.
pub fn agent_lease_name(node: &str) -> String {
    format!("{AGENT_LEASE_PREFIX}{node}")
}
