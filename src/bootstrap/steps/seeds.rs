//! The seeds in the cluster: one pod on each node, which receives the first images.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::prepare::kind;
use super::run::{SeedRequest, Seeds};
use crate::bootstrap::cluster::{Cluster, Rollout, WaitingContainer};
use crate::bootstrap::install::{NODE_PORT, Object};
use crate::bootstrap::packed::{LAYOUT, PROGRAM};
use crate::bootstrap::seed::image::{by_architecture, candidates, image_failure};
use crate::bootstrap::seed::objects::{
    FILES, NAMESPACE, SeedRole, SeedSpec, config_map, daemon_set, labels, namespace,
};
use crate::bootstrap::seed::{deliver_to_all, file_list};
use crate::bootstrap::text::clean;
use crate::fault::{Fault, Reason};
use crate::transfer::Progress;

/// Where a seed listens when it has imported the images. At [`NODE_PORT`], an installed registry would answer.
const IMPORTED_PORT: u16 = 31997;
/// How long the API server may refuse all pods.
const REFUSED: Duration = Duration::from_secs(15);
/// How long the pods of one image may take to start.
const START: Duration = Duration::from_secs(120);
/// How long the pods may take to serve or import what they received.
const READY: Duration = Duration::from_secs(300);
/// How long the namespace may take to be deleted.
const DELETION: Duration = Duration::from_secs(180);
/// How often pods are replaced during the delivery.
const REPLACEMENTS: u32 = 10;
/// The most nodes and DaemonSets that are read.
const OBJECTS: u32 = 5000;

/// The seeds of the nodes of a cluster.
pub struct NodeSeeds {
    /// The cluster.
    pub cluster: Cluster,
    /// The image of the pods; without one, images that the nodes have are tried.
    pub image: Option<String>,
    /// The path of containerd's socket on the nodes.
    pub socket: String,
}

/// The pods of one architecture.
struct Group {
    object: Object,
    selector: String,
    /// The digest of the list of files, an argument of the pods.
    list: String,
}

impl NodeSeeds {
    fn spec(&self, architecture: &str, request: &SeedRequest, image: String, import: bool) -> Result<SeedSpec, Fault> {
        let (_, list) = file_list(&request.files)?;
        let program = format!("{FILES}/{PROGRAM}");
        let layout = format!("{FILES}/{LAYOUT}");
        let address = match import {
            true => format!("127.0.0.1:{IMPORTED_PORT}"),
            false => format!("127.0.0.1:{NODE_PORT}"),
        };
        let command = match import {
            true => vec![
                program,
                "import-images".to_owned(),
                layout,
                format!("--socket={}", self.socket),
                "--pin".to_owned(),
                format!("--listen={address}"),
            ],
            false => vec![program, "serve".to_owned(), layout, format!("--listen={address}")],
        };
        Ok(SeedSpec {
            architecture: architecture.to_owned(),
            image,
            list,
            size: request.files.iter().fold(0, |sum, file| file.size.saturating_add(sum)),
            command,
            role: match import {
                true => SeedRole::Import {
                    socket: self.socket.clone(),
                    port: IMPORTED_PORT,
                },
                false => SeedRole::Serve { port: NODE_PORT },
            },
        })
    }

    /// The images that are tried for the pods of each architecture, the best first.
    async fn images(&self, architectures: &[&String]) -> Result<BTreeMap<String, Vec<String>>, Fault> {
        let client = self.cluster.client().clone();
        let params = ListParams::default().limit(OBJECTS);
        let nodes: Api<Node> = Api::all(client.clone());
        let nodes = self
            .cluster
            .call("listing nodes", async || nodes.list(&params).await)
            .await?;
        let sets: Api<DaemonSet> = Api::all(client);
        let sets = self
            .cluster
            .call("listing DaemonSets", async || sets.list(&params).await)
            .await?;
        let groups = by_architecture(&nodes.items);
        let mut found = BTreeMap::new();
        for architecture in architectures {
            let nodes = groups.get(*architecture).map(Vec::as_slice).unwrap_or_default();
            let images = match &self.image {
                Some(image) => vec![image.clone()],
                None => candidates(&sets.items, nodes),
            };
            if images.is_empty() {
                let message = format!(
                    "no image is known that all nodes with {architecture} have; name one with --seed-image, such as the sandbox image \
                     (crictl images on a node lists them)"
                );
                return Err(Fault::stalled(Reason::SourceNotFound, message));
            }
            found.insert((*architecture).clone(), images);
        }
        Ok(found)
    }

