//! The loopback addresses of a node.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::runtime::{Health, ReadinessCheck};
use crate::server::{ListenAddress, ListenError, Listener};

/// The time between two attempts to listen.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The time between two lines of the log about an address that cannot be listened on.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// 127.0.0.1
    V4,
    /// `::1`
    V6,
}

impl Loopback {
    fn address(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, port).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }

    /// A check that is not ready until [`Self::listen`] ends.
    pub(super) fn check(self, port: u16, health: &Health) -> ReadinessCheck {
        health.check(Some(format!("it does not listen on {} yet", self.address(port))))
    }

    /// Listens on the address, as soon as no other process does. `None` if the node has no such address, or after `stop`.
    pub(super) async fn listen(self, port: u16, check: &ReadinessCheck, stop: &CancellationToken) -> Option<Listener> {
        let address = self.address(port);
        let mut logged: Option<Instant> = None;
        loop {
            let error = match Listener::bind(&ListenAddress::from(address)).await {
                Ok(listener) => {
                    info!(%address, "listening");
                    check.set(None);
                    return Some(listener);
                }
                Err(ListenError::Refused { error, .. }) if is_missing(&error) => {
                    info!(%address, "the node has no such address");
                    check.set(None);
                    return None;
                }
                Err(error) => error.to_string(),
            };
            if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                warn!(%address, %error, "cannot listen; another process may have the port; trying again every second");
                logged = Some(Instant::now());
            }
            check.set(Some(format!("it cannot listen on {address}: {error}")));
            tokio::select! {
                () = tokio::time::sleep(RETRY_DELAY) => {}
                () = stop.cancelled() => return None,
            }
        }
    }
}

/// Whether the machine does not have the address.
fn is_missing(error: &std::io::Error) -> bool {
    [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT]
        .iter()
        .any(|missing| error.raw_os_error() == Some(missing.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_busy_port_is_taken_when_it_is_free() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        let (health, stop) = (Health::default(), CancellationToken::new());
        let check = Loopback::V4.check(port, &health);
        let listening = Loopback::V4.listen(port, &check, &stop);
        tokio::pin!(listening);
        let none = tokio::time::timeout(RETRY_DELAY * 2, listening.as_mut()).await;
        assert!(none.is_err());
        let problem = health.ready().unwrap_err();
        assert!(problem.contains("Address already in use"), "{problem}");
        drop(other);
        let listener = tokio::time::timeout(RETRY_DELAY * 3, listening).await.unwrap();
        assert_eq!(listener.unwrap().address().port(), port);
        assert_eq!(health.ready(), Ok(()));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_process() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        let (health, stop) = (Health::default(), CancellationToken::new());
        let check = Loopback::V4.check(port, &health);
        stop.cancel();
        assert!(Loopback::V4.listen(port, &check, &stop).await.is_none());
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }

    #[test]
    fn an_address_of_another_family_is_missing() {
        for (errno, missing) in [
            (Errno::AFNOSUPPORT, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::ADDRINUSE, false),
        ] {
            assert_eq!(
                is_missing(&std::io::Error::from_raw_os_error(errno.raw_os_error())),
                missing
            );
        }
    }
}
