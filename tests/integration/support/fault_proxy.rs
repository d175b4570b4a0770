//! A proxy before a real registry that applies a rule to each request: faults of networks, proxies and hosted
//! registries that a local registry cannot produce.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::scripted::RecordedRequest;

/// The maximum length of a request head or response head.
const HEAD: usize = 64 * 1024;
/// How long a connection stays open so that the client can read the response.
const LINGER: Duration = Duration::from_secs(2);

/// What happens to a request.
pub enum Action {
    Pass,
    /// The request is forwarded after this delay.
    Delay(Duration),
    /// This response, immediately.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// A response that never ends.
    Endless(u16),
    /// The connection closes after this number of bytes of the request body, which the registry receives.
    BreakRequest(u64),
    /// Nothing more is read after this number of bytes of the request body, for this time.
    StallRequest(u64, Duration),
    /// A request with more than this number of bytes is answered with 504 after this time, and its upload is deleted.
    Cut(u64, Duration),
    /// The connection closes when the response arrives, which is lost.
    LoseAnswer,
    /// The connection closes after this number of bytes of the response body.
    BreakAnswer(u64),
    /// The response ends after this number of bytes of its body as if it were complete.
    Truncate(u64),
    /// After this number of bytes of the response body the others are sent one by one, with this delay.
    Trickle(u64, Duration),
    /// This byte of the response body is changed.
    Flip(u64),
    /// This header of the response is changed, if it exists.
    Header(&'static str, Box<dyn Fn(&str) -> String + Send + Sync>),
    /// A response with the first status gets the second one.
    Status(u16, u16),
}

type Rule = Box<dyn Fn(&RecordedRequest) -> Action + Send + Sync>;

/// The proxy.
pub struct FaultProxy {
    /// `127.0.0.1:port`.
    pub host: String,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

struct State {
    to: String,
    rule: Rule,
    after: Rule,
    disabled: AtomicBool,
    requests: Mutex<Vec<RecordedRequest>>,
}

impl FaultProxy {
    /// A proxy before `to`.
    pub fn to(to: &str, rule: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static) -> Self {
        Self::with(to, rule, |_| Action::Pass)
    }

