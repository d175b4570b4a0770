//! State and functions that all reconcilers share: settings, policy, credentials, registry targets, status writes,
//! metrics and health. This module transfers no image and makes no decision about one.
//!
//! # Policy
//!
//! `policy` evaluates the administrator's flags without IO. `registry_target` is the only place where an object's
//! registry becomes an endpoint, a prefix and, with `--repository-policy namespace`, a [`RepositoryScope`]. The scope
//! applies to everything that is read or written in the operator's registry with the operator's credentials: the
//! location of an image (an image that already names the registry keeps its path, so the prefix alone would not confine
//! it), the source of a copy within the registry, and mounts. `transfer::KnownBlobs` is separate for each scope,
//! because a tenant that knows the digest of another tenant's blob must not get it by a mount. The scope applies to an
//! object that names the operator's registry by any name that the operator knows.
//!
//! `--source-host` applies to hosts that objects name. It does not apply to public hosts that a registry redirects to,
//! because the blobs of public registries are on hosts that cannot be listed. Such a host gets no credentials and only
//! GET and HEAD requests, its content is accepted by digest only, and messages contain nothing of its content. The
//! operator's own registry may redirect anywhere (its endpoint has no restrictions). It is recognised by the endpoint
//! that the administrator configured, never by a name in an object.
//!
//! The agent checks [`AdmitRules`] before it asks its engine and again before it reads, whatever the assignment says.
//! An engine finds a digest without a tag, and an image ID (`sha256:…`), under every name, so patterns of names do not
//! apply to them.
//!
//! # Credentials
//!
//! Secrets are not watched but read when they are needed: a watch would need the right to list all Secrets. A corrected
//! Secret takes effect at the next attempt, at most `--retry-limit` later, or immediately with the annotation
//! `jackal.dev/requestedAt`. When several entries match a source registry, `registries` tries each entry until one is
//! accepted.
//!
//! # Metrics
//!
//! [`Metrics`] and [`Health`] are part of the settings and do not know HTTP; the module `server` only serialises them.
//!
//! # Claims and recovery
//!
//! A claim prevents duplicate work; correctness never depends on it. A claim that does not change for 40 s of the
//! observer's own clock is stale. The task table keeps, for each object, the running task, the last result and the
//! delay before the next attempt. A process needs none of this after a restart.

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
mod registry_defaults;
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
pub use registry_defaults::{OperatorRegistry, RegistryDefaults};
pub use registry_location::RegistryLocation;
pub use registry_state::{StateSecret, StateSecretError};
pub use registry_target::RegistryTarget;
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
