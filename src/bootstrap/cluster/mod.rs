//! What an installation asks of the cluster. Requests are repeated while the API server restarts.

mod access;
mod calls;
mod nodes;
mod pods;
mod rollout;
mod state;

pub use self::access::{Access, missing_permissions};
pub use self::calls::Cluster;
pub use self::nodes::Nodes;
pub use self::pods::{WaitingContainer, has_images, ready_pod};
pub use self::rollout::Rollout;
pub use self::state::{STATE, State};
