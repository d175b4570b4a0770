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

/// Connections at once; more of them wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take in all: it has one request, and the answer is short.
const CONNECTION: Duration = Duration::from_secs(15);
/// The longest head in bytes.
const HEAD_SIZE: usize = 16 * 1024;
/// How long connections that are open may still take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted, for want of file descriptors for instance.
const REFUSED: Duration = Duration::from_millis(200);

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(SocketAddr);

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        text.parse().map(Self).map_err(|_| ListenError::Unreadable)
    }
}

impl ListenAddress {
    /// Every IPv4 address instead, where every address was meant and the machine has no IPv6.
    fn without_ipv6(self, error: &std::io::Error) -> Option<SocketAddr> {
        let lacks_ipv6 = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        (lacks_ipv6 && self.0.is_ipv6() && self.0.ip().is_unspecified())
            .then(|| (Ipv4Addr::UNSPECIFIED, self.0.port()).into())
    }
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It is no address.
    #[error("write an IP address and a port, such as 127.0.0.1:8080 or [::]:8080")]
    Unreadable,
    /// The system refuses.
    #[error("--listen {address}: {error}; choose an address of this machine and a port that is free")]
    Refused {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Listens, and answers nothing yet.
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

    /// Where it listens; the port is never 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until [`ServerHandle::end`]; from `stop` on the process is not ready.
    pub fn start(self, metrics: Metrics, health: Health, stop: CancellationToken) -> ServerHandle {
        info!(address = %self.address, "listening");
        let end = CancellationToken::new();
        let answerer = Arc::new(RequestHandler { metrics, health, stop });
        let task = tokio::spawn(accept(self.listener, answerer, end.clone()));
        ServerHandle(Some((end, task)))
    }
}

/// Answers as long as this lives, or nothing at all.
#[derive(Debug, Default)]
pub struct ServerHandle(Option<(CancellationToken, tokio::task::JoinHandle<()>)>);

impl ServerHandle {
    /// Accepts no more, gives the last answers and returns.
    pub async fn end(mut self) {
        if let Some((end, task)) = self.0.take() {
            end.cancel();
            // It is bounded by LAST_ANSWERS.
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

async fn accept(listener: TcpListener, answerer: Arc<RequestHandler>, end: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Some((place, Ok((stream, _)))) => {
                let answerer = Arc::clone(&answerer);
                connections.spawn(async move {
                    converse(stream, &answerer).await;
                    drop(place);
                });
            }
            Some((_, Err(error))) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REFUSED).await;
            }
            None => break,
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(LAST_ANSWERS, connections.wait()).await;
}

/// One request and its answer. A body is not read: what asks for nothing but reading needs none.
async fn converse(stream: TcpStream, answerer: &RequestHandler) {
    let answer = service_fn(async |request| Ok::<_, std::convert::Infallible>(answerer.answer(&request)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection broke"),
        Err(_) => debug!("a connection took too long"),
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

    async fn said(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_over_http_until_the_end() {
        let (address, serving) = server().await;
        let answer = said(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let answer = said(address, "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(
            answer.contains("content-length: 3\r\n") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
        // A body that never comes is not waited for.
        let answer = said(
            address,
            "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n",
        );
        let answer = answer.await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        serving.end().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn who_says_nothing_holds_up_nobody() {
        let (address, serving) = server().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS + 1 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Those that said nothing for a while are gone by then.
        let asked = std::time::Instant::now();
        let answer = said(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            asked.elapsed() > HEAD / 2,
            "it was not waited for: {:?}",
            asked.elapsed()
        );
        assert!(asked.elapsed() < CONNECTION, "{:?}", asked.elapsed());
        serving.end().await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_at_once() {
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
    fn a_machine_without_ipv6_gives_its_ipv4_addresses() {
        let lacking = std::io::Error::from_raw_os_error(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        let all: ListenAddress = "[::]:80".parse().unwrap();
        assert_eq!(all.without_ipv6(&lacking), Some(([0, 0, 0, 0], 80).into()));
        let one: ListenAddress = "[::1]:80".parse().unwrap();
        assert_eq!(one.without_ipv6(&lacking), None);
        assert_eq!(all.without_ipv6(&std::io::ErrorKind::AddrInUse.into()), None);
    }
}
