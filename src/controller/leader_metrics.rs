//! The leader's metrics: how many packages and images exist. They are counted when the metrics are read, from the watched
//! objects, without a request to the API server.

use std::fmt;

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::lease::Leadership;
use super::object_cache::ObjectCache;
use crate::api::v1alpha1::READY;

/// Whether this process leads, and the objects that it then counts.
pub(super) struct LeaderMetrics {
    leadership: Leadership,
    objects: ObjectCache,
}

impl LeaderMetrics {
    pub fn new(leadership: Leadership, objects: ObjectCache) -> Self {
        Self { leadership, objects }
    }
}

impl fmt::Debug for LeaderMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LeaderMetrics").finish_non_exhaustive()
    }
}

impl Collector for LeaderMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let leads = self.leadership.is_held();
        let help = "1 while this process leads, else 0";
        let gauge = encoder.encode_descriptor("jackal_leader", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(leads)).encode(gauge)?;
        if !leads {
            return Ok(());
        }
        let help = "Packages by their condition Ready, at the leader";
        if let Some(counts) = counts(&self.objects.packages.store(), |package| {
            package.status.as_ref().map(|status| &status.conditions[..])
        }) {
            write(&mut encoder, "jackal_packages", help, counts)?;
        }
        let help = "Images by their condition Ready, at the leader";
        if let Some(counts) = counts(&self.objects.images.store(), |image| {
            image.status.as_ref().map(|status| &status.conditions[..])
        }) {
            write(&mut encoder, "jackal_images", help, counts)?;
        }
        Ok(())
    }
}

/// How many objects are Ready, not Ready, and unknown; none before all were listed.
fn counts<K>(store: &Store<DeserializeGuard<K>>, conditions: impl Fn(&K) -> Option<&[Condition]>) -> Option<[i64; 3]>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    store.wait_until_ready().now_or_never()?.ok()?;
    let mut counts = [0; 3];
    for object in store.state() {
        let ready = match &object.0 {
            Ok(object) => ready(conditions(object).unwrap_or_default(), object.meta().generation),
            // An object that cannot be decoded has a condition that says so, which cannot be decoded either.
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

/// What the condition Ready says of this generation.
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
    fn a_condition_of_an_older_generation_counts_as_unknown() {
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
