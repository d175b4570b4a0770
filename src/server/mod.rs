//! Health, readiness and metrics over HTTP, for kubelets and metrics collectors. All answers are read only, small, and
//! the same for every client.
//!
//! The server uses hyper directly: axum's server does not limit header sizes and connections, and three paths need no
//! router. A connection carries one request, so that its total time can be limited.

mod answer;

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::runtime::{Health, Metrics};
use answer::RequestHandler;

/// Concurrent connections; others wait to be accepted.
const CONNECTION_LIMIT: usize = 64;
/// The timeout of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of a connection, which has one request and a short response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// The maximum size of a request's head in bytes.
const HEAD_SIZE: usize = 16 * 1024;
/// How long open connections may take at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay after a failed accept, such as without free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(SocketAddr);

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        text.parse().map(Self).map_err(|_| ListenError::Invalid)
    }
}

impl ListenAddress {
    /// All IPv4 addresses, if `self` is all addresses and the machine has no IPv6.
    fn without_ipv6(self, error: &std::io::Error) -> Option<SocketAddr> {
        let lacks_ipv6 = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        (lacks_ipv6 && self.0.is_ipv6() && self.0.ip().is_unspecified())
            .then(|| (Ipv4Addr::UNSPECIFIED, self.0.port()).into())
    }
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The text is not an address.
    #[error("write an IP address and a port, such as 127.0.0.1:8080 or [::]:8080")]
    Invalid,
    /// The system refused the address.
    #[error("--listen {address}: {error}; use an address of this machine and a free port")]
    Refused {
        /// The requested address.
        address: SocketAddr,
        /// The error of the system.
        error: std::io::Error,
    },
}

/// A server that listens but does not respond yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens on `address`.
    pub async fn bind(address: &ListenAddress) -> Result<Self, ListenError> {
        let refused = |error| {
            let address = address.0;
            ListenError::Refused { address, error }
        };
        let bound = match TcpListener::bind(address.0).await {
            Ok(listener) => Ok(listener),
            Err(error) => match address.without_ipv6(&error) {
                Some(address) => TcpListener::bind(address).await,
                None => Err(error),
            },
        };
        let listener = bound.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }

    /// The address that it listens on; the port is never 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Responds until [`ServerHandle::end`]. After `stop`, the process is not ready.
    pub fn start(self, metrics: Metrics, health: Health, stop: CancellationToken) -> ServerHandle {
        info!(address = %self.address, "listening");
        let end = CancellationToken::new();
        let handler = Arc::new(RequestHandler { metrics, health, stop });
        let task = tokio::spawn(accept(self.listener, handler, end.clone()));
        ServerHandle(Some((end, task)))
    }
}

/// A running server, stopped on drop; or none.
#[derive(Debug, Default)]
pub struct ServerHandle(Option<(CancellationToken, tokio::task::JoinHandle<()>)>);

impl ServerHandle {
    /// Stops accepting, completes open connections and returns.
    pub async fn end(mut self) {
        if let Some((end, task)) = self.0.take() {
            end.cancel();
            // The task ends within SHUTDOWN_TIMEOUT.
            let _ = task.await;
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if let Some((end, _)) = &self.0 {
            end.cancel();
        }
    }
}

async fn accept(listener: TcpListener, handler: Arc<RequestHandler>, end: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Some((permit, Ok((stream, _)))) => {
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    serve_connection(stream, &handler).await;
                    drop(permit);
                });
            }
            Some((_, Err(error))) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
            None => break,
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connections.wait()).await;
}

/// Serves one request. The body is not read, because only GET and HEAD are allowed.
async fn serve_connection(stream: TcpStream, handler: &RequestHandler) {
    let answer = service_fn(async |request| Ok::<_, std::convert::Infallible>(handler.respond(&request)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection failed"),
        Err(_) => debug!("a connection timed out"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn server() -> (SocketAddr, ServerHandle) {
        let server = Server::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        let serving = server.start(Metrics::default(), Health::default(), CancellationToken::new());
        (address, serving)
    }

    async fn response(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn responds_over_http_until_the_end() {
        let (address, serving) = server().await;
        let answer = response(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let answer = response(address, "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(
            answer.contains("content-length: 3\r\n") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
        // The body is not read.
        let answer = response(
            address,
            "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n",
        );
        let answer = answer.await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        serving.end().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn silent_connections_time_out() {
        let (address, serving) = server().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTION_LIMIT + 1 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // A permit is free after the first connections timed out.
        let begun = std::time::Instant::now();
        let answer = response(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            begun.elapsed() > HEAD_TIMEOUT / 2,
            "it did not wait: {:?}",
            begun.elapsed()
        );
        assert!(begun.elapsed() < CONNECTION_TIMEOUT, "{:?}", begun.elapsed());
        serving.end().await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error() {
        let first = Server::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = Server::bind(&ListenAddress(first.address()))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("--listen {}: Address already in use", first.address())),
            "{error}"
        );
        let error = ":8080".parse::<ListenAddress>().unwrap_err().to_string();
        assert!(error.starts_with("write an IP address and a port"), "{error}");
    }

    #[test]
    fn without_ipv6_all_ipv4_addresses_are_used() {
        let lacking = std::io::Error::from_raw_os_error(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        let all: ListenAddress = "[::]:80".parse().unwrap();
        assert_eq!(all.without_ipv6(&lacking), Some(([0, 0, 0, 0], 80).into()));
        let one: ListenAddress = "[::1]:80".parse().unwrap();
        assert_eq!(one.without_ipv6(&lacking), None);
        assert_eq!(all.without_ipv6(&std::io::ErrorKind::AddrInUse.into()), None);
    }
}
