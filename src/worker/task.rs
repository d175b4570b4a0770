//! The task that brings one image: it looks, claims when bytes must move, moves, and writes what came of it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::image::Worker;
use crate::api::v1alpha1::{
    Claim, Conditions, DeletionPolicy, JackalImage, JackalImageStatus, TransferProgress, VERIFIED, requested_at,
};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Location, Naming, Reference};
use crate::package::{ImageRequest, VerifiedSource, applicable, requirements};
use crate::runtime::{
    CLAIM_RENEW_INTERVAL, CLAIM_STALE_AFTER, Failure, NamespaceEntryReader, Success, TaskKey, TransferTimer,
    WrittenImage, catch_panic, disposition_after_write, kube_fault, qualified_name, requires_signatures,
    same_selection, succeed, update_status, with_short_timeout,
};
use crate::transfer::{DestinationState, Outcome, Progress, Transfer};

/// How soon the API server is asked again about a claim when it did not answer.
const UNANSWERED: Duration = Duration::from_secs(1);

/// How a task ended without a fault.
enum End {
    /// The image is in its place.
    Done(Box<Outcome>, Box<WrittenImage>),
    /// Another process moves it, or it is gone.
    Left,
}

/// Runs the task for `image` to its end, or until `token` is cancelled, and tells the memory. `owner` is who has its plain
/// tag, or why it cannot have its name.
pub(super) async fn run(
    worker: Arc<Worker>,
    image: Arc<JackalImage>,
    key: TaskKey,
    owner: Result<Option<String>, Fault>,
    token: CancellationToken,
) {
    let uid = image.uid().unwrap_or_default();
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        result = catch_panic(bring(&worker, &image, &key, owner)) => Some(result),
    };
    let api: Api<JackalImage> = Api::namespaced(worker.client.clone(), &image.namespace().unwrap_or_default());
    match result {
        None => {
            info!(image = qualified_name(&*image), "stopped");
            release(&worker, &api, &image, &uid).await;
            worker.tasks.ended(&uid);
        }
        Some(Ok(End::Left)) => worker.tasks.ended(&uid),
        Some(Ok(End::Done(outcome, brought))) => {
            let written = done(&worker, &api, &image, &uid, &outcome, &brought).await;
            match written {
                Ok(()) => worker.tasks.succeeded(&uid, key, Instant::now()),
                unwritten => {
                    let disposition = disposition_after_write(&*image, unwritten, Disposition::Retryable);
                    worker.tasks.failed(&uid, key, disposition, Instant::now());
                }
            }
        }
        Some(Err(fault)) => {
            let generation = key.generation;
            let written = failed(&worker, &api, &image, &uid, generation, &fault).await;
            let disposition = disposition_after_write(&*image, written, fault.disposition);
            worker.tasks.failed(&uid, key, disposition, Instant::now());
        }
    }
    worker.wake(&image).await;
}

async fn bring(
    worker: &Worker,
    image: &JackalImage,
    key: &TaskKey,
    owner: Result<Option<String>, Fault>,
) -> Result<End, Fault> {
    let owner = owner?;
    let (source, destination) = route(image);
    let namespace = image.namespace().unwrap_or_default();
    let permit = worker.limits.acquire(&namespace, &source, &destination).await;
    let _permit = permit.ok_or_else(|| Fault::retryable(Reason::TimedOut, "the operator is stopping"))?;
    let mut timer = worker.settings.metrics.start_transfer(image.spec.source);
    let result = take_over(worker, image, key, owner.as_deref(), &mut timer).await;
    match &result {
        Ok(End::Done(outcome, ..)) => timer.succeeded(outcome.method, outcome.moved_bytes),
        Ok(End::Left) => timer.abandoned(),
        Err(fault) => timer.failed(fault.reason),
    }
    result
}

