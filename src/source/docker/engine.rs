//! The docker engine's API, as far as reading images needs it.
//!
//! Spoken directly over HTTP: bollard keeps neither the API version in its paths (so `manifests` and
//! `platform` cannot be relied on), nor a limit on the length of an answer, nor knows `platform` on an export.

mod storage;

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::try_unfold;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use self::storage::EngineDescription;
pub(super) use self::storage::Storage;
pub use self::storage::StorageKind;
use super::inspected::{Image, InspectedImage};
use super::push::Pusher;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Platform;
use crate::source::ByteStream;

/// Where an engine listens unless somebody moved it.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// For everything but an export and the events.
const SHORT: Duration = Duration::from_secs(10);
/// Engines with the classic store write the whole image to their disk before the first byte of an export.
const STAGING: Duration = Duration::from_secs(45 * 60);
/// The longest answer that is kept in memory, in bytes: an inspected image with hundreds of layers has 100 kB.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// How much of an error's text is repeated, in characters.
const MESSAGE_LIMIT: usize = 400;

/// A version of the engine's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u32, pub u32);

/// The newest API that this client was written for.
const NEWEST: ApiVersion = ApiVersion(1, 52);
/// `manifests` on inspect and `platform` on an export exist from here on.
pub(super) const MANIFESTS_SINCE: ApiVersion = ApiVersion(1, 48);

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// A docker engine. Cheap to clone; nothing is sent before it is asked something.
#[derive(Clone, Debug)]
pub struct Engine {
    client: Client,
    // `http://host:port`.
    base: String,
    name: String,
    idle: Duration,
    is_local: bool,
    pusher: Pusher,
    // Forgotten on every failure: another engine may listen there after a restart.
    version: Arc<Mutex<Option<ApiVersion>>>,
}

