//! How much is asked of one registry.

use std::num::NonZeroU32;

use clap::Args;

use crate::registry::Limits;

/// Flags of every command that speaks to registries.
#[derive(Clone, Debug, Args)]
pub(super) struct LimitFlags {
    /// Requests that read from one registry at once, and as many that write.
    #[arg(long, env = "JACKAL_CONNECTIONS", default_value_t = Limits::default().connections, value_name = "COUNT")]
    connections: usize,
    /// Requests to one registry in a second, from this process. Default: no limit but what the registry asks for by
    /// Retry-After.
    #[arg(long, env = "JACKAL_REQUEST_RATE", value_name = "COUNT")]
    request_rate: Option<NonZeroU32>,
    /// The least bytes a second of a blob on its way; what is slower for as long as a transfer may stand still counts as
    /// standing still. 0: none.
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
