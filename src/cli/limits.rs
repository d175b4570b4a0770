//! The limits of requests to one registry.

use std::num::NonZeroU32;

use clap::Args;

use crate::registry::Limits;

/// The flags of every command that connects to registries.
#[derive(Clone, Debug, Args)]
pub(super) struct LimitFlags {
    /// Concurrent read requests to one registry, and as many concurrent write requests.
    #[arg(long, env = "JACKAL_CONNECTIONS", default_value_t = Limits::default().connections, value_name = "COUNT")]
    connections: usize,
    /// Requests per second to one registry. Default: no limit except Retry-After headers of the registry.
    #[arg(long, env = "JACKAL_REQUEST_RATE", value_name = "COUNT")]
    request_rate: Option<NonZeroU32>,
    /// The minimum throughput of a blob in bytes per second. A transfer that is slower for as long as the stall timeout is
    /// aborted and retried. 0 disables it.
    #[arg(long, env = "JACKAL_MIN_THROUGHPUT", default_value_t = Limits::default().throughput, value_name = "BYTES")]
    min_throughput: u64,
}

impl LimitFlags {
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.connections,
            rate: self.request_rate,
            throughput: self.min_throughput,
        }
    }
}
