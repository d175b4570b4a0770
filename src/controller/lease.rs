//! Leader election by a Lease, limited by the clock of each process: a leader that could not renew the Lease in time stops
//! leading before another process can start.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{ObjectMeta, PostParams};
use kube::core::{ApiResource, NotUsed, Object};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::runtime::{Settings, with_short_timeout, with_timeout};

/// How soon an object is reconciled again where the lease was not held at that moment. A late renewal lets it lapse for a
/// moment, too short for the leader's work to be stopped and started again.
pub(super) const LEASE_RETRY: Duration = Duration::from_secs(1);

/// The name of the Lease.
const NAME: &str = "jackal-operator-leader";

/// The longest duration of another's lease that is respected, as a multiple of this process's own.
const MAX_DURATIONS: u32 = 4;

/// The spec of the Lease. Its times are strings, and none is compared with a clock: they may be invalid, as anyone with access
/// to the Lease can write them, and must not keep it from being decoded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder_identity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_duration_seconds: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acquire_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renew_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_transitions: Option<i32>,
}

type LeaderLease = Object<LeaseState, NotUsed>;

/// The duration of a lease, and the interval of its renewals.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// How long after a renewal that it saw another process does not take the lease.
    pub duration: Duration,
    /// How often it is renewed, or tried to be acquired.
    pub renew: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(2),
        }
    }
}

impl LeaseTiming {
    /// How long after the start of a successful renewal its holder leads. A third less than others wait, so that neither the
    /// time of the renewal nor clocks of different speed let two processes lead at once.
    fn tenure(&self) -> Duration {
        self.duration.mul_f64(2.0 / 3.0)
    }

    /// How long another's lease is respected after the last change of it that this process saw. `stated` is its
    /// `leaseDurationSeconds`: less than the own duration could let two processes lead at once, and a far longer one would
    /// let none lead.
    fn takeover_delay(&self, stated: Option<i32>) -> Duration {
        let stated = stated.and_then(|seconds| u64::try_from(seconds).ok());
        let stated = stated.map_or(self.duration, Duration::from_secs);
        stated.clamp(self.duration, self.duration.saturating_mul(MAX_DURATIONS))
    }

    /// The longest time between two attempts to renew before the process counts as not alive. An attempt takes a tenure at
    /// most, whatever the API server does; the rest is for an overloaded machine, which a restart would not help.
    fn renewal_limit(&self) -> Duration {
        (self.renew + self.tenure()) * 2 + Duration::from_secs(20)
    }
}

/// Whether this process leads. It is decided by the clock at each use, also after the process was stopped for a while.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether this process leads now.
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Runs `work` as long as this process leads; `None` when it no longer does. The clock is read before each poll: a process
    /// that was stopped in the middle of it and is continued does not poll it again.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let (steps, mut lost) = (self.clone(), self.clone());
        let mut lost = pin!(lost.lost());
        poll_fn(|context| {
            if !steps.is_held() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            lost.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Returns when this process leads.
    pub async fn acquired(&mut self) {
        while !self.is_held() {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when this process no longer leads.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else {
                return;
            };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

/// Tries to acquire the Lease as `identity`, and renews it, until `stop`; then releases it.
pub fn contend(
    client: Client,
    identity: &str,
    timing: LeaseTiming,
    settings: &Settings,
    stop: CancellationToken,
) -> (Leadership, impl Future<Output = ()> + use<>) {
    let (until, leadership) = watch::channel(None);
    let leases = ApiResource::erase::<Lease>(&());
    let candidate = Candidate {
        api: Api::namespaced_with(client, &settings.defaults.namespace, &leases),
        leases,
        identity: identity.to_owned(),
        timing,
        owner: settings.owner.clone(),
    };
    let heartbeat = settings
        .health
        .heartbeat("the renewal of the lease", timing.renewal_limit());
    let run = async move {
        let mut seen: Option<(LeaseState, Instant)> = None;
        let mut ticks = tokio::time::interval(timing.renew);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => heartbeat.beat(),
            }
            let started = Instant::now();
            let attempted = tokio::select! {
                () = stop.cancelled() => break,
                attempted = candidate.attempt(&mut seen) => attempted,
            };
            match attempted {
                Ok(true) => {
                    let before = until.send_replace(Some(started + timing.tenure()));
                    if before.is_none_or(|until| started >= until) {
                        info!(identity = candidate.identity, "leading");
                    }
                }
                Ok(false) => {
                    if until.send_replace(None).is_some() {
                        warn!(identity = candidate.identity, "another leads");
                    }
                }
                // The tenure ends if this continues.
                Err(error) => warn!(%error, "the lease could not be renewed"),
            }
        }
        let led = until.send_replace(None).is_some();
        if led && let Err(error) = with_short_timeout(candidate.release()).await {
            warn!(%error, "the lease could not be released; it expires");
        }
    };
    (Leadership(leadership), run)
}

struct Candidate {
    api: Api<LeaderLease>,
    leases: ApiResource,
    identity: String,
    timing: LeaseTiming,
    /// Not the pod: when a pod is deleted by force its process may still lead, and another process could lead at once if the
    /// Lease were deleted with the pod.
    owner: Option<OwnerReference>,
}

impl Candidate {
    /// Acquires or renews the Lease; false when another process holds it.
    async fn attempt(&self, seen: &mut Option<(LeaseState, Instant)>) -> Result<bool, kube::Error> {
        // A renewal after the tenure is too late.
        let limit = self.timing.tenure();
        match tokio::time::timeout(limit, self.exchange(seen)).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service(
                "the API server did not answer within the tenure".into(),
            )),
        }
    }

    async fn exchange(&self, seen: &mut Option<(LeaseState, Instant)>) -> Result<bool, kube::Error> {
        let now = time_text(&MicroTime(jiff::Timestamp::now()));
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let mut lease = LeaderLease::new(NAME, &self.leases, self.hold(now.clone(), Some(now), 0));
            lease.metadata = ObjectMeta {
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..lease.metadata
            };
            return written(self.api.create(&PostParams::default(), &lease).await);
        };
        let current = lease.spec.clone();
        let holder = current.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let waited = match seen {
                Some((known, since)) if *known == current => since.elapsed(),
                _ => {
                    *seen = Some((current.clone(), Instant::now()));
                    Duration::ZERO
                }
            };
            if waited < self.timing.takeover_delay(current.lease_duration_seconds) {
                return Ok(false);
            }
        }
        *seen = None;
        let transitions = current.lease_transitions.unwrap_or_default();
        lease.spec = match holder == self.identity {
            true => self.hold(now, current.acquire_time, transitions),
            false => self.hold(now.clone(), Some(now), transitions.saturating_add(1)),
        };
        // The resource version in `lease` makes this fail when another process wrote it meanwhile.
        written(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    fn hold(&self, renewed: String, acquired: Option<String>, transitions: i32) -> LeaseState {
        LeaseState {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.duration.as_secs().max(1)).unwrap_or(i32::MAX)),
            acquire_time: acquired,
            renew_time: Some(renewed),
            lease_transitions: Some(transitions),
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = with_timeout(self.api.get_opt(NAME)).await? else {
            return Ok(());
        };
        if lease.spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
            lease.spec.holder_identity = None;
            written(with_timeout(self.api.replace(NAME, &PostParams::default(), &lease)).await)?;
        }
        Ok(())
    }
}

