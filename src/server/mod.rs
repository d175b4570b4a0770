//! Health, readiness and metrics over HTTP, for kubelets and metrics collectors. All answers are read only, small, and
//! the same for every client. Also what all servers share: listening, and connections with limits.
//!
//! The server uses hyper directly: axum's server does not limit header sizes and connections, and three paths need no
//! router. A connection carries one request, so that its total time can be limited.

mod answer;
mod connection;
mod listen;
mod registry_error;
mod stall;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::runtime::{Health, Metrics};
use answer::RequestHandler;
pub use connection::{Connection, ConnectionLimits};
pub use listen::{ListenAddress, ListenError, Listener};
pub use registry_error::registry_error;
pub use tls::server_config;

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

/// A server that listens but does not respond yet.
#[derive(Debug)]
pub struct Server(Listener);

impl Server {
    /// Listens on `address`.
    pub async fn bind(address: &ListenAddress) -> Result<Self, ListenError> {
        Listener::bind(address).await.map(Self)
    }

    /// The address that it listens on; the port is never 0.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Responds until [`ServerHandle::end`]. After `stop`, the process is not ready.
    pub fn start(self, metrics: Metrics, health: Health, stop: CancellationToken) -> ServerHandle {
        info!(address = %self.address(), "listening");
        let end = CancellationToken::new();
        let handler = Arc::new(RequestHandler { metrics, health, stop });
        let ended = end.clone();
        let task = tokio::spawn(async move {
            let serve = |stream, _| {
                let handler = Arc::clone(&handler);
                async move { serve_connection(stream, &handler).await }
            };
            self.0.accept(CONNECTION_LIMIT, ended, SHUTDOWN_TIMEOUT, serve).await;
        });
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
        let error = Server::bind(&ListenAddress::from(first.address()))
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
}
