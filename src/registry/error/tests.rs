//! Reasons, advice and retry decisions of errors.

use super::*;
use crate::fault::{Disposition, Reason};

fn response_error(status: u16, code: &str) -> Error {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no\nway","detail":{{"at":1}}}}]}}"#);
    Error::from_status("PUT https://r/v2/x/manifests/1", status, None, body.as_bytes())
}

#[test]
fn statuses_map_to_reasons() {
    for (status, code, reading, pushing) in [
        (
            401,
            "UNAUTHORIZED",
            Reason::AuthenticationFailed,
            Reason::AuthenticationFailed,
        ),
        (
            403,
            "DENIED",
            Reason::AuthenticationFailed,
            Reason::AuthenticationFailed,
        ),
        (404, "MANIFEST_UNKNOWN", Reason::SourceNotFound, Reason::PushFailed),
        (429, "TOOMANYREQUESTS", Reason::RateLimited, Reason::RateLimited),
        (503, "", Reason::RegistryUnavailable, Reason::RegistryUnavailable),
        (500, "UNKNOWN", Reason::SourceFailed, Reason::PushFailed),
        (400, "DIGEST_INVALID", Reason::DigestMismatch, Reason::DigestMismatch),
        (405, "UNSUPPORTED", Reason::SourceFailed, Reason::PushFailed),
    ] {
        let error = response_error(status, code);
        assert_eq!(error.clone().into_read_fault("r/x:1").reason, reading, "{status}");
        let fault = error.into_push_fault("r/x");
        assert_eq!(fault.reason, pushing, "{status}");
        assert_ne!(fault.disposition, Disposition::Stalled, "{status}");
    }
}

#[test]
fn advice_fits_the_request() {
    let fault = |call: &str, status: u16, body: &str, pushing: bool| {
        let error = Error::from_status(call, status, None, body.as_bytes());
        match pushing {
            true => error.into_push_fault("r/x"),
            false => error.into_read_fault("r/x:1"),
        }
    };
    let (tags, blob) = ("GET https://r/v2/x/tags/list", "GET https://r/v2/x/blobs/sha256:ab");
    let (manifest, upload) = ("GET https://r/v2/x/manifests/1", "POST https://r/v2/x/blobs/uploads/");
    let quota = r#"{"errors":[{"code":"DENIED","message":"The quota has been exceeded: adding 2 MiB"}]}"#;
    let harbor = r#"{"errors":[{"code":"PRECONDITION","message":"Failed to process request due to 'x:1' configured as immutable."}]}"#;
    let ecr = r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists and cannot be overwritten because the tag is immutable."}]}"#;
    let (failed, denied) = (Reason::PushFailed, Reason::AuthenticationFailed);
    let put = "PUT https://r/v2/x/manifests/1";
    let full = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"Err":28}}]}"#;
    for (call, status, body, pushing, reason, expected) in [
        (tags, 405, "", false, Reason::SourceFailed, "cannot list tags"),
        (tags, 404, "", false, Reason::SourceNotFound, "name of the repository"),
        (tags, 403, "", false, denied, "permission to list tags"),
        (blob, 404, "", false, Reason::SourceNotFound, "not this blob"),
        (manifest, 405, "", false, Reason::SourceFailed, "registry of OCI images"),
        (manifest, 403, "", false, denied, "permission to pull"),
        (upload, 405, "", true, failed, "not read-only"),
        (upload, 403, "", true, denied, "permission to push"),
        (upload, 507, "", true, failed, "free space"),
        (upload, 403, quota, true, failed, "free space"),
        (upload, 500, full, true, failed, "no space left on device; free space"),
        (
            upload,
            413,
            "write: no space left on device",
            true,
            failed,
            "free space",
        ),
        (put, 412, harbor, true, failed, "push another tag"),
        (put, 400, ecr, true, failed, "push another tag"),
    ] {
        let fault = fault(call, status, body, pushing);
        assert_eq!(fault.reason, reason, "{fault}");
        assert!(fault.message.contains(expected), "{fault}");
        assert_ne!(fault.disposition, Disposition::Stalled, "{fault}");
    }
}

#[test]
fn errors_of_a_token_service_do_not_concern_the_image() {
    let fault = |status| {
        let error = Error::from_status("GET https://auth/token", status, None, b"<title>Not here</title>");
        error.into_token_service_error().into_read_fault("r/x:1")
    };
    for (status, reason) in [
        (400, Reason::AuthenticationFailed),
        (401, Reason::AuthenticationFailed),
        (403, Reason::AuthenticationFailed),
        (404, Reason::AuthenticationFailed),
        (405, Reason::AuthenticationFailed),
        (410, Reason::AuthenticationFailed),
        (429, Reason::RateLimited),
        (500, Reason::RegistryUnavailable),
        (503, Reason::RegistryUnavailable),
    ] {
        let fault = fault(status);
        assert_eq!(fault.reason, reason, "{fault}");
        let expected = format!("https://auth/token: the token service answered {status} Not here");
        assert!(fault.message.contains(&expected), "{fault}");
    }
}

#[test]
fn a_refusal_may_mean_absent_content() {
    let refused = |status, body: &[u8]| Error::from_status("GET x", status, None, body);
    assert!(refused(403, b"").may_mean_absent());
    assert!(refused(401, br#"{"errors":[{"code":"DENIED"}]}"#).may_mean_absent());
    assert!(refused(401, b"").with_insufficient_scope().may_mean_absent());
    for other in [401, 404, 429, 500] {
        assert!(!refused(other, b"").may_mean_absent(), "{other}");
    }
}

#[test]
fn only_invalid_input_is_stalled() {
    for code in ["NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID"] {
        let fault = response_error(400, code).into_push_fault("r/x");
        assert_eq!(
            (fault.reason, fault.disposition),
            (Reason::PushFailed, Disposition::Stalled)
        );
    }
    // Some registries send both codes for a manifest with missing blobs.
    let body = br#"{"errors":[{"code":"MANIFEST_INVALID"},{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#;
    let fault = Error::from_status("PUT x", 400, None, body).into_push_fault("r/x");
    assert_eq!(fault.disposition, Disposition::Retryable);
}

#[test]
fn retry_after_decides_the_delay() {
    let after = Some(Duration::from_secs(120));
    let error = Error::from_status("GET x", 429, after, b"");
    assert_eq!(error.retry_delay(1), None);
    let fault = error.into_read_fault("r/x:1");
    assert_eq!(
        fault.disposition,
        Disposition::Waiting {
            after: Duration::from_secs(120)
        }
    );
    let short = Error::from_status("GET x", 429, Some(Duration::from_secs(2)), b"");
    assert!(short.retry_delay(1).unwrap() >= Duration::from_secs(2));
    assert_eq!(response_error(404, "").retry_delay(1), None);
    assert!(response_error(503, "").retry_delay(3).unwrap() < Duration::from_secs(5));
}

#[test]
fn messages_are_one_bounded_line() {
    let fault = response_error(403, &"é".repeat(2000)).into_push_fault("r/x");
    assert!(fault.message.chars().count() < 600, "{}", fault.message);
    let message = response_error(403, "DENIED").into_push_fault("r/x").message;
    assert_eq!(
        message,
        "cannot push to r/x: PUT https://r/v2/x/manifests/1: the registry answered 403 DENIED: no way; the permission to push is missing; grant the account this permission, or set other credentials in secretRef"
    );
    assert_eq!(
        Error::from_status("GET x", 502, None, b"<html><title>Bad Gateway</title>at 12:00</html>").to_string(),
        "GET x: the registry answered 502 Bad Gateway"
    );
}
