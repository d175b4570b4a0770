//! The proxy of a node: the registry of the cluster at the loopback addresses of the node, for its container runtime.
//!
//! A runtime pulls `127.0.0.1:PORT/…` by plain HTTP or by HTTPS, whichever it tries first: the first byte of a connection tells
//! which (0x16 begins a TLS record with a ClientHello, RFC 8446, section 5.1). The proxy sends the request to the registry's Service
//! by verified TLS.
//!
//! # What is forwarded
//!
//! GET and HEAD below `/v2/`, without a body, with the fields in [`request`]'s list and no others. So nothing that a client sends can
//! be taken for a second request. Redirects are passed on only if they stay in the registry: nodes may not reach anything else, and
//! a redirect elsewhere may carry credentials.
//!
//! A request without credentials gets those of the file, if there is one. It is read again when it changes, like the certificates,
//! so that a renewed Secret needs no restart.
//!
//! # Limits
//!
//! Connections, the size of heads, and the time of each wait: for a request, for the registry's connection and head, for the next
//! bytes of a body and for the client to take them. A body is passed on in pieces of at most [`upstream::PIECE`] bytes, and the next
//! piece is read when the client has taken one.
//!
//! # The port
//!
//! Another process may have the port, such as the seed that the proxy replaces. The proxy tries again every second, and is not ready
//! meanwhile. A loopback address that the node does not have (without IPv6, or without IPv4) is left out.

mod body;
mod certificate;
mod log_limit;
mod loopback;
mod reloaded;
mod request;
mod response;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::fault::Fault;
use crate::runtime::Health;
use crate::server::{Connection, ConnectionLimits};
use certificate::Certificate;
pub use loopback::Loopback;
use request::Forwarded;
use upstream::Upstream;

/// The content of a response.
type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The first byte of a TLS connection: the record type of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What the proxy connects to and what it proves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registry: `host:port`.
    pub registry: String,
    /// Connect to the registry by plain HTTP.
    pub plain_http: bool,
    /// The host in the names of images: the first key of the credentials.
    pub host: String,
    /// A docker `config.json` with the credentials for requests that have none.
    pub credentials: Option<PathBuf>,
    /// Files with the authorities (PEM) that are trusted in addition to those of the system.
    pub authorities: Vec<PathBuf>,
    /// The certificate and the key that the registry demands of clients.
    pub client_identity: Option<(PathBuf, PathBuf)>,
    /// The certificate and the key for runtimes; one is generated without them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The limits.
    pub limits: Limits,
}

/// What clients and the registry may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent connections to each loopback address; others wait to be accepted.
    pub connections: usize,
    /// How long a connection may wait for its first byte and for the head of its next request.
    pub idle: Duration,
    /// How long a client may take nothing of a response, and the registry may send nothing of it.
    pub stall: Duration,
    /// How long to try to connect to the registry, which may be starting.
    pub connect: Duration,
    /// How long the registry may take to send the head of a response, including the connection.
    pub head: Duration,
    /// How long open responses may take at the end.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            head: Duration::from_secs(60),
            shutdown: Duration::from_secs(20),
        }
    }
}

/// The proxy, without the addresses that it listens on.
pub struct NodeProxy {
    upstream: Upstream,
    certificate: Certificate,
    limits: Limits,
}

impl NodeProxy {
    /// Reads the files of `settings`.
    ///
    /// # Errors
    /// A stalled fault that says which file or value cannot be used. Credentials and authorities that do not exist yet are no error.
    pub async fn new(settings: Settings) -> Result<Self, Fault> {
        let limits = settings.limits;
        Ok(Self {
            certificate: Certificate::new(settings.identity.clone()).await?,
            upstream: Upstream::new(settings).await?,
            limits,
        })
    }

    /// Serves `port` of both loopback addresses until `stop`. Returns whether all responses were sent to their ends.
    pub async fn run(self, port: u16, health: &Health, stop: CancellationToken) -> bool {
        let proxy = Arc::new(self);
        let limits = proxy.limits;
        let serve_address = |address: Loopback| {
            let (proxy, stop, check) = (Arc::clone(&proxy), stop.clone(), address.check(port, health));
            async move {
                let Some(listener) = address.listen(port, &check, &stop).await else {
                    return true;
                };
                let end = stop.clone();
                let serve = |stream, from| Arc::clone(&proxy).serve(stream, from, stop.clone());
                listener.accept(limits.connections, end, limits.shutdown, serve).await
            }
        };
        let (first, second) = tokio::join!(serve_address(Loopback::V4), serve_address(Loopback::V6));
        first && second
    }

    /// Serves a connection.
    async fn serve(self: Arc<Self>, stream: TcpStream, from: SocketAddr, stop: CancellationToken) {
        let Limits { idle, stall, .. } = self.limits;
        let limits = ConnectionLimits { idle, stall };
        let connection = Connection { from, limits, stop };
        let mut first = [0];
        let peeked = tokio::select! {
            peeked = tokio::time::timeout(idle, stream.peek(&mut first)) => peeked,
            () = connection.stop.cancelled() => return,
        };
        let respond = |request| self.respond(request);
        match peeked {
            Ok(Ok(1)) if first == [TLS_HANDSHAKE] => {
                let tls = TlsAcceptor::from(self.certificate.current().await);
                if let Some(stream) = connection.handshake(&tls, stream).await {
                    connection.serve(stream, respond).await;
                }
            }
            Ok(Ok(1)) => connection.serve(stream, respond).await,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%from, %error, "a connection failed"),
            Err(_) => debug!(%from, "a connection sent nothing"),
        }
    }

    async fn respond(&self, request: Request<hyper::body::Incoming>) -> Response<Body> {
        match Forwarded::of(request.method(), request.uri(), request.headers()) {
            Ok(forwarded) => self.upstream.send(forwarded).await,
            Err(refusal) => refusal.response(),
        }
    }
}

#[cfg(test)]
mod tests;
