//! Does the steps in their order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kube::api::DynamicObject;
use tokio::time::Instant;

use super::begin::Begin;
use super::prepare::{Prepared, find};
use super::settings::Settings;
use super::upload::{Uploaded, registry_selector, upload};
use super::{DoneStep, Observer, Step, images};
use crate::archive::Archive;
use crate::bootstrap::cluster::{Cluster, Rollout, STATE, ready_pod};
use crate::bootstrap::install::{InstalledImage, KINDS, Object, REGISTRY, Stage};
use crate::bootstrap::packed::{PackedImages, seed_files};
use crate::bootstrap::seed::SeedFile;
use crate::fault::Fault;
use crate::transfer::Progress;

/// How long a workload may take to be ready.
const ROLLOUT: Duration = Duration::from_secs(900);

/// What the seeds of one architecture need.
pub struct SeedRequest {
    /// The program of the seed.
    pub program: Bytes,
    /// The files that it receives.
    pub files: Vec<SeedFile>,
}

/// The seeds of a cluster.
#[async_trait(?Send)]
pub trait Seeds: Send + Sync {
    /// The objects that [`Seeds::start`] applies first.
    async fn objects(&self, requests: &BTreeMap<String, SeedRequest>, import: bool) -> Result<Vec<Object>, Fault>;

    /// Starts a seed on every node, by architecture, and delivers its files. With `import`, each imports the images into its containerd
    /// and pins them; otherwise it serves them on the node's loopback address. Continues what an earlier call began.
    async fn start(
        &self,
        requests: &BTreeMap<String, SeedRequest>,
        import: bool,
        progress: &Progress,
    ) -> Result<(), Fault>;

    /// Deletes the seeds. Says whether there were any.
    async fn remove(&self) -> Result<bool, Fault>;
}

/// An installation.
pub struct Bootstrap<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The archive.
    pub archive: Arc<Archive>,
    /// The images in it.
    pub images: PackedImages,
    /// How to install.
    pub settings: Settings,
    /// The seeds.
    pub seeds: &'a dyn Seeds,
    /// Sees the steps.
    pub observer: &'a dyn Observer,
    /// Counts the bytes of the step that runs.
    pub progress: Arc<Progress>,
}

