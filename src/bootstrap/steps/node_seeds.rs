//! The seeds of a cluster: one pod on each node, to which the files are delivered.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::run::{SeedRequest, Seeds};
use crate::bootstrap::cluster::{Cluster, WaitingContainer, ready_pod};
use crate::bootstrap::install::{NODE_PORT, Object};
use crate::bootstrap::packed::{LAYOUT, PROGRAM};
use crate::bootstrap::seed::image::{by_architecture, candidates, image_failure};
use crate::bootstrap::seed::objects::{
    FILES, NAMESPACE, SeedRole, SeedSpec, config_map, daemon_set, labels, namespace,
};
use crate::bootstrap::seed::{deliver_to_all, file_list};
use crate::fault::{Fault, Reason};
use crate::transfer::Progress;

/// The field manager of the objects.
const MANAGER: &str = "jackal-bootstrap";
/// Where a seed listens when it has imported the images.
const IMPORTED_PORT: u16 = 31997;
/// How long pods may take to start, and to be ready when they have all files.
const START: Duration = Duration::from_secs(180);
/// How long the API server may refuse all pods.
const REFUSED: Duration = Duration::from_secs(15);
/// How long the namespace may take to be deleted.
const DELETION: Duration = Duration::from_secs(180);
/// How often the pods are looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// The seeds in the namespace of their own.
pub struct NodeSeeds {
    cluster: Cluster,
    /// The image that the user chose.
    image: Option<String>,
    /// The path of containerd's socket on the nodes.
    socket: String,
}

/// What the pods of one architecture are doing.
enum Start {
    /// They all run.
    Running,
    /// A node does not have the image, or cannot use it.
    NoImage(String),
}

impl NodeSeeds {
    /// The seeds of `cluster`, with pods of `image`, or of one that all nodes have. `socket` is the path of containerd's socket on the
    /// nodes, for imports.
    pub fn new(cluster: Cluster, image: Option<String>, socket: String) -> Self {
        Self { cluster, image, socket }
    }

    /// What runs on the nodes of one architecture, without the image.
    fn spec(&self, architecture: &str, request: &SeedRequest, import: bool) -> Result<SeedSpec, Fault> {
        Ok(SeedSpec {
            architecture: architecture.to_owned(),
            image: String::new(),
            list: file_list(&request.files)?.1,
            size: request.files.iter().fold(0, |sum, file| file.size.saturating_add(sum)),
            command: command(import, &self.socket),
            role: role(import, &self.socket),
        })
    }

    /// The nodes by their architecture.
    async fn nodes(&self) -> Result<BTreeMap<String, Vec<Node>>, Fault> {
        let nodes: Api<Node> = Api::all(self.cluster.client().clone());
        Ok(by_architecture(
            &self.list(&nodes, &ListParams::default().limit(5000)).await?,
        ))
    }

