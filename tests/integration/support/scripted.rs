//! Servers with scripted responses, and connections that break or stall: behaviour that a real registry cannot be made
//! to show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What happens to a connection after a number of bytes.
#[derive(Clone, Copy, Debug)]
pub enum ConnectionFault {
    /// It closes after this number of bytes to the client.
    BreakAnswer(usize),
    /// Nothing more is read after this number of bytes from the client.
    StallRequest(usize),
}

/// A proxy for a registry with a fault in every connection.
pub struct ConnectionProxy {
    /// `127.0.0.1:port`.
    pub host: String,
    _task: AbortOnDropHandle<()>,
}

impl ConnectionProxy {
    /// A proxy for `to` that applies `fault` to every connection.
    pub async fn to(to: &str, fault: ConnectionFault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let to = to.to_owned();
        let task = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((client, _)) = listener.accept().await {
                let to = to.clone();
                connections.push(AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(to).await {
                        forward(client, server, fault).await;
                    }
                })));
            }
        });
        Self {
            host,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn forward(client: TcpStream, server: TcpStream, fault: ConnectionFault) {
    let (from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let (down, up) = match fault {
        ConnectionFault::BreakAnswer(after) => (after as u64, u64::MAX),
        ConnectionFault::StallRequest(after) => (u64::MAX, after as u64),
    };
    let mut from_server = from_server.take(down);
    let mut from_client = from_client.take(up);
    let upward = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        if from_client.limit() == 0 {
            std::future::pending::<()>().await;
        }
    };
    let downward = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = upward => {}
        () = downward => {}
    }
}

type Answers = Arc<dyn Fn(&RecordedRequest) -> Response<Body> + Send + Sync>;

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    /// The number of requests before it.
    pub before: usize,
}

/// A server with scripted responses.
pub struct ScriptedServer {
    /// `127.0.0.1:port`.
    pub host: String,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    _task: AbortOnDropHandle<()>,
}

impl ScriptedServer {
    /// A server whose responses are computed by `answers`.
    pub async fn start(answers: impl Fn(&RecordedRequest) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", answers).await
    }

    /// The same at another address of the machine.
    pub async fn start_at(
        address: &str,
        answers: impl Fn(&RecordedRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<RecordedRequest>>> = Arc::default();
        let answers: Answers = Arc::new(answers);
        let router = Router::new().fallback(answer).with_state((requests.clone(), answers));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self {
            host,
            requests,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(
    State((requests, answers)): State<(Arc<Mutex<Vec<RecordedRequest>>>, Answers)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let _ = axum::body::to_bytes(body, 1 << 20).await;
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)));
    let one = {
        let mut requests = requests.lock().unwrap();
        let one = RecordedRequest {
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            headers: headers.collect(),
            before: requests.len(),
        };
        requests.push(one.clone());
        one
    };
    answers(&one)
}

/// A response.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}
