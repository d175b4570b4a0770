//! The stream of an engine's events about images.

use std::collections::HashMap;
use std::fmt;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::future::ready;
use futures::stream::{BoxStream, once};
use futures::{FutureExt as _, StreamExt as _};

use super::Engine;
use super::transport::{ReceiveLimit, Transport};
use crate::fault::Fault;

/// The longest event that is read, in bytes. Labels of an image are part of it.
pub(super) const EVENT_LIMIT: usize = 1024 * 1024;

/// The events of an engine, as they are received.
pub(in crate::source::docker) struct EngineEvents {
    stream: BoxStream<'static, Result<EventMessage, Error>>,
    limit: ReceiveLimit,
}

/// Why no event was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::docker) enum EventError {
    /// An event cannot be decoded. No other is read from this stream.
    Unreadable,
    /// The stream ended, or an event has more than [`EVENT_LIMIT`] bytes.
    Ended,
}

impl EngineEvents {
    /// The next event. May be dropped while it waits: no event is lost.
    pub async fn next(&mut self) -> Result<EventMessage, EventError> {
        let next = self.stream.next().await;
        self.limit.restart();
        match next {
            Some(Ok(event)) => Ok(event),
            Some(Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. })) => Err(EventError::Unreadable),
            Some(Err(_)) | None => Err(EventError::Ended),
        }
    }
}

impl fmt::Debug for EngineEvents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EngineEvents").finish_non_exhaustive()
    }
}

impl Engine {
    /// The events about images from now on.
    pub(in crate::source::docker) async fn events(&self) -> Result<EngineEvents, Fault> {
        let filters = HashMap::from([("type", vec!["image"])]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let limit = ReceiveLimit::new(EVENT_LIMIT);
        let transport = Transport {
            limit: Some(limit.clone()),
            ..self.transport(Some(self.api_version().await?))
        };
        let accepted = transport.accepted.clone();
        let mut stream = self.bollard(transport)?.events(Some(options)).boxed();
        // bollard sends the request when its stream is read, which waits for the first event.
        let first = tokio::select! {
            first = stream.next() => Some(first),
            () = accepted.notified() => None,
        };
        let stream = match first {
            None => stream,
            Some(Some(first)) if accepted.notified().now_or_never().is_some() => {
                once(ready(first)).chain(stream).boxed()
            }
            Some(Some(Err(error))) => return Err(self.fault(&error)),
            Some(_) => return Err(self.failure("it ended the stream of its events")),
        };
        Ok(EngineEvents { stream, limit })
    }
}