    /// Makes the pods of one architecture, with the first image with which they start on all nodes.
    async fn start_pods(
        &self,
        architecture: &str,
        request: &SeedRequest,
        images: &[String],
        import: bool,
    ) -> Result<Group, Fault> {
        let mut failures = Vec::new();
        for image in images {
            let spec = self.spec(architecture, request, image.clone(), import)?;
            let object = object_of(&daemon_set(&spec))?;
            let group = Group {
                list: spec.list.to_string(),
                selector: format!("app.kubernetes.io/instance={}", object.name),
                object,
            };
            let generation = self
                .cluster
                .apply(&group.object)
                .await?
                .metadata
                .generation
                .unwrap_or(0);
            match self.wait_for_start(&group, image, generation).await? {
                None => return Ok(group),
                Some(failure) => failures.push(format!("{image}: {failure}")),
            }
        }
        let message = format!(
            "the seed starts with no image that nodes with {architecture} should have ({}); name another one with --seed-image",
            failures.join("; ")
        );
        Err(Fault::stalled(Reason::SourceNotFound, message))
    }

    /// Waits until the containers of all pods run. `Some` says why the image cannot be used.
    async fn wait_for_start(&self, group: &Group, image: &str, generation: i64) -> Result<Option<String>, Fault> {
        let begin = Instant::now();
        let started = self.cluster.wait(START, async || {
            let Some(set) = self.cluster.get(&group.object).await? else {
                return Ok(Err(format!("{} was deleted", group.object)));
            };
            let number = |field: &str| set.data["status"][field].as_i64().unwrap_or(0);
            let wanted = usize::try_from(number("desiredNumberScheduled")).unwrap_or(0);
            let pods = self.pods(&group.selector).await?;
            if pods.is_empty() && begin.elapsed() > REFUSED {
                self.check_refusal().await?;
            }
            let current: Vec<&Pod> = pods.iter().filter(|pod| is_of(pod, image, &group.list)).collect();
            if let Some(failure) = current.iter().find_map(|pod| image_failure(pod)) {
                return Ok(Ok(Some(failure)));
            }
            let running = current.iter().filter(|pod| is_running(pod)).count();
            if number("observedGeneration") >= generation && wanted > 0 && running >= wanted {
                return Ok(Ok(None));
            }
            let why = pods.iter().find_map(WaitingContainer::of);
            let why = why.map(|waiting| format!(" (pod {}: {})", waiting.pod, waiting.why));
            Ok(Err(format!(
                "the seed runs on {running} of {wanted} nodes{}",
                why.unwrap_or_default()
            )))
        });
        started.await
    }

    /// Fails where the API server refuses the pods.
    async fn check_refusal(&self) -> Result<(), Fault> {
        let api: Api<Event> = Api::namespaced(self.cluster.client().clone(), NAMESPACE);
        let params = ListParams::default().fields("reason=FailedCreate").limit(50);
        let doing = format!("listing events in {NAMESPACE}");
        let mut events = self.cluster.call(&doing, async || api.list(&params).await).await?.items;
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        match events.pop().and_then(|event| event.message) {
            Some(refusal) => Err(Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "the cluster refuses the pods of the seed: {}; exempt the namespaces {NAMESPACE} and jackal-system from the policy \
                     that says this",
                    clean(&refusal, 500)
                ),
            )),
            None => Ok(()),
        }
    }

    async fn pods(&self, selector: &str) -> Result<Vec<Pod>, Fault> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client().clone(), NAMESPACE);
        let params = ListParams::default().labels(selector).limit(OBJECTS);
        let doing = format!("listing pods in {NAMESPACE}");
        let pods = self.cluster.call(&doing, async || api.list(&params).await).await?;
        let alive = pods.items.into_iter();
        Ok(alive.filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// Delivers the files to all pods of `group`, also to those that replace others meanwhile.
    async fn deliver(&self, group: &Group, request: &SeedRequest, progress: &Progress) -> Result<(), Fault> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let pods = self.pods(&group.selector).await?;
            let names: Vec<String> = pods
                .iter()
                .filter(|pod| is_running(pod))
                .map(|pod| pod.name_any())
                .collect();
            // Dropping this call stops it.
            let stop = CancellationToken::new();
            let client = self.cluster.client();
            match deliver_to_all(client, NAMESPACE, &names, &request.files, progress, &stop).await {
                Err(fault) if fault.reason == Reason::NodeUnavailable && attempt < REPLACEMENTS => continue,
                Err(fault) => return Err(fault),
                Ok(()) => {}
            }
            let ready = self.cluster.wait(READY, async || {
                let Some(set) = self.cluster.get(&group.object).await? else {
                    return Ok(Err(format!("{} was deleted", group.object)));
                };
                let pods = self.pods(&group.selector).await?;
                let is_new = pods
                    .iter()
                    .any(|pod| is_running(pod) && !names.contains(&pod.name_any()));
                Ok(match Rollout::of(&set) {
                    Rollout::Complete => Ok(true),
                    Rollout::Waiting(_) if is_new => Ok(false),
                    Rollout::Waiting(missing) => Err(format!("{}: {missing}", group.object)),
                })
            });
            if ready.await? || attempt >= REPLACEMENTS {
                return Ok(());
            }
        }
    }

    /// The namespace and the ConfigMap.
    fn shared(requests: &BTreeMap<String, SeedRequest>) -> Result<[Object; 2], Fault> {
        let programs = requests.iter();
        let programs = programs.map(|(architecture, request)| (architecture.clone(), request.program.to_vec()));
        Ok([object_of(&namespace())?, object_of(&config_map(&programs.collect())?)?])
    }
}

