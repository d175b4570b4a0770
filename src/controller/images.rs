//! The leader's part in each `JackalImage`: which node an engine's image is read from, and objects that cannot
//! be read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::Store;
use kube::runtime::watcher::Event;
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::assignment::{self, AgentNode, AssignmentDecision};
use super::deletion::Deletion;
use super::deletion_tasks::{DeletionRequest, DeletionTasks, as_leader};
use super::lease::{LAPSE, Leadership};
use super::object_cache::ObjectCache;
use super::selection_tasks::SelectionTasks;
use super::{AGENT_LABEL, AGENT_LEASE, finalizers, undecodable};
use crate::api::v1alpha1::{Assignment, Conditions, DeletionPolicy, JackalImage, requested_at};
use crate::fault::{Disposition, Fault, Reason};
use crate::runtime::{
    Events, Failure, ObjectKind, Registries, STALE, Settings, drop_managed_fields, kube_fault, object_uids,
    qualified_name, until_stopped, update, with_timeout,
};

type GuardedImage = DeserializeGuard<JackalImage>;

/// How soon it is looked whether another object has left a tag that an image wants.
const HELD_TAG: std::time::Duration = std::time::Duration::from_secs(10);
/// Keeps an object whose deletion takes back what it pushed.
const FINALIZER: &str = "jackal.dev/image";

pub(super) struct Assigner {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) registries: Arc<Registries>,
    seen: ObjectCache,
    pub(super) events: Events,
    pub(super) leadership: Leadership,
    pub(super) selecting: SelectionTasks,
    removals: DeletionTasks,
    /// Only what they are called: what one holds may be anything, and would keep the others from being read.
    agents: Store<PartialObjectMeta<Lease>>,
    /// When this process first saw a generation of an object, by uid: nodes that do not answer are waited
    /// for from then.
    since: Mutex<HashMap<String, (i64, Instant)>>,
}

/// Assigns nodes until `stop`.
pub(super) async fn run(
    client: Client,
    identity: &str,
    settings: Settings,
    (registries, seen): (Arc<Registries>, ObjectCache),
    leadership: Leadership,
    stop: CancellationToken,
) {
    let images: Api<GuardedImage> = settings.api(&client);
    let leases: Api<PartialObjectMeta<Lease>> = Api::namespaced(client.clone(), &settings.defaults.namespace);
    let (agents, writer) = reflector::store();
    let mut agent_listing = settings.health.further_listing("Leases of agents");
    let mut listing = settings.health.further_listing("JackalImages");
    let agent_changes = watcher(leases, watcher::Config::default().labels(AGENT_LABEL))
        .default_backoff()
        .reflect(writer)
        .inspect(move |event| agent_listing.note(event))
        .touched_objects()
        .filter_map(|change| async move { change.ok().map(|_| ()) });
    let (wakes, woken) = mpsc::channel(1024);
    let assigner = Arc::new(Assigner {
        selecting: SelectionTasks::new(identity, settings.backoff, wakes, &stop),
        removals: DeletionTasks::new(identity, settings.backoff, &stop),
        events: Events::new(client.clone(), identity),
        client,
        settings,
        registries,
        seen,
        leadership,
        agents,
        since: Mutex::default(),
    });
    let (reader, writer) = reflector::store();
    let (gone, listed) = (Arc::clone(&assigner), reader.clone());
    let stream = watcher(images, watcher::Config::default())
        .default_backoff()
        .modify(drop_managed_fields)
        .reflect(writer)
        .inspect(move |event| {
            listing.note(event);
            match event {
                Ok(Event::Delete(object)) => gone.forget(object.uid().as_deref().unwrap_or_default()),
                Ok(Event::InitDone) => gone.keep(&object_uids(&listed)),
                _ => {}
            }
        })
        .touched_objects();
    let controller = Controller::for_stream(stream, reader)
        .with_config(Config::default().concurrency(8))
        .reconcile_all_on(agent_changes)
        .reconcile_on(ReceiverStream::new(woken))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, error, _| match *error {}, Arc::clone(&assigner))
        .for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "assigning images");
            }
        });
    until_stopped(controller, &stop).await;
    assigner.selecting.end().await;
}

