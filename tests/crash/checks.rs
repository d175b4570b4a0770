//! Checks of the bytes that a run sent, from the proxies' records and the registry.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::interceptor::{Interceptor, KillPoint, Target, Upload};
use super::scenario::AGENT;
use super::storage::Storage;
use crate::support::wait::eventually;

/// The repository of the package's artifact.
const ARTIFACT: &str = "app";

/// No blob is sent twice into a repository, except the one in flight at the kill.
pub fn check_no_blob_is_sent_twice(uploads: &[Upload], killed: Option<(KillPoint, Instant)>) {
    let mut seen = BTreeMap::new();
    for upload in uploads.iter().filter(|upload| upload.committed.is_some()) {
        let digest = upload.committed.as_deref().unwrap_or_default();
        if let Some(other) = seen.insert((upload.repository.clone(), digest), upload) {
            panic!("{digest} was committed twice: {other:?} and {upload:?}");
        }
    }
    for upload in uploads
        .iter()
        .filter(|upload| upload.committed.is_none() && upload.bytes > 0)
    {
        let was_in_flight = killed.is_some_and(|(point, dead)| {
            // Data that an engine sent is buffered, and is forwarded for a moment after its end.
            let in_time = upload.opened <= dead || point.target == Target::Dockerd && point.export;
            in_time && may_interrupt_upload(&point, upload)
        });
        assert!(
            was_in_flight,
            "sent in vain, and it was not in flight at the kill: {upload:?}"
        );
    }
}

/// Whether the kill may interrupt this upload.
fn may_interrupt_upload(point: &KillPoint, upload: &Upload) -> bool {
    match point.target {
        Target::Process(process) => upload.process == process,
        Target::Registry => true,
        // A process without its engine stops current transfers, also those that read from its folder. The image is not
        // ready while its engine is down, so that no artifact is assembled either.
        Target::Dockerd => upload.process == AGENT || upload.repository == ARTIFACT,
        Target::Stopped(_) | Target::ApiServer | Target::Etcd => false,
    }
}

/// The uploads that remain in the registry at the end: at most those of a killed process, and those whose creation
/// response was lost. Other processes delete theirs.
pub async fn unfinished(storage: &Storage, interceptor: &Interceptor, killed: Option<(KillPoint, Instant)>) -> usize {
    let (upload_starts, uploads) = (interceptor.upload_starts(), interceptor.uploads());
    let lost = |is: &dyn Fn(&str) -> bool, dead: Instant| {
        let lost = upload_starts
            .iter()
            .filter(|begin| !begin.record_response && begin.at <= dead);
        lost.filter(|begin| is(begin.process)).count()
    };
    let limit = match killed.map(|(point, dead)| (point.target, dead)) {
        Some((Target::Process(process), dead)) => {
            let open = uploads
                .iter()
                .filter(|upload| upload.committed.is_none() && !upload.given_up);
            open.filter(|upload| upload.process == process).count() + lost(&|other| other == process, dead)
        }
        Some((Target::Registry, dead)) => lost(&|_| true, dead),
        _ => 0,
    };
    eventually(
        Duration::from_secs(20),
        "no upload stands but what a kill left",
        async || {
            let unfinished = storage.unfinished();
            match unfinished.len() <= limit {
                true => Ok(unfinished.len()),
                false => Err(format!("{unfinished:?} of at most {limit}; {uploads:?}")),
            }
        },
    )
    .await
}
