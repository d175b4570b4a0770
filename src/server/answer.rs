//! Responses to requests.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::runtime::{Health, Metrics};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The known paths.
const PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Serves the metrics and the health of the process.
pub(super) struct RequestHandler {
    pub metrics: Metrics,
    pub health: Health,
    /// Once cancelled, the process is not ready.
    pub stop: CancellationToken,
}

impl RequestHandler {
    pub fn respond<T>(&self, request: &Request<T>) -> Response<String> {
        let path = request.uri().path();
        if !PATHS.contains(&path) {
            let paths = PATHS.join("\n");
            return text(StatusCode::NOT_FOUND, format!("not found; known paths:\n{paths}"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed; use GET or HEAD".to_owned(),
            );
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => self.metrics(),
            "/readyz" => state(self.ready()),
            _ => state(self.health.alive()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        match self.stop.is_cancelled() {
            true => Err("it is stopping".to_owned()),
            false => self.health.ready(),
        }
    }

    fn metrics(&self) -> Response<String> {
        match self.metrics.encode() {
            Ok(metrics) => {
                let mut answer = Response::new(metrics);
                answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
                answer
            }
            Err(error) => {
                warn!(%error, "cannot encode the metrics");
                let message = "cannot encode the metrics".to_owned();
                text(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
        }
    }
}

fn state(state: Result<(), String>) -> Response<String> {
    match state {
        Ok(()) => text(StatusCode::OK, "ok".to_owned()),
        Err(problem) => text(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

fn text(status: StatusCode, mut body: String) -> Response<String> {
    body.push('\n');
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn handler() -> RequestHandler {
        RequestHandler {
            metrics: Metrics::default(),
            health: Health::default(),
            stop: CancellationToken::new(),
        }
    }

    fn response(handler: &RequestHandler, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let answer = handler.respond(&request);
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn known_paths_are_served_for_get() {
        let handler = handler();
        assert_eq!(response(&handler, Method::GET, "/healthz"), (200, "ok\n".to_owned()));
        let (status, metrics) = response(&handler, Method::GET, "/metrics?a=b");
        assert!(
            status == 200 && metrics.contains("jackal_build_info{version="),
            "{metrics}"
        );
        assert!(metrics.ends_with("# EOF\n"));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(response(&handler, method, "/metrics").0, 405);
        }
        for path in ["/", "/metric", "/metrics/", "//healthz"] {
            let (status, paths) = response(&handler, Method::GET, path);
            assert_eq!(
                (status, paths.lines().skip(1).collect::<Vec<_>>()),
                (404, PATHS.to_vec())
            );
        }
    }

    #[test]
    fn ready_between_start_and_stop() {
        let handler = handler();
        let ready = || response(&handler, Method::GET, "/readyz");
        assert_eq!(ready(), (503, "it is starting\n".to_owned()));
        let check = handler.health.check(Some("the engine is down".to_owned()));
        assert_eq!(ready(), (503, "the engine is down\n".to_owned()));
        check.set(None);
        assert_eq!(ready(), (200, "ok\n".to_owned()));
        handler.stop.cancel();
        assert_eq!(ready(), (503, "it is stopping\n".to_owned()));
        assert_eq!(response(&handler, Method::GET, "/healthz").0, 200);
    }

    #[test]
    fn unhealthy_when_a_heartbeat_is_late() {
        let handler = handler();
        let _heartbeat = handler.health.heartbeat("the renewal of the lease", Duration::ZERO);
        let (status, why) = response(&handler, Method::GET, "/healthz");
        assert!(
            status == 503 && why.starts_with("the renewal of the lease has made no progress"),
            "{why}"
        );
    }
}