impl Engine {
    /// The engine at `host`, written as `DOCKER_HOST` is: `unix:///path`, `tcp://host:port` or
    /// `http://host:port`; without one, [`DEFAULT_HOST`]. An export that brings no byte for `idle` fails.
    ///
    /// # Errors
    /// [`Reason::InvalidSpec`] for another form.
    pub fn new(host: Option<&str>, idle: Duration) -> Result<Self, Fault> {
        let host = host.filter(|host| !host.is_empty()).unwrap_or(DEFAULT_HOST);
        let invalid = |why: &str| {
            let message = format!(
                "the docker host `{host}` cannot be used ({why}): write it as unix:///path/docker.sock or tcp://host:port"
            );
            Fault::stalled(Reason::InvalidSpec, message)
        };
        let (base, socket) = if let Some(path) = host.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(invalid("the path of its socket is not absolute"));
            }
            ("http://docker".to_owned(), Some(PathBuf::from(path)))
        } else if let Some(address) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
            let base = format!("http://{}", address.trim_end_matches('/'));
            let plain = url::Url::parse(&base).is_ok_and(|url| url.path() == "/" && url.query().is_none());
            if address.is_empty() || !plain {
                return Err(invalid("it names no host and port"));
            }
            (base, None)
        } else {
            return Err(invalid("only unix, tcp and http are spoken"));
        };
        // Never used, but a client cannot be built without; this one needs no files of the machine.
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(&error.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        // An idle connection would only be the one that the engine closed when it restarted.
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(SHORT);
        let is_local = socket.is_some();
        if let Some(socket) = socket {
            builder = builder.unix_socket(socket);
        }
        Ok(Self {
            client: builder.build().map_err(|error| invalid(&error.to_string()))?,
            base,
            name: host.to_owned(),
            idle,
            is_local,
            pusher: Pusher::Command,
            version: Arc::default(),
        })
    }

    /// The same engine, of whose node this process is the agent.
    pub(super) fn of_agent(self) -> Self {
        Self {
            pusher: Pusher::Agent,
            ..self
        }
    }

    /// The same engine, whose exports may bring nothing for `idle`.
    pub(super) fn with_idle(&self, idle: Duration) -> Self {
        Self { idle, ..self.clone() }
    }

    /// Who has it push images.
    pub(super) fn pusher(&self) -> Pusher {
        self.pusher
    }

    /// Where the engine listens, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// How long an export may bring nothing.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// Asks the engine whether it is there.
    pub async fn ping(&self) -> Result<(), Fault> {
        let response = self.get(format!("{}/_ping", self.base), SHORT).await?;
        self.refuse(response).await.map(drop)
    }

    /// The API version that is spoken with this engine: its newest, but no newer than this client knows.
    pub async fn api_version(&self) -> Result<ApiVersion, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Version {
            api_version: String,
        }
        if let Some(version) = *self.known_version() {
            return Ok(version);
        }
        let version: Version = self
            .answer(format!("{}/version", self.base))
            .await?
            .ok_or_else(|| self.failed("it has no /version, so it is no docker engine"))?;
        let offered = ApiVersion::parse(&version.api_version)
            .ok_or_else(|| self.failed("it names an API version that cannot be read"))?;
        let spoken = offered.min(NEWEST);
        *self.known_version() = Some(spoken);
        Ok(spoken)
    }

    /// How the engine keeps its images.
    pub async fn shape(&self) -> Result<StorageKind, Fault> {
        self.storage().await.map(|storage| storage.shape)
    }

    /// The same, and where.
    pub(super) async fn storage(&self) -> Result<Storage, Fault> {
        let described: EngineDescription = self
            .answer(self.url("/info").await?)
            .await?
            .ok_or_else(|| self.failed("it has no /info, so it is no docker engine"))?;
        Ok(described.storage(self.is_local))
    }

    /// What the engine has under `name` (`app:dev`, `app@sha256:…` or an image ID), if anything.
    pub async fn inspect(&self, name: &str) -> Result<Option<InspectedImage>, Fault> {
        let mut url = self.url(&format!("/images/{name}/json")).await?;
        if self.api_version().await? >= MANIFESTS_SINCE {
            url.push_str("?manifests=1");
        }
        let inspected: Option<Image> = self.answer(url).await?;
        Ok(inspected.map(InspectedImage::from))
    }

    /// The tar of the save API. `name` is what [`Engine::inspect`] takes; `platform` chooses one platform
    /// (containerd store, API 1.48 or newer).
    pub async fn export(&self, name: &str, platform: Option<&Platform>) -> Result<ByteStream<'static>, Fault> {
        let mut url = self.url(&format!("/images/{name}/get")).await?;
        if let Some(platform) = platform {
            let json = serde_json::to_string(platform).map_err(|error| self.failed(&error.to_string()))?;
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("platform", &json)
                .finish();
            url = format!("{url}?{query}");
        }
        let response = self.get(url, STAGING).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(absent(name));
        }
        let response = self.refuse(response).await?;
        let engine = self.clone();
        let content = try_unfold(response, move |mut response| {
            let engine = engine.clone();
            async move {
                let chunk = engine.chunk(&mut response, "an export").await?;
                Ok(chunk.map(|chunk| (chunk, response)))
            }
        });
        Ok(content.boxed())
    }

    /// The next bytes of an answer that may take long; `None` at its end. `what` it is begins the sentence when
    /// nothing comes.
    pub(super) async fn chunk(&self, answer: &mut Response, what: &str) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.idle, answer.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| self.broken(&error)),
            Err(_) => {
                let seconds = self.idle.as_secs();
                Err(self.failed(&format!("{what} brought nothing for {seconds} s")))
            }
        }
    }

    /// POSTs nothing to `path`, which begins with a slash and may have a query.
    pub(super) async fn post(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response, Fault> {
        let mut request = self.client.post(self.url(path).await?).header(CONTENT_LENGTH, 0);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request, SHORT).await?;
        self.refuse(response).await
    }

    /// DELETEs `path`.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Fault> {
        let request = self.client.delete(self.url(path).await?);
        let response = self.send(request, SHORT).await?;
        self.refuse(response).await.map(drop)
    }

    /// The stream of events about images, as lines of JSON, from now on.
    pub(super) async fn events(&self) -> Result<Response, Fault> {
        // {"type":["image"]}
        let url = self.url("/events?filters=%7B%22type%22%3A%5B%22image%22%5D%7D").await?;
        let response = self.get(url, SHORT).await?;
        self.refuse(response).await
    }

    /// A failure while the engine was read; `what` ends the sentence.
    pub(super) fn failed(&self, what: &str) -> Fault {
        let message = format!(
            "the docker engine at {} failed: {what}; look into the engine's log if it stays so",
            self.name
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    fn known_version(&self) -> std::sync::MutexGuard<'_, Option<ApiVersion>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn url(&self, path: &str) -> Result<String, Fault> {
        let ApiVersion(major, minor) = self.api_version().await?;
        Ok(format!("{}/v{major}.{minor}{path}", self.base))
    }

    async fn get(&self, url: String, patience: Duration) -> Result<Response, Fault> {
        self.send(self.client.get(url), patience).await
    }

    // Sends a request and waits for the answer's head, but no longer than `patience`.
    async fn send(&self, request: RequestBuilder, patience: Duration) -> Result<Response, Fault> {
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.broken(&error)),
            Err(_) => {
                *self.known_version() = None;
                Err(self.failed(&format!("it did not answer within {} s", patience.as_secs())))
            }
        }
    }

    // The JSON of a short answer; `None` when there is no such thing.
    pub(super) async fn answer<T: DeserializeOwned>(&self, url: String) -> Result<Option<T>, Fault> {
        let response = self.get(url, SHORT).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.refuse(response).await?;
        let body = self.body(response).await?;
        let value = decode::json(&body).map_err(|error| self.failed(&format!("its answer is {error}")))?;
        Ok(Some(value))
    }

    async fn body(&self, mut response: Response) -> Result<Bytes, Fault> {
        let read = async {
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
                if body.len() + chunk.len() > ANSWER_LIMIT {
                    return Err(self.failed(&format!("its answer has more than {ANSWER_LIMIT} bytes")));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        tokio::time::timeout(SHORT, read)
            .await
            .unwrap_or_else(|_| Err(self.failed("its answer broke off")))
    }

    // Turns an answer that is an error into one.
    async fn refuse(&self, response: Response) -> Result<Response, Fault> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        *self.known_version() = None;
        let body = self.body(response).await.unwrap_or_default();
        let said = message_of(&body).unwrap_or_else(|| format!("HTTP status {}", status.as_u16()));
        Err(self.failed(&said))
    }

    // Why a request came to nothing: mostly nobody listens, or we may not ask.
    fn broken(&self, error: &reqwest::Error) -> Fault {
        *self.known_version() = None;
        let mut cause = error.source();
        let mut innermost = error.to_string();
        let mut kind = None;
        while let Some(source) = cause {
            innermost = source.to_string();
            if let Some(io) = source.downcast_ref::<io::Error>() {
                kind = Some(io.kind());
            }
            cause = source.source();
        }
        let name = &self.name;
        if kind == Some(io::ErrorKind::PermissionDenied) {
            return Fault::retryable(
                Reason::SourceFailed,
                format!(
                    "this user may not use the docker engine at {name} (permission denied): \
                     join the docker group, or mount the socket so that this user may write to it"
                ),
            );
        }
        if error.is_connect() {
            return Fault::retryable(
                Reason::SourceFailed,
                format!(
                    "the docker engine at {name} cannot be reached ({innermost}): start it, \
                     or set DOCKER_HOST / --docker-host"
                ),
            );
        }
        self.failed(&format!("the connection broke off ({innermost})"))
    }
}

