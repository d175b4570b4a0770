//! The tags of images that are no part of a package and follow a policy: the leader chooses, as for the images of packages,
//! and writes the tag into the status, where the workers read it.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::access::{AccessClients, ObjectAccess};
use super::image_context::ImageContext;
use super::status_write::{StatusWrite, write_status};
use crate::api::v1alpha1::{Conditions, JackalImage, JackalImageStatus, SelectedTag, requested_at};
use crate::fault::{Disposition, Fault, Reason};
use crate::fetch::select;
use crate::package::{PolicyImage, Selection};
use crate::runtime::{
    Decision, Failure, ObjectView, TaskKey, catch_panic, current_selection, disposition_after_write, qualified_name,
};

/// Starts the task that chooses the tag of an image with a policy, at each interval and at each request. While the image is
/// suspended the tag stays as it is.
pub(super) fn select_tag(context: &Arc<ImageContext>, image: &JackalImage) -> Action {
    let tasks = &context.selections;
    let uid = image.uid().unwrap_or_default();
    if image.spec.suspend || image.metadata.deletion_timestamp.is_some() {
        tasks.cancel(&uid);
        return Action::await_change();
    }
    let key = TaskKey {
        generation: image.metadata.generation.unwrap_or_default(),
        requested_at: requested_at(image.annotations()).map(str::to_owned),
        input: None,
        tag_owner: None,
    };
    let view = ObjectView {
        ready: current_selection(image).is_some(),
        claim: None,
        rechecks: true,
        interval: context.settings.interval(image.spec.interval),
    };
    match tasks.decide(&uid, &key, view, Instant::now()) {
        Decision::AwaitChange => Action::await_change(),
        Decision::Requeue(left) => Action::requeue(left),
        Decision::Run => {
            let token = tasks.begin(&uid, &key, &context.stop);
            let (task_context, image) = (Arc::clone(context), image.clone());
            context
                .tracker
                .spawn(async move { run(&task_context, &image, key, token).await });
            Action::await_change()
        }
    }
}

/// Runs the task to its end, or until `token` is cancelled.
async fn run(context: &ImageContext, image: &JackalImage, key: TaskKey, token: CancellationToken) {
    let tasks = &context.selections;
    let uid = image.uid().unwrap_or_default();
    let work = async {
        let chosen = catch_panic(choose_tag(context, image)).await;
        let written = write_selection(context, image, &chosen).await;
        (chosen, written)
    };
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        result = context.leadership.during(work) => result,
    };
    match result {
        None => tasks.ended(&uid),
        Some((Ok(_), Ok(()))) => tasks.succeeded(&uid, key, Instant::now()),
        Some((chosen, written)) => {
            let disposition = chosen.err().map_or(Disposition::Retryable, |fault| fault.disposition);
            let disposition = disposition_after_write(image, written, disposition);
            tasks.failed(&uid, key, disposition, Instant::now());
        }
    }
    context.enqueue(image).await;
}

async fn choose_tag(context: &ImageContext, image: &JackalImage) -> Result<Selection, Fault> {
    let spec = &image.spec;
    let policy = spec.policy.as_ref();
    let policy = policy.ok_or_else(|| Fault::stalled(Reason::InvalidSpec, "the image has no policy"))?;
    let followed = [PolicyImage::of(&spec.image, spec.source, policy)?];
    let ImageContext {
        client,
        settings,
        registries,
        ..
    } = context;
    let namespace = image.namespace().unwrap_or_default();
    let idle = settings.idle(spec.stall_timeout);
    let defaults = &settings.defaults;
    let target = defaults.target(client, &namespace, &spec.registry, idle).await?;
    let access = ObjectAccess::of_image(AccessClients::of(client, settings, registries), image, &target);
    let mut chosen = select(&followed, &access).await?;
    let none = || Fault::retryable(Reason::SourceNotFound, format!("no tag of {} was chosen", spec.image));
    chosen.pop().ok_or_else(none)
}

