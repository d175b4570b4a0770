//! Has the engine push the image itself: the last method.
//!
//! The engine compresses every layer in one thread, and uses its own network, DNS and certificates. But its directory need
//! not be readable here, and its disk needs no space for an export.

mod name;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use hyper::body::Incoming;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::json;

use super::engine::{Engine, message_of};
use super::lines::Lines;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document};
use crate::source::{BlobSink, Delivery, Method, PushTarget};

use self::name::TemporaryName;
pub(super) use self::name::remove_abandoned_names;
pub use self::name::wait_for_name_removal;

/// The longest line of a push that is read, in bytes. The lines report progress.
const LINE_LIMIT: usize = 64 * 1024;

/// Has the engine push the image `id` to the target of `sink`, after it `refused` to export it. `method_message` says why
/// better methods were not used. The engine makes the manifest, which must be one that `is_expected`.
///
/// # Errors
/// `refused` if the engine cannot push there, extended by the error if it tried and failed; [`Fault::conflict`] if the tag
/// belongs to another object.
pub(super) async fn push_refused(
    refused: Fault,
    engine: &Engine,
    id: &str,
    method_message: Option<String>,
    sink: &dyn BlobSink,
    is_expected: impl Fn(&Document) -> bool + Send,
) -> Result<Delivery, Fault> {
    if refused.reason != Reason::SourceFailed {
        return Err(refused);
    }
    let target = sink.push_target().await?;
    // The connection to an engine of another machine is not encrypted, so no credentials are sent over it.
    let Some(target) = target.filter(|target| engine.is_local() || target.credentials.is_none()) else {
        return Err(refused);
    };
    let pushed = async {
        let digest = push(engine, id, &target).await?;
        match sink.document(&digest).await? {
            Some(document) if is_expected(&document) => Ok(document),
            Some(_) => Err(engine.failure(&format!("it pushed {digest}, which is another image"))),
            None => Err(engine.failure(&format!(
                "it reports that it pushed {digest}, which does not exist there"
            ))),
        }
    };
    match pushed.await {
        Ok(document) => {
            let why = format!("the image was not exported: {}", refused.message);
            let reasons: Vec<String> = method_message.into_iter().chain([why]).collect();
            Ok(Delivery {
                documents: vec![document],
                method: Method::DockerPush,
                method_message: Some(reasons.join("; ")),
            })
        }
        Err(fault) => {
            let message = format!(
                "{}; when it was asked to push the image itself: {}",
                refused.message, fault.message
            );
            Err(Fault::retryable(refused.reason, message))
        }
    }
}

async fn push(engine: &Engine, id: &str, target: &PushTarget) -> Result<Digest, Fault> {
    let repository = format!("{}/{}", target.host, target.repository);
    let name = format!("{repository}:{}", target.tag);
    remove_abandoned_names(engine).await?;
    // A name that the image already has is not removed afterwards.
    let temporary_name = match engine.inspect(&name).await? {
        None => Some(TemporaryName::create(engine, id, &repository, &target.tag).await?),
        Some(known) if known.image_id.as_str() == id => None,
        Some(_) => {
            let what = format!("another image has the name `{name}`, under which this one would be pushed");
            return Err(engine.failure(&what));
        }
    };
    let pushed = async {
        let answer = engine.push(&repository, &target.tag, &credentials(target)).await?;
        tracing::info!(name, "an engine pushes an image");
        outcome(engine, answer).await
    };
    let pushed = pushed.await;
    if let Some(temporary_name) = temporary_name {
        temporary_name.remove().await;
    }
    pushed
}

// URL-safe base64 (RFC 4648, section 5), which the engine's API requires; an empty object without credentials.
fn credentials(target: &PushTarget) -> String {
    let json = match &target.credentials {
        None => json!({}),
        Some(known) => match (&known.registry_token, &known.identity_token) {
            (Some(token), _) => json!({ "registrytoken": token.expose_secret(), "serveraddress": target.host }),
            (None, Some(token)) => json!({ "identitytoken": token.expose_secret(), "serveraddress": target.host }),
            (None, None) => json!({
                "username": known.username,
                "password": known.password.expose_secret(),
                "serveraddress": target.host,
            }),
        },
    };
    URL_SAFE.encode(json.to_string())
}

#[derive(Default, Deserialize)]
struct Line {
    #[serde(default)]
    aux: Option<Aux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Aux {
    #[serde(default)]
    digest: Option<Digest>,
}

// The result of a push: the digest of the manifest, or the error.
async fn outcome(engine: &Engine, mut answer: Incoming) -> Result<Digest, Fault> {
    let mut lines = Lines::default();
    let mut pushed = None;
    while let Some(chunk) = engine.chunk(&mut answer, "a push").await? {
        if !lines.push(&chunk, LINE_LIMIT) {
            return Err(engine.failure("a line of its push is too long"));
        }
        while let Some(line) = lines.next() {
            if let Some(message) = message_of(&line) {
                return Err(engine.failure(&message));
            }
            let line: Line = decode::json(&line).unwrap_or_default();
            pushed = line.aux.and_then(|aux| aux.digest).or(pushed);
        }
    }
    pushed.ok_or_else(|| engine.failure("its push ended without a digest"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Credentials;

    #[test]
    fn credentials_are_those_of_the_target() {
        let mut target = PushTarget {
            host: "r:5000".to_owned(),
            repository: "a/b".to_owned(),
            tag: "1".to_owned(),
            credentials: None,
        };
        assert_eq!(credentials(&target), URL_SAFE.encode("{}"));
        target.credentials = Some(Credentials::new("me", "p?>"));
        let sent: serde_json::Value = serde_json::from_slice(&URL_SAFE.decode(credentials(&target)).unwrap()).unwrap();
        assert_eq!(
            sent,
            json!({ "username": "me", "password": "p?>", "serveraddress": "r:5000" })
        );
        target.credentials = Some(Credentials::identity_token("", "refresh"));
        let sent: serde_json::Value = serde_json::from_slice(&URL_SAFE.decode(credentials(&target)).unwrap()).unwrap();
        assert_eq!(sent, json!({ "identitytoken": "refresh", "serveraddress": "r:5000" }));
    }
}
