//! What the reconcilers of every process share: settings, policy, credentials and registries of objects, status writes, metrics and
//! health. It moves no image and decides nothing about one.

mod agent_lease;
mod api_server;
mod claim;
mod config_maps;
mod events;
mod health;
mod metrics;
mod objects;
mod panics;
mod policy;
mod registries;
mod registry_location;
mod registry_state;
mod registry_target;
mod role;
mod secrets;
mod selected_tag;
mod settings;
mod status;
mod task_table;
mod trust;

pub use agent_lease::{AGENT_LABEL, AGENT_LEASE_PREFIX, agent_lease_name};
pub use api_server::refuse_api_server;
pub use claim::{RENEW, STALE, held_for};
pub use config_maps::config_map;
pub use events::Events;
pub use health::{Check, Health, Listing, Pulse};
pub use metrics::{Attempt, Metrics, ObjectKind, Pass};
pub use objects::{
    GuardedImage, drop_managed_fields, is_ready, is_up_to_date, last_path_segment, object_uids, until_stopped,
};
pub use panics::catch_panic;
pub use policy::{Admission, Admissions, Fence, Policy, RepositoryPolicy};
pub use registries::Registries;
pub use registry_location::{OperatorRegistry, RegistryLocation};
pub use registry_state::{StateSecret, StateSecretError};
pub use registry_target::{RegistryDefaults, RegistryTarget};
pub use role::{Recheck, Role, WorkerInputs};
pub use secrets::{PullCredentials, Secrets};
pub use selected_tag::{current_selection, movable, same_selection, with_tag};
pub use settings::Settings;
pub use status::{
    Brought, Failure, Success, demands_signatures, disposition_after_write, kube_fault, qualified_name, succeed,
    update, with_short_timeout, with_timeout,
};
pub use task_table::{Backoff, Decision, ObjectView, TaskKey, TaskTable};
pub use trust::{NamespaceEntryReader, open_key};
