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
mod shared_watch;
mod status;
mod task_table;
mod trust;

pub use agent_lease::{AGENT_LABEL, AGENT_LEASE_PREFIX, agent_lease_name};
pub use api_server::refuse_api_server;
pub use claim::{CLAIM_RENEW_INTERVAL, CLAIM_STALE_AFTER, remaining_hold};
pub use config_maps::read_config_map;
pub use events::Events;
pub use health::{Health, Heartbeat, Listing, ReadinessCheck};
pub use metrics::{Metrics, ObjectKind, ReconcileTimer, TransferTimer};
pub use objects::{
    GuardedImage, drop_managed_fields, is_ready, is_up_to_date, last_path_segment, object_uids, until_stopped,
};
pub use panics::catch_panic;
pub use policy::{AdmitRule, AdmitRules, Policy, RepositoryPolicy, RepositoryScope};
pub use registries::Registries;
pub use registry_location::{OperatorRegistry, RegistryLocation};
pub use registry_state::{StateSecret, StateSecretError};
pub use registry_target::{RegistryDefaults, RegistryTarget};
pub use role::{Recheck, Role, WorkerInputs};
pub use secrets::{PullCredentials, Secrets};
pub use selected_tag::{current_selection, image_with_tag, same_selection, spec_with_tag};
pub use settings::Settings;
pub use shared_watch::{ObjectChange, SharedObjects, SharedWatch, shared_watch};
pub use status::{
    Failure, Success, WrittenImage, disposition_after_write, kube_fault, qualified_name, record_success,
    requires_signatures, update_status, with_short_timeout, with_timeout,
};
pub use task_table::{Backoff, Decision, ObjectView, TaskKey, TaskTable};
pub use trust::{NamespaceEntryReader, open_key};
