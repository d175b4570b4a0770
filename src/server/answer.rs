//! What is answered to which request.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::runtime::{Health, Metrics};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The paths that there are.
const PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Answers out of what a process counts and says of itself.
pub(super) struct RequestHandler {
    pub metrics: Metrics,
    pub health: Health,
    /// From then on the process is not ready.
    pub stop: CancellationToken,
}

impl RequestHandler {
    pub fn answer<T>(&self, request: &Request<T>) -> Response<String> {
        let path = request.uri().path();
        if !PATHS.contains(&path) {
            let paths = PATHS.join("\n");
            return text(StatusCode::NOT_FOUND, format!("not found; there are\n{paths}"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".to_owned());
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
                warn!(%error, "the metrics could not be written");
                let message = "the metrics could not be written".to_owned();
                text(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
        }
    }
}

fn state(state: Result<(), String>) -> Response<String> {
    match state {
        Ok(()) => text(StatusCode::OK, "ok".to_owned()),
        Err(lacking) => text(StatusCode::SERVICE_UNAVAILABLE, lacking),
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

    fn answerer() -> RequestHandler {
        RequestHandler {
            metrics: Metrics::default(),
            health: Health::default(),
            stop: CancellationToken::new(),
        }
    }

    fn said(answerer: &RequestHandler, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let answer = answerer.answer(&request);
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn answers_reading_of_what_there_is() {
        let answerer = answerer();
        assert_eq!(said(&answerer, Method::GET, "/healthz"), (200, "ok\n".to_owned()));
        let (status, metrics) = said(&answerer, Method::GET, "/metrics?a=b");
        assert!(
            status == 200 && metrics.contains("jackal_build_info{version="),
            "{metrics}"
        );
        assert!(metrics.ends_with("# EOF\n"));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(said(&answerer, method, "/metrics").0, 405);
        }
        for path in ["/", "/metric", "/metrics/", "//healthz"] {
            let (status, paths) = said(&answerer, Method::GET, path);
            assert_eq!(
                (status, paths.lines().skip(1).collect::<Vec<_>>()),
                (404, PATHS.to_vec())
            );
        }
    }

    #[test]
    fn is_ready_between_its_start_and_its_stop() {
        let answerer = answerer();
        let ready = || said(&answerer, Method::GET, "/readyz");
        assert_eq!(ready(), (503, "it is starting\n".to_owned()));
        let check = answerer.health.check(Some("the engine is down".to_owned()));
        assert_eq!(ready(), (503, "the engine is down\n".to_owned()));
        check.set(None);
        assert_eq!(ready(), (200, "ok\n".to_owned()));
        answerer.stop.cancel();
        assert_eq!(ready(), (503, "it is stopping\n".to_owned()));
        assert_eq!(said(&answerer, Method::GET, "/healthz").0, 200);
    }

    #[test]
    fn is_not_healthy_when_something_stands_still() {
        let answerer = answerer();
        let _heartbeat = answerer.health.heartbeat("the renewal of the lease", Duration::ZERO);
        let (status, why) = said(&answerer, Method::GET, "/healthz");
        assert!(
            status == 503 && why.starts_with("the renewal of the lease has made no progress"),
            "{why}"
        );
    }
}
