//! Writing the status of objects: read, change, write if it differs, and repeat after a conflict.

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

/// How long the API server may take for one response.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same while the process stops.
const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a write is tried if each conflicts with another write.
const WRITE_ATTEMPTS: u32 = 10;

/// The result of `call`, an error after 30 s.
pub async fn with_timeout<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server did not answer in 30 s".into())),
    }
}

/// The result of `call`, an error after 3 s: for a process that is stopping.
pub async fn with_short_timeout<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(SHORT_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server did not answer in 3 s".into())),
    }
}

/// An error of the Kubernetes API as a fault. `doing` says what failed, such as `reading the Secret a/b`.
pub fn kube_fault(reason: Reason, doing: &str, error: &kube::Error) -> Fault {
    let what = match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "{doing} is forbidden to the operator ({}): grant it with RBAC",
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

/// Updates the status of the object `name` if it still has the `uid`. `change` gets the current object and its status,
/// and returns whether to write; an equal status is not written. After a conflict it is called again. Returns the
/// updated object, or `None` if the object is gone or `change` returned false.
pub async fn update_status<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    mut change: impl FnMut(&K, &mut K::Status) -> bool,
) -> Result<Option<K>, kube::Error>
where
    K: Resource + HasStatus + Clone + DeserializeOwned + Serialize + Debug,
    K::Status: Default + Clone + PartialEq,
{
    for _ in 0..WRITE_ATTEMPTS {
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
        "each of ten status writes conflicted with another write".into(),
    ))
}

/// The disposition after a failure of `object` that was to be recorded in its status: `disposition`, but retryable if the
/// status could not be written. Otherwise the failure would never be reported.
pub fn disposition_after_write<K: Resource<DynamicType = ()>>(
    object: &K,
    written: Result<(), kube::Error>,
    disposition: Disposition,
) -> Disposition {
    match written {
        Err(error) => {
            warn!(kind = %K::kind(&()), object = qualified_name(object), %error, "cannot write the status");
            Disposition::Retryable
        }
        Ok(()) => disposition,
    }
}

/// The message of the condition Verified if it is true.
const SIGNATURES_VALID: &str = "the image has the signatures that verify requires";

/// Whether `verify` requires signatures of the image.
pub fn requires_signatures(spec: &JackalImageSpec) -> bool {
    let reference = spec.image.parse().ok();
    let entries = reference.and_then(|reference| applicable(&spec.verify, &reference, spec.source).ok());
    entries.is_some_and(|entries| !entries.is_empty())
}

/// A failure to be recorded in conditions.
pub struct Failure<'a>(pub &'a Fault);

impl Failure<'_> {
    /// Records the failure. True if that is news: a first failure, another reason than before, or another message for
    /// another spec. A changed message alone is recorded but is no news, because an event was published already.
    pub fn record(&self, conditions: &mut Conditions, generation: Option<i64>, now: Time) -> bool {
        let reason = self.0.reason.to_string();
        let before = conditions.get(READY).cloned();
        match self.0.is_stalled() {
            true => conditions.stalled(generation, &reason, &self.0.message, now),
            false => conditions.failing(generation, &reason, &self.0.message, now),
        }
        let after = conditions.get(READY);
        let status_and_reason = |condition: Option<&Condition>| condition.map(|c| (c.status.clone(), c.reason.clone()));
        let both = before.as_ref().zip(after);
        let is_other_spec = both.is_some_and(|(known, next)| {
            known.observed_generation != next.observed_generation && known.message != next.message
        });
        status_and_reason(before.as_ref()) != status_and_reason(after) || is_other_spec
    }
}

/// The location that an image was written to.
pub struct WrittenImage {
    /// The name that pods use.
    pub name: String,
    /// How the name is made.
    pub naming: Naming,
    /// The repository, and the endpoint it was reached at.
    pub registry: WrittenRepository,
}

/// The result of recording a success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// Whether that is news.
    pub is_news: bool,
    /// The name of the image that this object wrote to another repository before. It is kept there.
    pub left: Option<String>,
}

