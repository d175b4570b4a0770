//! The client: calls to one containerd, with their timeouts and errors.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    Empty, Envelope, GetImageRequest, GetImageResponse, Image, InfoRequest, InfoResponse, ListImagesRequest,
    ListImagesResponse, PluginsRequest, PluginsResponse, ReadContentRequest, ReadContentResponse, SubscribeRequest,
    VersionResponse,
};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest};
use crate::source::ByteStream;
use crate::source::unreadable::UnreadableReason;

/// Where a containerd listens by default.
pub const DEFAULT_ADDRESS: &str = "unix:///run/containerd/containerd.sock";

/// For every call but content and events.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message that is accepted, in bytes. containerd sends content in messages of 1 MiB.
const MESSAGE_LIMIT: usize = 8 * 1024 * 1024;

/// A containerd, by its socket and namespace. Cheap to clone; connects when it is used.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    namespace: MetadataValue<Ascii>,
    idle_timeout: Duration,
}

impl Client {
    /// The containerd at `address`, written as `unix:///path` or `/path`, and its `namespace`. Content fails
    /// of which no byte is received for `idle_timeout`.
    ///
    /// # Errors
    /// [`Reason::InvalidSpec`] for another form.
    pub fn new(address: &str, namespace: &str, idle_timeout: Duration) -> Result<Self, Fault> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let invalid = |message: String| Fault::stalled(Reason::InvalidSpec, message);
        if !path.starts_with('/') {
            return Err(invalid(format!(
                "the containerd address `{address}` cannot be used: write it as unix:///path/containerd.sock"
            )));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match MetadataValue::try_from(namespace) {
            Ok(value) if !namespace.is_empty() && namespace.bytes().all(plain) => Ok(Self {
                socket: PathBuf::from(path),
                namespace: value,
                idle_timeout,
            }),
            _ => Err(invalid(format!(
                "`{}` is not a containerd namespace: write it as k8s.io or moby",
                namespace.chars().take(80).collect::<String>()
            ))),
        }
    }

    /// The same with another `idle_timeout`.
    pub fn with_idle_timeout(&self, idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            ..self.clone()
        }
    }

    /// Where it listens, for messages.
    pub fn name(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The namespace that is read.
    pub fn namespace(&self) -> &str {
        self.namespace.to_str().unwrap_or_default()
    }

    /// Connects. Connections are not kept: a restart of the containerd would have closed them.
    pub(in crate::source) async fn connect(&self) -> Result<Session, Fault> {
        let stream = match timeout(SHORT_TIMEOUT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.timed_out()),
        };
        let mut stream = Some(stream);
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)) }
        });
        // The URL is required but not used; the connection is made already.
        let endpoint = Endpoint::from_static("http://containerd");
        let channel = match timeout(SHORT_TIMEOUT, endpoint.connect_with_connector(once)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(self.failure(&error.to_string())),
            Err(_) => return Err(self.timed_out()),
        };
        Ok(Session {
            grpc: Grpc::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
            client: self.clone(),
            lease: None,
        })
    }

    /// A failure while it was read; `what` ends the sentence.
    fn failure(&self, what: &str) -> Fault {
        let message = format!(
            "the containerd at {} failed: {}; see its log if it fails again",
            self.name(),
            UnreadableReason::new(what)
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    fn timed_out(&self) -> Fault {
        self.failure(&format!("it did not answer within {} s", SHORT_TIMEOUT.as_secs()))
    }

    fn unreachable(&self, error: &io::Error) -> Fault {
        let name = self.name();
        let message = match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "this process may not use the containerd at {name} (permission denied): \
                 run it as root, or mount the socket so that it may write to it"
            ),
            io::ErrorKind::NotFound => format!(
                "there is no containerd at {name}: start it, mount its socket there, \
                 or set CONTAINERD_ADDRESS / --containerd-address"
            ),
            _ => format!(
                "the containerd at {name} cannot be reached ({error}): start it, \
                 or set CONTAINERD_ADDRESS / --containerd-address"
            ),
        };
        Fault::retryable(Reason::SourceFailed, message)
    }
}

