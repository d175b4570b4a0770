//! A namespace of the real API server, and the operator's processes in it.
//!
//! Only the API server runs: namespaces are never emptied and owner references are not collected, so that a test sees
//! only what the operator does.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::api_proxy::ApiProxy;
use super::definitions::define;
use super::operator::Operator;
use super::process::{output, run};
use super::wait::{SOON, eventually};
use super::{install_tls, program};

/// The objects of tests name registries on the loopback, which use plain HTTP where the objects say so.
const LOOPBACK: [&str; 4] = ["--allow-network", "127.0.0.0/8", "--insecure-registry", "127.0.0.1:*"];

/// A namespace and the processes of a test in it. Its state is printed when the test fails.
pub struct Cluster {
    /// A client of the API server.
    pub client: Client,
    /// The namespace, which is also the operator's own.
    pub namespace: String,
    folder: TempDir,
    kubeconfig: PathBuf,
    /// Its operators watch all namespaces.
    all_namespaces: bool,
    api_proxy: Option<ApiProxy>,
    started: AtomicUsize,
}

impl Cluster {
    /// A new namespace in a cluster with the custom resources.
    pub async fn new() -> Self {
        // Each test has its own runtime, so only the fact is shared, not the client.
        static DEFINED: OnceCell<()> = OnceCell::const_new();
        Self::of("KUBECONFIG", &DEFINED, false).await
    }

    /// A new namespace of a separate API server with an audit log. Operators watch all its namespaces, so only one test
    /// at a time may use it.
    pub async fn exclusive() -> Self {
        static DEFINED: OnceCell<()> = OnceCell::const_new();
        let cluster = Self::of("JACKAL_KUBECONFIG_AUDITED", &DEFINED, true).await;
        cluster.delete_all::<JackalPackage>().await;
        cluster.delete_all::<JackalImage>().await;
        cluster
    }

