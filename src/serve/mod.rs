//! A read-only registry that serves archives as they are (OCI distribution specification 1.1, "Pull" and "Content Discovery").
//!
//! # Names
//!
//! An image has every name that `load` with the same prefix and naming gives it, and its own name with and without the host of its
//! registry. A client that asks a mirror (containerd, `?ns=HOST`) gets only images of that host, and what belongs to no registry:
//! packages, and names that webhooks make. A package has the index that `load` writes, so that its digest is the same.
//!
//! Every repository has the content of all archives: nothing is kept from a client that reaches the server.
//!
//! # Verification
//!
//! Manifests were verified when the archive was opened. A blob is hashed while it is sent for the first time. Its last bytes follow
//! when the digest is the right one; otherwise the connection is closed, so no client has a complete response with wrong content. A
//! part of a blob is not verified: the client verifies what it puts together.
//!
//! # Manifests for old clients
//!
//! A client gets the manifest or index that the tag names. One that accepts single manifests alone gets the manifest for linux/amd64
//! from an index, as from other registries.
//!
//! # Memory
//!
//! A connection has at most three pieces of a blob of 512 KiB each, and one frame of 8 MiB where the content is compressed. A piece is
//! read when the client has taken one.

mod accept;
mod answer;
mod catalog;
mod content;
mod page;
mod range;
mod route;
mod stall;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::server::{ListenAddress, ListenError, Listener};
use answer::respond;
pub use content::{Content, Counts};
use stall::StallLimit;
pub use tls::server_config;

/// The timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of a request's head in bytes.
const HEAD_SIZE: usize = 16 * 1024;
/// What clients may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent connections; others wait to be accepted.
    pub connections: usize,
    /// How long a connection may wait for the head of its next request.
    pub idle: Duration,
    /// How long a client may take nothing of a response.
    pub stall: Duration,
    /// How long open responses may take at the end.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// A server that listens but does not respond yet.
pub struct Server {
    listener: Listener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens on `address`, for TLS with `tls`.
    ///
    /// # Errors
    /// When the system refuses the address.
    pub async fn bind(address: &ListenAddress, tls: Option<rustls::ServerConfig>) -> Result<Self, ListenError> {
        Ok(Self {
            listener: Listener::bind(address).await?,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
        })
    }

    /// The address that it listens on; the port is never 0.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves `content` until `stop`. Returns whether all responses were sent to their ends.
    pub async fn run(self, content: Arc<Content>, limits: Limits, stop: CancellationToken) -> bool {
        let Self { listener, tls } = self;
        let end = stop.clone();
        let serve = |stream, from| {
            let connection = Connection {
                content: Arc::clone(&content),
                limits,
                from,
                stop: stop.clone(),
            };
            connection.accept(stream, tls.clone())
        };
        listener.accept(limits.connections, end, limits.shutdown, serve).await
    }
}

/// What a connection needs.
struct Connection {
    content: Arc<Content>,
    limits: Limits,
    /// The client.
    from: SocketAddr,
    stop: CancellationToken,
}

impl Connection {
    async fn accept(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // A response is written in large pieces: none of them has to wait for more.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve(stream).await;
        };
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = self.stop.cancelled() => return,
        };
        let from = self.from;
        match accepted {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => debug!(%from, %error, "a TLS handshake failed"),
            Err(_) => debug!(%from, "a TLS handshake timed out"),
        }
    }

    /// Serves requests, one after the other, until the client ends the connection or `stop`.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let from = self.from;
        let answer = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let response = respond(&self.content, &request);
            let (method, uri, status) = (request.method(), request.uri(), response.status().as_u16());
            debug!(%from, %method, %uri, status, "request");
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(StallLimit::new(stream, self.limits.stall)), answer);
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            debug!(%from, %error, "a connection failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::oci::Naming;

    const LIMITS: Limits = Limits {
        connections: 4,
        idle: Duration::from_millis(500),
        stall: Duration::from_secs(10),
        shutdown: Duration::from_secs(10),
    };

    async fn response(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn silent_connections_are_bounded_and_time_out() {
        let server = Server::bind(&"127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let address = server.address();
        let content = Arc::new(Content::new(Vec::new(), "", Naming::Plain).unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(content, LIMITS, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..LIMITS.connections {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let begun = Instant::now();
        let answer = response(address).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(begun.elapsed() > LIMITS.idle / 2, "{:?}", begun.elapsed());
        let mut rest = Vec::new();
        silent.pop().unwrap().read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
        stop.cancel();
        assert!(running.await.unwrap());
        assert!(TcpStream::connect(address).await.is_err());
    }
}
