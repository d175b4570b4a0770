//! The tags of images of their own that follow a policy: the leader chooses, as for the images of packages, and writes the
//! choice into the status, where the workers find it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::access::ObjectAccess;
use super::images::Assigner;
use crate::api::v1alpha1::{Conditions, JackalImage, JackalImageStatus, SelectedTag, requested_at};
use crate::fault::{Disposition, Fault, Reason};
use crate::fetch::select;
use crate::package::{PolicyImage, Selection};
use crate::runtime::{
    Backoff, Decision, Failure, ObjectView, TaskKey, TaskTable, catch_panic, current_selection,
    disposition_after_write, qualified_name, update,
};

/// How long the reconciler may take to hear of a choice; it is gone when it takes longer.
const WAKE: Duration = Duration::from_secs(5);

/// The tasks that choose tags.
pub(super) struct SelectionTasks {
    memory: TaskTable,
    wakes: mpsc::Sender<ObjectRef<DeserializeGuard<JackalImage>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SelectionTasks {
    pub fn new(
        identity: &str,
        backoff: Backoff,
        wakes: mpsc::Sender<ObjectRef<DeserializeGuard<JackalImage>>>,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            memory: TaskTable::new(identity, backoff),
            wakes,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        }
    }

    /// The object `uid` is gone.
    pub fn forget(&self, uid: &str) {
        self.memory.forget(uid);
    }

    /// All objects but those of `uids` are gone.
    pub fn keep(&self, uids: &HashSet<String>) {
        self.memory.keep(uids);
    }

    /// Nothing more is chosen for the object `uid`.
    pub fn cancel(&self, uid: &str) {
        self.memory.cancel(uid);
    }

    /// Runs `task`, which ends with the term, beside the others.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Has the reconciler look at the image again.
    pub async fn wake(&self, image: &JackalImage) {
        let object = ObjectRef::new(&image.name_any()).within(&image.namespace().unwrap_or_default());
        // The reconciler is gone only when the term has ended.
        let _ = tokio::time::timeout(WAKE, self.wakes.send(object)).await;
    }

