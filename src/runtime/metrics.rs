//! What a process counts of its work. Who reads it, and how it is asked for, is not known here.

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

/// Seconds of a reconciliation: a few requests to the API server.
const RECONCILES: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];
/// Seconds of a transfer: from a look that finds all in its place to images of many gigabytes.
const TRANSFERS: [f64; 12] = [0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

/// What is reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ObjectKind {
    /// A package: its plan, its images' objects, its artifact.
    JackalPackage,
    /// An image: whether it is to be moved here, and where an engine's is read.
    JackalImage,
}

/// What came of something. A closed set, so that alerts can be written against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ending {
    Succeeded,
    /// Given up in the middle: the object changed, another took over, or the process stops.
    Cancelled,
    Failed(Reason),
}

impl EncodeLabelValue for Ending {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        match self {
            Self::Succeeded => "Succeeded".encode(encoder),
            Self::Cancelled => "Cancelled".encode(encoder),
            Self::Failed(reason) => reason.to_string().encode(encoder),
        }
    }
}

/// How the bytes came; not known of what did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Way(Option<Method>);

impl EncodeLabelValue for Way {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        match self.0 {
            Some(method) => method.to_string().encode(encoder),
            None => "Unknown".encode(encoder),
        }
    }
}

/// The engine or registry that an image is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin(SourceKind);

impl EncodeLabelValue for Origin {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        format!("{:?}", self.0).encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconciled {
    kind: ObjectKind,
    result: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: ObjectKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transferred {
    source: Origin,
    method: Way,
    result: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMethod {
    method: Way,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// The counts of one process; clones count together. Labels are of closed sets: no name of an object or of a host is
/// among them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<Reconciled, Counter>,
    reconcile_duration: Family<OfKind, Histogram>,
    transfers: Family<Transferred, Counter>,
    transfer_duration: Family<ByMethod, Histogram>,
    transferred_bytes: Family<ByMethod, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(|| Histogram::new(RECONCILES)),
            transfers: Family::default(),
            transfer_duration: Family::new_with_constructor(|| Histogram::new(TRANSFERS)),
            transferred_bytes: Family::default(),
            in_flight: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// The names that stand in `docs/metrics.md`; counters get their `_total` from the encoder.
    fn register(&self) {
        let build = Family::<Build, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&Build { version }).set(1);
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(
            "jackal_reconciles",
            "Looks at an object, by what came of them",
            self.reconciles.clone(),
        );
        registry.register(
            "jackal_reconcile_duration_seconds",
            "How long a look at an object took",
            self.reconcile_duration.clone(),
        );
        registry.register(
            "jackal_transfers",
            "Images that were brought or looked for in their place, by what came of it",
            self.transfers.clone(),
        );
        registry.register(
            "jackal_transfer_duration_seconds",
            "How long it took to bring an image, of those that are in their place",
            self.transfer_duration.clone(),
        );
        registry.register(
            "jackal_transferred_bytes",
            "Bytes that were read for the destination, counted when the transfer ends",
            self.transferred_bytes.clone(),
        );
        registry.register(
            "jackal_transfers_in_flight",
            "Images whose bytes move now",
            self.in_flight.clone(),
        );
        registry.register("jackal_build_info", "The version that runs; always 1", build);
    }

    /// Has `collector` asked too, at each [`Metrics::encode`].
    pub fn collect(&self, collector: impl Collector) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(collector));
    }

    /// All counts as they stand, as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// A look at an object begins. It counts as cancelled when it is dropped before it ended.
    pub fn start_reconcile(&self, kind: ObjectKind) -> ReconcileTimer {
        ReconcileTimer {
            metrics: self.clone(),
            kind,
            begun: Instant::now(),
            ending: Ending::Cancelled,
        }
    }

    /// An image is looked for, and brought if need be. It counts as cancelled when it is dropped before it ended.
    pub fn start_transfer(&self, source: SourceKind) -> TransferTimer {
        TransferTimer {
            metrics: self.clone(),
            source: Origin(source),
            begun: Instant::now(),
            moving: None,
            ended: false,
        }
    }
}

/// A look at an object that is under way.
pub struct ReconcileTimer {
    metrics: Metrics,
    kind: ObjectKind,
    begun: Instant,
    ending: Ending,
}

impl ReconcileTimer {
    /// It came to its end.
    pub fn finish<T>(mut self, result: &Result<T, Fault>) {
        self.ending = match result {
            Ok(_) => Ending::Succeeded,
            Err(fault) => Ending::Failed(fault.reason),
        };
    }
}

impl Drop for ReconcileTimer {
    fn drop(&mut self) {
        let (kind, result) = (self.kind, self.ending);
        self.metrics
            .reconciles
            .get_or_create(&Reconciled { kind, result })
            .inc();
        let took = self.begun.elapsed().as_secs_f64();
        let durations = &self.metrics.reconcile_duration;
        durations.get_or_create(&OfKind { kind }).observe(took);
    }
}

/// An image that is looked for, and brought if need be.
pub struct TransferTimer {
    metrics: Metrics,
    source: Origin,
    begun: Instant,
    /// Once its bytes move.
    moving: Option<Arc<Progress>>,
    ended: bool,
}

impl TransferTimer {
    /// From here on its bytes move.
    pub fn transferring(&mut self, progress: Arc<Progress>) {
        if self.moving.replace(progress).is_none() {
            self.metrics.in_flight.inc();
        }
    }

    /// The image is in its place; `bytes` were read for that.
    pub fn succeeded(mut self, method: Method, bytes: u64) {
        let method = Way(Some(method));
        let took = self.begun.elapsed().as_secs_f64();
        let durations = &self.metrics.transfer_duration;
        durations.get_or_create(&ByMethod { method }).observe(took);
        self.end(method, Ending::Succeeded, bytes);
    }

    /// It failed.
    pub fn failed(mut self, reason: Reason) {
        self.end(Way(None), Ending::Failed(reason), self.moved());
    }

    /// Another brings it. That counts only if bytes moved here in vain.
    pub fn abandoned(mut self) {
        self.ended = self.moving.is_none();
    }

    fn moved(&self) -> u64 {
        self.moving.as_ref().map_or(0, |progress| progress.moved())
    }

    fn end(&mut self, method: Way, result: Ending, bytes: u64) {
        self.ended = true;
        let source = self.source;
        let transferred = Transferred { source, method, result };
        self.metrics.transfers.get_or_create(&transferred).inc();
        let moved = self.metrics.transferred_bytes.get_or_create(&ByMethod { method });
        moved.inc_by(bytes);
    }
}

impl Drop for TransferTimer {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Way(None), Ending::Cancelled, self.moved());
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
    fn a_transfer_counts_once_however_it_ends() {
        let metrics = Metrics::default();
        let mut brought = metrics.start_transfer(SourceKind::Docker);
        brought.transferring(Arc::default());
        has(&metrics, "jackal_transfers_in_flight 1");
        brought.succeeded(Method::DockerGraph, 12);
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
    fn a_look_counts_by_its_result() {
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
