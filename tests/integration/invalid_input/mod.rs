//! Invalid input leads to a condition and one event that say what to do, no retry loop, and automatic recovery once the
//! input is repaired. Inputs with the same setup share one operator, which also shows that none of them blocks the
//! others.

mod content;
mod engines;
mod harness;
mod registries;
mod specs;
mod state_secret;
mod validation_rules;
mod write_counter;
