//! Several controllers and agents at once: one plans, all transfer; and a paused process writes nothing when it
//! resumes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use jackal_operator::api::v1alpha1::JackalPackage;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::{TIMING_LOCK, package, unique};
use crate::crash::interceptor::{
    Interceptor, KillPoint, Kind, LEADER, RecordedRequest, Server, Target, Trigger, route,
};
use crate::crash::proxy::{RecordingProxy, Upstream};
use crate::docker::engines::{DockerEngine, Image, tar};
use crate::support::api_proxy::kubeconfig_to;
use crate::support::cluster::{Cluster, required};
use crate::support::image::{self, noise};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually, scaled_by_load};

/// The lease of the controllers: long enough not to expire on a busy machine.
const LEASE: Duration = Duration::from_secs(5);

/// Proxies of the operator's processes, for each one to the API server and one to the registry.
struct Proxies {
    interceptor: Arc<Interceptor>,
    folder: tempfile::TempDir,
    registry: String,
    open: Vec<RecordingProxy>,
}

impl Proxies {
    fn new(interceptor: Arc<Interceptor>, registry: &str) -> Self {
        Self {
            interceptor,
            folder: tempfile::tempdir().unwrap(),
            registry: registry.to_owned(),
            open: Vec::new(),
        }
    }

    /// The kubeconfig and the registry endpoint for `process`.
    fn of(&mut self, process: &'static str) -> (String, String) {
        let to = Upstream::api(required("KUBECONFIG").as_ref());
        let (api, at) = RecordingProxy::open(route(process, Server::Api), to, &self.interceptor);
        let kubeconfig = self.folder.path().join(process);
        std::fs::write(&kubeconfig, kubeconfig_to(&at)).unwrap();
        let to = Upstream::registry(&self.registry);
        let (registry, at) = RecordingProxy::open(route(process, Server::Registry), to, &self.interceptor);
        self.open.extend([api, registry]);
        (kubeconfig.to_str().unwrap().to_owned(), at)
    }

    /// The write requests of `process` since `since`, except for Leases and events.
    fn writes(&self, process: &str, since: Instant) -> Vec<RecordedRequest> {
        let is_write = |recorded: &RecordedRequest| {
            !matches!(recorded.method, Method::GET | Method::HEAD) && recorded.kind != Kind::Other
        };
        let recorded = self.interceptor.recorded().into_iter();
        recorded
            .filter(|recorded| recorded.route.process == process && recorded.at >= since && is_write(recorded))
            .collect()
    }

    /// How often `process` read the leader's lease since `since`.
    fn lease_reads(&self, process: &str, since: Instant) -> usize {
        let recorded = self.interceptor.recorded().into_iter();
        recorded
            .filter(|recorded| {
                recorded.route.process == process && recorded.at >= since && recorded.target.contains(LEADER)
            })
            .count()
    }
}

async fn wait_for_leader(cluster: &Cluster, name: &str, limit: Duration) {
    eventually(limit, &format!("{name} leads"), async || {
        let lease = cluster.api::<Lease>().get_opt("jackal-operator-leader").await;
        let holder = lease
            .map_err(|error| error.to_string())?
            .and_then(|lease| lease.spec?.holder_identity);
        match holder.as_deref() == Some(name) {
            true => Ok(()),
            false => Err(format!("{holder:?} leads")),
        }
    })
    .await;
}

fn controller(cluster: &Cluster, name: &'static str, proxies: &(String, String), source: &str) -> Operator {
    let (kubeconfig, endpoint) = proxies;
    let flags = ["--identity", name, "--concurrency", "1", "--insecure-registry", source];
    let place = [
        "--registry-address",
        "127.0.0.1:31999",
        "--registry-endpoint",
        endpoint,
        "--registry-insecure",
        "--repository-policy",
        "any",
    ];
    cluster.controller_with(
        &[&flags[..], &place].concat(),
        &[("KUBECONFIG", kubeconfig), ("JACKAL_LEASE_DURATION", "5s")],
    )
}

fn agent(cluster: &Cluster, node: &'static str, proxies: &(String, String), docker: &str) -> Operator {
    let (kubeconfig, endpoint) = proxies;
    let place = [
        "--registry-address",
        "127.0.0.1:31999",
        "--registry-endpoint",
        endpoint,
        "--registry-insecure",
        "--repository-policy",
        "any",
    ];
    cluster.agent_with(node, docker, &place, &[("KUBECONFIG", kubeconfig)])
}

/// A package without registry fields.
fn plain(name: &str, lines: &[&str], more: &str) -> String {
    let whole = package(name, "nowhere", lines, more);
    whole
        .lines()
        .filter(|line| !line.contains("registry: {"))
        .fold(String::new(), |text, line| text + line + "\n")
}