/// Looks whether the image stands in its place, and brings it there if it does not.
async fn take_over(
    worker: &Worker,
    image: &JackalImage,
    key: &TaskKey,
    owner: Option<&str>,
    timer: &mut TransferTimer,
) -> Result<End, Fault> {
    let (transfer, brought) = prepare(worker, image, owner).await?;
    let resolved = match transfer.check().await? {
        DestinationState::Current(outcome) => return Ok(End::Done(Box::new(outcome), Box::new(brought))),
        DestinationState::Differs(resolved) => resolved,
    };
    let mut renewed = Instant::now();
    let mut rate = Rate::begin(&transfer.progress, renewed);
    if claim(
        worker,
        image,
        key,
        rate.now(&transfer.progress, renewed),
        ClaimMode::Take,
    )
    .await?
        != ClaimState::Yes
    {
        debug!(image = qualified_name(image), "another process moves it");
        return Ok(End::Left);
    }
    info!(image = qualified_name(image), reference = %transfer.reference, to = brought.name, "moving");
    timer.transferring(Arc::clone(&transfer.progress));
    let moving = transfer.bring(&resolved);
    tokio::pin!(moving);
    let mut due = renewed + CLAIM_RENEW_INTERVAL;
    loop {
        tokio::select! {
            // First, and by the clock: a process that was stopped in the middle looks whether it is still the one who
            // moves the image before it takes another step.
            biased;
            () = reached(due) => {
                let begun = Instant::now();
                let seen = rate.now(&transfer.progress, begun);
                match claim(worker, image, key, seen, ClaimMode::Keep).await? {
                    ClaimState::Yes => (renewed, due) = (begun, begun + CLAIM_RENEW_INTERVAL),
                    // The answer is asked for more often than a claim is renewed.
                    ClaimState::Unknown => due = Instant::now() + UNANSWERED,
                    ClaimState::No => {
                        info!(image = qualified_name(image), "another process moves it by now, or has moved it");
                        return Ok(End::Left);
                    }
                }
            }
            // It stands still while another may have taken the claim: it might name an image that was replaced.
            outcome = &mut moving, if renewed.elapsed() + CLAIM_RENEW_INTERVAL < CLAIM_STALE_AFTER => {
                return outcome.map(|outcome| End::Done(Box::new(outcome), Box::new(brought)));
            }
        }
    }
}

/// Counts how fast a transfer is between two looks.
struct Rate {
    at: Instant,
    moved: u64,
}

/// How far a transfer is, in bytes.
#[derive(Clone, Copy)]
struct ProgressSample {
    done: u64,
    total: u64,
    moved: u64,
    /// Moved in a second, since the look before; none at the first.
    rate: Option<u64>,
}

impl Rate {
    fn begin(progress: &Progress, now: Instant) -> Self {
        Self {
            at: now,
            moved: progress.moved(),
        }
    }

    /// How far it is `now`. Looks in the same second as the one before have no rate.
    fn now(&mut self, progress: &Progress, now: Instant) -> ProgressSample {
        let (done, total, moved) = (progress.done(), progress.total(), progress.moved());
        let millis = now.saturating_duration_since(self.at).as_millis();
        let bytes = u128::from(moved.saturating_sub(self.moved));
        let rate = (millis >= 1000).then(|| u64::try_from(bytes * 1000 / millis).unwrap_or(u64::MAX));
        if rate.is_some() {
            *self = Self { at: now, moved };
        }
        ProgressSample {
            done,
            total,
            moved,
            rate,
        }
    }
}

/// Returns at `deadline`, which the clock says at each poll: a timer alone may not have been looked at since the
/// process woke up.
async fn reached(deadline: Instant) {
    let mut timer = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|context| {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().poll(context)
    })
    .await;
}

/// The hosts that an image is moved between, as its object names them; empty for the engine of this node, and for the
/// registry that is meant where none is named.
fn route(image: &JackalImage) -> (String, String) {
    let spec = &image.spec;
    let source = match spec.source.is_engine() {
        true => None,
        false => spec
            .image
            .parse()
            .ok()
            .map(|reference: Reference| reference.registry().to_owned()),
    };
    let registry = &spec.registry;
    let destination = registry.endpoint.clone().or_else(|| registry.address.clone());
    (source.unwrap_or_default(), destination.unwrap_or_default())
}

/// All that a transfer needs, from the object and what it names, and where it brings the image.
async fn prepare(worker: &Worker, image: &JackalImage, owner: Option<&str>) -> Result<(Transfer, WrittenImage), Fault> {
    let spec = &image.spec;
    let namespace = image.namespace().unwrap_or_default();
    let request = ImageRequest::of_object(spec)?;
    let idle = worker.settings.idle(spec.stall_timeout);
    let place = worker
        .settings
        .defaults
        .target(&worker.client, &namespace, &spec.registry, idle)
        .await?;
    let naming = match spec.naming.explicit() {
        Some(naming) => naming,
        None => {
            let defaults = &worker.settings.defaults;
            defaults.naming(&worker.client, &place, resolved_naming(image)).await?
        }
    };
    let listed = crate::package::listed(&request);
    let mut location = Location::of(&listed, &place.address, &place.prefix, naming, spec.plain_tag)
        .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
    if let Some(owner) = owner {
        location.omit_plain_tag(owner);
    }
    place.check(&location.repository, &format!("image `{}`", spec.image))?;
    let brought = WrittenImage {
        name: location.to_string(),
        naming,
        registry: worker
            .settings
            .defaults
            .written_repository(&spec.registry, &place, &location.repository),
    };
    let (registry, known) = worker.registries.destination(&place)?;
    let ImageRequest {
        reference, platforms, ..
    } = request;
    let source = worker.role.source(image, &reference, &place).await?;
    let verify = applicable(&spec.verify, &reference, spec.source)?;
    let requirements = requirements(&verify, &NamespaceEntryReader::new(&worker.client, &namespace)).await?;
    let source = VerifiedSource::of(source, &reference, requirements, &worker.verified)?;
    let transfer = Transfer {
        source,
        reference,
        platforms,
        destination: Arc::new(crate::transfer::RegistryDestination::new(
            registry.repository(&location.repository),
        )),
        location,
        compression: spec.compression,
        referrers: spec.referrers,
        progress: Arc::default(),
        known,
    };
    Ok((transfer, brought))
}

