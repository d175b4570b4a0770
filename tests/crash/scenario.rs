//! The run in which processes are killed: a package is created, one of its images is rebuilt, it gets a new version,
//! and it is deleted with everything that it pushed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde_json::json;
use tempfile::TempDir;

use super::checks::{check_no_blob_is_sent_twice, unfinished};
use super::images::Images;
use super::interceptor::{Interceptor, KillPoint, RequestCounts, Server, Target, route};
use super::proxy::{RecordingProxy, Upstream};
use super::servers::{Servers, kill};
use super::storage::Storage;
use crate::support::api_proxy::kubeconfig_to;
use crate::support::cluster::condition;
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{eventually, scaled_by_load};

/// How long each step may take after a kill: a broken watch is retried after up to thirty seconds.
const STEP_LIMIT: Duration = Duration::from_secs(90);
/// The registry's address in pods.
const ADDRESS: &str = "127.0.0.1:31999";
/// The operator's processes.
pub const CONTROLLER: &str = "controller";
pub const AGENT: &str = "agent";

/// The state after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    artifact: String,
    images: BTreeMap<String, String>,
}

/// The result of a run without a kill.
pub struct Expected {
    pub counts: RequestCounts,
    stages: Vec<Stage>,
    /// The manifests that deletion keeps, because their name has another manifest.
    left: std::collections::BTreeSet<String>,
    /// Bytes of blobs that were sent.
    pub sent: u64,
}

/// The result of a run.
pub struct Outcome {
    pub expected: Expected,
    /// The request at which the kill happened; none if the point was not reached.
    pub killed_at: Option<String>,
    pub uploads_left: usize,
    /// Bytes of blobs that were sent needlessly.
    pub wasted: u64,
    pub took: Duration,
}

/// A run: a namespace, a registry, and the operator's processes with their proxies.
struct Run {
    servers: Arc<Servers>,
    namespace: String,
    folder: TempDir,
    registry: TestRegistry,
    interceptor: Arc<Interceptor>,
    ids: Arc<Mutex<BTreeMap<Target, u32>>>,
    operators: Mutex<Vec<(&'static str, Operator)>>,
    launches: BTreeMap<&'static str, LaunchArguments>,
    _ways: Vec<RecordingProxy>,
}

/// How a process of the operator is started, each time.
struct LaunchArguments {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Run {
    async fn begin(servers: &Arc<Servers>, images: &Images, point: Option<KillPoint>) -> Self {
        let namespace = format!("crash-{:012x}", fastrand::u64(..1 << 48));
        let object = Namespace {
            metadata: ObjectMeta {
                name: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let namespaces = Api::<Namespace>::all(servers.client.clone());
        let created = namespaces.create(&PostParams::default(), &object).await;
        created.expect("a namespace");
        let registry = TestRegistry::start(Version::V31);
        let ids = Arc::new(Mutex::new(BTreeMap::from([(Target::Registry, registry.id())])));
        let (known, own_servers) = (Arc::clone(&ids), Arc::clone(servers));
        let interceptor = Interceptor::new(point, move |target| {
            let id = known.lock().expect("nobody panics with it").get(&target).copied();
            kill(id.unwrap_or_else(|| own_servers.id(target)));
        });
        let folder = tempfile::tempdir().expect("a folder");
        let mut ways = Vec::new();
        let mut launches = BTreeMap::new();
        for process in [CONTROLLER, AGENT] {
            let (api, at) = RecordingProxy::open(
                route(process, Server::Api),
                Upstream::api(&servers.kubeconfig),
                &interceptor,
            );
            let kubeconfig = folder.path().join(format!("{process}.kubeconfig"));
            std::fs::write(&kubeconfig, kubeconfig_to(&at)).expect("a kubeconfig");
            let to = Upstream::registry(&registry.host);
            let (destination, at) = RecordingProxy::open(route(process, Server::Registry), to, &interceptor);
            ways.extend([api, destination]);
            let shared = [
                "--namespace",
                &namespace,
                "--watch-namespace",
                &namespace,
                "--retry-limit",
                "2s",
            ];
            let place = [
                "--registry-address",
                ADDRESS,
                "--registry-endpoint",
                &at,
                "--registry-insecure",
                // Runs in different namespaces are compared by the names of their repositories.
                "--repository-policy",
                "any",
            ];
            let insecure = [
                "--insecure-registry",
                &images.source.host,
                "--allow-network",
                "127.0.0.0/8",
            ];
            // A Deployment's pod keeps its name when its container is restarted.
            let start_own = match process {
                CONTROLLER => ["--identity", "controller-0"],
                _ => ["--node-name", "n1"],
            };
            let arguments = [&[process][..], &shared, &place, &insecure, &start_own].concat();
            let mut environment = vec![
                ("KUBECONFIG".to_owned(), kubeconfig.to_str().expect("text").to_owned()),
                ("JACKAL_LOG".to_owned(), "info,jackal_operator=debug".to_owned()),
                ("JACKAL_LEASE_DURATION".to_owned(), "3s".to_owned()),
            ];
            if process == AGENT {
                let socket = folder.path().join("docker.sock");
                let to = Upstream::socket(&servers.engine.host);
                ways.push(RecordingProxy::open_socket(
                    route(AGENT, Server::Docker),
                    to,
                    &interceptor,
                    &socket,
                ));
                environment.push(("DOCKER_HOST".to_owned(), format!("unix://{}", socket.display())));
                environment.push(("JACKAL_ADMIT".to_owned(), "*=*".to_owned()));
                if point.is_some_and(|point| point.export) {
                    environment.push(("JACKAL_DOCKER_ROOT".to_owned(), "/nowhere".to_owned()));
                }
            }
            let arguments = arguments.into_iter().map(str::to_owned).collect();
            launches.insert(process, LaunchArguments { arguments, environment });
        }
        Self {
            servers: Arc::clone(servers),
            namespace,
            folder,
            registry,
            interceptor,
            ids,
            operators: Mutex::default(),
            launches,
            _ways: ways,
        }
    }

    /// Starts a process of the operator, also after it ended.
    fn start(&self, process: &'static str) {
        let launch = &self.launches[process];
        let arguments: Vec<&str> = launch.arguments.iter().map(String::as_str).collect();
        let environment: Vec<_> = launch
            .environment
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let mut operators = self.operators.lock().expect("nobody panics with it");
        let log = self.folder.path().join(format!("{}-{process}.log", operators.len()));
        let operator = Operator::start(&arguments, &environment, log);
        self.ids
            .lock()
            .expect("nobody panics with it")
            .insert(Target::Process(process), operator.id());
        operators.push((process, operator));
    }

    fn api<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.servers.client.clone(), &self.namespace)
    }

