//! The agent: the worker of one node. It reports which images the node's docker engine and containerd hold, transfers those
//! that are assigned to the node, and watches both, so that a rebuilt tag is transferred again without a request. A node may
//! have only one of the two: then only images that are read from the other fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::v1alpha1::{Candidate, JackalImage, SourceKind};
use crate::fault::{Fault, Reason};
use crate::oci::Reference;
use crate::package::ImageRequest;
use crate::runtime::{
    AGENT_LABEL, AdmitRules, Health, ReadinessCheck, Recheck, RegistryTarget, Role, Settings, WorkerInputs,
    agent_lease_name, kube_fault, shared_watch, with_short_timeout, with_timeout,
};
use crate::source::containerd::{Containerd, ContainerdEvents};
use crate::source::docker::{Docker, ImageEvents};
use crate::source::{ImageChange, ImageSource};
use crate::worker;

/// The field manager of one node's reports. Each node owns its own entry of the list.
fn field_manager(node: &str) -> String {
    let manager = format!("jackal-agent-{node}");
    manager.chars().take(128).collect()
}

/// The engines of one node.
#[derive(Clone, Debug)]
pub struct Engines {
    /// For `source: Docker`.
    pub docker: Docker,
    /// For `source: Containerd`.
    pub containerd: Containerd,
}

/// Runs the agent of `node` until `stop`. `admissions` say which namespaces may read which images of `engines`.
pub async fn run(
    client: Client,
    node: &str,
    engines: Engines,
    admissions: AdmitRules,
    settings: Settings,
    stop: CancellationToken,
) {
    let registration = Registration::of(&client, &settings, node);
    let (rechecks, received) = mpsc::channel(256);
    let mut docker = ImageEvents::new(engines.docker.engine().clone());
    let mut containerd = ContainerdEvents::new(engines.containerd.client().clone());
    let swept_engine = engines.docker.clone();
    let role = NodeRole {
        client: client.clone(),
        node: node.to_owned(),
        docker: Arc::new(engines.docker),
        containerd: Arc::new(engines.containerd),
        admissions,
        settings: settings.clone(),
    };
    let (watch_of_images, images) = shared_watch();
    let listing = settings.health.listing("JackalImages");
    let image_watch = watch_of_images.run(settings.api(&client), listing);
    let identity = format!("agent/{node}");
    let readable = ReadableEngines::new(&settings.health);
    let work = worker::run(
        client.clone(),
        &identity,
        Arc::new(role),
        settings,
        Arc::default(),
        WorkerInputs {
            images,
            rechecks: received,
        },
        stop.clone(),
    );
    let watches = async {
        tokio::join!(
            image_watch,
            watch(
                SourceKind::Docker,
                async || sweep_at(docker.next().await, &swept_engine).await,
                &rechecks,
                &readable
            ),
            watch(
                SourceKind::Containerd,
                async || containerd.next().await,
                &rechecks,
                &readable
            ),
        );
    };
    let registered = registration.hold(stop.clone());
    tokio::select! {
        () = async { tokio::join!(work, registered); } => {}
        () = async { watches.await; std::future::pending::<()>().await } => {}
    }
}

/// Removes what a killed agent left in the docker engine, whenever the engine can be reached again.
async fn sweep_at(notice: ImageChange, docker: &Docker) -> ImageChange {
    if notice == ImageChange::Resync
        && let Err(fault) = docker.remove_abandoned_names().await
    {
        warn!(%fault, "names that a killed agent pushed images under may be left in the docker engine");
    }
    notice
}

/// Requests reconciliations of the images of one engine whenever `next` says that they changed.
async fn watch(
    source: SourceKind,
    mut next: impl AsyncFnMut() -> ImageChange,
    rechecks: &mpsc::Sender<Recheck>,
    readable: &ReadableEngines,
) {
    let mut was_reached = false;
    loop {
        let notice = next().await;
        match &notice {
            ImageChange::Resync => readable.set(source, Ok(())),
            ImageChange::Lost(fault) => readable.set(source, Err(fault)),
            ImageChange::Changed { .. } => {}
        }
        let name = match notice {
            ImageChange::Changed { name } => name,
            ImageChange::Resync => {
                was_reached = true;
                None
            }
            ImageChange::Lost(fault) if was_reached => {
                warn!(%fault, ?source, "the engine cannot be watched");
                None
            }
            // Most nodes have only one of the two.
            ImageChange::Lost(fault) => {
                info!(%fault, ?source, "the engine cannot be reached; its images cannot be read");
                None
            }
        };
        if rechecks.send(Recheck::Engine(source, name)).await.is_err() {
            return;
        }
    }
}

