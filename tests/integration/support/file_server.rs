//! A file server, like chart repositories and download pages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use jackal_operator::oci::Digest;

use super::scripted::{ScriptedServer, reply};

/// The files by their paths, with the leading `/`.
type Files = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A running file server. A path that begins with `/chunked/` is served without a length.
pub struct FileServer {
    /// `127.0.0.1:port`.
    pub host: String,
    files: Files,
    server: ScriptedServer,
}

impl FileServer {
    /// An empty one.
    pub async fn new() -> Self {
        let files = Files::default();
        let served = Arc::clone(&files);
        let server = ScriptedServer::start(move |request| {
            let path = request.path.split('?').next().unwrap_or_default();
            let Some(content) = served.lock().unwrap().get(path).cloned() else {
                return reply(404, &[], "no such file");
            };
            let mark = format!("\"{}\"", Digest::of(&content).short());
            if request.headers.get("if-none-match") == Some(&mark) {
                return reply(304, &[], "");
            }
            if path.starts_with("/chunked/") {
                let chunks: Vec<Result<Bytes, std::io::Error>> = content
                    .chunks(1000)
                    .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                    .collect();
                return reply(200, &[], Body::from_stream(futures::stream::iter(chunks)));
            }
            reply(200, &[("etag", &mark)], content)
        })
        .await;
        Self {
            host: server.host.clone(),
            files,
            server,
        }
    }

    /// Stores a file and returns its URL.
    pub fn put(&self, path: &str, content: impl Into<Bytes>) -> String {
        self.files.lock().unwrap().insert(path.to_owned(), content.into());
        format!("http://{}{path}", self.host)
    }

    /// The requested paths so far.
    pub fn asked(&self) -> Vec<String> {
        self.server.requests().into_iter().map(|request| request.path).collect()
    }
}
