//! A slow proxy for a registry that counts the bytes it forwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

/// A connection that carried more than this number of bytes to the registry carries a blob.
const BLOB: u64 = 512 * 1024;

/// A throttled proxy. It has its own thread, because a test may block its runtime.
pub struct Throttle {
    /// `127.0.0.1:port`.
    pub host: String,
    state: Arc<State>,
    _end: oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Bytes per second to the registry, of all connections together; 0 means no limit.
    rate: AtomicU64,
    sent: AtomicU64,
    carrying: AtomicUsize,
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A proxy for `to` that forwards `rate` bytes per second to it; 0 means no limit.
    pub fn to(to: &str, rate: u64) -> Self {
        let to: SocketAddr = to.parse().expect("address and port");
        let state = Arc::new(State {
            rate: rate.into(),
            ..State::default()
        });
        let (end, ended) = oneshot::channel();
        let (started, address) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let socket = TcpSocket::new_v4().expect("a socket");
                // A small buffer, so that data of a cancelled request is not forwarded for seconds.
                socket.set_recv_buffer_size(64 * 1024).expect("a buffer");
                socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
                let listener = socket.listen(1024).expect("a listener");
                let host = listener.local_addr().expect("its address").to_string();
                let _ = started.send(host);
                tokio::select! {
                    () = accept(listener, to, shared) => {}
                    _ = ended => {}
                }
            });
        });
        let host = address.recv().expect("the thread listens");
        Self { host, state, _end: end }
    }

    /// Changes the rate; 0 means no limit.
    pub fn set_rate(&self, rate: u64) {
        self.state.rate.store(rate, Ordering::Relaxed);
    }

    /// Bytes sent to the registry.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Open connections that carried more than half a megabyte to the registry.
    pub fn carrying(&self) -> usize {
        self.state.carrying.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(to).await {
                join(client, server, &state).await;
            }
        });
    }
}

async fn join(client: TcpStream, server: TcpStream, state: &State) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut carried = Carried { bytes: 0, state };
    let _ = tokio::join!(
        pass(from_client, to_server, Some(&mut carried)),
        pass(from_server, to_client, None)
    );
}

/// The bytes of one connection; dropped when it ends.
struct Carried<'a> {
    bytes: u64,
    state: &'a State,
}

impl Carried<'_> {
    async fn count(&mut self, bytes: u64) {
        if self.bytes <= BLOB && self.bytes + bytes > BLOB {
            self.state.carrying.fetch_add(1, Ordering::Relaxed);
        }
        self.bytes += bytes;
        self.state.sent.fetch_add(bytes, Ordering::Relaxed);
        let rate = self.state.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let until = {
            let mut next = self.state.next.lock().await;
            let start = next.unwrap_or_else(Instant::now).max(Instant::now());
            let until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *next = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        if self.bytes > BLOB {
            self.state.carrying.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut carried: Option<&mut Carried<'_>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
        if let Some(carried) = &mut carried {
            carried.count(length as u64).await;
        }
    }
    let _ = to.shutdown().await;
}
