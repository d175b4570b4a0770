//! Reports changes of the images of a containerd.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;

use crate::fault::Fault;
use crate::oci::Reference;
use crate::source::ImageChange;
use crate::source::containerd_api::{Client, Envelope, ImageEvent, Session};
use crate::source::reconnection::Reconnection;

/// How long without an event until the containerd is asked for its version.
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
    // An event that was received before the subscription was confirmed.
    first: Option<Envelope>,
}

impl ContainerdEvents {
    /// Watches the images of `client`'s namespace. Connects when the first change is asked for.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            connection: None,
            reconnection: Reconnection::default(),
        }
    }

    /// The next change. May be dropped while it waits: no change is lost.
    pub async fn next(&mut self) -> ImageChange {
        loop {
            let Some(connection) = &mut self.connection else {
                if let Some(change) = self.reconnect().await {
                    return change;
                }
                continue;
            };
            match connection.next().await {
                Ok(Some(change)) => return change,
                Ok(None) => {}
                Err(fault) => {
                    self.connection = None;
                    if self.reconnection.record_failure() {
                        return ImageChange::Lost(fault);
                    }
                }
            }
        }
    }

    async fn reconnect(&mut self) -> Option<ImageChange> {
        self.reconnection.wait().await;
        match Connection::open(&self.client).await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.reconnection.record_success();
                Some(ImageChange::Resync)
            }
            Err(fault) => self.reconnection.record_failure().then_some(ImageChange::Lost(fault)),
        }
    }
}

impl Connection {
    // A subscription is not answered before its first event; an answer to a later request shows that the containerd
    // received it.
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
            return Ok(change(&first));
        }
        match tokio::time::timeout(QUIET, self.events.next()).await {
            Ok(Some(Ok(event))) => Ok(change(&event)),
            Ok(Some(Err(fault))) => Err(fault),
            Ok(None) => Err(Fault::retryable(
                crate::fault::Reason::SourceFailed,
                "the containerd ended the stream of its events",
            )),
            // Silence is normal; a connection whose containerd died without closing it looks the same.
            Err(_) => self.session.version().await.map(|_| None),
        }
    }
}

// `None` for a name that no object uses: Kubernetes' runtime interface also names an image by its ID alone.
fn change(event: &Envelope) -> Option<ImageChange> {
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
    use super::*;
    use crate::source::containerd_api::Any;

    #[test]
    fn reads_the_image_names_of_events() {
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
        assert_eq!(change(&event("docker.io/library/app:dev")), changed(Some("app:dev")));
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(change(&event(&digest)), None);
        let pinned = format!("registry.example/app@{digest}");
        assert_eq!(change(&event(&pinned)), changed(Some(&pinned)));
        assert_eq!(change(&event("Not A Name")), None);
        let mut broken = event("x");
        broken.event = None;
        assert_eq!(change(&broken), changed(None));
    }
}
