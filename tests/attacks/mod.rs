//! What hostile tenants, registries and nodes attempt, and what comes of it: one table for each threat of
//! `docs/security.md`. Every attack is carried out against real components.

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
    /// What holds at the end, for the victim above all.
    pub final_state: &'static str,
    /// Carries out the attack and asserts the two.
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
