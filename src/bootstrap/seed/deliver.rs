//! Deliveries that continue after broken connections.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use jackal_seed::protocol::Presence;
use kube::Client;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SEED_PORT;
use super::connection::{Connection, Failure};
use super::file::{SeedFile, file_list, listed};
use crate::bootstrap::port_forward::{PodPort, Tunnel};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::registry::backoff;
use crate::transfer::Progress;

/// How long attempts are repeated without any progress: a container that failed repeatedly, or an API server, may need minutes.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a file may arrive with another digest.
const MAX_WRONG_DIGESTS: u32 = 2;
/// How often the API server may forbid the connection in succession. After a restart it may do so until it has read the roles.
const MAX_DENIALS: u32 = 5;
/// Pods that are delivered to at the same time.
const PARALLEL_PODS: usize = 4;

/// Opens connections to a seed.
#[async_trait]
pub(super) trait Connect: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send;

    /// Opens a connection.
    async fn connect(&self) -> Result<Self::Stream, Fault>;
}

#[async_trait]
impl Connect for PodPort {
    type Stream = Tunnel;

    async fn connect(&self) -> Result<Tunnel, Fault> {
        self.open().await
    }
}

/// Delivers `files` to the seed in the pod `pod`, and continues there with what it has already. The seed has verified all of them when
/// this returns, and executes its command. Where it did that before, nothing is sent.
///
/// Broken connections, restarts of the seed's container and of the API server only delay it, as long as there is progress once in
/// five minutes.
///
/// # Errors
/// A stalled fault, if the seed refuses the files, the pod was started for other files, the archive is damaged, or the API server
/// forbids the connection. A retryable one, if there was no progress for too long, `stop` was cancelled, or the pod does not exist any
/// more ([`Reason::NodeUnavailable`]): its successor has another name.
pub async fn deliver(
    client: &Client,
    namespace: &str,
    pod: &str,
    files: &[SeedFile],
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    deliver_to_all(client, namespace, &[pod.to_owned()], files, progress, stop).await
}

/// Delivers `files` to several pods, four at a time. `progress` counts the bytes of all of them.
///
/// # Errors
/// The first of the faults of [`deliver`], after all pods were tried.
pub async fn deliver_to_all(
    client: &Client,
    namespace: &str,
    pods: &[String],
    files: &[SeedFile],
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    let ports: Vec<PodPort> = pods
        .iter()
        .map(|pod| PodPort {
            client: client.clone(),
            namespace: namespace.to_owned(),
            pod: pod.clone(),
            port: SEED_PORT,
        })
        .collect();
    let size: u64 = files.iter().map(|file| file.size).sum();
    progress.set_total(size.saturating_mul(ports.len() as u64));
    let deliveries = ports.iter().map(|port| {
        let delivery = deliver_by(port, files, progress, stop);
        async move {
            delivery
                .await
                .map_err(|fault| fault.with_context(format_args!("pod {namespace}/{}", port.pod)))
        }
    });
    let results: Vec<Result<(), Fault>> = stream::iter(deliveries).buffer_unordered(PARALLEL_PODS).collect().await;
    results.into_iter().collect()
}

/// Delivers `files` to the seed that `to` connects to.
pub(super) async fn deliver_by<C: Connect>(
    to: &C,
    files: &[SeedFile],
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    let mut delivery = Delivery::new(files, progress)?;
    match stop.run_until_cancelled(delivery.run(to)).await {
        Some(result) => result,
        None => Err(Fault::retryable(
            Reason::PushFailed,
            "the delivery to the seed was interrupted; a repetition continues it",
        )),
    }
}

/// A delivery to one seed.
struct Delivery<'a> {
    text: Vec<u8>,
    digest: Digest,
    /// In the order of the list.
    files: Vec<&'a SeedFile>,
    progress: &'a Progress,
    /// The bytes that `progress` counts for this delivery.
    counted: u64,
    /// The most bytes that the seed had.
    best: u64,
}

impl<'a> Delivery<'a> {
    fn new(files: &'a [SeedFile], progress: &'a Progress) -> Result<Self, Fault> {
        let (text, digest) = file_list(files)?;
        let by_name: HashMap<&str, &SeedFile> = files.iter().map(|file| (file.name.as_str(), file)).collect();
        let list = listed(files)?;
        Ok(Self {
            text,
            digest,
            files: list
                .files()
                .iter()
                .filter_map(|file| by_name.get(file.name.as_str()).copied())
                .collect(),
            progress,
            counted: 0,
            best: 0,
        })
    }

    async fn run(&mut self, to: &impl Connect) -> Result<(), Fault> {
        let mut wrong: HashMap<usize, u32> = HashMap::new();
        let mut failures = 0;
        let mut since = Instant::now();
        loop {
            let before = self.best;
            let fault = match self.attempt(to).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(fault))
                    if fault.reason == Reason::AuthenticationFailed && failures + 1 < MAX_DENIALS =>
                {
                    fault
                }
                Err(Failure::Final(fault)) => return Err(fault),
                Err(Failure::Digest(index)) => {
                    let count = wrong.entry(index).or_default();
                    *count += 1;
                    let fault = self.wrong_digest(index);
                    if *count >= MAX_WRONG_DIGESTS {
                        return Err(fault);
                    }
                    fault
                }
                Err(Failure::Broken(fault)) => fault,
            };
            if self.best > before {
                (failures, since) = (0, Instant::now());
            }
            failures += 1;
            if since.elapsed() > PATIENCE {
                let minutes = PATIENCE.as_secs() / 60;
                return Err(fault.with_context(format_args!("nothing was delivered for {minutes} minutes")));
            }
            tracing::debug!(%fault, failures, "continuing a delivery to a seed");
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// Sends what the seed lacks, by one connection.
    async fn attempt(&mut self, to: &impl Connect) -> Result<(), Failure> {
        let mut connection = Connection::begin(to.connect().await?, &self.digest).await?;
        let presence = connection.presence(&self.text, self.files.len()).await?;
        let present = presence.iter().zip(&self.files).map(|(presence, file)| match presence {
            Presence::Partial(length) => *length,
            Presence::Complete => file.size,
        });
        self.count(present.sum());
        for (index, presence) in presence.into_iter().enumerate() {
            let (Presence::Partial(offset), Some(file)) = (presence, self.files.get(index)) else {
                continue;
            };
            let length = file.size.saturating_sub(offset);
            let content = file.content.read(offset);
            let (progress, counted) = (self.progress, &mut self.counted);
            let sent = |bytes| {
                *counted += bytes;
                progress.add_moved(bytes);
            };
            connection.send(index, offset, content, length, sent).await?;
            self.best = self.best.max(self.counted);
        }
        Ok(())
    }

    /// Counts the bytes that the seed has. What was given to a broken connection may not have arrived.
    fn count(&mut self, present: u64) {
        match present.checked_sub(self.counted) {
            Some(more) => self.progress.add_existing(more),
            None => self.progress.subtract_failed(self.counted - present),
        }
        self.counted = present;
        self.best = self.best.max(present);
    }

    fn wrong_digest(&self, index: usize) -> Fault {
        let name = self.files.get(index).map_or("a file", |file| &file.name);
        Fault::stalled(
            Reason::DigestMismatch,
            format!("{name} arrived with another digest than the archive says; check the archive with `verify`"),
        )
    }
}
