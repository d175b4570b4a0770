//! Several controllers and agents at once: one plans, all move; and who was stopped writes nothing when it wakes up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use jackal_operator::api::v1alpha1::JackalPackage;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::{QUIET, package, unique};
use crate::crash::course::{Course, Kind, LEADER, Moment, Noted, Point, Server, Victim, way};
use crate::crash::way::{Upstream, Way};
use crate::docker::engines::{Image, Real, tar};
use crate::support::cluster::{Cluster, required};
use crate::support::image::{self, noise};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, at_leisure, eventually};
use crate::support::writes::kubeconfig_to;

/// The lease of the controllers: long enough that a busy machine does not let it run out by itself.
const LEASE: Duration = Duration::from_secs(5);

/// Ways of the operator's processes, one to the API server and one to the registry for each.
struct Ways {
    course: Arc<Course>,
    folder: tempfile::TempDir,
    registry: String,
    open: Vec<Way>,
}

impl Ways {
    fn new(course: Arc<Course>, registry: &str) -> Self {
        Self {
            course,
            folder: tempfile::tempdir().unwrap(),
            registry: registry.to_owned(),
            open: Vec::new(),
        }
    }

    /// The kubeconfig, and the endpoint of the registry, of `process`.
    fn of(&mut self, process: &'static str) -> (String, String) {
        let to = Upstream::api(required("KUBECONFIG").as_ref());
        let (api, at) = Way::open(way(process, Server::Api), to, &self.course);
        let kubeconfig = self.folder.path().join(process);
        std::fs::write(&kubeconfig, kubeconfig_to(&at)).unwrap();
        let to = Upstream::registry(&self.registry);
        let (registry, at) = Way::open(way(process, Server::Registry), to, &self.course);
        self.open.extend([api, registry]);
        (kubeconfig.to_str().unwrap().to_owned(), at)
    }

    /// What `process` wrote since `since`, but for Leases and events.
    fn writes(&self, process: &str, since: Instant) -> Vec<Noted> {
        let is_write = |noted: &Noted| !matches!(noted.method, Method::GET | Method::HEAD) && noted.kind != Kind::Other;
        let noted = self.course.noted().into_iter();
        noted
            .filter(|noted| noted.way.process == process && noted.at >= since && is_write(noted))
            .collect()
    }

    /// How often `process` looked at the leader's lease since `since`.
    fn looks_at_lease(&self, process: &str, since: Instant) -> usize {
        let noted = self.course.noted().into_iter();
        noted
            .filter(|noted| noted.way.process == process && noted.at >= since && noted.target.contains(LEADER))
            .count()
    }
}

