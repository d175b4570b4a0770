//! Requests to an engine, by bollard and our own: their timeouts, limits and errors.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;

use super::transport::{ConnectError, ReceiveLimit, Transport};
use super::{ApiVersion, Engine};
use crate::decode;
use crate::fault::{Fault, Reason};

/// For a connection, the head of an answer, and its body each; an export and events may take longer.
pub(super) const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is kept in memory, in bytes: an inspected image with hundreds of layers has 100 kB.
pub(super) const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// How much of an error's text is repeated, in characters.
const MESSAGE_LIMIT: usize = 400;

impl Engine {
    pub(super) fn transport(&self, version: Option<ApiVersion>) -> Transport {
        Transport {
            address: self.address.clone(),
            connect_timeout: SHORT_TIMEOUT,
            version,
            limit: Some(ReceiveLimit::new(ANSWER_LIMIT)),
            accepted: Arc::default(),
        }
    }

    // bollard for one request, with the version that is used with this engine.
    pub(super) async fn client(&self) -> Result<bollard::Docker, Fault> {
        self.bollard(self.transport(Some(self.api_version().await?)))
    }

    pub(super) fn bollard(&self, transport: Transport) -> Result<bollard::Docker, Fault> {
        let base = transport.address.base();
        bollard::Docker::connect_with_custom_transport(
            move |request| transport.clone().send(request),
            Some(base),
            SHORT_TIMEOUT.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(|error| self.fault(&error))
    }

    // bollard itself limits only the wait for the head of an answer.
    pub(super) async fn call<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
        let answer = timeout(2 * SHORT_TIMEOUT, request).await;
        let answer = answer.unwrap_or(Err(Error::RequestTimeoutError));
        answer.map_err(|error| self.fault(&error))
    }

    // Sends a request of our own and waits for the head of the answer, but no longer than `wait`.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        wait: Duration,
    ) -> Result<Response<Incoming>, Fault> {
        let transport = Transport {
            limit: None,
            ..self.transport(Some(self.api_version().await?))
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address.base()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(bollard::body_full(Bytes::new()));
        let request = request.map_err(|error| self.fault(&error.into()))?;
        match timeout(wait, transport.send(request)).await {
            Ok(answer) => answer.map_err(|error| self.fault(&error)),
            Err(_) => {
                *self.known_version() = None;
                Err(self.failure(&format!("it did not answer within {} s", wait.as_secs())))
            }
        }
    }

    pub(super) async fn body(&self, response: Response<Incoming>) -> Result<Bytes, Fault> {
        let read = Limited::new(response.into_body(), ANSWER_LIMIT).collect();
        match timeout(SHORT_TIMEOUT, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(self.failure(&format!("its answer has more than {ANSWER_LIMIT} bytes")))
            }
            Ok(Err(_)) | Err(_) => Err(self.failure("its answer broke off")),
        }
    }

    // The error of an answer that is one.
    pub(super) async fn check_status(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Fault> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        *self.known_version() = None;
        let body = self.body(response).await.unwrap_or_default();
        let message = message_of(&body).unwrap_or_else(|| format!("HTTP status {}", status.as_u16()));
        Err(self.failure(&message))
    }

    // Why a request failed: mostly nothing listens, or this user may not connect.
    pub(super) fn fault(&self, error: &Error) -> Fault {
        *self.known_version() = None;
        let name = &self.name;
        match error {
            Error::IOError { err } if err.get_ref().is_some_and(|inner| inner.is::<ConnectError>()) => {
                let message = match err.kind() {
                    io::ErrorKind::PermissionDenied => format!(
                        "this user may not use the docker engine at {name} (permission denied): \
                         join the docker group, or mount the socket so that this user may write to it"
                    ),
                    _ => format!(
                        "the docker engine at {name} cannot be reached ({err}): start it, \
                         or set DOCKER_HOST / --docker-host"
                    ),
                };
                Fault::retryable(Reason::SourceFailed, message)
            }
            Error::DockerResponseServerError { status_code, message } => {
                let message = printable(message).unwrap_or_else(|| format!("HTTP status {status_code}"));
                self.failure(&message)
            }
            Error::RequestTimeoutError => {
                self.failure(&format!("it did not answer within {} s", SHORT_TIMEOUT.as_secs()))
            }
            Error::JsonDataError { message, .. } => self.failure(&format!("its answer cannot be read: {message}")),
            Error::JsonSerdeError { err } => self.failure(&format!("its answer cannot be read: {err}")),
            _ => {
                let mut innermost = error.to_string();
                let mut cause = error.source();
                while let Some(source) = cause {
                    innermost = source.to_string();
                    cause = source.source();
                }
                self.failure(&format!("the connection broke off ({innermost})"))
            }
        }
    }
}

/// The message of an engine's error: `{"message": …}` as a whole answer, or `{"error": …}` at the end of an
/// export that had begun.
pub(in crate::source::docker) fn message_of(json: &[u8]) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct ErrorBody {
        message: String,
        error: String,
    }
    let body: ErrorBody = decode::json(json).ok()?;
    printable(if body.message.is_empty() {
        &body.error
    } else {
        &body.message
    })
}

// The beginning of a message, without control characters; `None` for an empty one.
fn printable(message: &str) -> Option<String> {
    let message: String = message
        .chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_LIMIT)
        .collect();
    (!message.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_message_of_an_error() {
        assert_eq!(message_of(br#"{"message":"no"}"#).as_deref(), Some("no"));
        let appended = br#"{"errorDetail":{"message":"gone"},"error":"gone"}
"#;
        assert_eq!(message_of(appended).as_deref(), Some("gone"));
        assert_eq!(message_of(b"<html>"), None);
    }
}