/// Which engines can be reached. The agent is ready when it reaches one of the two.
struct ReadableEngines {
    check: ReadinessCheck,
    engines: Mutex<[(SourceKind, Result<(), String>); 2]>,
}

impl ReadableEngines {
    fn new(health: &Health) -> Self {
        let unknown = |source| (source, Err(format!("{source:?}: it has not answered yet")));
        let engines = [SourceKind::Docker, SourceKind::Containerd].map(unknown);
        Self {
            check: health.check(unreachable_message(&engines)),
            engines: Mutex::new(engines),
        }
    }

    fn set(&self, source: SourceKind, state: Result<(), &Fault>) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        for engine in engines.iter_mut().filter(|(known, _)| *known == source) {
            engine.1 = state.map_err(|fault| format!("{source:?}: {}", fault.message));
        }
        self.check.set(unreachable_message(&*engines));
    }
}

/// The message where no engine can be reached.
fn unreachable_message(engines: &[(SourceKind, Result<(), String>)]) -> Option<String> {
    let why: Option<Vec<&str>> = engines
        .iter()
        .map(|(_, state)| state.as_ref().err().map(String::as_str))
        .collect();
    why.map(|why| format!("no engine of the node can be reached: {}", why.join("; ")))
}

/// Registers the agent of this node: one Lease, written at the start and deleted at the end. It is not renewed, so that an
/// idle agent makes no writes; the leader waits for the answers of an agent only for a limited time.
struct Registration {
    api: Api<Lease>,
    name: String,
    node: String,
    /// The agent's pod, so that the Lease is also deleted where the agent cannot do so.
    owner: Option<OwnerReference>,
}

impl Registration {
    fn of(client: &Client, settings: &Settings, node: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &settings.defaults.namespace),
            owner: settings.owner.clone(),
            name: agent_lease_name(node),
            node: node.to_owned(),
        }
    }

    async fn hold(&self, stop: CancellationToken) {
        let mut delay = Duration::from_millis(500);
        loop {
            let written = tokio::select! {
                () = stop.cancelled() => return,
                written = self.write() => written,
            };
            let Err(error) = written else { break };
            warn!(%error, node = self.node, "the agent could not register and tries again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(30)),
            }
        }
        info!(node = self.node, "registered");
        stop.cancelled().await;
        if let Err(error) = with_short_timeout(self.api.delete(&self.name, &DeleteParams::default())).await {
            warn!(%error, node = self.node, "the agent's lease could not be deleted");
        }
    }

    async fn write(&self) -> Result<(), kube::Error> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([(AGENT_LABEL.to_owned(), "true".to_owned())])),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node.clone()),
                acquire_time: Some(MicroTime(jiff::Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        let parameters = PatchParams::apply(&field_manager(&self.node)).force();
        with_timeout(self.api.patch(&self.name, &parameters, &Patch::Apply(&lease)))
            .await
            .map(|_| ())
    }
}

/// The role of an agent: it transfers images of its node's engines that are assigned to the node.
struct NodeRole {
    client: Client,
    node: String,
    docker: Arc<Docker>,
    containerd: Arc<Containerd>,
    admissions: AdmitRules,
    settings: Settings,
}

impl NodeRole {
    /// Checks that the image may be read from this node.
    fn check(&self, image: &JackalImage, reference: &Reference) -> Result<(), Fault> {
        let namespace = image.namespace().unwrap_or_default();
        self.admissions.check(&self.node, &namespace, &image.spec, reference)
    }

    async fn is_selected(&self, image: &JackalImage) -> Result<bool, Fault> {
        let labels = match &image.spec.node_selector {
            None => BTreeMap::new(),
            Some(_) => {
                let nodes: Api<Node> = Api::all(self.client.clone());
                let found: Option<PartialObjectMeta<Node>> = with_timeout(nodes.get_metadata_opt(&self.node))
                    .await
                    .map_err(|error| kube_fault(Reason::NodeUnavailable, "reading the node's own labels", &error))?;
                found.and_then(|node| node.metadata.labels).unwrap_or_default()
            }
        };
        Ok(image.spec.selects(&self.node, &labels))
    }

    /// The engine of `source`; none for a registry.
    fn engine(&self, source: SourceKind) -> Option<Arc<dyn ImageSource>> {
        match source {
            SourceKind::Docker => Some(Arc::clone(&self.docker) as Arc<dyn ImageSource>),
            SourceKind::Containerd => Some(Arc::clone(&self.containerd) as Arc<dyn ImageSource>),
            SourceKind::Registry => None,
        }
    }

