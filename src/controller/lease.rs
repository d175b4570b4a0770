//! Leadership by a Lease, fenced by the clock: a leader that could not renew in time stops being one before
//! anybody else can become it.

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

/// When to look again at what was not done because the lease was not held just then. A renewal that comes late
/// lets it lapse for a moment, too short for the work to be stopped and begun anew.
pub(super) const LAPSE: Duration = Duration::from_secs(1);

/// The name of the Lease.
const NAME: &str = "jackal-operator-leader";

/// How many terms of one's own another's lease is waited for at most, whatever it says.
const LONGEST: u32 = 4;

/// What stands in the Lease. Its times are texts, and none is compared with a clock: whoever may write it may write times
/// that no clock knows, and nobody would lead if they could not be read.
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

/// How long a lease lasts, and how it is kept.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// How long others leave it alone after a renewal that they saw.
    pub duration: Duration,
    /// How often it is renewed, and tried to be had.
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
    /// How long after the begin of a successful renewal its holder still acts. A third less than the others
    /// wait, so that neither the renewal's own time nor clocks of different speed let two act at once.
    fn tenure(&self) -> Duration {
        self.duration.mul_f64(2.0 / 3.0)
    }

    /// How long another's lease is left alone after a change of it that this process saw; `stated` is what the Lease says. Less
    /// than a term of one's own could let two act at once, and what is far longer would let nobody.
    fn patience(&self, stated: Option<i32>) -> Duration {
        let stated = stated.and_then(|seconds| u64::try_from(seconds).ok());
        let stated = stated.map_or(self.duration, Duration::from_secs);
        stated.clamp(self.duration, self.duration.saturating_mul(LONGEST))
    }

    /// How long nobody may have tried to renew before the process counts as dead. A try takes a tenure at most,
    /// whatever the API server does; the rest is for a busy machine, since being started anew helps it least.
    fn standstill(&self) -> Duration {
        (self.renew + self.tenure()) * 2 + Duration::from_secs(20)
    }
}

/// Whether this process leads. Asked at each use: a process that was stopped and wakes up asks the clock.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether this process leads now.
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// `work`, step by step, as long as this process leads; `None` when it does not any more. The clock is asked
    /// before each step: a process that was stopped in the middle and wakes up does not take the next one.
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

    /// Returns when this process does not lead any more.
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

/// Tries to lead as `identity` until `stop`, then gives the Lease back.
pub fn contend(
    client: Client,
    identity: &str,
    terms: LeaseTiming,
    settings: &Settings,
    stop: CancellationToken,
) -> (Leadership, impl Future<Output = ()> + use<>) {
    let (until, leadership) = watch::channel(None);
    let leases = ApiResource::erase::<Lease>(&());
    let contender = Contender {
        api: Api::namespaced_with(client, &settings.defaults.namespace, &leases),
        leases,
        identity: identity.to_owned(),
        terms,
        owner: settings.owner.clone(),
    };
    let pulse = settings.health.pulse("the renewal of the lease", terms.standstill());
    let run = async move {
        let mut seen: Option<(LeaseState, Instant)> = None;
        let mut ticks = tokio::time::interval(terms.renew);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => pulse.beat(),
            }
            let started = Instant::now();
            let attempted = tokio::select! {
                () = stop.cancelled() => break,
                attempted = contender.attempt(&mut seen) => attempted,
            };
            match attempted {
                Ok(true) => {
                    let before = until.send_replace(Some(started + terms.tenure()));
                    if before.is_none_or(|until| started >= until) {
                        info!(identity = contender.identity, "leading");
                    }
                }
                Ok(false) => {
                    if until.send_replace(None).is_some() {
                        warn!(identity = contender.identity, "another leads");
                    }
                }
                // The tenure runs out by itself if this goes on.
                Err(error) => warn!(%error, "the lease could not be renewed"),
            }
        }
        let led = until.send_replace(None).is_some();
        if led && let Err(error) = with_short_timeout(contender.release()).await {
            warn!(%error, "the lease could not be given back and runs out by itself");
        }
    };
    (Leadership(leadership), run)
}