/// A time as the API server writes it.
fn time_text(time: &MicroTime) -> String {
    let value = serde_json::to_value(time).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether a write succeeded; false on a conflict with the write of another process.
fn written(answer: Result<LeaderLease, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Like SIGSTOP: nothing runs, timers included, and the clock continues.
    fn stop(duration: Duration) {
        std::thread::sleep(duration);
    }

    #[test]
    fn the_duration_of_anothers_lease_is_bounded() {
        let timing = LeaseTiming::default();
        for (stated, waited) in [
            (None, 15),
            (Some(i32::MIN), 15),
            (Some(-1), 15),
            (Some(0), 15),
            // A leader of 15 s whose Lease was shortened by a third party still leads.
            (Some(1), 15),
            (Some(15), 15),
            (Some(30), 30),
            (Some(61), 60),
            (Some(i32::MAX), 60),
        ] {
            assert_eq!(timing.takeover_delay(stated), Duration::from_secs(waited), "{stated:?}");
        }
    }

    #[test]
    fn invalid_times_are_decoded_as_strings() {
        let text =
            r#"{"holderIdentity":"x","renewTime":"9999-12-31T23:59:59.000000Z","strategy":"OldestEmulationVersion"}"#;
        let hold: LeaseState = serde_json::from_str(text).unwrap();
        assert_eq!(hold.renew_time.as_deref(), Some("9999-12-31T23:59:59.000000Z"));
    }

    #[tokio::test]
    async fn work_is_not_polled_after_the_tenure() {
        let tenure = Duration::from_millis(50);
        let (_until, leadership) = watch::channel(Some(Instant::now() + tenure));
        let leadership = Leadership(leadership);
        let steps = Cell::new(0);
        let work = async {
            steps.set(1);
            tokio::task::yield_now().await;
            steps.set(2);
            stop(tenure * 2);
            // No timer was polled since; only the clock shows that the tenure is over.
            tokio::task::yield_now().await;
            steps.set(3);
        };
        assert_eq!(leadership.during(work).await, None);
        assert_eq!(steps.get(), 2);
        assert_eq!(leadership.during(async { steps.set(4) }).await, None);
        assert_eq!(steps.get(), 2, "not even the first");
    }

    #[tokio::test]
    async fn waiting_work_ends_with_the_lease() {
        let (until, leadership) = watch::channel(Some(Instant::now() + Duration::from_secs(600)));
        let leadership = Leadership(leadership);
        assert_eq!(leadership.during(async { 1 }).await, Some(1));
        let waiting = leadership.during(std::future::pending::<()>());
        let (ended, ()) = tokio::join!(waiting, async {
            until.send_replace(None);
        });
        assert_eq!(ended, None);
    }
}
