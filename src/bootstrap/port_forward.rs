//! Connections to a port of a pod through the API server (`pods/portforward`), also for clients that need a local address.
//!
//! Each connection opens a WebSocket of its own, so a broken one ends only what it carries, and the next connection opens a new one.
//! The protocol has no half-closed connections: it ends when either side ends its direction.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Portforwarder;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bootstrap::text::clean;
use crate::fault::{Fault, Reason};

/// How long the API server and the kubelet may take to open a connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may carry nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the other direction may continue after one ended.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the process has no descriptor for another connection.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);
/// Connections at the same time; others wait.
const MAX_CONNECTIONS: usize = 32;
/// Bytes that a connection reads at once in each direction. Another 2 MiB are in the connection to the API server.
const BUFFER: usize = 64 * 1024;

/// A port of a pod.
#[derive(Clone)]
pub struct PodPort {
    /// The client of the cluster.
    pub client: Client,
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub pod: String,
    /// The port in the network namespace of the pod, on its loopback address.
    pub port: u16,
}

/// One connection to a port of a pod. Dropping it ends the connection. A read fails with what the node says, if it refuses the
/// connection.
pub struct Tunnel {
    stream: DuplexStream,
    refusal: Pin<Box<dyn Future<Output = Option<String>> + Send>>,
    task: Task,
}

/// Carries the bytes between the stream and the WebSocket. It is aborted on drop, because it may wait for a dead connection.
struct Task(Option<Portforwarder>);

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(forwarder) = &self.0 {
            forwarder.abort();
        }
    }
}

impl PodPort {
    /// Opens a connection. That the port is open is known only when the pod sends something.
    ///
    /// # Errors
    /// A stalled fault if the API server forbids it, else a retryable one; [`Reason::NodeUnavailable`] if there is no such pod.
    pub async fn open(&self) -> Result<Tunnel, Fault> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let ports = [self.port];
        let mut forwarder = match timeout(OPEN_TIMEOUT, api.portforward(&self.pod, &ports)).await {
            Ok(Ok(forwarder)) => forwarder,
            Ok(Err(error)) => return Err(self.open_fault(&error)),
            Err(_) => {
                let seconds = OPEN_TIMEOUT.as_secs();
                return Err(self.fault(&format!("the API server did not open the connection in {seconds} s")));
            }
        };
        let (Some(stream), Some(refusal)) = (forwarder.take_stream(self.port), forwarder.take_error(self.port)) else {
            return Err(self.fault("the client of the cluster has no stream for the port"));
        };
        Ok(Tunnel {
            stream,
            refusal: Box::pin(refusal),
            task: Task(Some(forwarder)),
        })
    }

    fn open_fault(&self, error: &kube::Error) -> Fault {
        let status = match error {
            kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(status)) => {
                status.as_u16()
            }
            kube::Error::Api(status) => status.code,
            _ => 0,
        };
        match status {
            401 | 403 => Fault::stalled(
                Reason::AuthenticationFailed,
                format!(
                    "{}: the API server answers {status}: allow the account to `create` pods/portforward in the namespace {}",
                    self.describe(),
                    self.namespace
                ),
            ),
            404 => Fault::retryable(
                Reason::NodeUnavailable,
                format!("{}: the pod does not exist any more", self.describe()),
            ),
            _ => self.fault(&error.to_string()),
        }
    }

    pub(super) fn fault(&self, what: &str) -> Fault {
        Fault::retryable(Reason::PushFailed, format!("{}: {what}", self.describe()))
    }

    fn describe(&self) -> String {
        format!("port {} of the pod {}/{}", self.port, self.namespace, self.pod)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() == before
            && let Poll::Ready(refusal) = self.refusal.as_mut().poll(context)
        {
            self.refusal = Box::pin(std::future::pending());
            if let Some(refusal) = refusal {
                let refusal = clean(&refusal, 500);
                return Poll::Ready(Err(io::Error::other(refusal)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Tunnel {
    /// Ends the connection.
    ///
    /// # Errors
    /// Why it ended before, if it broke.
    async fn end(self) -> io::Result<()> {
        let Self { stream, mut task, .. } = self;
        drop(stream);
        let Some(forwarder) = task.0.take() else { return Ok(()) };
        // It may wait for a dead connection.
        match timeout(END_TIMEOUT, forwarder.join()).await {
            Ok(joined) => joined.map_err(io::Error::other),
            Err(_) => Ok(()),
        }
    }
}

/// A local address whose connections go to a port of a pod, until it is dropped.
pub struct PortForward {
    address: SocketAddr,
    failure: Arc<Mutex<Option<String>>>,
    _stop: DropGuard,
}

impl PortForward {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// A retryable fault, if there is no free port.
    pub async fn start(client: Client, namespace: &str, pod: &str, port: u16) -> Result<Self, Fault> {
        let to = PodPort {
            client,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            port,
        };
        let bind =
            |error: io::Error| Fault::retryable(Reason::InternalError, format!("cannot listen on 127.0.0.1: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let stop = CancellationToken::new();
        let failure = Arc::default();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(accept(listener, to, Arc::clone(&failure), stop.clone())),
        );
        Ok(Self {
            address,
            failure,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why the last connection that failed did, for messages.
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

async fn accept(listener: TcpListener, to: PodPort, failure: Arc<Mutex<Option<String>>>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let Ok((local, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_DELAY).await;
            continue;
        };
        let (to, failure) = (to.clone(), Arc::clone(&failure));
        let connection = async move {
            let _permit = permit;
            if let Err(error) = forward(local, &to).await {
                tracing::debug!(%error, "a forwarded connection failed");
                *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error.message);
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

/// Carries one connection. A local client whose connection failed sees a reset, not an end that it could take for the end of an
/// answer.
async fn forward(mut local: TcpStream, to: &PodPort) -> Result<(), Fault> {
    let _ = local.set_nodelay(true);
    let result = async {
        let mut tunnel = to.open().await?;
        let relayed = relay(&mut local, &mut tunnel).await;
        let ended = tunnel.end().await;
        relayed.and(ended).map_err(|error| to.fault(&error.to_string()))
    }
    .await;
    match &result {
        Ok(()) => {
            let _ = timeout(END_TIMEOUT, local.shutdown()).await;
        }
        Err(_) => {
            let _ = local.set_zero_linger();
        }
    }
    result
}

/// Copies in both directions until one ends, and what the other still has.
async fn relay(local: &mut TcpStream, remote: &mut Tunnel) -> io::Result<()> {
    let carried = AtomicU64::new(0);
    let (from_local, to_local) = local.split();
    let (from_remote, to_remote) = tokio::io::split(remote);
    let mut up = pin!(copy(from_local, to_remote, true, &carried));
    // The local connection is ended when it is known whether the other one failed.
    let mut down = pin!(copy(from_remote, to_local, false, &carried));
    let mut idle = pin!(until_idle(&carried));
    tokio::select! {
        ended = &mut up => {
            ended?;
            timeout(END_TIMEOUT, down).await.unwrap_or(Ok(()))
        }
        // What the pod no longer reads is lost in any case.
        ended = &mut down => ended,
        () = &mut idle => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    ends: bool,
    carried: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        carried.fetch_add(read as u64, Ordering::Relaxed);
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        carried.fetch_add(read as u64, Ordering::Relaxed);
    }
    to.flush().await?;
    if ends {
        to.shutdown().await?;
    }
    Ok(())
}

/// Returns when `carried` stays the same for [`IDLE_TIMEOUT`].
async fn until_idle(carried: &AtomicU64) {
    let mut before = carried.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(IDLE_TIMEOUT).await;
        let now = carried.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}