    /// The same, with a rule for the time after it is disabled.
    pub fn with(
        to: &str,
        rule: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static,
        after: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static,
    ) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // A small buffer, so that data is either read by the proxy or not, instead of lost in the kernel.
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            to: to.to_owned(),
            rule: Box::new(rule),
            after: Box::new(after),
            disabled: AtomicBool::new(false),
            requests: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self {
            host,
            state,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Ends the fault.
    pub fn disable(&self) {
        self.state.disabled.store(true, Ordering::Relaxed);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The number of requests with a method to paths that contain `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.state.requests.lock().unwrap();
        let such = requests.iter().filter(|request| request.method == method);
        such.filter(|request| request.path.contains(part)).count()
    }
}

/// `act` for the first `count` requests that match `when`; the others pass.
pub fn first(
    count: usize,
    when: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
    act: impl Fn() -> Action + Send + Sync + 'static,
) -> impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static {
    let met = AtomicUsize::new(0);
    move |request| match when(request) && met.fetch_add(1, Ordering::Relaxed) < count {
        true => act(),
        false => Action::Pass,
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                connections.spawn(serve(client, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A head with its blank line, and the bytes after it; none if the connection ended.
async fn head(from: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut buffer = [0; 8 * 1024];
    while read.len() < HEAD {
        let length = from.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
        read.extend_from_slice(&buffer[..length]);
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Some((String::from_utf8(read).ok()?, rest));
        }
    }
    None
}

/// Serves one request; every connection carries one.
async fn serve(mut client: TcpStream, state: Arc<State>) {
    let Some((head, rest)) = head(&mut client).await else {
        return;
    };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let one = {
        let mut requests = state.requests.lock().unwrap();
        let one = RecordedRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            before: requests.len(),
        };
        requests.push(one.clone());
        one
    };
    let act = match state.disabled.load(Ordering::Relaxed) {
        true => (state.after)(&one),
        false => (state.rule)(&one),
    };
    match act {
        Action::Answer(status, headers, body) => answer(client, status, &headers, Some(&body)).await,
        Action::Endless(status) => answer(client, status, &[], None).await,
        act => {
            if let Action::Delay(delay) = act {
                sleep(delay).await;
            }
            let Ok(server) = TcpStream::connect(&state.to).await else {
                return;
            };
            pass(client, server, &one, &with_connection_close(&head), rest, act).await;
        }
    }
}

/// The same head with `Connection: close`.
fn with_connection_close(head: &str) -> String {
    let kept = head.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !line.is_empty() && !name.eq_ignore_ascii_case("connection")
    });
    let lines: Vec<&str> = kept.chain(["Connection: close", "", ""]).collect();
    lines.join("\r\n")
}

/// A response with a body, or one that does not end.
async fn answer(mut client: TcpStream, status: u16, headers: &[(&str, String)], body: Option<&str>) {
    let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    } else {
        text.push_str("\r\n");
    }
    let spaces = [b' '; 16 * 1024];
    if client.write_all(text.as_bytes()).await.is_err() {
        return;
    }
    while body.is_none() {
        if client.write_all(&spaces).await.is_err() {
            return;
        }
    }
    let _ = client.shutdown().await;
    // Like other proxies: closing a connection with unread bytes loses its response.
    let mut sink = vec![0; 64 * 1024];
    let _ = timeout(LINGER, async { while let Ok(1..) = client.read(&mut sink).await {} }).await;
}

async fn pass(client: TcpStream, server: TcpStream, request: &RecordedRequest, head: &str, rest: Vec<u8>, act: Action) {
    let started = Instant::now();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let most = match act {
        Action::BreakRequest(most) | Action::StallRequest(most, _) | Action::Cut(most, _) => most,
        _ => u64::MAX,
    };
    // True if there was more than `most`.
    let upward = async {
        if to_server.write_all(head.as_bytes()).await.is_err() {
            return false;
        }
        let (mut sent, mut buffer) = (0, rest);
        loop {
            let length = (buffer.len() as u64).min(most - sent) as usize;
            if to_server.write_all(&buffer[..length]).await.is_err() {
                std::future::pending::<()>().await;
            }
            sent += length as u64;
            if length < buffer.len() {
                let _ = to_server.flush().await;
                return true;
            }
            buffer.resize(64 * 1024, 0);
            match from_client.read(&mut buffer).await {
                Ok(length @ 1..) => buffer.truncate(length),
                _ => return false,
            }
        }
    };
    let downward = pass_response(&mut from_server, &mut to_client, &act);
    let over = tokio::select! {
        over = upward => over,
        () = downward => {
            let _ = to_client.shutdown().await;
            let mut sink = vec![0; 64 * 1024];
            let _ = timeout(LINGER, async { while let Ok(1..) = from_client.read(&mut sink).await {} }).await;
            return;
        }
    };
    match act {
        Action::StallRequest(_, long) if over => sleep(long).await,
        Action::Cut(_, time) if over => {
            sleep(time.saturating_sub(started.elapsed())).await;
            drop((to_server, from_server));
            remove_upload(request).await;
            if let Ok(client) = from_client.reunite(to_client) {
                answer(client, 504, &[], Some("")).await;
            }
        }
        _ => {}
    }
}

/// Like registries that delete an upload whose request was cut. The proxy's own address is in the Host header.
async fn remove_upload(request: &RecordedRequest) {
    let path = request.path.split("&digest=").next().unwrap_or_default();
    let mut url = format!("http://{}{path}", request.headers["host"]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..20 {
        let removed = client.delete(&url).send().await;
        let status = removed.map(|answer| answer.status().as_u16());
        if matches!(status, Ok(204 | 404)) {
            return;
        }
        // The upload has a different offset than the address states.
        if let Ok(upload_status) = client.get(&url).send().await
            && let Some(location) = upload_status.headers().get("location")
        {
            url = location.to_str().unwrap().to_owned();
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn pass_response(
    server: &mut (impl AsyncRead + Unpin),
    client: &mut (impl tokio::io::AsyncWrite + Unpin),
    act: &Action,
) {
    let Some((mut head, rest)) = head(server).await else {
        return;
    };
    match act {
        Action::LoseAnswer => return,
        Action::Header(name, change) => head = rewrite_header(&head, name, change),
        Action::Status(from, to) => head = head.replacen(&format!("HTTP/1.1 {from} "), &format!("HTTP/1.1 {to} "), 1),
        Action::Truncate(most) => head = rewrite_header(&head, "content-length", &|_| most.to_string()),
        _ => {}
    }
    if client.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let (mut at, mut buffer) = (0_u64, rest);
    loop {
        let end = at + buffer.len() as u64;
        let mut passing = &mut buffer[..];
        match act {
            Action::BreakAnswer(most) | Action::Truncate(most) | Action::Trickle(most, _) if end > *most => {
                passing = &mut passing[..(most - at) as usize];
            }
            Action::Flip(place) if (at..end).contains(place) => passing[(place - at) as usize] ^= 1,
            _ => {}
        }
        at += passing.len() as u64;
        if client.write_all(passing).await.is_err() {
            return;
        }
        if at < end {
            let Action::Trickle(_, gap) = act else { return };
            loop {
                sleep(*gap).await;
                if client.write_all(b" ").await.is_err() {
                    return;
                }
            }
        }
        buffer.resize(64 * 1024, 0);
        match server.read(&mut buffer).await {
            Ok(length @ 1..) => buffer.truncate(length),
            _ => return,
        }
    }
}

fn rewrite_header(head: &str, name: &str, change: &dyn Fn(&str) -> String) -> String {
    let lines = head.split("\r\n").map(|line| match line.split_once(": ") {
        Some((found, value)) if found.eq_ignore_ascii_case(name) => format!("{found}: {}", change(value)),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\r\n")
}