#[async_trait(?Send)]
impl Seeds for NodeSeeds {
    async fn objects(&self, requests: &BTreeMap<String, SeedRequest>, import: bool) -> Result<Vec<Object>, Fault> {
        let mut objects = Vec::from(Self::shared(requests)?);
        let images = self.images(&requests.keys().collect::<Vec<_>>()).await?;
        for (architecture, request) in requests {
            let image = images.get(architecture).and_then(|images| images.first()).cloned();
            let spec = self.spec(architecture, request, image.unwrap_or_default(), import)?;
            objects.push(object_of(&daemon_set(&spec))?);
        }
        Ok(objects)
    }

    async fn start(
        &self,
        requests: &BTreeMap<String, SeedRequest>,
        import: bool,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let images = self.images(&requests.keys().collect::<Vec<_>>()).await?;
        let shared = Self::shared(requests)?;
        self.cluster.wait_until_not_terminating(&shared[0]).await?;
        for object in &shared {
            self.cluster.apply(object).await?;
        }
        for (architecture, request) in requests {
            let mut images = images.get(architecture).cloned().unwrap_or_default();
            self.prefer_current(architecture, &mut images).await?;
            let group = self.start_pods(architecture, request, &images, import).await?;
            self.deliver(&group, request, progress).await?;
        }
        Ok(())
    }

    async fn remove(&self) -> Result<bool, Fault> {
        let object = object_of(&namespace())?;
        let Some(found) = self.cluster.get(&object).await? else {
            return Ok(false);
        };
        let wanted = labels();
        let is_ours = wanted.iter().all(|(key, value)| found.labels().get(key) == Some(value));
        if !is_ours {
            let message = format!("{object} was not made by bootstrap; delete it, or rename what is in it");
            return Err(Fault::stalled(Reason::RepositoryConflict, message));
        }
        self.cluster.delete(object.kind, None, &object.name).await?;
        self.cluster
            .wait(DELETION, async || {
                Ok(match self.cluster.get(&object).await? {
                    Some(_) => Err(format!("{object} is still being deleted")),
                    None => Ok(()),
                })
            })
            .await?;
        Ok(true)
    }
}

impl NodeSeeds {
    /// Tries first the image that pods of an interrupted run have, so that these stay.
    async fn prefer_current(&self, architecture: &str, images: &mut [String]) -> Result<(), Fault> {
        let api = self.cluster.api(kind("DaemonSet"), Some(NAMESPACE));
        let name = format!("jackal-seed-{architecture}");
        let doing = format!("reading DaemonSet {NAMESPACE}/{name}");
        let found = self.cluster.call(&doing, async || api.get_opt(&name).await).await?;
        let image = found.and_then(|set| {
            let image = &set.data["spec"]["template"]["spec"]["containers"][0]["image"];
            image.as_str().map(str::to_owned)
        });
        if let Some(at) = image.and_then(|image| images.iter().position(|other| *other == image)) {
            images.swap(0, at);
        }
        Ok(())
    }
}

/// A typed object as it is applied.
fn object_of(object: &impl Serialize) -> Result<Object, Fault> {
    let content = serde_json::to_value(object).map_err(|error| {
        Fault::stalled(
            Reason::InternalError,
            format!("an object of the seed cannot be made: {error}"),
        )
    })?;
    Object::new(content, NAMESPACE)
}

/// Whether the pod has that image and receives that list of files, and is not one of an earlier archive.
fn is_of(pod: &Pod, image: &str, list: &str) -> bool {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.any(|container| {
        let mut command = container.command.iter().flatten();
        container.image.as_deref() == Some(image) && command.any(|argument| argument == list)
    })
}

/// Whether the container of the seed runs.
fn is_running(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref());
    let mut states = statuses
        .into_iter()
        .flatten()
        .filter_map(|status| status.state.as_ref());
    states.any(|state| state.running.is_some())
}
