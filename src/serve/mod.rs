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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::server::{Connection, ConnectionLimits, ListenAddress, ListenError, Listener};
use answer::respond;
pub use content::{Content, Counts};

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
                from,
                limits: ConnectionLimits {
                    idle: limits.idle,
                    stall: limits.stall,
                },
                stop: stop.clone(),
            };
            serve_content(connection, stream, tls.clone(), Arc::clone(&content))
        };
        listener.accept(limits.connections, end, limits.shutdown, serve).await
    }
}

async fn serve_content(connection: Connection, stream: TcpStream, tls: Option<TlsAcceptor>, content: Arc<Content>) {
    let answer = |request| std::future::ready(respond(&content, &request));
    match tls {
        None => connection.serve(stream, answer).await,
        Some(tls) => {
            if let Some(stream) = connection.handshake(&tls, stream).await {
                connection.serve(stream, answer).await;
            }
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
