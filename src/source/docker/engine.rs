//! The docker engine's API, as far as reading images needs it.
//!
//! bollard makes the requests for ping, version, information, events, the list of images, tags and their removal. Our own
//! [`transport`] carries them: it limits the bytes that are received, and prefixes paths with the API version. Timeouts are
//! set here around each call.
//!
//! bollard 0.21 cannot make these requests; the tests of `gaps` fail when it can:
//! - Any request with an API version in its path: `Uri::parse` joins an absolute path to its base, which drops the prefix.
//!   Upstream change: join the path without its leading slash. Until then the transport adds the prefix.
//! - Inspecting an image with `manifests=1`, without which an engine does not show which part of an index it holds:
//!   `inspect_image` takes no options. Upstream change: an `InspectImageOptions` parameter.
//! - Exporting one platform: `export_image` takes no options. Upstream change: an `ExportImageOptions` parameter.
//! - Pushing: `PushImageInfo` has no `aux`, which holds the digest of what was pushed, and `X-Registry-Auth` is written in
//!   the alphabet of standard base64, where engines read that of URLs (RFC 4648, section 5), so that some passwords are
//!   lost. Upstream change: an `aux` field, and `URL_SAFE` in `base64_url_encode`.
//!
//! bollard also has no limit on the length of an answer or an event, and its stream of events does not show that the engine
//! accepted the request; the transport makes up for both.

mod events;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod gaps;
mod request;
mod storage;
mod transport;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::try_unfold;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

pub(super) use self::events::{EngineEvents, EventError};
use self::request::SHORT_TIMEOUT;
pub(super) use self::request::message_of;
pub(super) use self::storage::Storage;
pub use self::storage::StorageKind;
use self::transport::Address;
use super::inspected_image::{InspectAnswer, InspectedImage};
use super::pusher::Pusher;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Platform;
use crate::source::ByteStream;

/// Where an engine listens by default.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Engines with the classic store write the whole image to their disk before the first byte of an export.
const EXPORT_START_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// A version of the engine's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u32, pub u32);

/// The newest API that this client was written for.
const NEWEST: ApiVersion = ApiVersion(1, 52);
/// The first version with `manifests` on inspect and `platform` on an export.
const MANIFESTS_SINCE: ApiVersion = ApiVersion(1, 48);

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// A docker engine. Cheap to clone; connects when the first request is made.
#[derive(Clone, Debug)]
pub struct Engine {
    address: Address,
    name: String,
    idle_timeout: Duration,
    pusher: Pusher,
    // Forgotten on every failure: another engine may listen there after a restart.
    version: Arc<Mutex<Option<ApiVersion>>>,
}

