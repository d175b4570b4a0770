//! How many packages and images there are, for whoever asks the leader. Counted when asked, from what its watches have
//! seen: it costs the API server nothing.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::lease::Leadership;
use crate::api::v1alpha1::{JackalImage, JackalPackage, READY};

type Packages = Store<DeserializeGuard<JackalPackage>>;
type Images = Store<DeserializeGuard<JackalImage>>;

/// Whether this process leads, and what it then has seen.
pub(super) struct LeaderMetrics {
    leadership: Leadership,
    seen: Mutex<Option<(Packages, Images)>>,
}

impl LeaderMetrics {
    pub fn new(leadership: Leadership) -> Self {
        Self {
            leadership,
            seen: Mutex::default(),
        }
    }

    /// Counts what is in these from now on.
    pub fn count(&self, packages: Packages, images: Images) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((packages, images));
    }

    /// The term has ended: what it saw is let go.
    pub fn forget(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for LeaderMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LeaderTally").finish_non_exhaustive()
    }
}

impl Collector for LeaderMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let leads = self.leadership.is_held();
        let help = "1 while this process leads, else 0";
        let gauge = encoder.encode_descriptor("jackal_leader", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(leads)).encode(gauge)?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((packages, images)) = seen.filter(|_| leads) else {
            return Ok(());
        };
        let help = "Packages by their condition Ready, at the leader";
        if let Some(counts) = counts(&packages, |package| {
            package.status.as_ref().map(|status| &status.conditions[..])
        }) {
            write(&mut encoder, "jackal_packages", help, counts)?;
        }
        let help = "Images by their condition Ready, at the leader";
        if let Some(counts) = counts(&images, |image| {
            image.status.as_ref().map(|status| &status.conditions[..])
        }) {
            write(&mut encoder, "jackal_images", help, counts)?;
        }
        Ok(())
    }
}

/// How many are True, False and Unknown; none before all were listed.
fn counts<K>(store: &Store<DeserializeGuard<K>>, conditions: impl Fn(&K) -> Option<&[Condition]>) -> Option<[i64; 3]>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    store.wait_until_ready().now_or_never()?.ok()?;
    let mut counts = [0; 3];
    for object in store.state() {
        let ready = match &object.0 {
            Ok(object) => ready(conditions(object).unwrap_or_default(), object.meta().generation),
            // Its status says so too, which cannot be read from here.
            Err(_) => Ready::False,
        };
        counts[ready as usize] += 1;
    }
    Some(counts)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    True,
    False,
    Unknown,
}

/// What the condition says of the spec as it stands now.
fn ready(conditions: &[Condition], generation: Option<i64>) -> Ready {
    let current = |condition: &&Condition| condition.type_ == READY && condition.observed_generation == generation;
    match conditions.iter().find(current).map(|ready| ready.status.as_str()) {
        Some("True") => Ready::True,
        Some("False") => Ready::False,
        _ => Ready::Unknown,
    }
}

fn write(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, counts: [i64; 3]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (ready, count) in [Ready::True, Ready::False, Ready::Unknown].into_iter().zip(counts) {
        let labels = [("ready", format!("{ready:?}"))];
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::v1alpha1::Conditions;

    #[test]
    fn what_was_said_of_an_older_spec_is_not_known_of_this() {
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let mut conditions = Conditions::default();
        assert_eq!(ready(&conditions.0, Some(1)), Ready::Unknown);
        conditions.ready(Some(1), "Succeeded", "", now.clone());
        assert_eq!(ready(&conditions.0, Some(1)), Ready::True);
        assert_eq!(ready(&conditions.0, Some(2)), Ready::Unknown);
        conditions.failing(Some(2), "PushFailed", "", now);
        assert_eq!(ready(&conditions.0, Some(2)), Ready::False);
    }
}