    /// Deletes what failed tests left in any namespace, which later operators would otherwise reconcile.
    async fn delete_all<K>(&self)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let resource = ApiResource::erase::<K>(&());
        let all = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        for object in all.list(&ListParams::default()).await.expect("a list") {
            let namespace = object.namespace().unwrap_or_default();
            let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &namespace, &resource);
            let free = json!({ "metadata": { "finalizers": null } });
            let name = object.name_any();
            let _ = api.patch(&name, &PatchParams::default(), &Patch::Merge(free)).await;
            let _ = api.delete(&name, &DeleteParams::default()).await;
        }
    }

    /// Another new namespace of the same API server.
    pub async fn another_namespace(&self) -> Self {
        Self::in_new_namespace(self.client.clone(), self.kubeconfig.clone(), self.all_namespaces).await
    }

    async fn of(variable: &str, defined: &'static OnceCell<()>, all_namespaces: bool) -> Self {
        install_tls();
        let kubeconfig = PathBuf::from(required(variable));
        let read = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        defined.get_or_init(async || define(&client, &kubeconfig).await).await;
        Self::in_new_namespace(client, kubeconfig, all_namespaces).await
    }

    async fn in_new_namespace(client: Client, kubeconfig: PathBuf, all_namespaces: bool) -> Self {
        let namespace = format!("test-{:012x}", fastrand::u64(..1 << 48));
        let object = Namespace {
            metadata: ObjectMeta {
                name: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let created = Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await;
        created.expect("a namespace");
        Self {
            client,
            namespace,
            folder: tempfile::tempdir().expect("a folder"),
            kubeconfig,
            all_namespaces,
            api_proxy: None,
            started: AtomicUsize::new(0),
        }
    }

    /// A new namespace, where every request of the operator's processes to the API server is recorded.
    pub async fn recording_requests() -> Self {
        let mut cluster = Self::new().await;
        cluster.api_proxy = Some(ApiProxy::open(cluster.folder.path()));
        cluster
    }

    /// The write requests of the operator's processes so far; see [`ApiProxy::writes`].
    pub fn writes(&self) -> Vec<String> {
        self.api_proxy.as_ref().expect("a cluster that notes requests").writes()
    }

    /// All requests of the operator's processes so far; see [`ApiProxy::requests`].
    pub fn requests(&self) -> Vec<String> {
        self.api_proxy
            .as_ref()
            .expect("a cluster that notes requests")
            .requests()
    }

    /// Starts a controller for this namespace, with short delays.
    pub fn controller(&self, arguments: &[&str]) -> Operator {
        self.controller_with(arguments, &[])
    }

    /// Starts a controller with additional variables.
    pub fn controller_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Operator {
        let own = [("JACKAL_LEASE_DURATION", "3s")];
        self.start(
            "controller",
            &[&LOOPBACK, arguments].concat(),
            &[&own, environment].concat(),
        )
    }

    /// Starts a controller that denies the loopback, where all test servers are, to objects as usual, except for what
    /// `environment` allows.
    pub fn guarded_controller(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Operator {
        let own = [("JACKAL_LEASE_DURATION", "30s")];
        self.start("controller", arguments, &[&own, environment].concat())
    }

    /// Starts the agent of `node`, whose docker engine is `docker` (`unix:///...`).
    pub fn agent(&self, node: &str, docker: &str, arguments: &[&str]) -> Operator {
        self.agent_with(node, docker, arguments, &[])
    }

    /// Starts an agent with additional variables.
    pub fn agent_with(&self, node: &str, docker: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Operator {
        let own = ["--node-name", node];
        // A test of --admit sets it itself.
        let engine = [("DOCKER_HOST", docker), ("JACKAL_ADMIT", "*=*")];
        self.start(
            "agent",
            &[&own[..], &LOOPBACK, arguments].concat(),
            &[&engine, environment].concat(),
        )
    }

    fn start(&self, command: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Operator {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.path().join(format!("{number}-{command}.log"));
        let namespace = &self.namespace;
        let shared = ["--namespace", namespace, "--retry-limit", "2s"];
        let one_namespace = ["--watch-namespace", namespace];
        let watched = if self.all_namespaces {
            &[][..]
        } else {
            &one_namespace[..]
        };
        let kubeconfig = match &self.api_proxy {
            Some(api_proxy) => &api_proxy.kubeconfig,
            None => &self.kubeconfig,
        };
        let variables = [
            ("KUBECONFIG", kubeconfig.to_str().expect("text")),
            ("JACKAL_LOG", "info,jackal_operator=debug,kube_client=debug"),
        ];
        Operator::start(
            &[&[command], &shared[..], watched, arguments].concat(),
            &[&variables[..], environment].concat(),
            log,
        )
    }

    /// The objects of one kind in this namespace.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Like `kubectl apply` by a user: every document of `yaml`, in this namespace.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }

    /// The same, with the API server's message if it refuses.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        self.try_apply_with(yaml, &[]).map(|_| ())
    }

    /// The same with additional arguments of kubectl; returns its output.
    pub fn try_apply_with(&self, yaml: &str, more: &[&str]) -> Result<String, String> {
        let file = self.folder.path().join(format!("{:x}.yaml", fastrand::u64(..)));
        std::fs::write(&file, yaml).expect("a file");
        let file = file.to_str().expect("text");
        let arguments = [
            "--kubeconfig",
            self.kubeconfig.to_str().expect("text"),
            "--namespace",
            &self.namespace,
            "apply",
            "--server-side",
            "--filename",
            file,
        ];
        let output = output(&program("JACKAL_BIN_KUBECTL"), &[&arguments[..], more].concat());
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The same for objects that name their namespaces themselves.
    pub fn apply_anywhere(&self, yaml: &str) {
        let file = self.folder.path().join(format!("{:x}.yaml", fastrand::u64(..)));
        std::fs::write(&file, yaml).expect("a file");
        let kubeconfig = self.kubeconfig.to_str().expect("text");
        let arguments = ["--kubeconfig", kubeconfig, "apply", "--server-side", "--filename"];
        let file = file.to_str().expect("text");
        run(program("JACKAL_BIN_KUBECTL"), &[&arguments[..], &[file]].concat());
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.kubeconfig.to_str().expect("text");
        let namespace = ["--kubeconfig", kubeconfig, "--namespace", &self.namespace];
        run(program("JACKAL_BIN_KUBECTL"), &[&namespace[..], arguments].concat())
    }

    /// Runs `kubectl jackal` in this namespace: kubectl finds the operator's binary under the name of the plugin.
    pub fn kubectl_jackal(&self, arguments: &[&str]) -> std::process::Output {
        let plugin = self.folder.path().join("kubectl-jackal");
        if !plugin.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_jackal-operator"), &plugin).expect("a link");
        }
        let mut command = std::process::Command::new(program("JACKAL_BIN_KUBECTL"));
        let (command_name, rest) = arguments.split_first().expect("a command");
        command
            .env("PATH", self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig);
        command
            .args(["jackal", command_name, "--namespace", &self.namespace])
            .args(rest);
        command.output().expect("kubectl runs")
    }

    /// Changes fields of an object by a merge patch.
    pub async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let patched = self
            .api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.unwrap_or_else(|error| panic!("patching {name}: {error}"));
    }

    /// Requests a reconciliation of a package.
    pub async fn request(&self, package: &str, request: &str) {
        let patch = json!({ "metadata": { "annotations": { "jackal.dev/requestedAt": request } } });
        self.patch::<JackalPackage>(package, patch).await;
    }

    /// The current package.
    pub async fn package(&self, name: &str) -> JackalPackage {
        self.api()
            .get(name)
            .await
            .unwrap_or_else(|error| panic!("package {name}: {error}"))
    }

    /// All images of the namespace.
    pub async fn images(&self) -> Vec<JackalImage> {
        let list = self.api().list(&ListParams::default()).await;
        list.expect("a list").items
    }

    /// The only image of the namespace, once it exists.
    pub async fn image(&self) -> JackalImage {
        eventually(SOON, "there is one image", async || {
            let mut images = self.images().await;
            match images.len() {
                1 => Ok(images.remove(0)),
                count => Err(format!("{count} images")),
            }
        })
        .await
    }

    /// The package once its status says Ready for its spec.
    pub async fn ready(&self, name: &str) -> JackalPackage {
        self.package_where(name, "Ready", |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            let current = ready.observed_generation == package.metadata.generation;
            (ready.status == "True" && current).then_some(())
        })
        .await
    }

    /// The package once `holds` returns a value.
    pub async fn package_where<T>(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&JackalPackage) -> Option<T>,
    ) -> JackalPackage {
        let api = self.api::<JackalPackage>();
        eventually(SOON, &format!("the package {name} is {what}"), async || {
            let package = api.get(name).await.map_err(|error| error.to_string())?;
            match holds(&package) {
                Some(_) => Ok(package),
                None => Err(serde_json::to_string(&package.status).expect("JSON")),
            }
        })
        .await
    }

    /// The image once its status says Ready for its spec.
    pub async fn image_ready(&self, name: &str) -> JackalImage {
        self.image_where(name, "Ready", |image| {
            let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
            let current = ready.observed_generation == image.metadata.generation;
            (ready.status == "True" && current).then_some(())
        })
        .await
    }

    /// The image once `holds` returns a value.
    pub async fn image_where<T>(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&JackalImage) -> Option<T>,
    ) -> JackalImage {
        let api = self.api::<JackalImage>();
        eventually(SOON, &format!("the image {name} is {what}"), async || {
            let image = api.get(name).await.map_err(|error| error.to_string())?;
            match holds(&image) {
                Some(_) => Ok(image),
                None => Err(serde_json::to_string(&image.status).expect("JSON")),
            }
        })
        .await
    }

    /// The events of the object as `reason: note`, repeated by their count.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let list = self.api::<Event>().list(&ListParams::default()).await.expect("events");
        let on = |event: &Event| {
            event
                .regarding
                .as_ref()
                .is_some_and(|on| on.name.as_deref() == Some(name))
        };
        let mut events = Vec::new();
        for event in list.items.iter().filter(|event| on(event)) {
            let count = event.series.as_ref().map_or(1, |series| series.count);
            let reason = event.reason.as_deref().unwrap_or_default();
            let text = format!("{reason}: {}", event.note.as_deref().unwrap_or_default());
            events.extend(std::iter::repeat_n(text, usize::try_from(count).unwrap_or(1)));
        }
        events
    }

    /// Creates a node, as a kubelet does. Nodes have no namespace: choose a unique name.
    pub async fn create_node(&self, name: &str, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.collect()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        };
        let created = Api::<Node>::all(self.client.clone())
            .create(&PostParams::default(), &node)
            .await;
        created.expect("a node");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let kubectl = program("JACKAL_BIN_KUBECTL");
        let arguments = [
            "--kubeconfig",
            self.kubeconfig.to_str().expect("text"),
            "--namespace",
            &self.namespace,
            "get",
            "jkpkg,jkimg,events,leases",
            "-o",
            "yaml",
        ];
        let objects = output(&kubectl, &arguments);
        eprintln!("{}", String::from_utf8_lossy(&objects.stdout));
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        for file in files {
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(80)..].join("\n");
            eprintln!("--- {}\n{tail}", file.display());
        }
    }
}

/// The condition of that type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The value of a variable that `make test` sets.
pub fn required(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests by `make test`"))
}

/// The message of the image once it is stalled for `reason`.
pub async fn image_stalled(cluster: &Cluster, name: &str, reason: &str) -> String {
    let image = cluster
        .image_where(name, reason, |image| {
            let stalled = condition(&image.status.as_ref()?.conditions, "Stalled")?;
            (stalled.reason == reason).then_some(())
        })
        .await;
    let status = image.status.unwrap();
    condition(&status.conditions, "Ready").unwrap().message.clone()
}

/// The message of the package once it is stalled for `reason`.
pub async fn package_stalled(cluster: &Cluster, name: &str, reason: &str) -> String {
    let package = cluster
        .package_where(name, reason, |package| {
            let stalled = condition(&package.status.as_ref()?.conditions, "Stalled")?;
            (stalled.reason == reason).then_some(())
        })
        .await;
    let status = package.status.unwrap();
    condition(&status.conditions, "Ready").unwrap().message.clone()
}