/// What `naming: Auto` was for the same spec before, unless somebody asked to look again.
fn resolved_naming(image: &JackalImage) -> Option<Naming> {
    let status = image.status.as_ref()?;
    let same = status.observed_generation == image.metadata.generation
        && status.last_handled_reconcile_at.as_deref() == requested_at(image.annotations());
    status.naming.filter(|_| same)
}

/// Whether a claim is begun or goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClaimMode {
    Take,
    /// Only while it still stands: where it is gone, another took it, and may be done already.
    Keep,
}

/// Whether the claim is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClaimState {
    Yes,
    /// Another has it, or the object is not the one any more that the task works on.
    No,
    /// The API server does not say.
    Unknown,
}

/// Takes or renews the claim, with the progress.
async fn claim(
    worker: &Worker,
    image: &JackalImage,
    key: &TaskKey,
    seen: ProgressSample,
    hold: ClaimMode,
) -> Result<ClaimState, Fault> {
    let api: Api<JackalImage> = Api::namespaced(worker.client.clone(), &image.namespace().unwrap_or_default());
    let uid = image.uid().unwrap_or_default();
    let brought = |status: Option<&JackalImageStatus>| {
        let brought = status.map(|status| (status.digest.clone(), status.source_digest.clone()));
        brought.unwrap_or_default()
    };
    let name = image.name_any();
    let taken = update_status(&api, &name, &uid, |standing, status| {
        let own = status.claim.as_ref().is_some_and(|claim| claim.holder == worker.holder);
        // A stale claim was judged by this process's memory before the task began.
        let free = status.claim.is_none() || standing.resource_version() == image.resource_version();
        // Whoever brought another image since this task looked at the source saw a newer one.
        let free = free && brought(standing.status.as_ref()) == brought(image.status.as_ref());
        if !(own || hold == ClaimMode::Take && free)
            || !worker.role.may_transfer(standing)
            || standing.metadata.generation != Some(key.generation)
            || !same_selection(standing, image)
            || standing.metadata.deletion_timestamp.is_some()
        {
            return false;
        }
        status.claim = Some(Claim {
            holder: worker.holder.clone(),
            renew_time: MicroTime(jiff::Timestamp::now()),
        });
        status.progress = Some(TransferProgress::new(seen.done, seen.total, seen.rate));
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        // A try after a failure is no news before it gets further: else what fails again in the same way would
        // be written, and told by an event, at each try.
        if seen.moved > 0 || !conditions.is_failing(standing.metadata.generation) {
            conditions.progressing(
                standing.metadata.generation,
                "Transferring",
                "the image is on its way",
                now(),
            );
        }
        status.conditions = conditions.0;
        status.observed_generation = standing.metadata.generation;
        true
    });
    match taken.await {
        Ok(Some(_)) => Ok(ClaimState::Yes),
        Ok(None) => Ok(ClaimState::No),
        // While the API server is away the transfer goes on as long as the claim is not stale; giving up
        // would throw away what was moved.
        Err(error) if error_is_temporary(&error) && seen.moved > 0 => {
            warn!(image = qualified_name(image), %error, "the claim could not be renewed");
            Ok(ClaimState::Unknown)
        }
        Err(error) => Err(kube_fault(Reason::SourceFailed, "claiming the image", &error)),
    }
}