fn load_image(engine: &DockerEngine, size: usize) -> String {
    let name = unique("app:dev");
    let layer = tar(&[
        ("large", noise(u64::from(name.as_bytes()[14]), size).to_vec()),
        ("name", name.clone().into_bytes()),
    ]);
    engine.load(&Image::new(&name, vec![layer]).archive());
    name
}

/// Expects no writes that only a leader makes.
fn assert_no_leader_writes(writes: &[RecordedRequest]) {
    for recorded in writes.iter().filter(|recorded| recorded.route.server == Server::Api) {
        let is_status = recorded.kind == Kind::Status && recorded.target.contains("/jackalimages/");
        assert!(is_status, "who does not lead wrote {recorded:?}");
    }
}

#[tokio::test]
async fn one_of_two_controllers_plans_and_all_processes_transfer() {
    let _guard = TIMING_LOCK.lock().await;
    let (cluster, start) = (Cluster::new().await, Instant::now());
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let to = Throttle::to(&registry.host, 300_000);
    let mut proxies = Proxies::new(Interceptor::without_kill(), &to.host);
    let [older, newer, _] = DockerEngine::all();
    let path = unique("app");
    let repository = source.repository(&path);
    let mut lines = Vec::new();
    for number in 0..4 {
        let image = image::image(&repository, "linux/amd64", noise(number, 2_000_000)).await;
        image::put(&repository, &image, Some(&number.to_string())).await;
        lines.push(format!("{{image: '{}/{path}:{number}'}}", source.host));
    }
    for engine in [&older, &newer] {
        lines.push(format!(
            "{{image: '{}', source: Docker}}",
            load_image(engine, 2_000_000)
        ));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (of_a, of_b) = (proxies.of("a"), proxies.of("b"));
    let mut a = controller(&cluster, "a", &of_a, &source.host);
    wait_for_leader(&cluster, "a", SOON).await;
    let _b = controller(&cluster, "b", &of_b, &source.host);
    let (of_n1, of_n2) = (proxies.of("n1"), proxies.of("n2"));
    let _agents = [
        agent(&cluster, "n1", &of_n1, &older.host),
        agent(&cluster, "n2", &of_n2, &newer.host),
    ];
    cluster.apply(&plain("app", &lines, ""));
    eventually(SOON, "all four move images", async || {
        let images = cluster.images().await;
        let holders: BTreeSet<String> = images
            .into_iter()
            .filter_map(|image| Some(image.status?.claim?.holder))
            .collect();
        match holders.iter().eq(["a", "agent/n1", "agent/n2", "b"]) {
            true => Ok(()),
            false => Err(format!("{holders:?} move")),
        }
    })
    .await;
    assert!(
        proxies
            .writes("a", start)
            .iter()
            .any(|recorded| recorded.kind == Kind::Object),
        "a leads"
    );
    for process in ["b", "n1", "n2"] {
        assert_no_leader_writes(&proxies.writes(process, start));
    }

    // During transfers, its own and those of others.
    a.signal("KILL");
    a.ends(SOON).await;
    let gone = Instant::now();
    // The other must see the lease unchanged for this time, and reads it seven times in it.
    wait_for_leader(&cluster, "b", scaled_by_load(LEASE + LEASE / 2)).await;
    println!("the other leads {:?} after the kill", gone.elapsed());
    to.set_rate(0);
    // Restarted under its name, like a container of a pod: its claims are still its own.
    let again = Instant::now();
    let _a = controller(&cluster, "a", &of_a, &source.host);
    let ready = cluster.ready("app").await.status.unwrap();
    assert!(
        gone.elapsed() < Duration::from_secs(40),
        "nobody waited for a claim of the dead"
    );
    assert_eq!(ready.counts.unwrap().ready, 6);
    let after = proxies.writes("b", gone);
    assert!(
        after
            .iter()
            .any(|recorded| recorded.target.contains("/jackalpackages/app/status")),
        "b leads"
    );
    assert_no_leader_writes(&proxies.writes("a", again));
    for process in ["n1", "n2"] {
        assert_no_leader_writes(&proxies.writes(process, start));
    }
    for row in &ready.images {
        registry.crane("digest", row.name.strip_prefix("127.0.0.1:31999/").unwrap());
    }
}

/// An interceptor that pauses `process` at `trigger` on its route to the registry, and a handle to resume it.
fn stop_at(process: &'static str, trigger: Trigger) -> (Arc<Interceptor>, Arc<std::sync::OnceLock<u32>>) {
    let id = Arc::new(std::sync::OnceLock::<u32>::new());
    let point = KillPoint {
        target: Target::Stopped(process),
        route: route(process, Server::Registry),
        trigger,
        export: false,
    };
    let known = Arc::clone(&id);
    let interceptor = Interceptor::new(Some(point), move |_| {
        let id = known.get().expect("a running process").to_string();
        crate::support::process::run("kill", &["-STOP", &id]);
    });
    (interceptor, id)
}

#[tokio::test]
async fn a_leader_paused_while_publishing_writes_nothing_when_it_resumes() {
    let cluster = Cluster::new().await;
    let registry = TestRegistry::start(Version::V31);
    // The artifact's manifest is stored; the next request is for the index under the tag.
    let (interceptor, id) = stop_at("a", Trigger::After(Kind::Manifest, 1));
    let mut proxies = Proxies::new(interceptor, &registry.host);
    let engine = DockerEngine::at(
        required("JACKAL_DOCKER_CLASSIC"),
        jackal_operator::source::docker::StorageKind::Classic,
    );
    let line = format!("{{image: '{}', source: Docker}}", load_image(&engine, 100_000));
    let (of_a, of_b, of_n1) = (proxies.of("a"), proxies.of("b"), proxies.of("n1"));
    let a = controller(&cluster, "a", &of_a, "nowhere");
    id.set(a.id()).unwrap();
    wait_for_leader(&cluster, "a", SOON).await;
    let _b = controller(&cluster, "b", &of_b, "nowhere");
    let _agent = agent(&cluster, "n1", &of_n1, &engine.host);
    cluster.apply(&plain("app", &[&line], "description: first"));
    tokio::time::timeout(SOON, proxies.interceptor.killed())
        .await
        .expect("a publishes");
    let tagged = registry.repository("app").head_manifest("1.0.0").await.unwrap();
    assert_eq!(tagged, None, "it was stopped before the tag");
    wait_for_leader(&cluster, "b", SOON).await;
    cluster.ready("app").await;
    // The new leader has to store another manifest under the tag.
    cluster
        .patch::<JackalPackage>("app", json!({ "spec": { "description": "second" } }))
        .await;
    let ready = cluster.ready("app").await;
    assert_eq!(ready.metadata.generation, Some(2));
    let existing = registry
        .repository("app")
        .head_manifest("1.0.0")
        .await
        .unwrap()
        .unwrap();

    let woken = Instant::now();
    a.signal("CONT");
    eventually(SOON, "it has looked who leads", async || {
        match proxies.lease_reads("a", woken) {
            0..5 => Err(a.log()),
            _ => Ok(()),
        }
    })
    .await;
    let writes = proxies.writes("a", woken);
    assert!(writes.is_empty(), "{writes:#?}");
    let now = registry
        .repository("app")
        .head_manifest("1.0.0")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(now.digest, existing.digest);
    let after = cluster.package("app").await;
    assert_eq!(
        after.metadata.resource_version, ready.metadata.resource_version,
        "nobody wrote it"
    );
}

#[tokio::test]
async fn a_process_paused_during_a_transfer_writes_nothing_when_it_resumes() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let (interceptor, id) = stop_at("a", Trigger::Body(1_000_000));
    let mut proxies = Proxies::new(interceptor, &registry.host);
    let repository = source.repository("team/app");
    let first = image::image(&repository, "linux/amd64", noise(1, 4_000_000)).await;
    image::put(&repository, &first, Some("1")).await;
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    let (of_a, of_b) = (proxies.of("a"), proxies.of("b"));
    let a = controller(&cluster, "a", &of_a, &source.host);
    id.set(a.id()).unwrap();
    wait_for_leader(&cluster, "a", SOON).await;
    cluster.apply(&plain("app", &[&line], ""));
    tokio::time::timeout(SOON, proxies.interceptor.killed())
        .await
        .expect("a moves the image");
    // The name refers to another image by now.
    let second = image::image(&repository, "linux/amd64", noise(2, 1_000_000)).await;
    image::put(&repository, &second, Some("1")).await;
    let _b = controller(&cluster, "b", &of_b, &source.host);
    let limit = Duration::from_secs(40) + SOON;
    eventually(limit, "the other has moved it", async || {
        let status = cluster.package("app").await.status.unwrap_or_default();
        let digest = status.images.first().and_then(|row| row.digest.clone());
        match digest.as_deref() == Some(second.digest().as_str()) && status.artifact.is_some() {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    })
    .await;
    let ready = cluster.ready("app").await;

    let woken = Instant::now();
    a.signal("CONT");
    eventually(SOON, "it has looked who moves the image", async || {
        match a
            .log()
            .contains("another process transfers the image or has transferred it")
            && proxies.lease_reads("a", woken) > 5
        {
            true => Ok(()),
            false => Err(a.log()),
        }
    })
    .await;
    // It may only continue what it had begun to send: no manifest, no status, and no write of a leader.
    let writes = proxies.writes("a", woken);
    assert!(writes.is_empty(), "{writes:#?}");
    let place = ready.status.as_ref().unwrap().images[0].name.clone();
    let existing = registry.crane("digest", place.strip_prefix("127.0.0.1:31999/").unwrap());
    assert_eq!(existing.trim(), second.digest().as_str());
    let after = cluster.package("app").await;
    assert_eq!(
        after.metadata.resource_version, ready.metadata.resource_version,
        "nobody wrote it"
    );
}