/// That the engine has no image under `name`.
pub(super) fn absent(name: &str) -> Fault {
    let message = format!(
        "no image `{name}` in the docker engine of this machine; build or load it there, or set source: Registry"
    );
    Fault::retryable(Reason::SourceNotFound, message)
}

/// What an error of the engine says: `{"message": …}` as a whole answer, or `{"error": …}` at the end of an
/// export that had begun.
pub(super) fn message_of(json: &[u8]) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Said {
        message: String,
        error: String,
    }
    let said: Said = decode::json(json).ok()?;
    let message = if said.message.is_empty() {
        said.error
    } else {
        said.message
    };
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
    fn takes_the_forms_of_a_host_that_it_speaks() {
        let name = |host| Engine::new(host, SHORT).map(|engine| engine.name().to_owned());
        assert_eq!(name(None).unwrap(), DEFAULT_HOST);
        assert_eq!(name(Some("")).unwrap(), DEFAULT_HOST);
        for good in ["unix:///run/x.sock", "tcp://127.0.0.1:2375", "http://engine:2375/"] {
            assert_eq!(name(Some(good)).unwrap(), good);
        }
        for bad in [
            "ssh://me@there",
            "https://x",
            "npipe:////./pipe/x",
            "unix://x.sock",
            "tcp://",
            "tcp://a/b",
            "x",
        ] {
            let fault = name(Some(bad)).unwrap_err();
            assert_eq!(fault.reason, Reason::InvalidSpec, "{bad}");
            assert!(fault.message.contains(bad), "{fault}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(ApiVersion::parse("1.9").unwrap() < ApiVersion::parse("1.41").unwrap());
        assert_eq!(ApiVersion::parse("one"), None);
    }

    #[test]
    fn finds_what_an_error_says() {
        assert_eq!(message_of(br#"{"message":"no"}"#).as_deref(), Some("no"));
        let appended = br#"{"errorDetail":{"message":"gone"},"error":"gone"}
"#;
        assert_eq!(message_of(appended).as_deref(), Some("gone"));
        assert_eq!(message_of(b"<html>"), None);
    }
}
