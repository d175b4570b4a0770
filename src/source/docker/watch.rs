//! Reports changes of the images of an engine.

use std::time::Duration;

use bollard::models::EventMessage;
use futures::Stream;

use super::engine::{Engine, EngineEvents, EventError};
use crate::oci::Reference;
use crate::source::ImageChange;
use crate::source::reconnection::Reconnection;

/// How long without an event until the engine is pinged.
const QUIET: Duration = Duration::from_secs(60);

/// The changes of one engine's images, from now on and without an end.
#[derive(Debug)]
pub struct ImageEvents {
    engine: Engine,
    events: Option<EngineEvents>,
    reconnection: Reconnection,
}

impl ImageEvents {
    /// Watches `engine`. Connects when the first change is asked for.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            events: None,
            reconnection: Reconnection::default(),
        }
    }

    /// The next change. May be dropped while it waits: no change is lost.
    pub async fn next(&mut self) -> ImageChange {
        loop {
            let change = match self.events {
                None => self.connect().await,
                Some(_) => self.read().await,
            };
            if let Some(change) = change {
                return change;
            }
        }
    }

    /// The same as a stream.
    pub fn stream(self) -> impl Stream<Item = ImageChange> + Send {
        futures::stream::unfold(self, |mut events| async move { Some((events.next().await, events)) })
    }

    async fn connect(&mut self) -> Option<ImageChange> {
        self.reconnection.wait().await;
        match self.engine.events().await {
            Ok(events) => {
                self.events = Some(events);
                self.reconnection.record_success();
                Some(ImageChange::Resync)
            }
            Err(fault) => self.reconnection.record_failure().then_some(ImageChange::Lost(fault)),
        }
    }

    // Waits for an event. `None` if it changes no image, or the connection must be made again.
    async fn read(&mut self) -> Option<ImageChange> {
        let events = self.events.as_mut()?;
        let fault = match tokio::time::timeout(QUIET, events.next()).await {
            Ok(Ok(event)) => return change(event),
            // It may be any change. The next connection begins with a resync.
            Ok(Err(EventError::Unreadable)) => {
                self.events = None;
                self.reconnection.record_failure();
                return Some(ImageChange::Changed { name: None });
            }
            Ok(Err(EventError::Ended)) => self.engine.failure("it ended the stream of its events"),
            // Silence is normal; a connection whose engine died without closing it looks the same.
            Err(_) => self.engine.ping().await.err()?,
        };
        self.events = None;
        self.reconnection.record_failure().then_some(ImageChange::Lost(fault))
    }
}

// `None` for an event that changes no image.
fn change(event: EventMessage) -> Option<ImageChange> {
    let actor = event.actor.unwrap_or_default();
    let name = match event.action.as_deref().unwrap_or_default() {
        "save" | "push" => return None,
        // The name of a pull has no tag; its ID is the whole reference.
        "pull" => actor.id,
        _ => actor.attributes.and_then(|mut attributes| attributes.remove("name")),
    };
    // An image without a name has its ID there, or the digest alone.
    let reference = name.filter(|name| !name.starts_with("sha256:") && name.contains(':'));
    let name = reference
        .and_then(|name| name.parse::<Reference>().ok())
        .map(|reference| reference.familiar());
    Some(ImageChange::Changed { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_events_of_engines() {
        let changed = |name: Option<&str>| {
            Some(ImageChange::Changed {
                name: name.map(str::to_owned),
            })
        };
        let line = |action: &str, id: &str, name: &str| {
            change(
                serde_json::from_str(&format!(
                    r#"{{"Type":"image","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"name":"{name}"}}}}}}"#
                ))
                .unwrap(),
            )
        };
        let id = "sha256:97cfccb9aad14a8544e8e790cc8fe3b9fba469cfc14de68a8b174053f1700f2c";
        assert_eq!(line("tag", id, "ev/build:1"), changed(Some("ev/build:1")));
        assert_eq!(line("pull", "alpine:3", "alpine"), changed(Some("alpine:3")));
        assert_eq!(line("untag", id, id), changed(None));
        assert_eq!(line("load", id, id), changed(None));
        assert_eq!(line("save", id, id), None);
    }
}