async fn reconcile(object: Arc<GuardedImage>, assigner: Arc<Assigner>) -> Result<Action, Infallible> {
    match assigner.leadership.during(lead(&object, &assigner)).await {
        Some(action) => Ok(action),
        None => Ok(Action::requeue(LAPSE)),
    }
}

/// What the leader does about an image.
async fn lead(object: &GuardedImage, assigner: &Arc<Assigner>) -> Action {
    let image = match &object.0 {
        Ok(image) => image,
        Err(invalid) => {
            return undecodable::report::<JackalImage>(&assigner.client, &assigner.events, invalid).await;
        }
    };
    let pass = assigner.settings.metrics.reconcile(ObjectKind::JackalImage);
    let finalized = assigner.finalize(image).await;
    if let Err(fault) = &finalized {
        pass.ended(&finalized);
        warn!(image = qualified_name(image), %fault, "setting the finalizer");
        return Action::requeue(assigner.settings.backoff.limit);
    }
    if image.metadata.deletion_timestamp.is_some() {
        pass.ended(&finalized);
        return assigner.remove(image);
    }
    if image.spec.policy.is_some() {
        pass.ended(&finalized);
        return assigner.select(image);
    }
    if !image.spec.source.is_engine() || image.spec.suspend {
        pass.ended(&finalized);
        return Action::await_change();
    }
    let assigned = assigner.assign(image).await;
    pass.ended(&assigned);
    assigned.unwrap_or_else(|fault| {
        warn!(image = qualified_name(image), %fault, "assigning a node");
        Action::requeue(std::time::Duration::from_secs(5))
    })
}

impl Assigner {
    /// Keeps an object whose deletion takes something back until that is done, and lets others go.
    async fn finalize(&self, image: &JackalImage) -> Result<(), Fault> {
        let takes_back = image.spec.deletion_policy == DeletionPolicy::Delete;
        match image.metadata.deletion_timestamp.is_some() {
            true if takes_back => Ok(()),
            true => finalizers::set(&self.client, image, FINALIZER, false).await,
            false => finalizers::set(&self.client, image, FINALIZER, takes_back).await,
        }
    }

    /// Has what an image that is going pushed deleted, by a task of its own.
    fn remove(self: &Arc<Self>, image: &JackalImage) -> Action {
        let uid = image.uid().unwrap_or_default();
        self.selecting.cancel(&uid);
        if !image.finalizers().iter().any(|known| known == FINALIZER) {
            return Action::await_change();
        }
        let token = match self.removals.decide(&uid) {
            DeletionRequest::Begin(token) => token,
            DeletionRequest::Later(later) => return later.map_or_else(Action::await_change, Action::requeue),
        };
        let (assigner, image) = (Arc::clone(self), image.clone());
        self.selecting.spawn(async move {
            let work = as_leader(&assigner.leadership, assigner.take_back(&image));
            if let Some(Err(fault)) = assigner.removals.run(&uid, token, work).await {
                warn!(image = qualified_name(&image), %fault, "deleting what was pushed");
                let reason = "GarbageCollectionFailed";
                assigner.events.warning(&image, reason, &fault.message).await;
            }
            assigner.selecting.wake(&image).await;
        });
        Action::await_change()
    }

    async fn take_back(&self, image: &JackalImage) -> Result<(), Fault> {
        let Self {
            client,
            settings,
            registries,
            events,
            ..
        } = self;
        let deletion = Deletion {
            client,
            settings,
            registries,
            events,
        };
        deletion.image(image).await?;
        finalizers::set(&self.client, image, FINALIZER, false).await
    }

    fn forget(&self, uid: &str) {
        self.selecting.forget(uid);
        self.removals.forget(uid);
    }

