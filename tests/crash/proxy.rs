//! Proxies between the operator's processes and their servers that count and record every request.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::config::Kubeconfig;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::interceptor::{Interceptor, Route, Server};

/// Why a connection is closed.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Where a proxy forwards to.
#[derive(Clone)]
pub struct Upstream {
    client: reqwest::Client,
    base: String,
    keeps_host: bool,
}

fn builder() -> reqwest::ClientBuilder {
    crate::support::install_tls();
    // A restarted server has closed all idle connections.
    reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
}

impl Upstream {
    /// The API server of a kubeconfig with certificates.
    pub fn api(kubeconfig: &Path) -> Self {
        let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let cluster = config.clusters[0].cluster.as_ref().expect("a cluster");
        let user = config.auth_infos[0].auth_info.as_ref().expect("a user");
        let decode = |text: &str| STANDARD.decode(text).expect("base64");
        let authority = decode(cluster.certificate_authority_data.as_ref().expect("a CA"));
        let certificate = decode(user.client_certificate_data.as_ref().expect("a certificate"));
        let key = decode(user.client_key_data.as_ref().expect("a key").expose_secret());
        let client = builder()
            .identity(reqwest::Identity::from_pem(&[certificate, key].concat()).expect("an identity"))
            .tls_certs_only([reqwest::Certificate::from_pem(&authority).expect("a CA")])
            .build();
        Self {
            client: client.expect("a client"),
            base: cluster.server.clone().expect("a server"),
            keeps_host: false,
        }
    }

    /// A registry at `host`, over plain HTTP.
    pub fn registry(host: &str) -> Self {
        Self {
            client: builder().build().expect("a client"),
            base: format!("http://{host}"),
            keeps_host: true,
        }
    }

    /// What listens on `unix:///path`.
    pub fn socket(host: &str) -> Self {
        let path = PathBuf::from(host.strip_prefix("unix://").expect("a socket"));
        Self {
            client: builder().unix_socket(path).build().expect("a client"),
            base: "http://docker".to_owned(),
            keeps_host: true,
        }
    }
}

/// A proxy; dropping it stops it.
pub struct RecordingProxy {
    _task: AbortOnDropHandle<()>,
}

/// The runtime of the proxies: a test may block its own.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_all()
            .build();
        runtime.expect("a runtime")
    })
}

impl RecordingProxy {
    /// A proxy on its own port; also its `127.0.0.1:port`.
    pub fn open(name: Route, to: Upstream, interceptor: &Arc<Interceptor>) -> (Self, String) {
        let _entered = runtime().enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let at = listener.local_addr().expect("its address").to_string();
        let listener = TcpListener::from_std(listener).expect("a listener");
        let interceptor = Arc::clone(interceptor);
        let task = runtime().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let _ = connection.set_nodelay(true);
                connections.spawn(serve(connection, name, to.clone(), Arc::clone(&interceptor)));
                while connections.try_join_next().is_some() {}
            }
        });
        let _task = AbortOnDropHandle::new(task);
        (Self { _task }, at)
    }

    /// A proxy on the socket `at`.
    pub fn open_socket(name: Route, to: Upstream, interceptor: &Arc<Interceptor>, at: &Path) -> Self {
        let _entered = runtime().enter();
        let listener = UnixListener::bind(at).expect("a socket");
        let interceptor = Arc::clone(interceptor);
        let task = runtime().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(serve(connection, name, to.clone(), Arc::clone(&interceptor)));
                while connections.try_join_next().is_some() {}
            }
        });
        let _task = AbortOnDropHandle::new(task);
        Self { _task }
    }
}

async fn serve(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    name: Route,
    to: Upstream,
    interceptor: Arc<Interceptor>,
) {
    let pass = service_fn(move |request| pass(request, name, to.clone(), Arc::clone(&interceptor)));
    // It ends in an error whenever one of the two ends is killed.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(connection), pass)
        .await;
}

/// Forwards a request and returns the response. An error closes the connection, as the death of the other end does.
async fn pass(
    request: Request<Incoming>,
    name: Route,
    to: Upstream,
    interceptor: Arc<Interceptor>,
) -> Result<Response<Body>, Broken> {
    let (parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
        .to_owned();
    let seen = interceptor.record_request(name, &parts.method, &target)?;
    let mut headers = without_hops(&parts.headers);
    if !to.keeps_host {
        headers.remove(HOST);
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let is_empty = length.map_or(!parts.headers.contains_key(TRANSFER_ENCODING), |length| length == "0");
    let mut onward = to
        .client
        .request(parts.method.clone(), format!("{}{target}", to.base))
        .headers(headers);
    if !is_empty {
        let (interceptor, seen) = (Arc::clone(&interceptor), seen.clone());
        let chunks = Body::new(body).into_data_stream().map(move |chunk| {
            let chunk = chunk.map_err(Broken::from)?;
            interceptor.record_bytes(&seen, chunk.len())?;
            Ok::<Bytes, Broken>(chunk)
        });
        onward = onward.body(reqwest::Body::wrap_stream(chunks));
    }
    let answer = onward.send().await?;
    interceptor.record_response(&seen, answer.status().as_u16(), answer.headers())?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = without_hops(answer.headers());
    }
    let chunks = answer.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(Broken::from)?;
        if name.server == Server::Docker {
            interceptor.record_bytes(&seen, chunk.len())?;
        }
        Ok::<Bytes, Broken>(chunk)
    });
    Ok(response.body(Body::from_stream(chunks))?)
}

/// The headers without the hop-by-hop headers.
fn without_hops(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