impl Bootstrap<'_> {
    /// Does all steps.
    ///
    /// # Errors
    /// A fault that says what failed and what to do. A repetition continues.
    pub async fn run(&self, prepared: &Prepared) -> Result<Uploaded, Fault> {
        let namespace: Vec<&Object> = self.of_stage(prepared, |stage| stage == Stage::Namespace);
        for object in &namespace {
            self.cluster.wait_until_not_terminating(object).await?;
        }
        self.apply(&namespace).await?;
        let serves = self.serves(prepared).await? && !self.settings.always_seed;
        let uploaded = match serves {
            true => self.change(prepared).await?,
            false => self.install(prepared).await?,
        };
        self.step(prepared, Step::Cleanup, async || {
            images::remove(self.cluster).await?;
            Ok(match self.seeds.remove().await? {
                true => "the seeds were deleted".to_owned(),
                false => "there are no seeds".to_owned(),
            })
        })
        .await?;
        self.step(prepared, Step::Operator, async || {
            self.wait_for(prepared, |_| true).await?;
            Ok("all pods are ready".to_owned())
        })
        .await?;
        if prepared.begin != Begin::Repeat {
            self.cluster.apply(&prepared.state_at(Step::Finished).object()?).await?;
        }
        Ok(uploaded)
    }

    /// Installs by seeds.
    async fn install(&self, prepared: &Prepared) -> Result<Uploaded, Fault> {
        self.step(prepared, Step::Seed, async || {
            let requests = self.seed_requests(prepared)?;
            let import = self.settings.import;
            self.seeds.start(&requests, import, &self.progress).await?;
            let how = if import { "imported" } else { "served" };
            Ok(format!("the images are {how} on {} nodes", prepared.nodes.count))
        })
        .await?;
        self.step(prepared, Step::Objects, async || {
            let objects = self.of_stage(prepared, |stage| stage < Stage::NodePort);
            self.apply(&objects).await
        })
        .await?;
        self.step(prepared, Step::Registry, async || {
            self.wait_for(prepared, |object| object.kind.kind == "StatefulSet")
                .await?;
            Ok("the registry is ready".to_owned())
        })
        .await?;
        let uploaded = self.upload(prepared).await?;
        self.step(prepared, Step::Nodes, async || self.open_nodes(prepared).await)
            .await?;
        Ok(uploaded)
    }

    /// Changes an installation whose registry serves the nodes.
    async fn change(&self, prepared: &Prepared) -> Result<Uploaded, Fault> {
        let uploaded = self.upload(prepared).await?;
        if self.has_other_images(prepared).await? {
            self.step(prepared, Step::Images, async || {
                // The login for pulling.
                let configuration = self.of_stage(prepared, |stage| stage == Stage::Configuration);
                let secrets: Vec<&Object> = configuration
                    .into_iter()
                    .filter(|object| object.kind.kind == "Secret")
                    .collect();
                self.apply(&secrets).await?;
                images::pull(self.cluster, &prepared.options, self.observer).await?;
                Ok(format!(
                    "{} nodes have the images of this archive",
                    prepared.nodes.count
                ))
            })
            .await?;
        }
        self.step(prepared, Step::Objects, async || {
            let objects = self.of_stage(prepared, |stage| stage < Stage::NodePort);
            self.apply(&objects).await
        })
        .await?;
        self.step(prepared, Step::Nodes, async || self.open_nodes(prepared).await)
            .await?;
        Ok(uploaded)
    }

    async fn upload(&self, prepared: &Prepared) -> Result<Uploaded, Fault> {
        let mut uploaded = Uploaded::default();
        self.step(prepared, Step::Upload, async || {
            uploaded = upload(self.cluster, &self.archive, &prepared.secrets, &self.progress).await?;
            let (packages, images) = (uploaded.packages.len(), uploaded.images.len());
            Ok(format!(
                "{packages} packages, {images} names of images, {} bytes sent",
                uploaded.sent
            ))
        })
        .await?;
        Ok(uploaded)
    }

    /// Lets the nodes pull from the registry.
    async fn open_nodes(&self, prepared: &Prepared) -> Result<String, Fault> {
        let removed = self.prune(prepared).await?;
        let objects = self.of_stage(prepared, |stage| stage == Stage::NodePort);
        let applied = self.apply(&objects).await?;
        Ok(match removed {
            0 => applied,
            removed => format!("{applied}, {removed} of another version deleted"),
        })
    }

    /// Does a step, and writes that it began.
    async fn step(
        &self,
        prepared: &Prepared,
        step: Step,
        work: impl AsyncFnOnce() -> Result<String, Fault>,
    ) -> Result<(), Fault> {
        let begin = Instant::now();
        // A repetition of what is complete leaves it complete.
        if prepared.begin != Begin::Repeat {
            self.cluster.apply(&prepared.state_at(step).object()?).await?;
        }
        self.observer.begins(step);
        let what = work()
            .await
            .map_err(|fault| fault.with_context(format_args!("step `{}`", step.name())))?;
        self.observer.done(&DoneStep {
            step,
            elapsed: begin.elapsed(),
            what,
        });
        Ok(())
    }

    fn of_stage<'p>(&self, prepared: &'p Prepared, wanted: impl Fn(Stage) -> bool) -> Vec<&'p Object> {
        let objects = prepared.objects.iter();
        objects.filter(|object| wanted(object.stage())).collect()
    }

    /// Applies `objects`, and says how many of them changed.
    async fn apply(&self, objects: &[&Object]) -> Result<String, Fault> {
        let mut changed = 0;
        for object in objects {
            let before = self.cluster.get(object).await?;
            let before = before.and_then(|before| before.metadata.resource_version);
            let after = self.cluster.apply(object).await?;
            changed += usize::from(after.metadata.resource_version != before);
        }
        Ok(format!("{changed} of {} objects changed", objects.len()))
    }

    /// Whether the registry runs, and every node can pull from it.
    async fn serves(&self, prepared: &Prepared) -> Result<bool, Fault> {
        if prepared.registry.is_none() || ready_pod(&self.cluster.pods(&registry_selector()).await?).is_none() {
            return Ok(false);
        }
        if find(self.cluster, "Service", &format!("{REGISTRY}-nodes"))
            .await?
            .is_some()
        {
            return Ok(true);
        }
        let proxy = find(self.cluster, "DaemonSet", "jackal-operator-registry-proxy").await?;
        Ok(proxy.is_some_and(|proxy| Rollout::of(&proxy) == Rollout::Complete))
    }

    /// Whether a workload of the cluster has another image than its object, or is not there.
    async fn has_other_images(&self, prepared: &Prepared) -> Result<bool, Fault> {
        for object in &prepared.objects {
            let Some(pods) = object.pod_spec() else { continue };
            let images = |pods: &serde_json::Value| -> Vec<String> {
                let containers = ["initContainers", "containers"].into_iter();
                containers
                    .flat_map(|field| pods[field].as_array().cloned().unwrap_or_default())
                    .filter_map(|container| container["image"].as_str().map(str::to_owned))
                    .collect()
            };
            let existing = self.cluster.get(object).await?;
            let existing = existing.map(|existing| images(&existing.data["spec"]["template"]["spec"]));
            if existing.as_ref() != Some(&images(pods)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes the objects of the installation that this version does not have. Says how many.
    async fn prune(&self, prepared: &Prepared) -> Result<usize, Fault> {
        let wanted = |object: &DynamicObject, kind: &str| {
            let same = |wanted: &Object| {
                wanted.kind.kind == kind
                    && Some(&wanted.name) == object.metadata.name.as_ref()
                    && wanted.namespace == object.metadata.namespace
            };
            prepared.objects.iter().any(same)
        };
        let mut removed = 0;
        let kept = ["Namespace", "CustomResourceDefinition", "PersistentVolumeClaim"];
        for kind in KINDS.iter().filter(|kind| !kept.contains(&kind.kind)) {
            for object in self.cluster.installed(kind).await? {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                if wanted(&object, kind.kind) || (kind.kind == "ConfigMap" && name == STATE) {
                    continue;
                }
                let namespace = object.metadata.namespace.as_deref();
                removed += usize::from(self.cluster.delete(kind, namespace, name).await?);
            }
        }
        Ok(removed)
    }

    /// Waits until the workloads that `wanted` selects are ready.
    async fn wait_for(&self, prepared: &Prepared, wanted: impl Fn(&Object) -> bool) -> Result<(), Fault> {
        let kinds = ["DaemonSet", "StatefulSet", "Deployment"];
        let workloads = prepared
            .objects
            .iter()
            .filter(|object| kinds.contains(&object.kind.kind));
        for object in workloads.filter(|object| wanted(object)) {
            let wait = self.cluster.wait(ROLLOUT, async || {
                let Some(found) = self.cluster.get(object).await? else {
                    return Ok(Err(format!("{object} does not exist")));
                };
                Ok(match Rollout::of(&found) {
                    Rollout::Complete => Ok(()),
                    Rollout::Waiting(missing) => Err(format!("{object}: {missing}")),
                })
            });
            if let Err(fault) = wait.await {
                let why = self.cluster.why_waiting("app.kubernetes.io/name=jackal-operator").await;
                let message = format!("{}{why}", fault.message);
                return Err(Fault { message, ..fault });
            }
        }
        Ok(())
    }

    /// What the seeds need, by architecture.
    ///
    /// # Errors
    /// A stalled fault that names what the archive lacks.
    pub fn seed_requests(&self, prepared: &Prepared) -> Result<BTreeMap<String, SeedRequest>, Fault> {
        let options = &prepared.options;
        let images: [(_, &InstalledImage); 2] = [
            (&self.images.operator, &options.operator),
            (&self.images.registry, &options.registry),
        ];
        let mut requests = BTreeMap::new();
        for (architecture, files) in &prepared.files {
            let request = SeedRequest {
                program: files.seed.clone(),
                files: seed_files(&self.archive, images, files, architecture)?,
            };
            requests.insert(architecture.clone(), request);
        }
        Ok(requests)
    }
}
