//! Attacks by hostile tenants, registries and nodes, and their results: one table for each threat of
//! `docs/security.md`. Every attack runs against real components.

mod convert;
mod credentials;
mod defaults;
mod deletion;
mod engine;
mod fairness;
mod memory;
mod nodes;
mod requests;
mod sbom;
mod signatures;
mod signed_content;

use futures::future::BoxFuture;

use crate::support::table;

/// One row of a table.
pub struct Attack {
    /// Who attacks.
    pub attacker: &'static str,
    /// What the attacker may do.
    pub capabilities: &'static str,
    /// What the attacker does.
    pub attempt: &'static str,
    /// What the attacker and the administrator see.
    pub expected: &'static str,
    /// The state at the end, of the victim in particular.
    pub final_state: &'static str,
    /// Runs the attack and asserts `expected` and `final_state`.
    pub run: fn() -> BoxFuture<'static, ()>,
}

/// Runs every attack of a table and fails with a list of all that succeeded.
pub async fn check(attacks: &[Attack]) {
    let runs = attacks.iter().map(|attack| {
        let description = format!(
            "{} ({}): {} (expected: {}; {})",
            attack.attacker, attack.capabilities, attack.attempt, attack.expected, attack.final_state
        );
        (description, (attack.run)())
    });
    table::run(runs).await;
}