    /// What this node reports of an image: its ID in the engine, or why it cannot be read.
    async fn candidate(&self, engine: &dyn ImageSource, image: &JackalImage, request: &ImageRequest) -> Candidate {
        let ImageRequest {
            reference, platforms, ..
        } = request;
        let nothing = Candidate {
            node_name: self.node.clone(),
            image_id: None,
            reason: None,
            message: None,
            observed_generation: image.metadata.generation.unwrap_or_default(),
        };
        let resolved = match self.check(image, reference) {
            // The engine is not asked.
            Err(fault) => Err(fault),
            Ok(()) => engine.resolve(reference, platforms).await,
        };
        match resolved {
            Ok(resolved) => Candidate {
                image_id: Some(resolved.identity.digest().to_string()),
                ..nothing
            },
            Err(fault) if fault.reason == Reason::SourceNotFound => nothing,
            Err(fault) => Candidate {
                reason: Some(fault.reason.to_string()),
                message: Some(fault.message),
                ..nothing
            },
        }
    }
}

#[async_trait]
impl Role for NodeRole {
    fn may_transfer(&self, image: &JackalImage) -> bool {
        let assignment = image.status.as_ref().and_then(|status| status.assignment.as_ref());
        image.spec.source.is_engine() && assignment.is_some_and(|assignment| assignment.node_name == self.node)
    }

    fn rechecks(&self) -> bool {
        true
    }

    async fn report(&self, image: &JackalImage) -> Result<(), Fault> {
        let Some(engine) = self.engine(image.spec.source) else {
            return Ok(());
        };
        if !self.is_selected(image).await? {
            return Ok(());
        }
        // An invalid spec is reported once, by the leader.
        let Ok(request) = ImageRequest::of_object(&image.spec) else {
            return Ok(());
        };
        let candidate = self.candidate(&*engine, image, &request).await;
        let known = image
            .status
            .as_ref()
            .and_then(|status| status.candidates.iter().find(|known| known.node_name == self.node));
        if known == Some(&candidate) {
            return Ok(());
        }
        let api: Api<JackalImage> = Api::namespaced(self.client.clone(), &image.namespace().unwrap_or_default());
        let answer = json!({
            "apiVersion": "jackal.dev/v1alpha1",
            "kind": "JackalImage",
            "metadata": { "name": image.name_any(), "uid": image.uid() },
            "status": { "candidates": [candidate] },
        });
        let parameters = PatchParams::apply(&field_manager(&self.node)).force();
        match with_timeout(api.patch_status(&image.name_any(), &parameters, &Patch::Apply(answer))).await {
            Ok(_) => Ok(()),
            // It was deleted, or replaced by another object of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(kube_fault(
                Reason::NodeUnavailable,
                "reporting what the node holds",
                &error,
            )),
        }
    }

    // The leader decides, as agents do not watch packages.
    async fn plain_tag_owner(&self, image: &JackalImage) -> Result<Option<String>, Fault> {
        let assignment = image.status.as_ref().and_then(|status| status.assignment.as_ref());
        Ok(assignment.and_then(|assignment| assignment.plain_tag_owner.clone()))
    }

    async fn source(
        &self,
        image: &JackalImage,
        reference: &Reference,
        _: &RegistryTarget,
    ) -> Result<Arc<dyn ImageSource>, Fault> {
        // Whatever the assignment says.
        self.check(image, reference)?;
        let idle = self.settings.idle(image.spec.stall_timeout);
        // The object may have its own stall timeout.
        let engine = match image.spec.source {
            source if idle == self.settings.idle => self.engine(source),
            SourceKind::Docker => Some(Arc::new(self.docker.with_idle_timeout(idle)) as Arc<dyn ImageSource>),
            SourceKind::Containerd => Some(Arc::new(self.containerd.with_idle_timeout(idle)) as Arc<dyn ImageSource>),
            SourceKind::Registry => None,
        };
        engine.ok_or_else(|| {
            let message = format!("{} is read from a registry, which agents do not do", image.spec.image);
            Fault::stalled(Reason::InvalidSpec, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_ready_with_one_engine() {
        let health = Health::default();
        let readable = ReadableEngines::new(&health);
        assert!(health.ready().unwrap_err().contains("Docker: it has not answered yet"));
        let fault = Fault::retryable(Reason::SourceFailed, "the engine is gone");
        readable.set(SourceKind::Containerd, Ok(()));
        readable.set(SourceKind::Docker, Err(&fault));
        assert_eq!(health.ready(), Ok(()));
        readable.set(SourceKind::Containerd, Err(&fault));
        let message = health.ready().unwrap_err();
        assert!(
            message.ends_with("Docker: the engine is gone; Containerd: the engine is gone"),
            "{message}"
        );
    }
}
