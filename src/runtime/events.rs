//! Events on objects: one for each change, for those who read `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tracing::warn;

use super::status::with_timeout;

/// Publishes events of this process.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// Events that name `instance`, the pod or node, as their reporter.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "jackal-operator".to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self { client, reporter }
    }

    /// Something came about as it should.
    pub async fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: &str) {
        self.normal_on(&object.object_ref(&()), reason, note).await;
    }

    /// Something came about as it should for an object of which only the reference is known.
    pub async fn normal_on(&self, object: &ObjectReference, reason: &str, note: &str) {
        self.publish(object, EventType::Normal, reason, note).await;
    }

    /// Something failed.
    pub async fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: &str) {
        self.warning_on(&object.object_ref(&()), reason, note).await;
    }

    /// Something failed for an object of which only the reference is known.
    pub async fn warning_on(&self, object: &ObjectReference, reason: &str, note: &str) {
        self.publish(object, EventType::Warning, reason, note).await;
    }

    // An event is a courtesy: when it cannot be written, the work goes on.
    async fn publish(&self, object: &ObjectReference, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(crate::api::v1alpha1::cut(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        // A recorder that knows of the events before takes those for the same that differ in nothing but their note: it
        // would count one up and keep its note. Only what is news is told, so none is written again and again.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let (object, reason) = (object.clone(), reason.to_owned());
        // A task of its own: a status is written before its event, and the work may be stopped in between.
        let published = tokio::spawn(async move {
            if let Err(error) = with_timeout(recorder.publish(&event, &object)).await {
                warn!(%error, reason, "an event could not be written");
            }
        });
        let _ = published.await;
    }
}