    /// Waits for the tasks, which end with the term.
    pub async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Assigner {
    /// Has the tag of an image with a policy chosen, at each interval and at each request to look. While it is suspended
    /// the tag stays as it is.
    pub(super) fn select(self: &Arc<Self>, image: &JackalImage) -> Action {
        let selecting = &self.selecting;
        let uid = image.uid().unwrap_or_default();
        if image.spec.suspend || image.metadata.deletion_timestamp.is_some() {
            selecting.memory.cancel(&uid);
            return Action::await_change();
        }
        let key = TaskKey {
            generation: image.metadata.generation.unwrap_or_default(),
            requested_at: requested_at(image.annotations()).map(str::to_owned),
            image_id: None,
            holder: None,
        };
        let view = ObjectView {
            ready: current_selection(image).is_some(),
            claim: None,
            rechecks: true,
            interval: self.settings.interval(image.spec.interval),
        };
        match selecting.memory.decide(&uid, &key, view, Instant::now()) {
            Decision::Rest => Action::await_change(),
            Decision::Wait(left) => Action::requeue(left),
            Decision::Run => {
                let token = selecting.memory.begin(&uid, &key, &selecting.stop);
                let (assigner, image) = (Arc::clone(self), image.clone());
                let task = async move { assigner.run_selection(&image, key, token).await };
                selecting.tasks.spawn(task);
                Action::await_change()
            }
        }
    }

    /// Runs the task to its end, or until `token` is cancelled.
    async fn run_selection(&self, image: &JackalImage, key: TaskKey, token: CancellationToken) {
        let memory = &self.selecting.memory;
        let uid = image.uid().unwrap_or_default();
        let work = async {
            let chosen = catch_panic(self.choose(image)).await;
            let written = self.note_selection(image, &chosen).await;
            (chosen, written)
        };
        let result = tokio::select! {
            biased;
            () = token.cancelled() => None,
            result = self.leadership.during(work) => result,
        };
        match result {
            None => memory.ended(&uid),
            Some((Ok(_), Ok(()))) => memory.succeeded(&uid, key, Instant::now()),
            Some((chosen, written)) => {
                let disposition = chosen.err().map_or(Disposition::Retryable, |fault| fault.disposition);
                let disposition = disposition_after_write(image, written, disposition);
                memory.failed(&uid, key, disposition, Instant::now());
            }
        }
        self.selecting.wake(image).await;
    }

    async fn choose(&self, image: &JackalImage) -> Result<Selection, Fault> {
        let spec = &image.spec;
        let policy = spec.policy.as_ref();
        let policy = policy.ok_or_else(|| Fault::stalled(Reason::InvalidSpec, "the image has no policy"))?;
        let followed = [PolicyImage::of(&spec.image, spec.source, policy)?];
        let namespace = image.namespace().unwrap_or_default();
        let idle = self.settings.idle(spec.stall_timeout);
        let defaults = &self.settings.defaults;
        let place = defaults.place(&self.client, &namespace, &spec.registry, idle).await?;
        let reached = ObjectAccess::by_image((&self.client, &self.settings, &self.registries), image, &place);
        let mut chosen = select(&followed, &reached).await?;
        let none = || Fault::retryable(Reason::SourceNotFound, format!("no tag of {} was chosen", spec.image));
        chosen.pop().ok_or_else(none)
    }

    /// Writes the choice, or why there is none, and tells it by an event where it is news.
    async fn note_selection(&self, image: &JackalImage, chosen: &Result<Selection, Fault>) -> Result<(), kube::Error> {
        let api: Api<JackalImage> = Api::namespaced(self.client.clone(), &image.namespace().unwrap_or_default());
        let requested = requested_at(image.annotations());
        let news = AtomicBool::new(false);
        let written = update(
            &api,
            &image.name_any(),
            &image.uid().unwrap_or_default(),
            |standing, status| {
                let current = standing.metadata.generation == image.metadata.generation
                    && !standing.spec.suspend
                    && requested_at(standing.annotations()) == requested;
                if !current || !self.leadership.is_held() {
                    return false;
                }
                let generation = standing.metadata.generation;
                let is_news = match chosen {
                    Ok(selection) => note_chosen(status, selection, generation, requested),
                    Err(fault) => note_failure(status, fault, generation, requested),
                };
                news.store(is_news, Ordering::Relaxed);
                true
            },
        )
        .await?;
        if written.is_none() || !news.into_inner() {
            return Ok(());
        }
        match chosen {
            Ok(Selection { followed, selected }) => {
                let note = format!(
                    "the tag {} of {} was chosen: {}",
                    selected.tag, followed.image, selected.message
                );
                info!(image = qualified_name(image), "{note}");
                self.events.normal(image, "TagSelected", &note).await;
            }
            Err(fault) => {
                warn!(image = qualified_name(image), %fault, "choosing a tag");
                let reason = fault.reason.to_string();
                self.events.warning(image, &reason, &fault.message).await;
            }
        }
        Ok(())
    }
}

/// Notes the tag that was chosen. Another one than before is news, and takes Ready back before it is moved.
fn note_chosen(
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
    let news = before.is_none_or(|before| before.tag != selected.tag);
    if news {
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        let message = format!("the tag {} was chosen and is to be brought", selected.tag);
        conditions.progressing(generation, "Transferring", &message, Time(jiff::Timestamp::now()));
        status.conditions = conditions.0;
        status.observed_generation = generation;
    }
    news
}

/// Notes that no tag could be chosen: nothing is moved before one is, and the tag of before is only shown.
fn note_failure(
    status: &mut JackalImageStatus,
    fault: &Fault,
    generation: Option<i64>,
    requested: Option<&str>,
) -> bool {
    if let Some(selected) = &mut status.selected {
        selected.observed_generation = None;
    }
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let news = Failure(fault).note(&mut conditions, generation, Time(jiff::Timestamp::now()));
    status.conditions = conditions.0;
    status.observed_generation = generation;
    status.last_handled_reconcile_at = requested.map(str::to_owned);
    news
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
    fn another_tag_takes_ready_back_and_the_same_does_not() {
        let mut status = JackalImageStatus::default();
        let ready = |status: &mut JackalImageStatus| {
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            conditions.ready(Some(1), "Succeeded", "it is there", Time(jiff::Timestamp::UNIX_EPOCH));
            status.conditions = conditions.0;
        };
        let is_ready = |status: &JackalImageStatus| Conditions(status.conditions.clone()).is_true(READY, Some(1));
        assert!(note_chosen(&mut status, &selection("1"), Some(1), None));
        assert!(!is_ready(&status));
        ready(&mut status);
        let before = status.clone();
        assert!(!note_chosen(&mut status, &selection("1"), Some(1), None));
        assert_eq!(status, before);
        assert!(!note_chosen(&mut status, &selection("1"), Some(1), Some("5")));
        assert!(is_ready(&status));
        assert!(note_chosen(&mut status, &selection("2"), Some(1), Some("5")));
        assert!(!is_ready(&status));
        ready(&mut status);

        let fault = Fault::retryable(Reason::RegistryUnavailable, "nobody answers");
        assert!(note_failure(&mut status, &fault, Some(1), Some("5")));
        assert!(!is_ready(&status));
        let selected = status.selected.clone().unwrap();
        assert_eq!((selected.tag.as_str(), selected.observed_generation), ("2", None));
        assert!(!note_failure(&mut status, &fault, Some(1), Some("5")), "no news");
    }
}
