//! What an engine receives, and how long its answers may be.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::events::EVENT_LIMIT;
use super::request::ANSWER_LIMIT;
use super::{ApiVersion, Engine, EventError};
use crate::fault::Fault;
use crate::source::ImageChange;
use crate::source::docker::ImageEvents;

/// An engine that answers `/version`, and anything else with `head` and then `body` again and again.
async fn endless(head: &'static str, body: &'static [u8]) -> Engine {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = connection.read(&mut request).await.unwrap();
                if request[..length].starts_with(b"GET /version ") {
                    let version = b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{\"ApiVersion\":\"1.41\"}";
                    connection.write_all(version).await.unwrap();
                    return;
                }
                connection.write_all(head.as_bytes()).await.unwrap();
                while connection.write_all(body).await.is_ok() {}
            });
        }
    });
    Engine::new(Some(&host), Duration::from_secs(5)).unwrap()
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\n\r\n{\"ID\":\"";

#[tokio::test]
async fn an_answer_without_an_end_is_refused() {
    let engine = endless(ANSWER, &[b'a'; 65536]).await;
    let too_long = |fault: Fault| {
        let expected = format!("its answer has more than {ANSWER_LIMIT} bytes");
        assert!(fault.message.contains(&expected), "{fault}");
    };
    too_long(engine.ping().await.unwrap_err());
    too_long(engine.storage_kind().await.unwrap_err());
    too_long(engine.list_names("*").await.unwrap_err());
    too_long(engine.inspect("app:dev").await.unwrap_err());
    let failing = endless("HTTP/1.1 500 No\r\n\r\n", &[b'a'; 65536]).await;
    too_long(failing.storage_kind().await.unwrap_err());
    let fault = failing.export("app:dev", None).await.err().unwrap();
    assert!(fault.message.contains("HTTP status 500"), "{fault}");
}

#[tokio::test]
async fn an_event_without_an_end_is_refused() {
    let engine = endless(ANSWER, &[b'a'; 65536]).await;
    let mut events = engine.events().await.unwrap();
    assert_eq!(events.next().await.unwrap_err(), EventError::Ended);
}

#[tokio::test]
async fn events_are_limited_one_by_one() {
    let engine = endless("HTTP/1.1 200 OK\r\n\r\n", b"{\"Type\":\"image\",\"Action\":\"tag\"}\n").await;
    let mut events = engine.events().await.unwrap();
    for _ in 0..2 * EVENT_LIMIT / 32 {
        assert_eq!(events.next().await.unwrap().action.as_deref(), Some("tag"));
    }
    let unreadable = endless("HTTP/1.1 200 OK\r\n\r\n", b"not json\n").await;
    let mut events = unreadable.events().await.unwrap();
    assert_eq!(events.next().await.unwrap_err(), EventError::Unreadable);
    let mut changes = ImageEvents::new(unreadable);
    for _ in 0..2 {
        assert_eq!(changes.next().await, ImageChange::Resync);
        assert_eq!(changes.next().await, ImageChange::Changed { name: None });
    }
}

#[tokio::test]
async fn requests_name_the_version_and_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let engine = Engine::new(Some(&format!("tcp://{authority}")), Duration::from_secs(5)).unwrap();
    *engine.known_version() = Some(ApiVersion(1, 48));
    let serve = async {
        let mut seen = Vec::new();
        for body in ["{\"ID\":\"a\"}", "{\"Id\":\"sha256:0\"}"] {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = connection.read(&mut request).await.unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
            seen.push(String::from_utf8(request[..length].to_vec()).unwrap());
        }
        seen
    };
    let (_, seen) = tokio::join!(
        async { (engine.storage().await.unwrap(), engine.inspect("a:1").await) },
        serve
    );
    assert!(seen[0].starts_with("GET /v1.48/info HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(
        seen[1].starts_with("GET /v1.48/images/a:1/json?manifests=1 HTTP/1.1\r\n"),
        "{}",
        seen[1]
    );
    for request in seen {
        assert!(request.contains(&format!("host: {authority}\r\n")), "{request}");
    }
}
