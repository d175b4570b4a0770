//! Notices that images of a containerd changed.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;

use super::client::{Client, Session};
use super::wire::{Envelope, ImageEvent};
use crate::fault::Fault;
use crate::oci::Reference;
use crate::source::docker::ImageChange;
use crate::source::reconnection::Reconnection;

/// After so long without an event the containerd is asked whether it is there still.
const QUIET: Duration = Duration::from_secs(60);

/// The changes of one containerd's images, from now on and without an end.
pub struct ContainerdEvents {
    client: Client,
    connection: Option<Connection>,
    reconnection: Reconnection,
}

struct Connection {
    session: Session,
    events: BoxStream<'static, Result<Envelope, Fault>>,
    // What came before the subscription was known to stand.
    first: Option<Envelope>,
}

impl ContainerdEvents {
    /// Watches the images of `client`'s namespace. Nothing is sent before the first notice is asked for.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            connection: None,
            reconnection: Reconnection::default(),
        }
    }

    /// The next notice. May be dropped while it waits: no notice is lost by that.
    pub async fn next(&mut self) -> ImageChange {
        loop {
            let Some(connection) = &mut self.connection else {
                if let Some(notice) = self.reconnect().await {
                    return notice;
                }
                continue;
            };
            match connection.next().await {
                Ok(Some(notice)) => return notice,
                Ok(None) => {}
                Err(fault) => {
                    self.connection = None;
                    if self.reconnection.lost() {
                        return ImageChange::Lost(fault);
                    }
                }
            }
        }
    }

    async fn reconnect(&mut self) -> Option<ImageChange> {
        self.reconnection.pause().await;
        match Connection::open(&self.client).await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.reconnection.connected();
                Some(ImageChange::Resync)
            }
            Err(fault) => self.reconnection.lost().then_some(ImageChange::Lost(fault)),
        }
    }
}

impl Connection {
    // A subscription is not answered before its first event; an answer to what was asked after it shows that it
    // was read.
    async fn open(client: &Client) -> Result<Self, Fault> {
        let session = client.connect().await?;
        let mut events = session.events();
        let mut first = None;
        {
            let mut version = std::pin::pin!(session.version());
            tokio::select! {
                biased;
                event = events.next() => first = event.transpose()?,
                version = &mut version => drop(version?),
            }
        }
        Ok(Self { session, events, first })
    }

    async fn next(&mut self) -> Result<Option<ImageChange>, Fault> {
        if let Some(first) = self.first.take() {
            return Ok(notice(&first));
        }
        match tokio::time::timeout(QUIET, self.events.next()).await {
            Ok(Some(Ok(event))) => Ok(notice(&event)),
            Ok(Some(Err(fault))) => Err(fault),
            Ok(None) => Err(Fault::retryable(
                crate::fault::Reason::SourceFailed,
                "the containerd ended the stream of its events",
            )),
            // Silence is normal; a connection that nobody serves any more looks the same.
            Err(_) => self.session.version().await.map(|_| None),
        }
    }
}

// `None` for a name that no object has: Kubernetes' runtime interface also names an image by its bare ID.
fn notice(event: &Envelope) -> Option<ImageChange> {
    let changed = |name| Some(ImageChange::Changed { name });
    let Some(any) = &event.event else {
        return changed(None);
    };
    let Ok(image) = ImageEvent::decode(any.value.as_ref()) else {
        return changed(None);
    };
    if image.name.starts_with("sha256:") {
        return None;
    }
    let name = image.name.parse::<Reference>().ok();
    name.and_then(|reference| changed(Some(reference.engine_name())))
}

#[cfg(test)]
mod tests {
    use super::super::wire::Any;
    use super::*;

    #[test]
    fn reads_the_names_of_events() {
        let event = |name: &str| Envelope {
            topic: "/images/create".to_owned(),
            event: Some(Any {
                type_url: "containerd.events.ImageCreate".to_owned(),
                value: ImageEvent { name: name.to_owned() }.encode_to_vec().into(),
            }),
        };
        let changed = |name: Option<&str>| {
            Some(ImageChange::Changed {
                name: name.map(str::to_owned),
            })
        };
        assert_eq!(notice(&event("docker.io/library/app:dev")), changed(Some("app:dev")));
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(notice(&event(&digest)), None);
        let pinned = format!("registry.example/app@{digest}");
        assert_eq!(notice(&event(&pinned)), changed(Some(&pinned)));
        assert_eq!(notice(&event("Not A Name")), None);
        let mut broken = event("x");
        broken.event = None;
        assert_eq!(notice(&broken), changed(None));
    }
}