/// A connection to a containerd.
#[derive(Clone, Debug)]
pub(in crate::source) struct Session {
    grpc: Grpc<Channel>,
    client: Client,
    /// The lease of what is written.
    lease: Option<MetadataValue<Ascii>>,
}

impl Session {
    /// The same, whose requests have the lease `id`.
    pub(super) fn with_lease(self, id: &str) -> Self {
        let lease = MetadataValue::try_from(id).ok();
        Self { lease, ..self }
    }

    /// How long content may send nothing.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.client.idle_timeout
    }

    /// The version, such as `v2.4.2`.
    pub async fn version(&self) -> Result<String, Fault> {
        let answer: VersionResponse = self
            .call("/containerd.services.version.v1.Version/Version", Empty {})
            .await
            .map_err(|status| self.status_fault(&status))?;
        Ok(answer.version)
    }

    /// The manifest or index of the image `name`, if it exists.
    pub async fn image(&self, name: &str) -> Result<Option<Descriptor>, Fault> {
        let request = GetImageRequest { name: name.to_owned() };
        let answer: Result<GetImageResponse, _> = self.call("/containerd.services.images.v1.Images/Get", request).await;
        match answer {
            Ok(answer) => answer.image.map(|image| self.target(image)).transpose(),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.status_fault(&status)),
        }
    }

    /// The manifest or index `digest`, if an image of any name has it.
    pub async fn image_by_digest(&self, digest: &Digest) -> Result<Option<Descriptor>, Fault> {
        let request = ListImagesRequest {
            filters: vec![format!("target.digest=={digest}")],
        };
        let answer: ListImagesResponse = self
            .call("/containerd.services.images.v1.Images/List", request)
            .await
            .map_err(|status| self.status_fault(&status))?;
        let image = answer.images.into_iter().next();
        image.map(|image| self.target(image)).transpose()
    }

    /// The directory of the content store as the containerd sees it, `…/io.containerd.content.v1.content`.
    pub async fn content_directory(&self) -> Result<Option<PathBuf>, Fault> {
        let request = PluginsRequest {
            filters: vec!["type==io.containerd.content.v1".to_owned()],
        };
        let answer: PluginsResponse = self
            .call("/containerd.services.introspection.v1.Introspection/Plugins", request)
            .await
            .map_err(|status| self.status_fault(&status))?;
        let mut exports = answer.plugins.into_iter().map(|plugin| plugin.exports);
        let root = exports.find_map(|mut exports| exports.remove("root"));
        Ok(root.map(PathBuf::from).filter(|root| Path::is_absolute(root)))
    }

    /// The length of a blob in bytes, if it exists.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        let request = InfoRequest {
            digest: digest.to_string(),
        };
        let answer: Result<InfoResponse, _> = self.call("/containerd.services.content.v1.Content/Info", request).await;
        match answer {
            Ok(answer) => {
                let size = answer.info.map_or(-1, |info| info.size);
                let size = u64::try_from(size).map_err(|_| self.client.failure("it gives no size of a blob"))?;
                Ok(Some(size))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.status_fault(&status)),
        }
    }

    /// The content of a blob, or `None` if it does not exist.
    pub async fn read(&self, digest: &Digest) -> Result<Option<ByteStream<'static>>, Fault> {
        let request = ReadContentRequest {
            digest: digest.to_string(),
        };
        let path = "/containerd.services.content.v1.Content/Read";
        let opening = self.stream::<_, ReadContentResponse>(path, request);
        let chunks = match timeout(self.idle_timeout(), opening).await {
            Ok(Ok(chunks)) => chunks,
            Ok(Err(status)) if status.code() == Code::NotFound => return Ok(None),
            Ok(Err(status)) => return Err(self.status_fault(&status)),
            Err(_) => return Err(self.idle_fault()),
        };
        let session = self.clone();
        let content = futures::stream::try_unfold((chunks, 0_i64), move |(mut chunks, offset)| {
            let session = session.clone();
            async move {
                match timeout(session.idle_timeout(), chunks.next()).await {
                    Ok(None) => Ok(None),
                    Ok(Some(Ok(chunk))) if chunk.offset == offset => {
                        let next = offset.saturating_add_unsigned(chunk.data.len() as u64);
                        Ok(Some((chunk.data, (chunks, next))))
                    }
                    Ok(Some(Ok(_))) => Err(session.client.failure("it sends content out of order")),
                    Ok(Some(Err(status))) => Err(session.status_fault(&status)),
                    Err(_) => Err(session.idle_fault()),
                }
            }
        });
        Ok(Some(content.boxed()))
    }

    /// The events about images of the namespace from now on.
    pub(in crate::source) fn events(&self) -> BoxStream<'static, Result<Envelope, Fault>> {
        let filter = format!(r#"namespace=="{}",topic~="^/images/""#, self.client.namespace());
        let request = SubscribeRequest { filters: vec![filter] };
        let session = self.clone();
        // A Go server sends the head of the answer together with its first message, so this waits for the first event.
        let opening = async move {
            let path = "/containerd.services.events.v1.Events/Subscribe";
            let events = session.stream::<_, Envelope>(path, request).await;
            let events = events.map_err(|status| session.status_fault(&status))?;
            Ok::<_, Fault>(events.map_err(move |status| session.status_fault(&status)))
        };
        futures::stream::once(opening).try_flatten().boxed()
    }

    pub(super) async fn call<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let answering = async {
            let mut grpc = self.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(self.request(message), PathAndQuery::from_static(path), codec)
                .await
        };
        match timeout(SHORT_TIMEOUT, answering).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "it did not answer within {} s",
                SHORT_TIMEOUT.as_secs()
            ))),
        }
    }

    async fn stream<Q, A>(
        &self,
        path: &'static str,
        message: Q,
    ) -> Result<BoxStream<'static, Result<A, Status>>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc
            .server_streaming(self.request(message), PathAndQuery::from_static(path), codec)
            .await?;
        Ok(answer.into_inner().boxed())
    }

    pub(super) async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(format!("the connection broke off ({error})")))?;
        Ok(grpc)
    }

    pub(super) fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.client.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    fn target(&self, image: Image) -> Result<Descriptor, Fault> {
        let target = image.target.unwrap_or_default();
        let digest = target.digest.parse();
        let size = u64::try_from(target.size);
        match (digest, size) {
            (Ok(digest), Ok(size)) => Ok(Descriptor::new(target.media_type, digest, size)),
            _ => Err(self
                .client
                .failure(&format!("it gives no valid digest and size of `{}`", image.name))),
        }
    }

    pub(super) fn status_fault(&self, status: &Status) -> Fault {
        match status.message() {
            "" => self.client.failure(&format!("{}", status.code())),
            message => self.client.failure(message),
        }
    }

    pub(super) fn idle_fault(&self) -> Fault {
        let seconds = self.idle_timeout().as_secs();
        self.client.failure(&format!("no content was received for {seconds} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_absolute_unix_sockets_only() {
        let open = |address: &str, namespace: &str| Client::new(address, namespace, SHORT_TIMEOUT);
        for good in [DEFAULT_ADDRESS, "/run/k3s/containerd/containerd.sock"] {
            assert!(
                open(good, "k8s.io").unwrap().name().ends_with("containerd.sock"),
                "{good}"
            );
        }
        for bad in ["", "tcp://127.0.0.1:1", "containerd.sock", "unix://run/x.sock"] {
            assert_eq!(open(bad, "k8s.io").unwrap_err().reason, Reason::InvalidSpec, "{bad}");
        }
        // The namespace becomes part of a filter.
        for bad in ["", "a\"b", "a b", "ä", "a\nb"] {
            assert_eq!(
                open(DEFAULT_ADDRESS, bad).unwrap_err().reason,
                Reason::InvalidSpec,
                "{bad}"
            );
        }
    }
}
