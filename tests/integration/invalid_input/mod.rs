//! What bad input gets: a condition and one event that say what to do, no loop, and recovery by itself once the
//! input is repaired. Inputs that need the same surroundings share one operator, which also shows that none of
//! them holds up the others.

mod content;
mod engines;
mod harness;
mod registries;
mod specs;
mod state_secret;
mod validation_rules;
mod write_counter;