    fn storage(&self) -> Storage {
        Storage::at(&self.registry.storage())
    }

    /// Waits until a target is killed, checks the tags, and starts it again.
    async fn restart_killed(&self) {
        self.interceptor.killed().await;
        self.check_tags("after the kill");
        let point = self.interceptor.kill_record().expect("a kill").point;
        match point.target {
            Target::Process(process) => {
                self.interceptor.mark_exited();
                self.start(process);
            }
            Target::Registry => {
                self.registry.start_again();
                let mut ids = self.ids.lock().expect("nobody panics with it");
                ids.insert(Target::Registry, self.registry.id());
            }
            Target::Stopped(process) => panic!("nobody lets {process} go on"),
            server => self.servers.start_again(server).await,
        }
    }

    /// Expects that no tag references incomplete content.
    fn check_tags(&self, when: &str) {
        self.storage()
            .complete_tags(true)
            .unwrap_or_else(|why| panic!("{when}: {why}"));
    }

    /// Checks continuously, but without reading every byte.
    async fn check_tags_continuously(&self) {
        let storage = self.storage();
        loop {
            let storage = storage.clone();
            let walked = tokio::task::spawn_blocking(move || storage.complete_tags(false)).await;
            walked
                .expect("a walk")
                .unwrap_or_else(|why| panic!("in the middle: {why}"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn apply(&self, images: &Images, version: &str) {
        let (api, package) = (self.api::<JackalPackage>(), images.package(version));
        eventually(STEP_LIMIT, "the package is applied", async || {
            let parameters = PatchParams::apply("test").force();
            let applied = api.patch("app", &parameters, &Patch::Apply(&package)).await;
            applied.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Waits until the package is Ready for its spec, no image is claimed, and `is_done`.
    async fn stage(&self, what: &str, is_done: impl Fn(&Stage, &JackalPackage) -> bool) -> Stage {
        let (packages, images) = (self.api::<JackalPackage>(), self.api::<JackalImage>());
        let stage = eventually(scaled_by_load(STEP_LIMIT), what, async || {
            let package = packages.get("app").await.map_err(|error| error.to_string())?;
            let exists = stage_of(&package).filter(|stage| is_done(stage, &package));
            let list = images
                .list(&ListParams::default())
                .await
                .map_err(|error| error.to_string())?;
            let claims = list
                .items
                .iter()
                .any(|image| image.status.as_ref().is_some_and(|s| s.claim.is_some()));
            match exists {
                Some(stage) if !claims => Ok(stage),
                _ => {
                    let images: Vec<_> = list
                        .items
                        .iter()
                        .map(|image| (&image.metadata.name, &image.status))
                        .collect();
                    Err(json!({ "package": package.status, "images": images }).to_string())
                }
            }
        })
        .await;
        self.check_tags(what);
        stage
    }

    async fn delete(&self) {
        let (packages, images) = (self.api::<JackalPackage>(), self.api::<JackalImage>());
        eventually(
            STEP_LIMIT,
            "the package's deletion is asked for",
            async || match packages.delete("app", &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        )
        .await;
        eventually(
            scaled_by_load(STEP_LIMIT),
            "the package and its images are gone",
            async || {
                let package = packages.get_opt("app").await.map_err(|error| error.to_string())?;
                let images = images
                    .list(&ListParams::default())
                    .await
                    .map_err(|error| error.to_string())?;
                match (package, images.items.is_empty()) {
                    (None, true) => Ok(()),
                    (package, _) => Err(json!([package, images.items]).to_string()),
                }
            },
        )
        .await;
    }

    /// Runs all steps; returns the state after each.
    async fn run_steps(&self, images: &Images, expected: Option<&Expected>) -> Vec<Stage> {
        let wanted = |number: usize| expected.map(|expected| expected.stages[number].clone());
        let mut stages = Vec::new();
        images.build(&self.servers.engine, 0).await;
        self.start(CONTROLLER);
        self.start(AGENT);
        self.apply(images, "1").await;
        let first = self
            .stage("the package stands", |stage, _| {
                wanted(0).is_none_or(|wanted| *stage == wanted)
            })
            .await;
        images.build(&self.servers.engine, 1).await;
        let second = self
            .stage("the package has the new build", |stage, _| match wanted(1) {
                Some(wanted) => *stage == wanted,
                None => stage.artifact != first.artifact && stage.images != first.images,
            })
            .await;
        stages.push(first);
        self.apply(images, "2").await;
        let third = self
            .stage("the package has its new version", |stage, package| {
                let current = stage.artifact.starts_with("2.0.0@") && package.metadata.generation == Some(2);
                wanted(2).is_none_or(|wanted| *stage == wanted) && current
            })
            .await;
        stages.extend([second, third]);
        self.delete().await;
        stages
    }
}

/// The state of a package that is Ready for its spec.
fn stage_of(package: &JackalPackage) -> Option<Stage> {
    let status = package.status.as_ref()?;
    let ready = condition(&status.conditions, "Ready")?;
    if ready.status != "True" || ready.observed_generation != package.metadata.generation {
        return None;
    }
    let rows = status.images.iter();
    Some(Stage {
        artifact: status.artifact.as_ref()?.revision.clone(),
        images: rows
            .map(|row| Some((row.name.clone(), row.digest.clone()?)))
            .collect::<Option<_>>()?,
    })
}

impl Drop for Run {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        for file in logs {
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- {}\n{}",
                file.display(),
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

/// One run on `servers`. With `expected`, everything that a kill must not change is compared; a difference panics.
pub async fn run(
    servers: Arc<Servers>,
    images: Arc<Images>,
    expected: Option<Arc<Expected>>,
    point: Option<KillPoint>,
) -> Outcome {
    let began = Instant::now();
    let run = Run::begin(&servers, &images, point).await;
    let (revives, mut revived) = tokio::sync::watch::channel(false);
    let run_steps = async {
        let stages = run.run_steps(&images, expected.as_deref()).await;
        run.interceptor.disarm();
        // The next run needs the servers.
        if run.interceptor.kill_record().is_some() {
            revived
                .wait_for(|revived| *revived)
                .await
                .expect("whoever was killed is started again");
        }
        stages
    };
    let revived = async {
        run.restart_killed().await;
        revives.send_replace(true);
        std::future::pending::<()>().await;
    };
    let stages = tokio::select! {
        stages = run_steps => stages,
        () = revived => unreachable!("it waits for the end"),
        () = run.check_tags_continuously() => unreachable!("it looks until the end"),
    };
    let kill_record = run.interceptor.kill_record();
    let uploads = run.interceptor.uploads();
    let killed = kill_record
        .as_ref()
        .map(|kill_record| (kill_record.point, kill_record.dead.expect("a dead victim")));
    check_no_blob_is_sent_twice(&uploads, killed);
    let tags = run
        .storage()
        .complete_tags(true)
        .unwrap_or_else(|why| panic!("at the end: {why}"));
    assert!(tags.is_empty(), "deleted, and still there: {tags:?}");
    let unfinished = unfinished(&run.storage(), &run.interceptor, killed).await;
    let left = run.storage().killable();
    if let Some(expected) = &expected {
        assert!(
            left.is_subset(&expected.left),
            "{left:?} is left, and {:?} without a kill",
            expected.left
        );
    }
    Outcome {
        wasted: uploads
            .iter()
            .filter(|upload| upload.committed.is_none())
            .map(|upload| upload.bytes)
            .sum(),
        expected: Expected {
            counts: run.interceptor.counts(),
            stages,
            left,
            sent: uploads.iter().map(|upload| upload.bytes).sum(),
        },
        killed_at: kill_record.map(|kill_record| kill_record.at),
        uploads_left: unfinished,
        took: began.elapsed(),
    }
}
