//! The rules of the proxies.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::fault_proxy::Action;
use crate::support::scripted::RecordedRequest;

/// In bytes.
pub const MEBIBYTE: u64 = 1024 * 1024;

/// Whether a request carries the layer or a part of it.
pub fn carries_layer(seen: &RecordedRequest) -> bool {
    let length = seen.headers.get("content-length").and_then(|text| text.parse().ok());
    matches!(seen.method.as_str(), "PUT" | "PATCH") && length.unwrap_or(0_u64) > MEBIBYTE
}

/// Whether a request reads a blob; this includes the configuration, which is too short for most faults.
pub fn reads_blob(seen: &RecordedRequest) -> bool {
    seen.method == "GET" && seen.path.contains("/blobs/sha256:")
}

/// Whether a request reads a manifest.
pub fn reads_manifest(seen: &RecordedRequest) -> bool {
    seen.method == "GET" && seen.path.contains("/manifests/")
}

/// Whether a request reads the status of an upload.
pub fn reads_upload_status(seen: &RecordedRequest) -> bool {
    seen.method == "GET" && seen.path.contains("/blobs/uploads/")
}

/// Whether a request may write.
pub fn is_write(seen: &RecordedRequest) -> bool {
    matches!(seen.method.as_str(), "PUT" | "PATCH" | "POST")
}

/// An answer without a body.
pub fn empty_response(status: u16) -> Action {
    Action::Answer(status, Vec::new(), String::new())
}

/// A response with `Retry-After`.
pub fn retry_after(seconds: u32) -> Action {
    let after = vec![("Retry-After", seconds.to_string())];
    Action::Answer(429, after, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#.to_owned())
}

/// `act` for the first requests that match `when`, and another rule afterwards.
pub fn once_then(
    when: fn(&RecordedRequest) -> bool,
    act: impl Fn() -> Action + Send + Sync + 'static,
    then: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static,
) -> impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static {
    let met = AtomicUsize::new(0);
    move |seen| {
        if met.load(Ordering::Relaxed) > 0 {
            return then(seen);
        }
        if when(seen) {
            met.store(1, Ordering::Relaxed);
            return act();
        }
        Action::Pass
    }
}

/// A registry that requires tokens and gives them to every client. Tokens that were issued before a request that
/// matches `ends` are expired after it.
pub fn token_protected(
    ends: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
    then: impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static,
) -> impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static {
    let (given, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    move |seen| {
        if seen.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::Relaxed) + 1;
            return Action::Answer(200, Vec::new(), format!(r#"{{"token":"t{number}","expires_in":300}}"#));
        }
        let token = seen
            .headers
            .get("authorization")
            .and_then(|text| text.strip_prefix("Bearer t"));
        let number: usize = token.and_then(|number| number.parse().ok()).unwrap_or(0);
        if number <= ended.load(Ordering::Relaxed) {
            let challenge = format!(r#"Bearer realm="http://{}/token",service="s""#, seen.headers["host"]);
            return Action::Answer(401, vec![("WWW-Authenticate", challenge)], String::new());
        }
        if ends(seen) {
            ended.store(given.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        then(seen)
    }
}

/// A break in the middle of the layer.
pub fn break_in_layer() -> Action {
    Action::BreakRequest(MEBIBYTE)
}

/// The upload status reports an offset that differs by this number of bytes.
pub fn shifted_range(by: i64) -> Action {
    Action::Header(
        "range",
        Box::new(move |range| {
            let last: i64 = range.split('-').nth(1).unwrap().parse().unwrap();
            format!("0-{}", last + by)
        }),
    )
}

/// A proxy that rejects longer request bodies of blobs.
pub fn too_large(limit: u64) -> impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static {
    move |seen| {
        let length = seen.headers.get("content-length").and_then(|text| text.parse().ok());
        match length.unwrap_or(0) > limit && seen.path.contains("/blobs/") {
            true => empty_response(413),
            false => Action::Pass,
        }
    }
}

/// Three failures in a row, every ten requests.
pub fn periodic_failures() -> impl Fn(&RecordedRequest) -> Action + Send + Sync + 'static {
    |seen| match seen.before % 10 {
        0 => empty_response(500),
        1 => empty_response(502),
        2 => empty_response(503),
        _ => Action::Pass,
    }
}
