//! Notices that images of an engine changed.

use std::time::Duration;

use futures::Stream;
use reqwest::Response;
use serde::Deserialize;

use super::engine::Engine;
use super::lines::Lines;
use crate::decode;
use crate::fault::Fault;
use crate::oci::Reference;
use crate::source::reconnection::Reconnection;

/// After so long without an event the engine is asked whether it is there still.
const QUIET: Duration = Duration::from_secs(60);
/// The longest event that is read, in bytes. Labels of an image are part of it.
const EVENT_LIMIT: usize = 1024 * 1024;

/// What is known of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageChange {
    /// Events may have been missed until now, and none will be from now on: look at everything. The first
    /// notice, and the first after every lost connection.
    Resync,
    /// An image came, went or got another name. The name is in docker's familiar form; without one (an image
    /// that was loaded, imported or deleted, and on a classic store also one that lost a name) any name may
    /// mean something else now.
    Changed {
        /// Such as `app:dev`.
        name: Option<String>,
    },
    /// The engine cannot be asked any more, and why. Given once; [`ImageChange::Resync`] tells that it is back.
    Lost(Fault),
}

/// The changes of one engine's images, from now on and without an end.
#[derive(Debug)]
pub struct ImageEvents {
    engine: Engine,
    connection: Option<Response>,
    lines: Lines,
    reconnection: Reconnection,
}

impl ImageEvents {
    /// Watches `engine`. Nothing is sent before the first notice is asked for.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            connection: None,
            lines: Lines::default(),
            reconnection: Reconnection::default(),
        }
    }

    /// The next notice. May be dropped while it waits: no notice is lost by that.
    pub async fn next(&mut self) -> ImageChange {
        loop {
            if self.connection.is_none() {
                if let Some(notice) = self.connect().await {
                    return notice;
                }
                continue;
            }
            if let Some(notice) = self.buffered() {
                return notice;
            }
            if let Err(fault) = self.read().await {
                self.connection = None;
                self.lines = Lines::default();
                if self.reconnection.lost() {
                    return ImageChange::Lost(fault);
                }
            }
        }
    }

    /// The same as a stream.
    pub fn stream(self) -> impl Stream<Item = ImageChange> + Send {
        futures::stream::unfold(self, |mut events| async move { Some((events.next().await, events)) })
    }

    async fn connect(&mut self) -> Option<ImageChange> {
        self.reconnection.pause().await;
        match self.engine.events().await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.reconnection.connected();
                Some(ImageChange::Resync)
            }
            Err(fault) => self.reconnection.lost().then_some(ImageChange::Lost(fault)),
        }
    }

    fn buffered(&mut self) -> Option<ImageChange> {
        while let Some(line) = self.lines.next() {
            if let Some(notice) = notice(&line) {
                return Some(notice);
            }
        }
        None
    }

    // Waits for more to come.
    async fn read(&mut self) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        match tokio::time::timeout(QUIET, connection.chunk()).await {
            Ok(Ok(Some(chunk))) => match self.lines.take(&chunk, EVENT_LIMIT) {
                true => Ok(()),
                false => Err(self.engine.failed("an event of it has no end")),
            },
            Ok(Ok(None) | Err(_)) => Err(self.engine.failed("it ended the stream of its events")),
            // Silence is normal; a connection that nobody serves any more looks the same.
            Err(_) => self.engine.ping().await,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    #[serde(default)]
    action: String,
    #[serde(default)]
    actor: Actor,
}

#[derive(Default, Deserialize)]
struct Actor {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default, rename = "Attributes")]
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
struct Attributes {
    #[serde(default)]
    name: String,
}

// `None` for what changes no image. An event that cannot be read may be any change.
fn notice(line: &[u8]) -> Option<ImageChange> {
    let Ok(event) = decode::json::<Event>(line) else {
        let blank = line.iter().all(u8::is_ascii_whitespace);
        return (!blank).then_some(ImageChange::Changed { name: None });
    };
    let name = match event.action.as_str() {
        "save" | "push" => return None,
        // The name of a pull has no tag; its ID is the whole reference.
        "pull" => &event.actor.id,
        _ => &event.actor.attributes.name,
    };
    // Where docker has no name it writes the image's ID, or the digest alone.
    let reference = Some(name).filter(|name| !name.starts_with("sha256:") && name.contains(':'));
    let name = reference
        .and_then(|name| name.parse::<Reference>().ok())
        .map(|reference| reference.familiar());
    Some(ImageChange::Changed { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_engines_write() {
        let changed = |name: Option<&str>| {
            Some(ImageChange::Changed {
                name: name.map(str::to_owned),
            })
        };
        let line = |action: &str, id: &str, name: &str| {
            notice(
                format!(
                    r#"{{"Type":"image","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"name":"{name}"}}}}}}"#
                )
                .as_bytes(),
            )
        };
        let id = "sha256:97cfccb9aad14a8544e8e790cc8fe3b9fba469cfc14de68a8b174053f1700f2c";
        assert_eq!(line("tag", id, "ev/build:1"), changed(Some("ev/build:1")));
        assert_eq!(line("pull", "alpine:3", "alpine"), changed(Some("alpine:3")));
        assert_eq!(line("untag", id, id), changed(None));
        assert_eq!(line("load", id, id), changed(None));
        assert_eq!(line("save", id, id), None);
        assert_eq!(notice(b"not json"), changed(None));
        assert_eq!(notice(b"\r"), None);
    }
}