/// Records in the status that the image is in its destination. `before` is the object as it was when the task began.
pub fn record_success(
    before: &JackalImage,
    image: &JackalImage,
    status: &mut JackalImageStatus,
    written: &WrittenImage,
    outcome: &Outcome,
    now: Time,
) -> Success {
    let WrittenImage { name, naming, registry } = written;
    let generation = image.metadata.generation;
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let verified_at = now.clone();
    let is_news = !conditions.is_true(READY, generation) || status.digest.as_deref() != Some(outcome.digest.as_str());
    let mut message = format!("{name} is {}", outcome.digest.short_form());
    if let Some(omitted) = &outcome.omitted_tag {
        message = format!("{message}; {omitted}");
    }
    conditions.ready(generation, "Succeeded", &message, now);
    match requires_signatures(&image.spec) {
        true => conditions.set(
            VERIFIED,
            Some(true),
            ("Succeeded", SIGNATURES_VALID),
            generation,
            verified_at,
        ),
        false => conditions.clear(VERIFIED),
    }
    status.conditions = conditions.0;
    // A check that transferred nothing keeps the method of the transfer.
    if outcome.moved_blobs > 0 || status.method.is_none() || status.digest.as_deref() != Some(outcome.digest.as_str()) {
        status.method = Some(outcome.method.to_string());
        status.method_reason = outcome
            .declined
            .as_ref()
            .map(|_| outcome.method.declined_reason().to_owned());
        status.method_message = outcome.declined.clone();
    }
    let status_before = before.status.as_ref();
    let of_this_spec = status_before.is_some_and(|before| before.observed_generation == generation);
    // A claim for this spec that existed before the task means that an earlier process may have written the image and
    // ended before it could record that. The claim of the task itself is not considered: the outcome says what it wrote.
    let claimed = of_this_spec && status_before.is_some_and(|before| before.claim.is_some());
    // The same content may exist in another registry too, written by others. A status of an earlier version of the operator
    // has no registry; it is valid for the spec of that time.
    let moved = match &status.registry {
        Some(known) => !known.is(registry),
        None => !of_this_spec,
    };
    let left = (moved && !status.adopted && status.digest.is_some())
        .then(|| status.name.clone())
        .flatten();
    let left = left.map(|name| match &status.registry {
        Some(known) if name == written.name => format!("{name} ({})", known.apart_from(registry)),
        _ => name,
    });
    let differs = status.digest.as_deref() != Some(outcome.digest.as_str()) || status.name.as_deref() != Some(name);
    if outcome.published || differs || moved {
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
    Success { is_news, left }
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

    /// Whether the image is adopted after it was found or written (`published`) with the status.
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
        let before = JackalImage {
            status: Some(status.clone()),
            ..image()
        };
        let written = WrittenImage {
            name: "r/a/b:1".to_owned(),
            naming: Naming::Plain,
            registry: written_at(endpoint),
        };
        record_success(
            &before,
            &image(),
            status,
            &written,
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
    fn an_image_that_existed_at_the_first_check_is_adopted() {
        let mut status = JackalImageStatus::default();
        assert!(adopted(&mut status, "x", false));
        assert!(adopted(&mut status, "x", false), "it stays adopted");
        assert!(!adopted(&mut status, "x", true), "a missing tag was written");
        assert!(!adopted(&mut status, "x", false), "another check changes nothing");
        assert!(adopted(&mut status, "y", false), "another client pushed");
        assert!(!adopted(&mut status, "z", true));
        // A process that was killed between the push and recording it had claimed the image for this spec.
        assert!(!adopted(&mut claimed(2), "x", false));
        assert!(adopted(&mut claimed(1), "x", false));
    }

    #[test]
    fn an_image_found_in_another_registry_is_adopted() {
        let mut status = JackalImageStatus::default();
        assert!(!adopted_at("evil", &mut status, "x", true));
        assert_eq!(status.registry, Some(written_at("evil")));
        assert!(adopted(&mut status, "x", false), "the same name and digest");
        assert_eq!(status.registry, Some(written_at("r")));
        assert!(adopted_at("evil", &mut status, "x", false), "it stays adopted");
        // An earlier version did not record the registry; it is known as long as the spec is the same.
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
