//! Errors as registries send them (OCI distribution specification, "Error Codes").

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

/// A response with one error: `code` in capital letters, and a message for people.
pub fn registry_error(status: StatusCode, code: &str, message: &str) -> Response<Bytes> {
    let errors = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    let content = Bytes::from(errors.to_string());
    let length = content.len();
    let mut response = Response::new(content);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, length.into());
    response
}
