//! HTTP/1.1 to a docker engine, with a limit on what is received. Carries bollard's requests and our own.
//!
//! bollard's own transports are not used: they set no limit on the length of an answer, which bollard collects in
//! memory before it decodes it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bollard::BollardRequest;
use bollard::errors::Error;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::ApiVersion;

/// Where an engine listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// The absolute path of a socket.
    Unix(PathBuf),
    /// `host:port`; without a port, port 80.
    Tcp(String),
}

impl Address {
    /// The base of the URLs of requests to this engine.
    pub fn base(&self) -> String {
        match self {
            Self::Unix(_) => "http://docker".to_owned(),
            Self::Tcp(authority) => format!("http://{authority}"),
        }
    }
}

/// How many bytes may be received, of a whole answer or since [`ReceiveLimit::restart`]. Clones count together.
#[derive(Clone, Debug)]
pub(in crate::source::docker) struct ReceiveLimit {
    bytes: usize,
    received: Arc<AtomicUsize>,
}

impl ReceiveLimit {
    /// At most `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            received: Arc::default(),
        }
    }

    /// Counts from zero again.
    pub fn restart(&self) {
        self.received.store(0, Ordering::Relaxed);
    }

    fn add(&self, received: usize) -> io::Result<()> {
        match self.received.fetch_add(received, Ordering::Relaxed) + received > self.bytes {
            true => Err(io::Error::other(TooLong(self.bytes))),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct TooLong(usize);

impl fmt::Display for TooLong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "its answer has more than {} bytes", self.0)
    }
}

impl std::error::Error for TooLong {}

/// Why no connection was made.
#[derive(Debug)]
pub(super) struct ConnectError(io::Error);

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Sends each request over a new connection: an idle one would be closed after a restart of the engine.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    pub address: Address,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// The version that paths are prefixed with (`/v1.44`); bollard sends none.
    pub version: Option<ApiVersion>,
    /// `None` only for answers that are read chunk by chunk.
    pub limit: Option<ReceiveLimit>,
    /// Is notified when the engine accepts a request; bollard's streams do not show that before their first item.
    pub accepted: Arc<Notify>,
}

impl Transport {
    /// Sends `request`, whose URI is absolute, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Error::IOError`] with a [`ConnectError`] where no connection was made.
    pub async fn send(self, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
        if let Some(authority) = request.uri().authority() {
            let host = HeaderValue::try_from(authority.as_str()).map_err(http::Error::from)?;
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = self.path(request.uri())?;
        let connecting = timeout(self.connect_timeout, self.connect());
        let connected = connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let connection = connected.map_err(|error| io::Error::new(error.kind(), ConnectError(error)))?;
        let limited = LimitedConnection {
            connection,
            limit: self.limit,
        };
        let (mut sender, exchange) = http1::handshake(TokioIo::new(limited)).await?;
        // Ends with the answer's body, or when that is dropped.
        tokio::spawn(exchange);
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            self.accepted.notify_one();
        }
        Ok(response)
    }

    // The path and query of a request, with the version before them.
    fn path(&self, uri: &Uri) -> Result<Uri, Error> {
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = match self.version {
            Some(ApiVersion(major, minor)) => format!("/v{major}.{minor}{path}"),
            None => path.to_owned(),
        };
        Ok(path.parse()?)
    }

    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(authority) => {
                let has_port = authority
                    .parse()
                    .is_ok_and(|parsed: http::uri::Authority| parsed.port().is_some());
                let target = if has_port {
                    authority.clone()
                } else {
                    format!("{authority}:80")
                };
                Box::new(TcpStream::connect(target).await?)
            }
        })
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

// Fails once more is received than the limit.
struct LimitedConnection {
    connection: Box<dyn Connection>,
    limit: Option<ReceiveLimit>,
}

impl AsyncRead for LimitedConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(context, into))?;
        let received = into.filled().len() - before;
        Poll::Ready(self.limit.as_ref().map_or(Ok(()), |limit| limit.add(received)))
    }
}

impl AsyncWrite for LimitedConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