struct Contender {
    api: Api<LeaderLease>,
    leases: ApiResource,
    identity: String,
    terms: LeaseTiming,
    /// Not the pod: where one is deleted by force, its process may still lead, and a Lease that is gone would let another
    /// lead at once.
    owner: Option<OwnerReference>,
}

impl Contender {
    /// Takes or renews the Lease; false when another holds it.
    async fn attempt(&self, seen: &mut Option<(LeaseState, Instant)>) -> Result<bool, kube::Error> {
        // An answer that comes after the tenure is of no use.
        let limit = self.terms.tenure();
        match tokio::time::timeout(limit, self.exchange(seen)).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service(
                "the API server did not answer within the tenure".into(),
            )),
        }
    }

    async fn exchange(&self, seen: &mut Option<(LeaseState, Instant)>) -> Result<bool, kube::Error> {
        let now = text(&MicroTime(jiff::Timestamp::now()));
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let mut lease = LeaderLease::new(NAME, &self.leases, self.hold(now.clone(), Some(now), 0));
            lease.metadata = ObjectMeta {
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..lease.metadata
            };
            return written(self.api.create(&PostParams::default(), &lease).await);
        };
        let standing = lease.spec.clone();
        let holder = standing.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let waited = match seen {
                Some((known, since)) if *known == standing => since.elapsed(),
                _ => {
                    *seen = Some((standing.clone(), Instant::now()));
                    Duration::ZERO
                }
            };
            if waited < self.terms.patience(standing.lease_duration_seconds) {
                return Ok(false);
            }
        }
        *seen = None;
        let transitions = standing.lease_transitions.unwrap_or_default();
        lease.spec = match holder == self.identity {
            true => self.hold(now, standing.acquire_time, transitions),
            false => self.hold(now.clone(), Some(now), transitions.saturating_add(1)),
        };
        // The resource version in `lease` makes this fail when another was faster.
        written(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    fn hold(&self, renewed: String, acquired: Option<String>, transitions: i32) -> LeaseState {
        LeaseState {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.terms.duration.as_secs().max(1)).unwrap_or(i32::MAX)),
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
fn text(time: &MicroTime) -> String {
    let value = serde_json::to_value(time).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether a write went through; a conflict means that another was faster.
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

    /// Stands for a SIGSTOP: nothing runs, timers included, and the clock goes on.
    fn stop(duration: Duration) {
        std::thread::sleep(duration);
    }

    #[test]
    fn what_another_says_of_its_lease_is_believed_within_bounds() {
        let terms = LeaseTiming::default();
        for (stated, waited) in [
            (None, 15),
            (Some(i32::MIN), 15),
            (Some(-1), 15),
            (Some(0), 15),
            // A leader of 15 s whose Lease somebody shortened still acts.
            (Some(1), 15),
            (Some(15), 15),
            (Some(30), 30),
            (Some(61), 60),
            (Some(i32::MAX), 60),
        ] {
            assert_eq!(terms.patience(stated), Duration::from_secs(waited), "{stated:?}");
        }
    }

    #[test]
    fn times_that_no_clock_knows_are_read_as_they_stand() {
        let text =
            r#"{"holderIdentity":"x","renewTime":"9999-12-31T23:59:59.000000Z","strategy":"OldestEmulationVersion"}"#;
        let hold: LeaseState = serde_json::from_str(text).unwrap();
        assert_eq!(hold.renew_time.as_deref(), Some("9999-12-31T23:59:59.000000Z"));
    }

    #[tokio::test]
    async fn takes_no_step_after_the_tenure() {
        let tenure = Duration::from_millis(50);
        let (_until, leadership) = watch::channel(Some(Instant::now() + tenure));
        let leadership = Leadership(leadership);
        let steps = Cell::new(0);
        let work = async {
            steps.set(1);
            tokio::task::yield_now().await;
            steps.set(2);
            stop(tenure * 2);
            // No timer was looked at since; only the clock says that it is over.
            tokio::task::yield_now().await;
            steps.set(3);
        };
        assert_eq!(leadership.during(work).await, None);
        assert_eq!(steps.get(), 2);
        assert_eq!(leadership.during(async { steps.set(4) }).await, None);
        assert_eq!(steps.get(), 2, "not even the first");
    }

    #[tokio::test]
    async fn work_that_waits_ends_with_the_lease() {
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
