//! Writing status: read, change, write when different, and again when another was faster.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::api::v1alpha1::{
    Conditions, JackalImage, JackalImageSpec, JackalImageStatus, READY, VERIFIED, WrittenRepository, mebibytes,
    requested_at,
};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::Naming;
use crate::package::applicable;
use crate::transfer::Outcome;

/// How long the API server may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take while the process stops.
const LAST_ANSWER: Duration = Duration::from_secs(3);
/// How often a write is tried again because another was faster.
const CONFLICTS: u32 = 10;

/// `call`, at most [`ANSWER`] long.
pub async fn with_timeout<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server did not answer in 30 s".into())),
    }
}

/// `call` of a process that stops, which others wait for.
pub async fn with_short_timeout<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(LAST_ANSWER, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server did not answer in 3 s".into())),
    }
}

/// A failure of the Kubernetes API as one of ours.
pub fn kube_fault(reason: Reason, doing: &str, error: &kube::Error) -> Fault {
    let what = match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "{doing} is forbidden to the operator ({}): grant it by RBAC",
                status.message
            )
        }
        other => format!("{doing} failed: {other}"),
    };
    Fault::retryable(reason, what)
}

/// `namespace/name`.
pub fn qualified_name(object: &impl kube::ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Changes the status of the object `name` that still has the `uid`. `change` sees what stands now and says
/// whether it wants to write; equal status is not written. Gives what stands in the end, or `None` when the
/// object is gone or `change` declined.
pub async fn update_status<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    change: impl Fn(&K, &mut K::Status) -> bool,
) -> Result<Option<K>, kube::Error>
where
    K: Resource + HasStatus + Clone + DeserializeOwned + Serialize + Debug,
    K::Status: Default + Clone + PartialEq,
{
    for _ in 0..CONFLICTS {
        let Some(mut object) = with_timeout(api.get_opt(name)).await? else {
            return Ok(None);
        };
        if object.meta().uid.as_deref() != Some(uid) {
            return Ok(None);
        }
        let mut status = object.status().cloned().unwrap_or_default();
        if !change(&object, &mut status) {
            return Ok(None);
        }
        if object.status() == Some(&status) {
            return Ok(Some(object));
        }
        *object.status_mut() = Some(status);
        match with_timeout(api.replace_status(name, &PostParams::default(), &object)).await {
            Ok(written) => return Ok(Some(written)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Err(kube::Error::Service(
        "the status changed under each of ten writes".into(),
    ))
}

/// What comes after a failure of `object`, of which its status was to tell: `disposition`, or another try where the
/// status could not be written. Nobody would hear of what is not tried again.
pub fn disposition_after_write<K: Resource<DynamicType = ()>>(
    object: &K,
    written: Result<(), kube::Error>,
    disposition: Disposition,
) -> Disposition {
    match written {
        Err(error) => {
            warn!(kind = %K::kind(&()), object = qualified_name(object), %error, "the status could not be written");
            Disposition::Retryable
        }
        Ok(()) => disposition,
    }
}

/// What is said of an image that has the signatures that it must have.
const SATISFIED: &str = "the image has the signatures that verify asks for";

/// Whether `verify` asks for signatures of the image.
pub fn requires_signatures(spec: &JackalImageSpec) -> bool {
    let reference = spec.image.parse().ok();
    let entries = reference.and_then(|reference| applicable(&spec.verify, &reference, spec.source).ok());
    entries.is_some_and(|entries| !entries.is_empty())
}

/// How a failure stands in the conditions.
pub struct Failure<'a>(pub &'a Fault);

impl Failure<'_> {
    /// Notes the failure. True when that is news: a first failure, another reason than before, or another
    /// message about another spec. Other words about the same are written, but an event was told already.
    pub fn record(&self, conditions: &mut Conditions, generation: Option<i64>, now: Time) -> bool {
        let reason = self.0.reason.to_string();
        let before = conditions.get(READY).cloned();
        match self.0.is_stalled() {
            true => conditions.stalled(generation, &reason, &self.0.message, now),
            false => conditions.failing(generation, &reason, &self.0.message, now),
        }
        let after = conditions.get(READY);
        let class = |condition: Option<&Condition>| condition.map(|c| (c.status.clone(), c.reason.clone()));
        let both = before.as_ref().zip(after);
        let respecified = both.is_some_and(|(known, next)| {
            known.observed_generation != next.observed_generation && known.message != next.message
        });
        class(before.as_ref()) != class(after) || respecified
    }
}

/// Where an image was brought to.
pub struct WrittenImage {
    /// The name that a pod uses.
    pub name: String,
    /// How that is made.
    pub naming: Naming,
    /// The repository, and how it was reached.
    pub registry: WrittenRepository,
}

/// What came of an image that is in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// Whether that is news.
    pub news: bool,
    /// The name of what this object wrote to another repository before. It stays there.
    pub left: Option<String>,
}

