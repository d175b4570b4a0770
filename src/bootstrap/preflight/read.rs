//! Requests to the API server: each with a timeout and a limit of its answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::dry_run::{DryRun, Refusal};
use super::facts::{Clocks, Read, Unread};
use crate::bootstrap::text::clean;
use crate::decode;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a request that is passed on to a node may take.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const ANSWER_LIMIT: usize = 32 << 20;
/// Objects that are asked for at once.
const PAGE: usize = 200;
/// The most characters of a message.
const MESSAGE: usize = 400;

/// Makes requests.
#[derive(Clone)]
pub(super) struct Reader {
    client: Client,
}

/// An answer of any status.
struct Answer {
    status: StatusCode,
    body: Bytes,
    clocks: Option<Clocks>,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMetadata,
    // Go writes `null` for an empty list.
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// What the API server answers where it refuses.
#[derive(Deserialize)]
struct RefusalStatus {
    message: Option<String>,
}

impl Reader {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The object at `path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Read<T> {
        let answer = self.request(Method::GET, path, None, TIMEOUT).await?;
        decoded(path, &success(answer)?)
    }

    /// The same with the clocks, and the status and message where the API server answers with an error.
    pub async fn first<T: DeserializeOwned>(&self, path: &str) -> Result<(Read<T>, Option<Clocks>), (u16, String)> {
        let answer = self.request(Method::GET, path, None, TIMEOUT).await;
        let answer = answer.map_err(|unread| match unread {
            Unread::Failed(message) => (0, message),
            Unread::Absent | Unread::Forbidden => (0, path.to_owned()),
        })?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err((401, message_of(&answer)));
        }
        let clocks = answer.clocks;
        Ok((success(answer).and_then(|body| decoded(path, &body)), clocks))
    }

    /// The objects at `path`, at most `limit` of them, and whether there are more.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, limit: usize) -> Read<(Vec<T>, bool)> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        let separator = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = PAGE.min(limit.saturating_sub(found.len()));
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", &page.to_string());
            if let Some(next) = &next {
                query.append_pair("continue", next);
            }
            let page: Page<T> = self.get(&format!("{path}{separator}{}", query.finish())).await?;
            found.extend(page.items.unwrap_or_default());
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                return Ok((found, false));
            }
            if found.len() >= limit {
                found.truncate(limit);
                return Ok((found, true));
            }
        }
    }

    /// What a node answers at `path` through the API server.
    pub async fn of_node(&self, path: &str) -> Read<Bytes> {
        success(self.request(Method::GET, path, None, NODE_TIMEOUT).await?)
    }

    /// Creates `object`, which is not stored: it asks a question.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str, object: &Value) -> Read<T> {
        let answer = self.request(Method::POST, path, Some(object), TIMEOUT).await?;
        decoded(path, &success(answer)?)
    }

    /// Tries to create `object` at `path`, without storing it.
    pub async fn dry_run(&self, path: &str, object: &Value) -> DryRun {
        let path = format!("{path}?dryRun=All");
        match self.request(Method::POST, &path, Some(object), TIMEOUT).await {
            Err(unread) => DryRun::Untried(unread),
            Ok(answer) if answer.status.is_success() => DryRun::Accepted,
            Ok(answer) => DryRun::Refused(Refusal {
                code: answer.status.as_u16(),
                message: message_of(&answer),
            }),
        }
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>, timeout: Duration) -> Read<Answer> {
        let within = tokio::time::timeout(timeout, self.exchange(method, path, body));
        match within.await {
            Ok(answer) => answer,
            Err(_) => Err(Unread::Failed(format!("no answer within {} s", timeout.as_secs()))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Read<Answer> {
        let failed = |error: anyhow::Error| Unread::Failed(clean(&format!("{error:#}"), MESSAGE));
        let content = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| failed(error.into()))?,
            None => Vec::new(),
        };
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Body::from(content))
            .map_err(|error| failed(error.into()))?;
        let sent = Timestamp::now().as_second();
        let response = self.client.send(request).await.map_err(|error| failed(error.into()))?;
        let received = Timestamp::now().as_second();
        let (head, body) = response.into_parts();
        let date = head.headers.get(DATE).and_then(|date| date.to_str().ok());
        let server = date.and_then(|date| rfc2822::parse(date).ok());
        let body = Limited::new(body, ANSWER_LIMIT).collect().await;
        let body =
            body.map_err(|error| Unread::Failed(clean(&format!("the answer cannot be read: {error}"), MESSAGE)))?;
        Ok(Answer {
            status: head.status,
            body: body.to_bytes(),
            clocks: server.map(|server| Clocks {
                server: server.timestamp().as_second(),
                sent,
                received,
            }),
        })
    }
}

/// The body of an answer that succeeded.
fn success(answer: Answer) -> Read<Bytes> {
    match answer.status {
        status if status.is_success() => Ok(answer.body),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(Unread::Forbidden),
        StatusCode::NOT_FOUND => Err(Unread::Absent),
        status => Err(Unread::Failed(format!("{}: {}", status.as_u16(), message_of(&answer)))),
    }
}

fn message_of(answer: &Answer) -> String {
    let status: Option<RefusalStatus> = serde_json::from_slice(&answer.body).ok();
    match status.and_then(|status| status.message) {
        Some(message) => clean(&message, MESSAGE),
        None => clean(&String::from_utf8_lossy(&answer.body), MESSAGE),
    }
}

fn decoded<T: DeserializeOwned>(path: &str, body: &[u8]) -> Read<T> {
    let path = path.split('?').next().unwrap_or(path);
    decode::json(body)
        .map_err(|error| Unread::Failed(clean(&format!("the answer of {path} cannot be read: {error}"), MESSAGE)))
}
