//! `proxy`: what of a connection reaches the registry, and what slow clients cost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use jackal_operator::oci::Digest;
use reqwest::{Method, StatusCode};

use crate::node_proxy::{Proxy, SECURE};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{noise, of_layer, put};
use crate::support::registry::{TestRegistry, Version, unused_port};
use crate::support::wait::SOON;
use crate::support::workspace::Workspace;

// The recorder runs in this process, and the client blocks.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_request_reaches_the_registry() {
    let registry = TestRegistry::start(Version::V31);
    let recorder = FaultProxy::to(&registry.host, |_| Action::Pass);
    let workspace = Workspace::new();
    let arguments = vec![format!("--registry={}", recorder.host), "--plain-http".to_owned()];
    let proxy = Proxy::start(workspace, unused_port(), arguments);
    proxy.ready().await;
    let second = "GET /v2/hidden/tags/list HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunk = format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
    let sent = [
        // Both lengths: each could hide the second request from one side.
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
        format!(
            "GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n{second}",
            second.len()
        ),
        format!(
            "GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{second}",
            second.len()
        ),
        format!(
            "GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {}\r\n\r\n{second}",
            second.len()
        ),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n{chunk}"),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n{chunk}"),
        format!(
            "POST /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{second}",
            second.len()
        ),
        format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n{second}", registry.host),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    for request in &sent {
        let answer = proxy.raw(request);
        let responses = answer.matches("HTTP/1.1 ").count();
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 405 ") || answer.is_empty();
        assert!(refused && responses <= 1, "{request:?}: {answer}");
    }
    for target in [
        format!("http://{}/v2/", registry.host),
        "http://example.com/v2/".to_owned(),
    ] {
        let answer = proxy.raw(&format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("remove it from HTTP_PROXY"),
            "{answer}"
        );
    }
    assert_eq!(recorder.requests().len(), 0, "{:?}", recorder.requests());
    let upgrade = "GET /v2/ HTTP/1.1\r\nHost: evil\r\nConnection: upgrade, close, X-Drop\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\
                   X-Drop: 1\r\nX-Forwarded-Host: evil\r\nUser-Agent: test\r\nAccept: a/b\r\n\r\n";
    let answer = proxy.raw(upgrade);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let requests = recorder.requests();
    assert_eq!((requests.len(), &*requests[0].path), (1, "/v2/"));
    let mut names: Vec<&str> = requests[0].headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "user-agent"]);
    assert_eq!(requests[0].headers["host"], recorder.host);
}

/// The largest resident memory of a process in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn slow_clients_and_large_blobs_take_bounded_memory() {
    let registry = TestRegistry::start_with(Version::V31, SECURE);
    let content = noise(9, 100_000_000);
    let repository = registry.repository("team/large");
    let image = of_layer(&repository, "linux/amd64", &content).await;
    put(&repository, &image, Some("1")).await;
    let digest = image.manifest().unwrap().layers[0].digest.clone();
    let mut proxy = Proxy::of(&registry, SECURE).await;
    assert_eq!(proxy.get("/v2/").await.status(), StatusCode::OK);
    let before = peak_memory(proxy.server.id());
    let request = format!("GET /v2/team/large/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n");
    let begun = || {
        let mut stream = TcpStream::connect(proxy.host()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        stream
    };
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(proxy.host()).unwrap()).collect();
    let slow: Vec<TcpStream> = (0..20).map(|_| begun()).collect();
    for scheme in ["http", "https"] {
        let whole = proxy
            .request(Method::GET, scheme, &format!("/v2/team/large/blobs/{digest}"), &[])
            .await;
        assert_eq!(Digest::of(&whole.bytes().await.unwrap()), digest);
    }
    let grown = peak_memory(proxy.server.id()) - before;
    // A tenth of what the clients asked for would be 200 MB.
    assert!(grown < 60 << 20, "{} MiB", grown >> 20);
    drop((idle, slow));
    // A stop lets a response end.
    let mut last = begun();
    proxy.server.signal("TERM");
    let mut rest = Vec::new();
    last.read_to_end(&mut rest).unwrap();
    let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(Digest::of(&rest[head..]), digest);
    drop(last);
    let deadline = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = proxy.server.ended() {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
}
