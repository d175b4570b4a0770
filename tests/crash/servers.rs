//! Servers of a worker: an API server with its etcd and a docker engine, which can be killed and restarted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::source::docker::StorageKind;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use super::interceptor::Target;
use crate::docker::engines::{DockerEngine, required};
use crate::support::process::{Server, run};
use crate::support::wait::{SOON, eventually};
use crate::support::{install_tls, program};

/// The servers that the operator's processes and the test use.
pub struct Servers {
    pub kubeconfig: PathBuf,
    pub client: Client,
    pub engine: DockerEngine,
    killable: Vec<(Target, KillableServer)>,
    _instances: Vec<Instance>,
}

impl Servers {
    /// New servers, each of which may be killed.
    pub async fn start_own() -> Self {
        let (api, engine) = (Instance::start("apiserver"), Instance::start("docker-classic"));
        let (kubeconfig, docker) = (
            api.variable_value("KUBECONFIG"),
            engine.variable_value("JACKAL_DOCKER_CLASSIC"),
        );
        let (apis, engines) = (api.processes(), engine.processes());
        let killable = vec![
            (
                Target::Etcd,
                KillableServer::of(apis[0], api.folder.join("etcd-again.log")),
            ),
            (
                Target::ApiServer,
                KillableServer::of(apis[1], api.folder.join("apiserver-again.log")),
            ),
            // Its containerd keeps running.
            (
                Target::Dockerd,
                KillableServer::of(engines[1], engine.folder.join("dockerd-again.log")),
            ),
        ];
        Self::at(kubeconfig.into(), docker, killable, vec![api, engine]).await
    }

    /// The servers of all tests, which must not be killed.
    pub async fn shared() -> Self {
        let docker = required("JACKAL_DOCKER_CLASSIC");
        Self::at(required("KUBECONFIG").into(), docker, Vec::new(), Vec::new()).await
    }

    async fn at(
        kubeconfig: PathBuf,
        docker: String,
        killable: Vec<(Target, KillableServer)>,
        instances: Vec<Instance>,
    ) -> Self {
        install_tls();
        let read = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        define(&client, &kubeconfig).await;
        Self {
            kubeconfig,
            client,
            engine: DockerEngine::at(docker, StorageKind::Classic),
            killable,
            _instances: instances,
        }
    }

    /// Whether `target` may be killed here.
    pub fn admits(&self, target: Target) -> bool {
        matches!(target, Target::Process(_) | Target::Stopped(_) | Target::Registry)
            || self.killable.iter().any(|(known, _)| *known == target)
    }

    /// The process id of one of the servers.
    pub fn id(&self, target: Target) -> u32 {
        self.killable(target).id()
    }

    /// Starts a killed server again, and returns when it answers.
    pub async fn start_again(&self, target: Target) {
        self.killable(target).start_again();
        eventually(SOON, &format!("{target:?} answers again"), async || match target {
            Target::Dockerd => self
                .engine
                .docker
                .engine()
                .ping()
                .await
                .map_err(|fault| fault.to_string()),
            _ => match self.client.apiserver_version().await {
                // Only a read from etcd shows that both are up.
                Ok(_) => check_resources_served(&self.client).await,
                Err(error) => Err(error.to_string()),
            },
        })
        .await;
    }

    fn killable(&self, target: Target) -> &KillableServer {
        let found = self.killable.iter().find(|(known, _)| *known == target);
        &found.expect("a server of this lane").1
    }
}

/// Applies `crds/` and waits until they are served.
async fn define(client: &Client, kubeconfig: &Path) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    let kubeconfig = kubeconfig.to_str().expect("text");
    let arguments = [
        "--kubeconfig",
        kubeconfig,
        "apply",
        "--server-side",
        "--force-conflicts",
        "--filename",
        folder,
    ];
    run(program("JACKAL_BIN_KUBECTL"), &arguments);
    eventually(SOON, "the custom resources are served", async || {
        check_resources_served(client).await
    })
    .await;
}

async fn check_resources_served(client: &Client) -> Result<(), String> {
    // Only metadata: another test may have an undecodable object.
    let one = ListParams::default().limit(1);
    let packages = Api::<JackalPackage>::all(client.clone());
    packages.list_metadata(&one).await.map_err(|error| error.to_string())?;
    let images = Api::<JackalImage>::all(client.clone());
    images
        .list_metadata(&one)
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// An instance of `scripts/stack`; dropping it stops it and all its restarted processes.
pub struct Instance {
    name: String,
    folder: PathBuf,
}

fn stack(arguments: &[&str]) -> bool {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack"));
    command.args(arguments).status().is_ok_and(|status| status.success())
}

impl Instance {
    /// Starts another instance of `part`.
    pub fn start(part: &str) -> Self {
        let folder = PathBuf::from(required("JACKAL_STACK"));
        let name = format!("crash-{part}-{:08x}", fastrand::u32(..));
        assert!(
            stack(&["start", part, &name]),
            "{part} does not start; why is said above"
        );
        let folder = folder.join(&name);
        Self { name, folder }
    }

    /// The value of a variable that says where it is.
    pub fn variable_value(&self, variable: &str) -> String {
        let content = std::fs::read_to_string(self.folder.join("env")).expect("what it said");
        let found = content
            .lines()
            .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
        found.expect("a variable").to_owned()
    }

    /// Its processes in the order of their start.
    fn processes(&self) -> Vec<u32> {
        let content = std::fs::read_to_string(self.folder.join("pid")).expect("its processes");
        content
            .lines()
            .map(|line| line.parse().expect("a process id"))
            .collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        stack(&["stop", &self.name]);
    }
}

/// A server and how it was started.
struct KillableServer {
    command: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    running: Mutex<(u32, Option<Server>)>,
}

impl KillableServer {
    fn of(id: u32, log: PathBuf) -> Self {
        let read = |name: &str| {
            let content = std::fs::read(format!("/proc/{id}/{name}")).expect("a running server");
            let parts = content.split(|byte| *byte == 0).filter(|part| !part.is_empty());
            parts
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect::<Vec<_>>()
        };
        let environment = read("environ").into_iter().filter_map(|variable| {
            let (name, value) = variable.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Self {
            command: read("cmdline"),
            environment: environment.collect(),
            log,
            running: Mutex::new((id, None)),
        }
    }

    fn id(&self) -> u32 {
        self.running.lock().expect("nobody panics with it").0
    }

    /// The same program with the same arguments on the same folder.
    fn start_again(&self) {
        // dockerd regards a zombie process, which the machine's init has to reap, as running.
        let mut arguments = self.command.iter().skip_while(|argument| *argument != "--pidfile");
        if let Some(file) = arguments.nth(1) {
            let _ = std::fs::remove_file(file);
        }
        let environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let arguments: Vec<&str> = self.command[1..].iter().map(String::as_str).collect();
        let server = Server::start_with(Path::new(&self.command[0]), &arguments, &environment, &self.log);
        *self.running.lock().expect("nobody panics with it") = (server.id(), Some(server));
    }
}

/// Kills a process as the out-of-memory killer does, and returns when it is dead.
pub fn kill(id: u32) {
    run("kill", &["-KILL", &id.to_string()]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(id) {
        assert!(Instant::now() < deadline, "process {id} does not die");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process runs and is not a zombie.
fn is_running(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    // Its first thread may be dead while another still has open files and the listening port.
    let threads = || std::fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count);
    state.is_some_and(|state| !matches!(state, 'Z' | 'X') || threads() > 1)
}
