//! All checks of what was read. No IO.

use super::archive::{self, ArchiveSummary};
use super::facts::{Facts, Unreachable, Wanted};
use super::report::{Check, Report};
use super::{admission, cluster, existing, permissions, proxy, runtime, storage};
use crate::bootstrap::text::clean;

/// The checks that need an archive.
const OF_ARCHIVE: [&str; 4] = ["archive", "architectures", "disk-space", "claim-size"];

/// Judges `facts`, and where there is one, `archive`.
pub fn judge(facts: &Facts, archive: Option<&ArchiveSummary>, wanted: &Wanted) -> Report {
    let mut checks = vec![
        Check::ok("api-server", &facts.server),
        cluster::version(facts),
        cluster::nodes(facts),
        cluster::pressures(facts),
        cluster::clocks(facts),
        runtime::runtimes(facts),
        proxy::mode(facts),
        proxy::loopback(facts),
        proxy::families(facts),
        existing::ports(facts),
        storage::classes(facts, wanted),
        admission::pod_security(facts),
        admission::webhooks(facts),
        permissions::permissions(facts),
        existing::installations(facts),
    ];
    let not_checked = match archive {
        Some(archive) => {
            checks.extend([
                archive::content(archive),
                cluster::architectures(facts, archive),
                archive::disk(facts, archive),
                storage::claim(archive, wanted),
            ]);
            Vec::new()
        }
        None => OF_ARCHIVE.to_vec(),
    };
    let (expose, _) = proxy::recommended_exposure(facts);
    Report {
        not_checked,
        ..Report::new(&facts.server, Some(expose), checks)
    }
}

/// The report of a cluster that cannot be read.
pub fn unreachable(server: &str, reason: &Unreachable) -> Report {
    let found = format!("{}: {}", clean(server, 200), reason.message);
    let advice = match reason.is_refusal {
        true => "log in again, or use another --kubeconfig or --context",
        false => "see that the API server runs and that this machine reaches it, and run the command again",
    };
    Report::new(server, None, vec![Check::failure("api-server", found, advice)])
}
