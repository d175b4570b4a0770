//! The metrics of a process. Their HTTP endpoint is in the module `server`.

use std::fmt;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::v1alpha1::SourceKind;
use crate::fault::{Fault, Reason};
use crate::source::Method;
use crate::transfer::Progress;

/// Buckets in seconds for a reconciliation: a few requests to the API server.
const RECONCILE_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];
/// Buckets in seconds for a transfer: from a check that finds the image up to date to images of many gigabytes.
const TRANSFER_BUCKETS: [f64; 12] = [0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

/// The kind of a reconciled object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ObjectKind {
    /// A package: its plan, the objects of its images, its artifact.
    JackalPackage,
    /// An image: whether this process transfers it, and for an engine, on which node it is read.
    JackalImage,
}

/// The result of a reconciliation or transfer. A closed set, so that alerts can refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ResultLabel {
    Succeeded,
    /// The object changed, another process took over, or this process stops.
    Cancelled,
    Failed(Reason),
}

impl EncodeLabelValue for ResultLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        match self {
            Self::Succeeded => "Succeeded".encode(encoder),
            Self::Cancelled => "Cancelled".encode(encoder),
            Self::Failed(reason) => reason.to_string().encode(encoder),
        }
    }
}

/// The transfer method; unknown for a transfer that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MethodLabel(Option<Method>);

impl EncodeLabelValue for MethodLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        match self.0 {
            Some(method) => method.to_string().encode(encoder),
            None => "Unknown".encode(encoder),
        }
    }
}

/// The kind of source that an image is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SourceLabel(SourceKind);

impl EncodeLabelValue for SourceLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        format!("{:?}", self.0).encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: ObjectKind,
    result: ResultLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: ObjectKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransferLabels {
    source: SourceLabel,
    method: MethodLabel,
    result: ResultLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: MethodLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// The metrics of one process; clones share them. Labels have closed sets of values, and contain no names of objects or
/// hosts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_duration: Family<KindLabels, Histogram>,
    transfers: Family<TransferLabels, Counter>,
    transfer_duration: Family<MethodLabels, Histogram>,
    transferred_bytes: Family<MethodLabels, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(|| Histogram::new(RECONCILE_BUCKETS)),
            transfers: Family::default(),
            transfer_duration: Family::new_with_constructor(|| Histogram::new(TRANSFER_BUCKETS)),
            transferred_bytes: Family::default(),
            in_flight: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// Registers the metrics under the names in `docs/metrics.md`; the encoder appends `_total` to counters.
    fn register(&self) {
        let build = Family::<BuildLabels, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&BuildLabels { version }).set(1);
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(
            "jackal_reconciles",
            "Reconciliations, by result",
            self.reconciles.clone(),
        );
        registry.register(
            "jackal_reconcile_duration_seconds",
            "Duration of reconciliations",
            self.reconcile_duration.clone(),
        );
        registry.register(
            "jackal_transfers",
            "Transfers and checks of images, by result",
            self.transfers.clone(),
        );
        registry.register(
            "jackal_transfer_duration_seconds",
            "Duration of successful transfers and checks of images",
            self.transfer_duration.clone(),
        );
        registry.register(
            "jackal_transferred_bytes",
            "Bytes read from sources, counted when the transfer ends",
            self.transferred_bytes.clone(),
        );
        registry.register(
            "jackal_transfers_in_flight",
            "Transfers that are running",
            self.in_flight.clone(),
        );
        registry.register("jackal_build_info", "The version of the operator; always 1", build);
    }

    /// Adds `collector` to each [`Metrics::encode`].
    pub fn collect(&self, collector: impl Collector) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(collector));
    }

    /// The metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// Starts the timer of a reconciliation. It counts as cancelled if it is dropped before it is finished.
    pub fn start_reconcile(&self, kind: ObjectKind) -> ReconcileTimer {
        ReconcileTimer {
            metrics: self.clone(),
            kind,
            begun: Instant::now(),
            result: ResultLabel::Cancelled,
        }
    }

    /// Starts the timer of a transfer, including its check. It counts as cancelled if it is dropped before it ends.
    pub fn start_transfer(&self, source: SourceKind) -> TransferTimer {
        TransferTimer {
            metrics: self.clone(),
            source: SourceLabel(source),
            begun: Instant::now(),
            moving: None,
            ended: false,
        }
    }
}

/// The timer of a reconciliation.
pub struct ReconcileTimer {
    metrics: Metrics,
    kind: ObjectKind,
    begun: Instant,
    result: ResultLabel,
}

impl ReconcileTimer {
    /// Records the result.
    pub fn finish<T>(mut self, result: &Result<T, Fault>) {
        self.result = match result {
            Ok(_) => ResultLabel::Succeeded,
            Err(fault) => ResultLabel::Failed(fault.reason),
        };
    }
}

