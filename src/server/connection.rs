//! Connections with several requests, one after the other, whose clients may be slow or hostile.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::stall::StallLimit;

/// The timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of a request's head in bytes.
const HEAD_SIZE: usize = 16 * 1024;

/// How long a client may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How long a connection may wait for the head of its next request.
    pub idle: Duration,
    /// How long a client may take nothing of a response.
    pub stall: Duration,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub from: SocketAddr,
    /// Its limits.
    pub limits: ConnectionLimits,
    /// Ends the connection after the current response.
    pub stop: CancellationToken,
}

impl Connection {
    /// Begins TLS; `None` if the client fails to, which is logged.
    pub async fn handshake(&self, tls: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = self.stop.cancelled() => return None,
        };
        let from = self.from;
        match accepted {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => debug!(%from, %error, "a TLS handshake failed"),
            Err(_) => debug!(%from, "a TLS handshake timed out"),
        }
        None
    }

    /// Responds to requests until the client ends the connection, or `stop`.
    pub async fn serve<B, F>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        respond: impl Fn(Request<Incoming>) -> F,
    ) where
        B: Body + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Future<Output = Response<B>>,
    {
        let from = self.from;
        let answer = service_fn(|request: Request<Incoming>| {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let response = respond(request);
            async move {
                let response = response.await;
                let status = response.status().as_u16();
                debug!(%from, %method, %uri, status, "request");
                Ok::<_, Infallible>(response)
            }
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