impl Engine {
    /// The engine at `host`, written as `DOCKER_HOST` is: `unix:///path`, `tcp://host:port` or
    /// `http://host:port`; without one, [`DEFAULT_HOST`]. An export that sends no byte for `idle_timeout` fails.
    ///
    /// # Errors
    /// [`Reason::InvalidSpec`] for another form.
    pub fn new(host: Option<&str>, idle_timeout: Duration) -> Result<Self, Fault> {
        let host = host.filter(|host| !host.is_empty()).unwrap_or(DEFAULT_HOST);
        let invalid = |why: &str| {
            let message = format!(
                "the docker host `{host}` cannot be used ({why}): write it as unix:///path/docker.sock or tcp://host:port"
            );
            Fault::stalled(Reason::InvalidSpec, message)
        };
        let address = if let Some(path) = host.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(invalid("the path of its socket is not absolute"));
            }
            Address::Unix(PathBuf::from(path))
        } else if let Some(authority) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
            let authority = authority.trim_end_matches('/');
            let url = url::Url::parse(&format!("http://{authority}"));
            let plain = url.is_ok_and(|url| url.path() == "/" && url.query().is_none());
            if authority.is_empty() || !plain {
                return Err(invalid("it names no host and port"));
            }
            Address::Tcp(authority.to_owned())
        } else {
            return Err(invalid("only unix, tcp and http are supported"));
        };
        Ok(Self {
            address,
            name: host.to_owned(),
            idle_timeout,
            pusher: Pusher::Command,
            version: Arc::default(),
        })
    }

    /// The same engine, used by the agent of its node.
    pub(super) fn for_agent(self) -> Self {
        Self {
            pusher: Pusher::Agent,
            ..self
        }
    }

    /// The same engine with another `idle_timeout`.
    pub(super) fn with_idle_timeout(&self, idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            ..self.clone()
        }
    }

    /// Which process has the engine push images.
    pub(super) fn pusher(&self) -> Pusher {
        self.pusher
    }

    /// Where the engine listens, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    /// How long an export may send nothing.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// Asks the engine whether it runs.
    pub async fn ping(&self) -> Result<(), Fault> {
        let client = self.bollard(self.transport(None))?;
        self.call(client.ping()).await.map(drop)
    }

    /// The API version that is used with this engine: its newest, but no newer than this client knows.
    pub async fn api_version(&self) -> Result<ApiVersion, Fault> {
        if let Some(version) = *self.known_version() {
            return Ok(version);
        }
        let client = self.bollard(self.transport(None))?;
        let version = self.call(client.version()).await?;
        let offered = version.api_version.as_deref().and_then(ApiVersion::parse);
        let offered = offered.ok_or_else(|| self.failure("it names an API version that cannot be read"))?;
        let used = offered.min(NEWEST);
        *self.known_version() = Some(used);
        Ok(used)
    }

    /// How the engine stores its images.
    pub async fn storage_kind(&self) -> Result<StorageKind, Fault> {
        self.storage().await.map(|storage| storage.kind)
    }

    /// How the engine stores its images, and where.
    pub(super) async fn storage(&self) -> Result<Storage, Fault> {
        let client = self.client().await?;
        let described = self.call(client.info()).await?;
        Ok(Storage::new(described, self.is_local()))
    }

    /// The image that has the name `name` (`app:dev`, `app@sha256:…` or an image ID), if any.
    pub async fn inspect(&self, name: &str) -> Result<Option<InspectedImage>, Fault> {
        let mut path = format!("/images/{name}/json");
        if self.api_version().await? >= MANIFESTS_SINCE {
            path.push_str("?manifests=1");
        }
        let response = self.request(Method::GET, &path, &[], SHORT_TIMEOUT).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = self.body(self.check_status(response).await?).await?;
        let image: InspectAnswer =
            decode::json(&body).map_err(|error| self.failure(&format!("its answer cannot be read: {error}")))?;
        Ok(Some(InspectedImage::from(image)))
    }

    /// The tar of the save API. `name` is what [`Engine::inspect`] takes; `platform` chooses one platform
    /// (containerd store, API 1.48 or newer).
    pub async fn export(&self, name: &str, platform: Option<&Platform>) -> Result<ByteStream<'static>, Fault> {
        let mut path = format!("/images/{name}/get");
        if let Some(platform) = platform {
            let json = serde_json::to_string(platform).map_err(|error| self.failure(&error.to_string()))?;
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("platform", &json)
                .finish();
            path = format!("{path}?{query}");
        }
        let response = self.request(Method::GET, &path, &[], EXPORT_START_TIMEOUT).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(image_not_found(name));
        }
        let body = self.check_status(response).await?.into_body();
        let engine = self.clone();
        let content = try_unfold(body, move |mut body| {
            let engine = engine.clone();
            async move {
                let chunk = engine.chunk(&mut body, "an export").await?;
                Ok(chunk.map(|chunk| (chunk, body)))
            }
        });
        Ok(content.boxed())
    }

    /// Has the engine push the image `repository:tag`, with `credentials` as the value of `X-Registry-Auth`. The answer
    /// is lines of JSON that report progress.
    pub(super) async fn push(&self, repository: &str, tag: &str, credentials: &str) -> Result<Incoming, Fault> {
        let tag: String = url::form_urlencoded::byte_serialize(tag.as_bytes()).collect();
        let path = format!("/images/{repository}/push?tag={tag}");
        let headers = [("X-Registry-Auth", credentials), (CONTENT_LENGTH.as_str(), "0")];
        let response = self.request(Method::POST, &path, &headers, SHORT_TIMEOUT).await?;
        Ok(self.check_status(response).await?.into_body())
    }

    /// The next bytes of an answer that may take long; `None` at its end. `what` names the answer in the message when
    /// nothing is received.
    pub(super) async fn chunk(&self, answer: &mut Incoming, what: &str) -> Result<Option<Bytes>, Fault> {
        let next = async {
            while let Some(frame) = answer.frame().await {
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None)
        };
        match timeout(self.idle_timeout, next).await {
            Ok(chunk) => chunk.map_err(|error: hyper::Error| self.fault(&error.into())),
            Err(_) => {
                let seconds = self.idle_timeout.as_secs();
                Err(self.failure(&format!("{what} sent nothing for {seconds} s")))
            }
        }
    }

    /// The names (`name:tag`) that match `pattern`, in which `*` stands for a part of a path.
    pub(super) async fn list_names(&self, pattern: &str) -> Result<Vec<String>, Fault> {
        let filters = HashMap::from([("reference", vec![pattern])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let client = self.client().await?;
        let listed = self.call(client.list_images(Some(options))).await?;
        Ok(listed.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// Gives the image `id` the name `repository:tag`, even if another image has it.
    pub(super) async fn tag(&self, id: &str, repository: &str, tag: &str) -> Result<(), Fault> {
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        let client = self.client().await?;
        self.call(client.tag_image(id, Some(options))).await
    }

    /// Removes the name `name`, if it is one of the image `id`. An image without another name is deleted with it.
    pub(super) async fn untag(&self, name: &str, id: &str) -> Result<(), Fault> {
        match self.inspect(name).await? {
            Some(image) if image.image_id.as_str() == id => {
                let options = RemoveImageOptionsBuilder::default().noprune(true).build();
                let client = self.client().await?;
                self.call(client.remove_image(name, Some(options), None))
                    .await
                    .map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A failure while the engine was read; `what` ends the sentence.
    pub(super) fn failure(&self, what: &str) -> Fault {
        let message = format!(
            "the docker engine at {} failed: {what}; look into the engine's log if it stays so",
            self.name
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    fn known_version(&self) -> MutexGuard<'_, Option<ApiVersion>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine has no image named `name`.
pub(super) fn image_not_found(name: &str) -> Fault {
    let message = format!(
        "no image `{name}` in the docker engine of this machine; build or load it there, or set source: Registry"
    );
    Fault::retryable(Reason::SourceNotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_unix_and_tcp_hosts_only() {
        let name = |host| Engine::new(host, SHORT_TIMEOUT).map(|engine| engine.name().to_owned());
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
}
