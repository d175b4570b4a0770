//! Events on objects, as `kubectl describe` shows them: one for each change.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tracing::warn;

use super::status::with_timeout;

/// Publishes the events of this process.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// Creates a publisher whose events name `instance`, the pod or node, as their reporter.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "jackal-operator".to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self { client, reporter }
    }

    /// Publishes a normal event.
    pub async fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: &str) {
        self.normal_on(&object.object_ref(&()), reason, note).await;
    }

    /// Publishes a normal event on an object of which only the reference is known.
    pub async fn normal_on(&self, object: &ObjectReference, reason: &str, note: &str) {
        self.publish(object, EventType::Normal, reason, note).await;
    }

    /// Publishes a warning.
    pub async fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: &str) {
        self.warning_on(&object.object_ref(&()), reason, note).await;
    }

    /// Publishes a warning on an object of which only the reference is known.
    pub async fn warning_on(&self, object: &ObjectReference, reason: &str, note: &str) {
        self.publish(object, EventType::Warning, reason, note).await;
    }

    // An event that cannot be written is logged; the work continues.
    async fn publish(&self, object: &ObjectReference, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(crate::api::v1alpha1::cut(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        // A new recorder each time: a recorder aggregates events that differ only in their note, and keeps the first note.
        // Only news is published, so no event repeats.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let (object, reason) = (object.clone(), reason.to_owned());
        // A separate task: the status is written before the event, and the work may be cancelled in between.
        let published = tokio::spawn(async move {
            if let Err(error) = with_timeout(recorder.publish(&event, &object)).await {
                warn!(%error, reason, "cannot write an event");
            }
        });
        let _ = published.await;
    }
}