/// Fills the status of an image that is in its place. `seen` is the object as it was when the task began.
pub fn succeed(
    seen: &JackalImage,
    image: &JackalImage,
    status: &mut JackalImageStatus,
    brought: &WrittenImage,
    outcome: &Outcome,
    now: Time,
) -> Success {
    let WrittenImage { name, naming, registry } = brought;
    let generation = image.metadata.generation;
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let verified_at = now.clone();
    let news = !conditions.is_true(READY, generation) || status.digest.as_deref() != Some(outcome.digest.as_str());
    let mut message = format!("{name} is {}", outcome.digest.short_form());
    if let Some(omitted) = &outcome.omitted_tag {
        message = format!("{message}; {omitted}");
    }
    conditions.ready(generation, "Succeeded", &message, now);
    match requires_signatures(&image.spec) {
        true => conditions.set(VERIFIED, Some(true), ("Succeeded", SATISFIED), generation, verified_at),
        false => conditions.clear(VERIFIED),
    }
    status.conditions = conditions.0;
    // A look that moved nothing does not hide how the bytes came.
    if outcome.moved_blobs > 0 || status.method.is_none() || status.digest.as_deref() != Some(outcome.digest.as_str()) {
        status.method = Some(outcome.method.to_string());
        status.method_reason = outcome
            .declined
            .as_ref()
            .map(|_| outcome.method.declined_reason().to_owned());
        status.method_message = outcome.declined.clone();
    }
    let before = seen.status.as_ref();
    let of_this_spec = before.is_some_and(|before| before.observed_generation == generation);
    // What this very object claimed to move before has been written, even if nobody lived to say so. A claim of the task
    // itself proves nothing: what it wrote the outcome says.
    let claimed = of_this_spec && before.is_some_and(|before| before.claim.is_some());
    // The same content may stand in another registry too, where others wrote it. What an earlier version of the operator
    // recorded is about the registry of the spec of then.
    let moved = match &status.registry {
        Some(known) => !known.is(registry),
        None => !of_this_spec,
    };
    let left = (moved && !status.adopted && status.digest.is_some())
        .then(|| status.name.clone())
        .flatten();
    let left = left.map(|name| match &status.registry {
        Some(known) if name == brought.name => format!("{name} ({})", known.apart_from(registry)),
        _ => name,
    });
    let other = status.digest.as_deref() != Some(outcome.digest.as_str()) || status.name.as_deref() != Some(name);
    if outcome.published || other || moved {
        status.adopted = !outcome.published && !claimed;
    }
    if image.spec.policy.is_none() {
        status.selected = None;
    }
    status.observed_generation = generation;
    status.claim = None;
    status.progress = None;
    status.name = Some(name.clone());
    status.naming = Some(*naming);
    status.registry = Some(registry.clone());
    status.digest = Some(outcome.digest.to_string());
    status.source_digest = Some(outcome.source_digest.to_string());
    status.size = Some(i64::try_from(outcome.size).unwrap_or(i64::MAX));
    status.display_size = Some(mebibytes(outcome.size));
    status.last_handled_reconcile_at = requested_at(image.annotations()).map(str::to_owned);
    Success { news, left }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use kube::api::ObjectMeta;

    use super::*;
    use crate::api::v1alpha1::{Claim, JackalImageSpec};
    use crate::oci::Digest;
    use crate::source::Method;

    fn image() -> JackalImage {
        let spec: JackalImageSpec = serde_json::from_value(serde_json::json!({ "image": "a/b:1" })).unwrap();
        let metadata = ObjectMeta {
            generation: Some(2),
            ..ObjectMeta::default()
        };
        JackalImage {
            metadata,
            spec,
            status: None,
        }
    }

    /// Whether the image is somebody else's after it was found or written (`published`) in that state.
    fn adopted(status: &mut JackalImageStatus, content: &str, published: bool) -> bool {
        adopted_at("r", status, content, published)
    }

    fn adopted_at(endpoint: &str, status: &mut JackalImageStatus, content: &str, published: bool) -> bool {
        let digest = Digest::of(content.as_bytes());
        let outcome = Outcome {
            source_digest: digest.clone(),
            digest,
            size: 1,
            method: Method::Unchanged,
            declined: None,
            published,
            referrers: 0,
            omitted_tag: None,
            moved_blobs: 0,
            moved_bytes: 0,
            documents: Vec::new(),
        };
        let seen = JackalImage {
            status: Some(status.clone()),
            ..image()
        };
        let brought = WrittenImage {
            name: "r/a/b:1".to_owned(),
            naming: Naming::Plain,
            registry: written_at(endpoint),
        };
        succeed(
            &seen,
            &image(),
            status,
            &brought,
            &outcome,
            Time(jiff::Timestamp::UNIX_EPOCH),
        );
        status.adopted
    }

    fn written_at(endpoint: &str) -> WrittenRepository {
        WrittenRepository {
            address: "r".to_owned(),
            endpoint: (endpoint == "evil").then(|| endpoint.to_owned()),
            repository: "a/b".to_owned(),
        }
    }

    fn claimed(generation: i64) -> JackalImageStatus {
        JackalImageStatus {
            observed_generation: Some(generation),
            claim: Some(Claim {
                holder: "gone".to_owned(),
                renew_time: MicroTime(jiff::Timestamp::UNIX_EPOCH),
            }),
            ..JackalImageStatus::default()
        }
    }

    #[test]
    fn what_stood_there_at_the_first_look_is_somebody_elses() {
        let mut status = JackalImageStatus::default();
        assert!(adopted(&mut status, "x", false));
        assert!(adopted(&mut status, "x", false), "and stays so");
        assert!(!adopted(&mut status, "x", true), "a tag of its own was missing");
        assert!(!adopted(&mut status, "x", false), "a repeat takes nothing back");
        assert!(adopted(&mut status, "y", false), "somebody pushed another");
        assert!(!adopted(&mut status, "z", true));
        // A process that was killed between the push and the note of it had claimed the image for this very spec.
        assert!(!adopted(&mut claimed(2), "x", false));
        assert!(adopted(&mut claimed(1), "x", false));
    }

    #[test]
    fn what_stands_in_another_registry_is_somebody_elses() {
        let mut status = JackalImageStatus::default();
        assert!(!adopted_at("evil", &mut status, "x", true));
        assert_eq!(status.registry, Some(written_at("evil")));
        assert!(adopted(&mut status, "x", false), "the same name and digest");
        assert_eq!(status.registry, Some(written_at("r")));
        assert!(adopted_at("evil", &mut status, "x", false), "nor does it come back");
        // An earlier version did not say where it wrote; that is known as long as the spec is the same.
        let mut earlier = JackalImageStatus {
            observed_generation: Some(2),
            digest: Some(Digest::of(b"x").to_string()),
            name: Some("r/a/b:1".to_owned()),
            ..JackalImageStatus::default()
        };
        let mut edited = JackalImageStatus {
            observed_generation: Some(1),
            ..earlier.clone()
        };
        assert!(!adopted(&mut earlier, "x", false));
        assert!(adopted(&mut edited, "x", false));
    }
}