impl Drop for ReconcileTimer {
    fn drop(&mut self) {
        let (kind, result) = (self.kind, self.result);
        self.metrics
            .reconciles
            .get_or_create(&ReconcileLabels { kind, result })
            .inc();
        let took = self.begun.elapsed().as_secs_f64();
        let durations = &self.metrics.reconcile_duration;
        durations.get_or_create(&KindLabels { kind }).observe(took);
    }
}

/// The timer of a transfer, including its check.
pub struct TransferTimer {
    metrics: Metrics,
    source: SourceLabel,
    begun: Instant,
    /// The progress, once bytes are transferred.
    moving: Option<Arc<Progress>>,
    ended: bool,
}

impl TransferTimer {
    /// Records that bytes are transferred from now on.
    pub fn transferring(&mut self, progress: Arc<Progress>) {
        if self.moving.replace(progress).is_none() {
            self.metrics.in_flight.inc();
        }
    }

    /// Records that the image is in its destination; `bytes` were read for that.
    pub fn succeeded(mut self, method: Method, bytes: u64) {
        let method = MethodLabel(Some(method));
        let took = self.begun.elapsed().as_secs_f64();
        let durations = &self.metrics.transfer_duration;
        durations.get_or_create(&MethodLabels { method }).observe(took);
        self.end(method, ResultLabel::Succeeded, bytes);
    }

    /// Records a failure.
    pub fn failed(mut self, reason: Reason) {
        self.end(MethodLabel(None), ResultLabel::Failed(reason), self.moved());
    }

    /// Records that another process transfers the image. It counts only if bytes were transferred.
    pub fn abandoned(mut self) {
        self.ended = self.moving.is_none();
    }

    fn moved(&self) -> u64 {
        self.moving.as_ref().map_or(0, |progress| progress.moved())
    }

    fn end(&mut self, method: MethodLabel, result: ResultLabel, bytes: u64) {
        self.ended = true;
        let source = self.source;
        let transferred = TransferLabels { source, method, result };
        self.metrics.transfers.get_or_create(&transferred).inc();
        let moved = self.metrics.transferred_bytes.get_or_create(&MethodLabels { method });
        moved.inc_by(bytes);
    }
}

impl Drop for TransferTimer {
    fn drop(&mut self) {
        if !self.ended {
            self.end(MethodLabel(None), ResultLabel::Cancelled, self.moved());
        }
        if self.moving.is_some() {
            self.metrics.in_flight.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.encode().unwrap();
        assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
    }

    #[test]
    fn a_transfer_is_counted_once() {
        let metrics = Metrics::default();
        let mut succeeded = metrics.start_transfer(SourceKind::Docker);
        succeeded.transferring(Arc::default());
        has(&metrics, "jackal_transfers_in_flight 1");
        succeeded.succeeded(Method::DockerGraph, 12);
        metrics
            .start_transfer(SourceKind::Registry)
            .failed(Reason::SourceNotFound);
        metrics.start_transfer(SourceKind::Registry).abandoned();
        let mut cancelled = metrics.start_transfer(SourceKind::Containerd);
        cancelled.transferring(Arc::default());
        drop(cancelled);
        let count = |labels: &str| has(&metrics, &format!("jackal_transfers_total{{{labels}}} 1"));
        count(r#"source="Docker",method="DockerGraph",result="Succeeded""#);
        count(r#"source="Registry",method="Unknown",result="SourceNotFound""#);
        count(r#"source="Containerd",method="Unknown",result="Cancelled""#);
        assert_eq!(metrics.encode().unwrap().matches("jackal_transfers_total{").count(), 3);
        has(&metrics, r#"jackal_transferred_bytes_total{method="DockerGraph"} 12"#);
        has(
            &metrics,
            r#"jackal_transfer_duration_seconds_count{method="DockerGraph"} 1"#,
        );
        has(&metrics, "jackal_transfers_in_flight 0");
    }

    #[test]
    fn a_reconciliation_is_counted_by_its_result() {
        let metrics = Metrics::default();
        metrics.start_reconcile(ObjectKind::JackalPackage).finish(&Ok(()));
        let denied = Fault::stalled(Reason::PolicyDenied, "no");
        metrics
            .start_reconcile(ObjectKind::JackalPackage)
            .finish::<()>(&Err(denied));
        drop(metrics.start_reconcile(ObjectKind::JackalImage));
        for (kind, result) in [
            ("JackalPackage", "Succeeded"),
            ("JackalPackage", "PolicyDenied"),
            ("JackalImage", "Cancelled"),
        ] {
            has(
                &metrics,
                &format!(r#"jackal_reconciles_total{{kind="{kind}",result="{result}"}} 1"#),
            );
        }
        has(
            &metrics,
            r#"jackal_reconcile_duration_seconds_count{kind="JackalPackage"} 2"#,
        );
    }
}
