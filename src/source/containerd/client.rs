//! containerd's API over its socket, as far as reading images needs it.

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

use super::wire::{
    Empty, Envelope, GetImageRequest, GetImageResponse, Image, InfoRequest, InfoResponse, ListImagesRequest,
    ListImagesResponse, PluginsRequest, PluginsResponse, ReadContentRequest, ReadContentResponse, SubscribeRequest,
    VersionResponse,
};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest};
use crate::source::ByteStream;
use crate::source::unreadable::UnreadableReason;

/// Where a containerd listens unless somebody moved it.
pub const DEFAULT_ADDRESS: &str = "unix:///run/containerd/containerd.sock";

/// For everything but content and events.
const SHORT: Duration = Duration::from_secs(10);
/// The longest message that is taken, in bytes. containerd sends content in pieces of 1 MiB.
const MESSAGE_LIMIT: usize = 8 * 1024 * 1024;

/// How a containerd is reached. Cheap to clone; nothing is sent before it is asked something.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    namespace: MetadataValue<Ascii>,
    idle: Duration,
}

impl Client {
    /// The containerd at `address`, written as `unix:///path` or `/path`, and its `namespace`. Content that
    /// brings no byte for `idle` fails.
    ///
    /// # Errors
    /// [`Reason::InvalidSpec`] for another form.
    pub fn new(address: &str, namespace: &str, idle: Duration) -> Result<Self, Fault> {
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
                idle,
            }),
            _ => Err(invalid(format!(
                "`{}` is no namespace of a containerd: write it as k8s.io or moby",
                namespace.chars().take(80).collect::<String>()
            ))),
        }
    }

    /// The same, which may stand still for `idle`.
    pub fn with_idle_timeout(&self, idle: Duration) -> Self {
        Self { idle, ..self.clone() }
    }

    /// Where it listens, for messages.
    pub fn name(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The namespace that is read.
    pub fn namespace(&self) -> &str {
        self.namespace.to_str().unwrap_or_default()
    }

    /// Connects. Every look has a connection of its own, so that none is one that a restart closed.
    pub(in crate::source) async fn connect(&self) -> Result<Session, Fault> {
        let stream = match timeout(SHORT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.silent()),
        };
        let mut stream = Some(stream);
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)) }
        });
        // The host is only a form; the connection is made already.
        let endpoint = Endpoint::from_static("http://containerd");
        let channel = match timeout(SHORT, endpoint.connect_with_connector(once)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(self.failed(&error.to_string())),
            Err(_) => return Err(self.silent()),
        };
        Ok(Session {
            grpc: Grpc::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
            client: self.clone(),
        })
    }

    /// A failure while it was read; `what` ends the sentence.
    pub(super) fn failed(&self, what: &str) -> Fault {
        let message = format!(
            "the containerd at {} failed: {}; look into its log if it stays so",
            self.name(),
            UnreadableReason::new(what)
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    fn silent(&self) -> Fault {
        self.failed(&format!("it did not answer within {} s", SHORT.as_secs()))
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
}

impl Session {
    /// How long content may stand still.
    fn idle(&self) -> Duration {
        self.client.idle
    }

    /// The version, such as `v2.4.2`.
    pub async fn version(&self) -> Result<String, Fault> {
        let answer: VersionResponse = self
            .ask("/containerd.services.version.v1.Version/Version", Empty {})
            .await
            .map_err(|status| self.broken(&status))?;
        Ok(answer.version)
    }

    /// What the image `name` is, if there is one.
    pub async fn image(&self, name: &str) -> Result<Option<Descriptor>, Fault> {
        let question = GetImageRequest { name: name.to_owned() };
        let answer: Result<GetImageResponse, _> = self.ask("/containerd.services.images.v1.Images/Get", question).await;
        match answer {
            Ok(answer) => answer.image.map(|image| self.target(image)).transpose(),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.broken(&status)),
        }
    }

    /// An image of whatever name that is `digest`, if there is one.
    pub async fn image_of(&self, digest: &Digest) -> Result<Option<Descriptor>, Fault> {
        let question = ListImagesRequest {
            filters: vec![format!("target.digest=={digest}")],
        };
        let answer: ListImagesResponse = self
            .ask("/containerd.services.images.v1.Images/List", question)
            .await
            .map_err(|status| self.broken(&status))?;
        let image = answer.images.into_iter().next();
        image.map(|image| self.target(image)).transpose()
    }

    /// The content store's folder as containerd itself sees it, `…/io.containerd.content.v1.content`.
    pub async fn content_folder(&self) -> Result<Option<PathBuf>, Fault> {
        let question = PluginsRequest {
            filters: vec!["type==io.containerd.content.v1".to_owned()],
        };
        let answer: PluginsResponse = self
            .ask("/containerd.services.introspection.v1.Introspection/Plugins", question)
            .await
            .map_err(|status| self.broken(&status))?;
        let mut exports = answer.plugins.into_iter().map(|plugin| plugin.exports);
        let root = exports.find_map(|mut exports| exports.remove("root"));
        Ok(root.map(PathBuf::from).filter(|root| Path::is_absolute(root)))
    }

    /// The length of a blob in bytes, if it is held.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        let question = InfoRequest {
            digest: digest.to_string(),
        };
        let answer: Result<InfoResponse, _> = self.ask("/containerd.services.content.v1.Content/Info", question).await;
        match answer {
            Ok(answer) => {
                let size = answer.info.map_or(-1, |info| info.size);
                let size = u64::try_from(size).map_err(|_| self.client.failed("it tells no size of a blob"))?;
                Ok(Some(size))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.broken(&status)),
        }
    }

    /// The content of a blob, or `None` when it is not held after all.
    pub async fn read(&self, digest: &Digest) -> Result<Option<ByteStream<'static>>, Fault> {
        let question = ReadContentRequest {
            digest: digest.to_string(),
        };
        let path = "/containerd.services.content.v1.Content/Read";
        let opening = self.stream::<_, ReadContentResponse>(path, question);
        let pieces = match timeout(self.idle(), opening).await {
            Ok(Ok(pieces)) => pieces,
            Ok(Err(status)) if status.code() == Code::NotFound => return Ok(None),
            Ok(Err(status)) => return Err(self.broken(&status)),
            Err(_) => return Err(self.still()),
        };
        let session = self.clone();
        let content = futures::stream::try_unfold((pieces, 0_i64), move |(mut pieces, offset)| {
            let session = session.clone();
            async move {
                match timeout(session.idle(), pieces.next()).await {
                    Ok(None) => Ok(None),
                    Ok(Some(Ok(piece))) if piece.offset == offset => {
                        let next = offset.saturating_add_unsigned(piece.data.len() as u64);
                        Ok(Some((piece.data, (pieces, next))))
                    }
                    Ok(Some(Ok(_))) => Err(session.client.failed("it sends content out of order")),
                    Ok(Some(Err(status))) => Err(session.broken(&status)),
                    Err(_) => Err(session.still()),
                }
            }
        });
        Ok(Some(content.boxed()))
    }

    /// What happens to images of the namespace from now on: the topic and the image's name.
    pub(super) fn events(&self) -> BoxStream<'static, Result<Envelope, Fault>> {
        let filter = format!(r#"namespace=="{}",topic~="^/images/""#, self.client.namespace());
        let question = SubscribeRequest { filters: vec![filter] };
        let session = self.clone();
        // A server of Go answers such a call with its first message only, so it is waited for as one.
        let opening = async move {
            let path = "/containerd.services.events.v1.Events/Subscribe";
            let events = session.stream::<_, Envelope>(path, question).await;
            let events = events.map_err(|status| session.broken(&status))?;
            Ok::<_, Fault>(events.map_err(move |status| session.broken(&status)))
        };
        futures::stream::once(opening).try_flatten().boxed()
    }

    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let asking = async {
            let mut grpc = self.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(self.request(question), PathAndQuery::from_static(path), codec)
                .await
        };
        match timeout(SHORT, asking).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "it did not answer within {} s",
                SHORT.as_secs()
            ))),
        }
    }

    async fn stream<Q, A>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<BoxStream<'static, Result<A, Status>>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc
            .server_streaming(self.request(question), PathAndQuery::from_static(path), codec)
            .await?;
        Ok(answer.into_inner().boxed())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(format!("the connection broke off ({error})")))?;
        Ok(grpc)
    }

    fn request<Q>(&self, question: Q) -> Request<Q> {
        let mut request = Request::new(question);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.client.namespace.clone());
        request
    }

    fn target(&self, image: Image) -> Result<Descriptor, Fault> {
        let target = image.target.unwrap_or_default();
        let digest = target.digest.parse();
        let size = u64::try_from(target.size);
        match (digest, size) {
            (Ok(digest), Ok(size)) => Ok(Descriptor::new(target.media_type, digest, size)),
            _ => Err(self.client.failed(&format!("it does not say what `{}` is", image.name))),
        }
    }

    fn broken(&self, status: &Status) -> Fault {
        match status.message() {
            "" => self.client.failed(&format!("{}", status.code())),
            said => self.client.failed(said),
        }
    }

    fn still(&self) -> Fault {
        let seconds = self.idle().as_secs();
        self.client.failed(&format!("content brought nothing for {seconds} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_forms_of_an_address_that_it_speaks() {
        let open = |address: &str, namespace: &str| Client::new(address, namespace, SHORT);
        for good in [DEFAULT_ADDRESS, "/run/k3s/containerd/containerd.sock"] {
            assert!(
                open(good, "k8s.io").unwrap().name().ends_with("containerd.sock"),
                "{good}"
            );
        }
        for bad in ["", "tcp://127.0.0.1:1", "containerd.sock", "unix://run/x.sock"] {
            assert_eq!(open(bad, "k8s.io").unwrap_err().reason, Reason::InvalidSpec, "{bad}");
        }
        // It becomes part of a filter.
        for bad in ["", "a\"b", "a b", "ä", "a\nb"] {
            assert_eq!(
                open(DEFAULT_ADDRESS, bad).unwrap_err().reason,
                Reason::InvalidSpec,
                "{bad}"
            );
        }
    }
}