async fn leads(cluster: &Cluster, name: &str, limit: Duration) {
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

fn controller(cluster: &Cluster, name: &'static str, ways: &(String, String), source: &str) -> Operator {
    let (kubeconfig, endpoint) = ways;
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

fn agent(cluster: &Cluster, node: &'static str, ways: &(String, String), docker: &str) -> Operator {
    let (kubeconfig, endpoint) = ways;
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

/// A package that leaves the registry to the flags.
fn plain(name: &str, lines: &[&str], more: &str) -> String {
    let whole = package(name, "nowhere", lines, more);
    whole
        .lines()
        .filter(|line| !line.contains("registry: {"))
        .fold(String::new(), |text, line| text + line + "\n")
}

fn loaded(real: &Real, size: usize) -> String {
    let name = unique("app:dev");
    let layer = tar(&[
        ("large", noise(u64::from(name.as_bytes()[14]), size).to_vec()),
        ("name", name.clone().into_bytes()),
    ]);
    real.load(&Image::new(&name, vec![layer]).archive());
    name
}

/// Nothing of what only a leader writes.
fn planned_nothing(writes: &[Noted]) {
    for noted in writes.iter().filter(|noted| noted.way.server == Server::Api) {
        let is_status = noted.kind == Kind::Status && noted.target.contains("/jackalimages/");
        assert!(is_status, "who does not lead wrote {noted:?}");
    }
}

#[tokio::test]
async fn one_of_two_controllers_plans_and_all_four_transfer() {
    let _quiet = QUIET.lock().await;
    let (cluster, start) = (Cluster::new().await, Instant::now());
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let to = Throttle::to(&registry.host, 300_000);
    let mut ways = Ways::new(Course::peaceful(), &to.host);
    let [older, newer, _] = Real::all();
    let path = unique("app");
    let repository = source.repository(&path);
    let mut lines = Vec::new();
    for number in 0..4 {
        let image = image::image(&repository, "linux/amd64", noise(number, 2_000_000)).await;
        image::put(&repository, &image, Some(&number.to_string())).await;
        lines.push(format!("{{image: '{}/{path}:{number}'}}", source.host));
    }
    for real in [&older, &newer] {
        lines.push(format!("{{image: '{}', source: Docker}}", loaded(real, 2_000_000)));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (of_a, of_b) = (ways.of("a"), ways.of("b"));
    let mut a = controller(&cluster, "a", &of_a, &source.host);
    leads(&cluster, "a", SOON).await;
    let _b = controller(&cluster, "b", &of_b, &source.host);
    let (of_n1, of_n2) = (ways.of("n1"), ways.of("n2"));
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
        ways.writes("a", start).iter().any(|noted| noted.kind == Kind::Object),
        "a leads"
    );
    for process in ["b", "n1", "n2"] {
        planned_nothing(&ways.writes(process, start));
    }

    // In the middle of transfers, its own and others'.
    a.signal("KILL");
    a.ends(SOON).await;
    let gone = Instant::now();
    // The other has to see the lease stand still for so long, and looks every seventh of it.
    leads(&cluster, "b", at_leisure(LEASE + LEASE / 2)).await;
    println!("the other leads {:?} after the kill", gone.elapsed());
    to.set_rate(0);
    // Started again under its name, as a pod's container is: what it claimed is its own still.
    let again = Instant::now();
    let _a = controller(&cluster, "a", &of_a, &source.host);
    let ready = cluster.ready("app").await.status.unwrap();
    assert!(
        gone.elapsed() < Duration::from_secs(40),
        "nobody waited for a claim of the dead"
    );
    assert_eq!(ready.counts.unwrap().ready, 6);
    let after = ways.writes("b", gone);
    assert!(
        after
            .iter()
            .any(|noted| noted.target.contains("/jackalpackages/app/status")),
        "b leads"
    );
    planned_nothing(&ways.writes("a", again));
    for process in ["n1", "n2"] {
        planned_nothing(&ways.writes(process, start));
    }
    for row in &ready.images {
        registry.crane("digest", row.name.strip_prefix("127.0.0.1:31999/").unwrap());
    }
}

/// A course on which `process` is stopped at `moment` of its way to the registry, and what lets it go on.
fn stopping(process: &'static str, moment: Moment) -> (Arc<Course>, Arc<std::sync::OnceLock<u32>>) {
    let id = Arc::new(std::sync::OnceLock::<u32>::new());
    let point = Point {
        victim: Victim::Stopped(process),
        way: way(process, Server::Registry),
        moment,
        export: false,
    };
    let known = Arc::clone(&id);
    let course = Course::new(Some(point), move |_| {
        let id = known.get().expect("a running process").to_string();
        crate::support::process::run("kill", &["-STOP", &id]);
    });
    (course, id)
}

#[tokio::test]
async fn a_leader_that_was_stopped_while_it_published_writes_nothing_when_it_wakes_up() {
    let cluster = Cluster::new().await;
    let registry = TestRegistry::start(Version::V31);
    // The artifact's manifest stands; what comes next is the index under the tag.
    let (course, id) = stopping("a", Moment::After(Kind::Manifest, 1));
    let mut ways = Ways::new(course, &registry.host);
    let real = Real::at(
        required("JACKAL_DOCKER_CLASSIC"),
        jackal_operator::source::docker::StorageKind::Classic,
    );
    let line = format!("{{image: '{}', source: Docker}}", loaded(&real, 100_000));
    let (of_a, of_b, of_n1) = (ways.of("a"), ways.of("b"), ways.of("n1"));
    let a = controller(&cluster, "a", &of_a, "nowhere");
    id.set(a.id()).unwrap();
    leads(&cluster, "a", SOON).await;
    let _b = controller(&cluster, "b", &of_b, "nowhere");
    let _agent = agent(&cluster, "n1", &of_n1, &real.host);
    cluster.apply(&plain("app", &[&line], "description: first"));
    tokio::time::timeout(SOON, ways.course.killed())
        .await
        .expect("a publishes");
    let tagged = registry.repository("app").head_manifest("1.0.0").await.unwrap();
    assert_eq!(tagged, None, "it was stopped before the tag");
    leads(&cluster, "b", SOON).await;
    cluster.ready("app").await;
    // What the other has to put under the tag is something else by now.
    cluster
        .patch::<JackalPackage>("app", json!({ "spec": { "description": "second" } }))
        .await;
    let ready = cluster.ready("app").await;
    assert_eq!(ready.metadata.generation, Some(2));
    let standing = registry
        .repository("app")
        .head_manifest("1.0.0")
        .await
        .unwrap()
        .unwrap();

    let woken = Instant::now();
    a.signal("CONT");
    eventually(SOON, "it has looked who leads", async || {
        match ways.looks_at_lease("a", woken) {
            0..5 => Err(a.log()),
            _ => Ok(()),
        }
    })
    .await;
    let writes = ways.writes("a", woken);
    assert!(writes.is_empty(), "{writes:#?}");
    let now = registry
        .repository("app")
        .head_manifest("1.0.0")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(now.digest, standing.digest);
    let after = cluster.package("app").await;
    assert_eq!(
        after.metadata.resource_version, ready.metadata.resource_version,
        "nobody wrote it"
    );
}

#[tokio::test]
async fn who_was_stopped_while_it_moved_an_image_writes_nothing_when_it_wakes_up() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let (course, id) = stopping("a", Moment::Body(1_000_000));
    let mut ways = Ways::new(course, &registry.host);
    let repository = source.repository("team/app");
    let first = image::image(&repository, "linux/amd64", noise(1, 4_000_000)).await;
    image::put(&repository, &first, Some("1")).await;
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    let (of_a, of_b) = (ways.of("a"), ways.of("b"));
    let a = controller(&cluster, "a", &of_a, &source.host);
    id.set(a.id()).unwrap();
    leads(&cluster, "a", SOON).await;
    cluster.apply(&plain("app", &[&line], ""));
    tokio::time::timeout(SOON, ways.course.killed())
        .await
        .expect("a moves the image");
    // The name means another image by now.
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
            && ways.looks_at_lease("a", woken) > 5
        {
            true => Ok(()),
            false => Err(a.log()),
        }
    })
    .await;
    // It may only have gone on with what it had begun to send: no manifest, no status, nothing of a leader.
    let writes = ways.writes("a", woken);
    assert!(writes.is_empty(), "{writes:#?}");
    let place = ready.status.as_ref().unwrap().images[0].name.clone();
    let standing = registry.crane("digest", place.strip_prefix("127.0.0.1:31999/").unwrap());
    assert_eq!(standing.trim(), second.digest().as_str());
    let after = cluster.package("app").await;
    assert_eq!(
        after.metadata.resource_version, ready.metadata.resource_version,
        "nobody wrote it"
    );
}
