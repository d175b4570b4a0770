//! Slow and broken clients and registries, with short limits.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::server::{ListenAddress, Listener};

const LIMITS: Limits = Limits {
    connections: 8,
    idle: Duration::from_millis(300),
    stall: Duration::from_millis(300),
    connect: Duration::from_millis(600),
    head: Duration::from_millis(800),
    shutdown: Duration::from_secs(5),
};

/// The address of a proxy for `registry`.
async fn proxy(registry: &str) -> SocketAddr {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = Settings {
        registry: registry.to_owned(),
        plain_http: true,
        host: "127.0.0.1".to_owned(),
        credentials: None,
        authorities: Vec::new(),
        client_identity: None,
        identity: None,
        limits: LIMITS,
    };
    let proxy = Arc::new(NodeProxy::new(settings).await.unwrap());
    let listener = Listener::bind(&ListenAddress::from(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let listener = listener.unwrap();
    let address = listener.address();
    tokio::spawn(async move {
        let serve = |stream, from| Arc::clone(&proxy).serve(stream, from, CancellationToken::new());
        listener
            .accept(LIMITS.connections, CancellationToken::new(), LIMITS.shutdown, serve)
            .await
    });
    address
}

/// A registry that reads each request and answers `answer`, then does nothing.
async fn registry(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            open.push(stream);
        }
    });
    address
}

/// Everything that the proxy answers to `request`, until it closes the connection.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

const GET: &str = "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_registry_that_is_gone_or_silent_is_an_error_of_a_registry() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let begun = Instant::now();
    let answer = exchange(proxy(&gone).await, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"),
        "{answer}"
    );
    assert!(
        answer.contains("\"UNAVAILABLE\"") && answer.contains("Connection refused"),
        "{answer}"
    );
    assert!(
        begun.elapsed() > LIMITS.connect / 3,
        "it does not try again: {:?}",
        begun.elapsed()
    );
    let answer = exchange(proxy(&registry("").await).await, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("did not respond in 0.8 s"),
        "{answer}"
    );
    let answer = exchange(proxy(&registry("HTTP/1.1 200 OK\r\nbroken\r\n\r\n").await).await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_stops_is_never_complete() {
    let partial = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    let answer = exchange(proxy(&registry(partial).await).await, GET).await;
    assert!(
        answer.contains("content-length: 10") && answer.ends_with("12345"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_redirect_away_is_refused() {
    let away =
        "HTTP/1.1 307 T\r\nLocation: https://s3.example.com/b?X-Amz-Signature=secret\r\nContent-Length: 0\r\n\r\n";
    let answer = exchange(proxy(&registry(away).await).await, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("storage.redirect.disable: true"),
        "{answer}"
    );
    assert!(
        answer.contains("https://s3.example.com/b,") && !answer.contains("secret"),
        "{answer}"
    );
    let within = "HTTP/1.1 307 T\r\nLocation: /v2/x\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n";
    let answer = exchange(proxy(&registry(within).await).await, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 307 ") && answer.contains("location: /v2/x\r\n"),
        "{answer}"
    );
    assert!(!answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn slow_and_silent_clients_are_left() {
    let address = proxy(&registry("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await).await;
    let mut silent = Vec::new();
    for _ in 0..LIMITS.connections {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // A permit is free after the first ones are closed.
    assert!(exchange(address, GET).await.ends_with("ok"));
    // Slowly sent heads, by HTTP and as a TLS record of 16 KiB.
    for first in ["GET /v2/ HTTP/1.1\r\nA: ", "\x16\x03\x01\x40\x00"] {
        // The proxy may count from the connection on, and this test may be suspended after it.
        let begun = Instant::now();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(first.as_bytes()).await.unwrap();
        let closed = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if slow.write_all(b"a").await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), closed).await.unwrap();
        assert!(begun.elapsed() >= LIMITS.idle / 2, "{:?}", begun.elapsed());
    }
    let large = format!("GET /v2/ HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(100_000));
    let answer = exchange(address, &large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