/// Writes the chosen tag, or why there is none, and records an event where that is news.
async fn write_selection(
    context: &ImageContext,
    image: &JackalImage,
    chosen: &Result<Selection, Fault>,
) -> Result<(), kube::Error> {
    let requested = requested_at(image.annotations());
    let change = |current: &JackalImage, status: &mut JackalImageStatus| {
        let generation = current.metadata.generation;
        let is_current = generation == image.metadata.generation
            && !current.spec.suspend
            && requested_at(current.annotations()) == requested;
        is_current.then(|| match chosen {
            Ok(selection) => record_tag(status, selection, generation, requested),
            Err(fault) => record_failure(status, fault, generation, requested),
        })
    };
    let written = write_status(&context.client, &context.leadership, image, change).await?;
    if written != StatusWrite::Written(true) {
        return Ok(());
    }
    match chosen {
        Ok(Selection {
            image: followed,
            selected,
        }) => {
            let note = format!(
                "the tag {} of {} was chosen: {}",
                selected.tag, followed.image, selected.message
            );
            info!(image = qualified_name(image), "{note}");
            context.events.normal(image, "TagSelected", &note).await;
        }
        Err(fault) => {
            warn!(image = qualified_name(image), %fault, "choosing a tag");
            let reason = fault.reason.to_string();
            context.events.warning(image, &reason, &fault.message).await;
        }
    }
    Ok(())
}

/// Records the tag that was chosen. True where it is another one than before: then Ready becomes Unknown until that is
/// transferred.
fn record_tag(
    status: &mut JackalImageStatus,
    selection: &Selection,
    generation: Option<i64>,
    requested: Option<&str>,
) -> bool {
    let selected = &selection.selected;
    let before = status.selected.replace(SelectedTag {
        tag: selected.tag.clone(),
        reason: selected.reason.clone(),
        message: selected.message.clone(),
        observed_generation: generation,
        last_handled_reconcile_at: requested.map(str::to_owned),
    });
    let is_news = before.is_none_or(|before| before.tag != selected.tag);
    if is_news {
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        let message = format!("the tag {} was chosen and is to be transferred", selected.tag);
        conditions.progressing(generation, "Transferring", &message, Time(jiff::Timestamp::now()));
        status.conditions = conditions.0;
        status.observed_generation = generation;
    }
    is_news
}

/// Records that no tag could be chosen. True where that is news. Nothing is transferred until one is chosen; the tag before
/// is only shown.
fn record_failure(
    status: &mut JackalImageStatus,
    fault: &Fault,
    generation: Option<i64>,
    requested: Option<&str>,
) -> bool {
    if let Some(selected) = &mut status.selected {
        selected.observed_generation = None;
    }
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let is_news = Failure(fault).record(&mut conditions, generation, Time(jiff::Timestamp::now()));
    status.conditions = conditions.0;
    status.observed_generation = generation;
    status.last_handled_reconcile_at = requested.map(str::to_owned);
    is_news
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::READY;

    fn selection(tag: &str) -> Selection {
        let policy = serde_json::from_value(json!({ "pattern": ".*" })).unwrap();
        let followed = PolicyImage {
            image: "a/b".to_owned(),
            policy,
        };
        followed.choose(&[tag.to_owned()]).unwrap()
    }

    #[test]
    fn another_tag_resets_ready_and_the_same_tag_does_not() {
        let mut status = JackalImageStatus::default();
        let ready = |status: &mut JackalImageStatus| {
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            conditions.ready(Some(1), "Succeeded", "it is there", Time(jiff::Timestamp::UNIX_EPOCH));
            status.conditions = conditions.0;
        };
        let is_ready = |status: &JackalImageStatus| Conditions(status.conditions.clone()).is_true(READY, Some(1));
        assert!(record_tag(&mut status, &selection("1"), Some(1), None));
        assert!(!is_ready(&status));
        ready(&mut status);
        let before = status.clone();
        assert!(!record_tag(&mut status, &selection("1"), Some(1), None));
        assert_eq!(status, before);
        assert!(!record_tag(&mut status, &selection("1"), Some(1), Some("5")));
        assert!(is_ready(&status));
        assert!(record_tag(&mut status, &selection("2"), Some(1), Some("5")));
        assert!(!is_ready(&status));
        ready(&mut status);

        let fault = Fault::retryable(Reason::RegistryUnavailable, "no answer");
        assert!(record_failure(&mut status, &fault, Some(1), Some("5")));
        assert!(!is_ready(&status));
        let selected = status.selected.clone().unwrap();
        assert_eq!((selected.tag.as_str(), selected.observed_generation), ("2", None));
        assert!(!record_failure(&mut status, &fault, Some(1), Some("5")), "no news");
    }
}