fn error_is_temporary(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

async fn done(
    worker: &Worker,
    api: &Api<JackalImage>,
    image: &JackalImage,
    uid: &str,
    outcome: &Outcome,
    brought: &WrittenImage,
) -> Result<(), kube::Error> {
    let came = std::sync::Mutex::new(Success::default());
    let written = update_status(api, &image.name_any(), uid, |standing, status| {
        // Where it was assigned to another node meanwhile, that one says how it stands.
        if standing.metadata.generation != image.metadata.generation
            || !same_selection(standing, image)
            || !worker.role.may_transfer(standing)
        {
            return false;
        }
        let success = succeed(image, standing, status, brought, outcome, now());
        *came.lock().unwrap_or_else(PoisonError::into_inner) = success;
        true
    })
    .await?;
    let Success { news, left } = came.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let (Some(left), true) = (left.filter(|_| deletes(image)), written.is_some()) {
        let note = format!("{left} stays: what was written to another registry or repository is not deleted");
        worker.events.normal(image, "RegistryChanged", &note).await;
    }
    let name = &brought.name;
    let before = name_outside(worker, image, name);
    if written.is_some() && (news || before.is_some()) {
        let mut note = format!(
            "{name} is {} ({} bytes by {}, {} in {} blobs sent)",
            outcome.digest, outcome.size, outcome.method, outcome.moved_bytes, outcome.moved_blobs
        );
        if let Some(omitted) = &outcome.omitted_tag {
            note = format!("{note}; {omitted}");
        }
        if let Some(before) = before {
            note = format!(
                "{note}; its name was {before} before, outside of what --repository-policy namespace gives this namespace: pods have to use the new one, or the operator has to run with --repository-policy any"
            );
        }
        info!(image = qualified_name(image), "{note}");
        worker.events.normal(image, "Succeeded", &note).await;
    }
    Ok(())
}

/// Whether somebody may expect of the deletion of `image` that what it wrote goes.
fn deletes(image: &JackalImage) -> bool {
    image.spec.deletion_policy == DeletionPolicy::Delete
}

/// What the image was called before it was `name`, if that lies outside of its namespace's part of the same registry: it was
/// brought there while every namespace could write anywhere.
fn name_outside<'a>(worker: &Worker, image: &'a JackalImage, name: &str) -> Option<&'a str> {
    let defaults = &worker.settings.defaults;
    let prefix = defaults.registry.repository_prefix.as_deref();
    let scope = defaults
        .policy
        .repository_scope(prefix, &image.namespace().unwrap_or_default())?;
    let before = image
        .status
        .as_ref()?
        .name
        .as_deref()
        .filter(|before| *before != name)?;
    let (old, new) = (before.parse::<Reference>().ok()?, name.parse::<Reference>().ok()?);
    let left = |reference: &Reference| scope.check(reference.repository(), "").is_err();
    (old.registry() == new.registry() && left(&old) && !left(&new)).then_some(before)
}

async fn failed(
    worker: &Worker,
    api: &Api<JackalImage>,
    image: &JackalImage,
    uid: &str,
    generation: i64,
    fault: &Fault,
) -> Result<(), kube::Error> {
    let news = std::sync::atomic::AtomicBool::new(false);
    let written = update_status(api, &image.name_any(), uid, |standing, status| {
        if standing.metadata.generation != Some(generation)
            || !same_selection(standing, image)
            || !worker.role.may_transfer(standing)
        {
            return false;
        }
        news.store(
            note_failure(standing, status, fault, &worker.holder),
            std::sync::atomic::Ordering::Relaxed,
        );
        true
    })
    .await?;
    if written.is_some() && news.into_inner() {
        warn!(image = qualified_name(image), %fault);
        worker
            .events
            .warning(image, &fault.reason.to_string(), &fault.message)
            .await;
    }
    Ok(())
}

/// Notes a failure in an image's status. True when that is news.
fn note_failure(image: &JackalImage, status: &mut JackalImageStatus, fault: &Fault, holder: &str) -> bool {
    let generation = image.metadata.generation;
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let news = Failure(fault).record(&mut conditions, generation, now());
    if !requires_signatures(&image.spec) {
        conditions.clear(VERIFIED);
    } else if fault.reason == Reason::VerificationError {
        let said = (&*fault.reason.to_string(), &*fault.message);
        conditions.set(VERIFIED, Some(false), said, generation, now());
    }
    status.conditions = conditions.0;
    status.observed_generation = generation;
    status.last_handled_reconcile_at = requested_at(image.annotations()).map(str::to_owned);
    if status.claim.as_ref().is_some_and(|claim| claim.holder == holder) {
        status.claim = None;
        status.progress = None;
    }
    news
}

/// Gives the claim back, so that another need not wait for it to go stale.
async fn release(worker: &Worker, api: &Api<JackalImage>, image: &JackalImage, uid: &str) {
    let name = image.name_any();
    let released = update_status(api, &name, uid, |_, status| {
        let own = status.claim.as_ref().is_some_and(|claim| claim.holder == worker.holder);
        if own {
            status.claim = None;
            status.progress = None;
        }
        own
    });
    if let Err(error) = with_short_timeout(released).await {
        debug!(image = qualified_name(image), %error, limit = ?CLAIM_STALE_AFTER, "the claim could not be given back and goes stale");
    }
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}