    fn keep(&self, uids: &HashSet<String>) {
        self.selecting.keep(uids);
        self.removals.keep(uids);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|uid, _| uids.contains(uid));
    }

    async fn assign(&self, image: &JackalImage) -> Result<Action, Fault> {
        let generation = image.metadata.generation.unwrap_or_default();
        let plain_tag_owner = match self.seen.plain_tag_owner(&self.client, &self.settings, image).await {
            Ok(owner) => owner,
            Err(fault) if fault.disposition == Disposition::Blocked => {
                let action = self.write(image, None, Some(&fault)).await?;
                return Ok(self.look_again(action));
            }
            Err(fault) => return Err(fault),
        };
        let again = plain_tag_owner.is_some();
        let waited = self.waited(image, generation);
        let agents = self.agents(image.spec.node_selector.is_some()).await?;
        let status = image.status.clone().unwrap_or_default();
        let patient = waited < STALE;
        let action = match assignment::decide(
            &image.spec,
            generation,
            &agents,
            &status.candidates,
            status.assignment.as_ref(),
            patient,
        ) {
            AssignmentDecision::Open => Action::requeue(STALE.saturating_sub(waited)),
            AssignmentDecision::Assigned(assignment) => {
                let assignment = Assignment {
                    plain_tag_owner,
                    ..assignment
                };
                if status.assignment.as_ref() != Some(&assignment) {
                    self.write(image, Some(&assignment), None).await?
                } else {
                    Action::await_change()
                }
            }
            AssignmentDecision::Refused(fault) => self.write(image, None, Some(&fault)).await?,
        };
        Ok(if again { self.look_again(action) } else { action })
    }

    /// `action` at the latest when another object may have left a tag.
    fn look_again(&self, action: Action) -> Action {
        match action == Action::await_change() {
            true => Action::requeue(HELD_TAG.min(self.settings.backoff.limit)),
            false => action,
        }
    }

    fn waited(&self, image: &JackalImage, generation: i64) -> std::time::Duration {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        // Objects come and go; what is forgotten is only waited for again.
        if since.len() > 10_000 {
            since.clear();
        }
        let entry = since
            .entry(image.uid().unwrap_or_default())
            .or_insert((generation, Instant::now()));
        if entry.0 != generation {
            *entry = (generation, Instant::now());
        }
        entry.1.elapsed()
    }

    /// The nodes that run the agent, with their labels when somebody selects by them.
    async fn agents(&self, labelled: bool) -> Result<Vec<AgentNode>, Fault> {
        let mut agents = Vec::new();
        for lease in self.agents.state() {
            let Some(name) = lease.name_any().strip_prefix(AGENT_LEASE).map(str::to_owned) else {
                continue;
            };
            let labels = if labelled {
                self.labels(&name).await?
            } else {
                BTreeMap::new()
            };
            agents.push(AgentNode { name, labels });
        }
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(agents)
    }

    async fn labels(&self, node: &str) -> Result<BTreeMap<String, String>, Fault> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found: Option<PartialObjectMeta<Node>> =
            with_timeout(nodes.get_metadata_opt(node)).await.map_err(|error| {
                kube_fault(
                    Reason::NodeUnavailable,
                    &format!("reading the labels of the node {node}"),
                    &error,
                )
            })?;
        Ok(found.and_then(|node| node.metadata.labels).unwrap_or_default())
    }

    async fn write(
        &self,
        image: &JackalImage,
        assignment: Option<&Assignment>,
        fault: Option<&Fault>,
    ) -> Result<Action, Fault> {
        let api: Api<JackalImage> = Api::namespaced(self.client.clone(), &image.namespace().unwrap_or_default());
        let lapsed = AtomicBool::new(false);
        let news = AtomicBool::new(false);
        let written = update(
            &api,
            &image.name_any(),
            &image.uid().unwrap_or_default(),
            |standing, status| {
                let current = standing.metadata.generation == image.metadata.generation && !standing.spec.suspend;
                lapsed.store(!self.leadership.is_held(), Ordering::Relaxed);
                if !current || lapsed.load(Ordering::Relaxed) {
                    return false;
                }
                status.assignment = assignment.cloned();
                if let Some(fault) = fault {
                    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
                    let is_news = Failure(fault).note(
                        &mut conditions,
                        standing.metadata.generation,
                        Time(jiff::Timestamp::now()),
                    );
                    news.store(is_news, Ordering::Relaxed);
                    status.conditions = conditions.0;
                    status.observed_generation = standing.metadata.generation;
                    status.last_handled_reconcile_at = requested_at(standing.annotations()).map(str::to_owned);
                }
                true
            },
        )
        .await
        .map_err(|error| kube_fault(Reason::NodeUnavailable, "writing the assignment", &error))?;
        if let (Some(fault), Some(_), true) = (fault, written, news.into_inner()) {
            self.events
                .warning(image, &fault.reason.to_string(), &fault.message)
                .await;
        }
        Ok(match lapsed.into_inner() {
            true => Action::requeue(LAPSE),
            false => Action::await_change(),
        })
    }
}