    fn api<T>(&self) -> Api<T>
    where
        T: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client().clone(), NAMESPACE)
    }

    async fn apply<T>(&self, api: &Api<T>, object: &T) -> Result<T, Fault>
    where
        T: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let params = PatchParams::apply(MANAGER).force();
        let name = object.name_any();
        let doing = format!("applying {} {name}", T::kind(&()));
        self.cluster
            .call(&doing, async || api.patch(&name, &params, &Patch::Apply(object)).await)
            .await
    }

    async fn list<T>(&self, api: &Api<T>, params: &ListParams) -> Result<Vec<T>, Fault>
    where
        T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let doing = format!("listing {}", T::plural(&()));
        let found = self.cluster.call(&doing, async || api.list(params).await).await?;
        Ok(found.items)
    }

    /// The images to try, the best first. One that runs already stays.
    async fn images(&self, set: &str, nodes: &[Node]) -> Result<Vec<String>, Fault> {
        if let Some(image) = &self.image {
            return Ok(vec![image.clone()]);
        }
        let sets: Api<DaemonSet> = Api::all(self.cluster.client().clone());
        let sets = self.list(&sets, &ListParams::default().limit(5000)).await?;
        let mut images = candidates(&sets, nodes);
        let own = sets
            .iter()
            .find(|own| own.name_any() == set && own.namespace().as_deref() == Some(NAMESPACE));
        let own = own.and_then(|own| {
            own.spec
                .as_ref()?
                .template
                .spec
                .as_ref()?
                .containers
                .first()?
                .image
                .clone()
        });
        if let Some(own) = own
            && let Some(at) = images.iter().position(|image| *image == own)
        {
            images.swap(0, at);
        }
        if images.is_empty() {
            let message =
                "no image is known that all nodes have; name one with --seed-image, such as that of the CNI plugin";
            return Err(Fault::stalled(Reason::SourceNotFound, message));
        }
        Ok(images)
    }

    /// The pods of a DaemonSet that are not being deleted.
    async fn pods(&self, set: &str) -> Result<Vec<Pod>, Fault> {
        let selector = format!("app.kubernetes.io/instance={set}");
        let pods: Vec<Pod> = self
            .list(&self.api(), &ListParams::default().labels(&selector).limit(5000))
            .await?;
        Ok(pods
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }

    /// How many pods a DaemonSet of `generation` wants; `None` until that is known.
    async fn wanted(&self, set: &str, generation: i64) -> Result<Option<usize>, Fault> {
        let api: Api<DaemonSet> = self.api();
        let found = self
            .cluster
            .call("reading the seed", async || api.get_opt(set).await)
            .await?;
        let status = found.and_then(|found| found.status).unwrap_or_default();
        let is_current = status.observed_generation >= Some(generation);
        let wanted = usize::try_from(status.desired_number_scheduled).unwrap_or(0);
        Ok((is_current && wanted > 0).then_some(wanted))
    }

    /// The last refusal of a pod by the API server.
    async fn refusal(&self) -> Result<Option<String>, Fault> {
        let params = ListParams::default().fields("reason=FailedCreate").limit(50);
        let mut events: Vec<Event> = self.list(&self.api(), &params).await?;
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(events.pop().and_then(|event| event.message))
    }

    /// Starts the pods of one architecture with `spec`, and waits until they run.
    async fn start_pods(&self, spec: &SeedSpec) -> Result<Start, Fault> {
        let set = daemon_set(spec);
        let name = set.name_any();
        let applied = self.apply(&self.api(), &set).await?;
        let generation = applied.metadata.generation.unwrap_or(0);
        let begin = Instant::now();
        loop {
            let wanted = self.wanted(&name, generation).await?;
            let pods = self.pods(&name).await?;
            let current: Vec<&Pod> = pods.iter().filter(|pod| is_of(pod, spec)).collect();
            if let Some(why) = current.iter().find_map(|pod| image_failure(pod)) {
                return Ok(Start::NoImage(why));
            }
            let running = current.iter().filter(|pod| runs(pod)).count();
            if wanted.is_some_and(|wanted| running >= wanted) {
                return Ok(Start::Running);
            }
            if begin.elapsed() > REFUSED
                && pods.is_empty()
                && let Some(refusal) = self.refusal().await?
            {
                return Err(Fault::stalled(
                    Reason::InvalidSpec,
                    format!(
                        "the cluster refuses the pods of the seed: {refusal}; exempt the namespaces {NAMESPACE} and jackal-system from \
                         the policy that says this"
                    ),
                ));
            }
            if begin.elapsed() > START {
                let why = current.iter().find_map(|pod| WaitingContainer::of(pod));
                let why = why.map_or_else(String::new, |waiting| format!("; pod {}: {}", waiting.pod, waiting.why));
                let message = format!("{} of {} seeds run{why}", running, wanted.unwrap_or(0));
                return Err(Fault::retryable(Reason::NodeUnavailable, message));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Starts the pods of one architecture with the first image that works.
    async fn start_any(&self, mut spec: SeedSpec, images: Vec<String>) -> Result<SeedSpec, Fault> {
        let mut failures = Vec::new();
        for image in images {
            spec.image = image;
            match self.start_pods(&spec).await? {
                Start::Running => return Ok(spec),
                Start::NoImage(why) => failures.push(format!("{}: {why}", spec.image)),
            }
        }
        Err(Fault::stalled(
            Reason::SourceNotFound,
            format!(
                "a node cannot start the seed: {}; name an image that all nodes have with --seed-image",
                failures.join("; ")
            ),
        ))
    }

    /// Delivers the files to all pods of one architecture, also to those that replace others, until all are ready.
    async fn fill(&self, spec: &SeedSpec, request: &SeedRequest, progress: &Progress) -> Result<(), Fault> {
        let set = format!("{NAMESPACE}-{}", spec.architecture);
        let stop = CancellationToken::new();
        let mut filled: HashSet<String> = HashSet::new();
        let mut since = Instant::now();
        loop {
            let wanted = self.wanted(&set, 0).await?;
            let pods: Vec<Pod> = self
                .pods(&set)
                .await?
                .into_iter()
                .filter(|pod| is_of(pod, spec))
                .collect();
            if wanted.is_some_and(|wanted| pods.iter().filter(|pod| is_ready(pod)).count() >= wanted) {
                return Ok(());
            }
            let open = pods.iter().filter(|pod| runs(pod) && !is_ready(pod));
            let open: Vec<String> = open
                .map(|pod| pod.name_any())
                .filter(|name| !filled.contains(name))
                .collect();
            if !open.is_empty() {
                let client = self.cluster.client();
                match deliver_to_all(client, NAMESPACE, &open, &request.files, progress, &stop).await {
                    Ok(()) => filled.extend(open),
                    // Another pod takes its place.
                    Err(fault) if fault.reason == Reason::NodeUnavailable => tracing::debug!(%fault, "a seed is gone"),
                    Err(fault) => return Err(fault),
                }
                since = Instant::now();
            }
            if since.elapsed() > START {
                let why = pods.iter().filter(|pod| !is_ready(pod)).find_map(WaitingContainer::of);
                let why = why.map_or_else(String::new, |waiting| format!("; pod {}: {}", waiting.pod, waiting.why));
                let message = format!("the seeds have all files, but not all are ready{why}; a repetition continues");
                return Err(Fault::retryable(Reason::NodeUnavailable, message));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Deletes the namespace, and waits until it is gone.
    async fn remove_namespace(&self) -> Result<bool, Fault> {
        let api: Api<Namespace> = Api::all(self.cluster.client().clone());
        let read = async || {
            self.cluster
                .call("reading the namespace of the seed", async || {
                    api.get_opt(NAMESPACE).await
                })
                .await
        };
        let Some(found) = read().await? else { return Ok(false) };
        let is_ours = labels()
            .iter()
            .all(|(name, value)| found.labels().get(name) == Some(value));
        if !is_ours {
            return Ok(false);
        }
        self.cluster
            .call("deleting the namespace of the seed", async || {
                match api.delete(NAMESPACE, &DeleteParams::default()).await {
                    Ok(_) => Ok(()),
                    // It is being deleted, or gone.
                    Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
                    Err(error) => Err(error),
                }
            })
            .await?;
        self.cluster
            .wait(DELETION, async || {
                Ok(match read().await? {
                    Some(_) => Err(format!("the namespace {NAMESPACE} is still being deleted")),
                    None => Ok(()),
                })
            })
            .await?;
        Ok(true)
    }
}

#[async_trait(?Send)]
impl Seeds for NodeSeeds {
    async fn objects(&self, requests: &BTreeMap<String, SeedRequest>, import: bool) -> Result<Vec<Object>, Fault> {
        let mut objects = vec![object_of(&namespace())?, object_of(&programs(requests)?)?];
        let nodes = self.nodes().await?;
        for (architecture, request) in requests {
            let nodes = nodes.get(architecture).map(Vec::as_slice).unwrap_or_default();
            let images = self.images(&format!("{NAMESPACE}-{architecture}"), nodes).await?;
            let image = images.into_iter().next().unwrap_or_default();
            let spec = self.spec(architecture, request, import)?;
            objects.push(object_of(&daemon_set(&SeedSpec { image, ..spec }))?);
        }
        Ok(objects)
    }

    async fn start(
        &self,
        requests: &BTreeMap<String, SeedRequest>,
        import: bool,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client().clone());
        let found = self.cluster.call("reading the namespace of the seed", async || {
            namespaces.get_opt(NAMESPACE).await
        });
        if found
            .await?
            .is_some_and(|found| found.metadata.deletion_timestamp.is_some())
        {
            self.remove_namespace().await?;
        }
        self.apply(&namespaces, &namespace()).await?;
        self.apply(&self.api(), &programs(requests)?).await?;
        let nodes = self.nodes().await?;
        for (architecture, request) in requests {
            let nodes = nodes.get(architecture).map(Vec::as_slice).unwrap_or_default();
            let spec = self.spec(architecture, request, import)?;
            let images = self.images(&format!("{NAMESPACE}-{architecture}"), nodes).await?;
            let spec = self.start_any(spec, images).await?;
            self.fill(&spec, request, progress).await?;
        }
        Ok(())
    }

    async fn remove(&self) -> Result<bool, Fault> {
        self.remove_namespace().await
    }
}

/// The ConfigMap with the programs of the seed.
fn programs(requests: &BTreeMap<String, SeedRequest>) -> Result<ConfigMap, Fault> {
    let programs = requests.iter();
    let programs = programs.map(|(architecture, request)| (architecture.clone(), request.program.to_vec()));
    config_map(&programs.collect())
}

/// A typed object as it is shown.
fn object_of(object: &impl Serialize) -> Result<Object, Fault> {
    let content = serde_json::to_value(object).map_err(|error| {
        let message = format!("an object of the seed cannot be made: {error}");
        Fault::stalled(Reason::InternalError, message)
    })?;
    Object::new(content, NAMESPACE)
}

fn role(import: bool, socket: &str) -> SeedRole {
    match import {
        true => SeedRole::Import {
            socket: socket.to_owned(),
            port: IMPORTED_PORT,
        },
        false => SeedRole::Serve { port: NODE_PORT },
    }
}

/// What the seed executes when it has all files.
fn command(import: bool, socket: &str) -> Vec<String> {
    let (command, flags) = match import {
        true => (
            "import-images",
            vec![
                "--pin".to_owned(),
                format!("--socket={socket}"),
                format!("--listen=127.0.0.1:{IMPORTED_PORT}"),
            ],
        ),
        false => ("serve", vec![format!("--listen=127.0.0.1:{NODE_PORT}")]),
    };
    let mut all = vec![
        format!("{FILES}/{PROGRAM}"),
        command.to_owned(),
        format!("{FILES}/{LAYOUT}"),
    ];
    all.extend(flags);
    all
}

/// Whether the pod is not one of an earlier archive, or with another image.
fn is_of(pod: &Pod, spec: &SeedSpec) -> bool {
    let containers = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    containers.first().is_some_and(|container| {
        let list = spec.list.to_string();
        let command = container.command.as_deref().unwrap_or_default();
        container.image.as_ref() == Some(&spec.image) && command.contains(&list) && command.ends_with(&spec.command)
    })
}

fn runs(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let mut statuses = statuses.into_iter().flatten();
    statuses.any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn is_ready(pod: &Pod) -> bool {
    ready_pod(std::slice::from_ref(pod)).is_some()
}
