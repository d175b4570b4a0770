//! Listens on an address and accepts a limited number of connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

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

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address)
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

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the system refuses it.
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

    /// Runs `serve` for each connection, at most `limit` at once, until `end`. Then the open connections have `grace` to
    /// complete. Returns whether all did.
    pub async fn accept<F>(
        self,
        limit: usize,
        end: CancellationToken,
        grace: Duration,
        serve: impl Fn(TcpStream, SocketAddr) -> F,
    ) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let permits = Arc::new(Semaphore::new(limit));
        let connections = TaskTracker::new();
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                Some((permit, self.listener.accept().await))
            };
            let accepted = tokio::select! {
                () = end.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Some((permit, Ok((stream, from)))) => {
                    // A response is written in large pieces: none of them has to wait for more.
                    let _ = stream.set_nodelay(true);
                    let serving = serve(stream, from);
                    connections.spawn(async move {
                        serving.await;
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
        drop(self.listener);
        connections.close();
        tokio::time::timeout(grace, connections.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
