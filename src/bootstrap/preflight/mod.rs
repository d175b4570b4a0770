//! Checks whether the operator can be installed in a cluster, before anything is changed there.
//!
//! [`gather`] reads the cluster: bounded requests with timeouts, and writes only as server-side dry runs. What may not be read is
//! recorded as such. [`judge`] makes the checks of what was read, without IO. Everything that the cluster says is untrusted: it is
//! shortened, and control characters are removed, where a check quotes it.

mod admission;
mod archive;
mod cluster;
mod dry_run;
mod existing;
mod facts;
mod gather;
mod judge;
mod permissions;
mod proxy;
mod quantity;
mod read;
mod report;
mod runtime;
mod storage;
#[cfg(test)]
mod tests;

pub use archive::{ArchiveSummary, OperatorImage, summarise};
pub use facts::{Facts, Unreachable, Unread, Wanted};
pub use gather::gather;
pub use judge::{judge, unreachable};
pub use proxy::{ProxyMode, recommended_exposure};
pub use report::{Check, Report, Status};
