//! What proxies do to which requests.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::faulty::Seen;
use crate::support::front::Act;

/// Bytes.
pub const MEBIBYTE: u64 = 1024 * 1024;

/// Whether a request carries the layer, or a part of it.
pub fn carries(seen: &Seen) -> bool {
    let length = seen.headers.get("content-length").and_then(|text| text.parse().ok());
    matches!(seen.method.as_str(), "PUT" | "PATCH") && length.unwrap_or(0_u64) > MEBIBYTE
}

/// Whether a request reads a blob; the configuration is one too, and too short to meet most faults.
pub fn reads_blob(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.contains("/blobs/sha256:")
}

/// Whether a request reads a manifest.
pub fn reads_manifest(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.contains("/manifests/")
}

/// Whether a request asks how far an upload is.
pub fn asks_status(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.contains("/blobs/uploads/")
}

/// Whether a request may write.
pub fn writes(seen: &Seen) -> bool {
    matches!(seen.method.as_str(), "PUT" | "PATCH" | "POST")
}

/// An answer without a body.
pub fn answers(status: u16) -> Act {
    Act::Answer(status, Vec::new(), String::new())
}

/// That it is asked for patience for so long.
pub fn asks_patience(seconds: u32) -> Act {
    let after = vec![("Retry-After", seconds.to_string())];
    Act::Answer(429, after, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#.to_owned())
}

/// A rule of its own for what comes after the first requests that `when` holds for, which `act` meets.
pub fn once_then(
    when: fn(&Seen) -> bool,
    act: impl Fn() -> Act + Send + Sync + 'static,
    then: impl Fn(&Seen) -> Act + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
    let met = AtomicUsize::new(0);
    move |seen| {
        if met.load(Ordering::Relaxed) > 0 {
            return then(seen);
        }
        if when(seen) {
            met.store(1, Ordering::Relaxed);
            return act();
        }
        Act::Pass
    }
}

/// A registry that wants tokens, which it gives to everybody. Those that were given before a request for which `ends`
/// holds have ended after it.
pub fn guarded(
    ends: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    then: impl Fn(&Seen) -> Act + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
    let (given, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    move |seen| {
        if seen.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::Relaxed) + 1;
            return Act::Answer(200, Vec::new(), format!(r#"{{"token":"t{number}","expires_in":300}}"#));
        }
        let token = seen
            .headers
            .get("authorization")
            .and_then(|text| text.strip_prefix("Bearer t"));
        let number: usize = token.and_then(|number| number.parse().ok()).unwrap_or(0);
        if number <= ended.load(Ordering::Relaxed) {
            let challenge = format!(r#"Bearer realm="http://{}/token",service="s""#, seen.headers["host"]);
            return Act::Answer(401, vec![("WWW-Authenticate", challenge)], String::new());
        }
        if ends(seen) {
            ended.store(given.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        then(seen)
    }
}

/// A break in the middle of the layer.
pub fn breaks() -> Act {
    Act::BreakRequest(MEBIBYTE)
}

/// What an upload has is said to be other, by so many bytes.
pub fn lying(by: i64) -> Act {
    Act::Header(
        "range",
        Box::new(move |range| {
            let last: i64 = range.split('-').nth(1).unwrap().parse().unwrap();
            format!("0-{}", last + by)
        }),
    )
}

/// A proxy that takes no body of a blob that is longer.
pub fn too_large(limit: u64) -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
    move |seen| {
        let length = seen.headers.get("content-length").and_then(|text| text.parse().ok());
        match length.unwrap_or(0) > limit && seen.path.contains("/blobs/") {
            true => answers(413),
            false => Act::Pass,
        }
    }
}

/// Three failures in a row, every ten requests.
pub fn burst() -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
    |seen| match seen.before % 10 {
        0 => answers(500),
        1 => answers(502),
        2 => answers(503),
        _ => Act::Pass,
    }
}
