//! The HTTP endpoints of a process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::{package, unique};
use crate::support::api_proxy::{ApiProxy, kubeconfig_to};
use crate::support::cluster::{Cluster, required};
use crate::support::image::{image, noise, put};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

/// How long a process may take to stop: less than the thirty seconds of a pod.
const END: Duration = Duration::from_secs(15);

/// A proxy for the API server that does not respond before it is opened.
struct ClosedApiServer {
    listener: TcpListener,
    folder: tempfile::TempDir,
    way: ApiProxy,
}

impl ClosedApiServer {
    async fn closed() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let way = ApiProxy::open(folder.path());
        let config = kubeconfig_to(&listener.local_addr().unwrap().to_string());
        std::fs::write(folder.path().join("gate"), config).unwrap();
        Self { listener, folder, way }
    }

    fn kubeconfig(&self) -> String {
        self.folder.path().join("gate").to_str().unwrap().to_owned()
    }

    /// Opens it until the end of the test.
    fn open(self) {
        let behind = std::fs::read_to_string(&self.way.kubeconfig).unwrap();
        let (_, address) = behind.split_once("http://").unwrap();
        let address: SocketAddr = address.split('\'').next().unwrap().parse().unwrap();
        tokio::spawn(async move {
            let _lives = (&self.way, &self.folder);
            loop {
                let (mut from, _) = self.listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(address).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
    }
}

/// The HTTP endpoint of a process.
struct HttpEndpoint {
    base: String,
    client: reqwest::Client,
}

impl HttpEndpoint {
    /// The address is in the log, because the port is chosen by the system.
    async fn of(operator: &Operator) -> Self {
        let address = eventually(SOON, "the process says where it listens", async || {
            let log = operator.log();
            let listening = log.lines().find_map(|line| line.split_once("listening address="));
            listening.map(|(_, address)| address.trim().to_owned()).ok_or(log)
        })
        .await;
        let client = reqwest::Client::builder().no_proxy().timeout(END).build().unwrap();
        Self {
            base: format!("http://{address}"),
            client,
        }
    }

    async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|error| error.to_string())?))
    }

    async fn wait_for(&self, path: &str, status: u16, text: &str) {
        eventually(SOON, &format!("{path} says {status} {text}"), async || {
            match self.get(path).await? {
                (got, body) if got == status && body.contains(text) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// Type and labels of each metric.
type Names = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics in docs/metrics.md.
fn documented() -> Names {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `jackal_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let bare = |cell: &str| cell.trim_matches('`').to_owned();
        let labels = cells[3].split(", ").map(bare).filter(|label| !label.is_empty());
        (bare(cells[1]), (cells[2].to_owned(), labels.collect()))
    })
    .collect()
}

/// The result of a scrape: the metrics, and the value of each line.
fn scraped(text: &str) -> (Names, BTreeMap<String, f64>) {
    let (mut names, mut values) = (Names::new(), BTreeMap::new());
    let mut current = String::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            current = match kind {
                "counter" => format!("{name}_total"),
                _ => name.to_owned(),
            };
            names.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            values.insert(sample.to_owned(), value.parse().unwrap());
            let labels = sample
                .split_once('{')
                .map_or("", |(_, labels)| labels.trim_end_matches('}'));
            let labels = labels
                .split(',')
                .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            names
                .get_mut(&current)
                .unwrap()
                .1
                .extend(labels.filter(|label| label != "le"));
        }
    }
    (names, values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_serves_readiness_and_metrics() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let path = unique("app");
    let repository = source.repository(&path);
    let content = image(&repository, "linux/amd64", noise(7, 300_000)).await;
    put(&repository, &content, Some("1")).await;
    let gate = ClosedApiServer::closed().await;
    let flags = ["--listen", "127.0.0.1:0", "--insecure-registry", &source.host];
    let mut controller = cluster.controller_with(&flags, &[("KUBECONFIG", &gate.kubeconfig())]);
    let endpoint = HttpEndpoint::of(&controller).await;
    endpoint
        .wait_for("/readyz", 503, "the JackalImages have not been listed yet")
        .await;
    assert_eq!(endpoint.get("/healthz").await, Ok((200, "ok\n".to_owned())));

    gate.open();
    endpoint.wait_for("/readyz", 200, "ok").await;
    cluster.apply(&package(
        "told",
        &registry.host,
        &[&format!("{{image: '{}/{path}:1'}}", source.host)],
        "",
    ));
    cluster.ready("told").await;
    // The watch may report existing objects a moment later.
    let ready = r#"jackal_packages{ready="True"} 1"#;
    endpoint.wait_for("/metrics", 200, ready).await;
    let (names, values) = scraped(&endpoint.get("/metrics").await.unwrap().1);
    assert_eq!(names, documented());
    let value = |sample: &str| values.get(sample).copied().unwrap_or_default();
    assert_eq!(value("jackal_leader"), 1.0);
    assert_eq!(value(r#"jackal_images{ready="True"}"#), 1.0);
    assert_eq!(value(r#"jackal_images{ready="False"}"#), 0.0);
    assert_eq!(value("jackal_transfers_in_flight"), 0.0);
    let transfers = r#"jackal_transfers_total{source="Registry",method="Registry",result="Succeeded"}"#;
    assert_eq!(value(transfers), 1.0, "{values:#?}");
    assert!(value(r#"jackal_transferred_bytes_total{method="Registry"}"#) > 300_000.0);
    assert_eq!(
        value(r#"jackal_transfer_duration_seconds_count{method="Registry"}"#),
        1.0
    );
    for kind in ["JackalPackage", "JackalImage"] {
        let looks = value(&format!(
            r#"jackal_reconciles_total{{kind="{kind}",result="Succeeded"}}"#
        ));
        assert!(looks > 0.0, "{values:#?}");
        let timed = value(&format!(r#"jackal_reconcile_duration_seconds_count{{kind="{kind}"}}"#));
        assert!(timed >= looks, "{timed} of {looks}");
    }
    for secret in [path.as_str(), "told", &source.host, &cluster.namespace] {
        assert!(!values.keys().any(|sample| sample.contains(secret)), "{values:#?}");
    }
    controller.signal("TERM");
    assert!(controller.ends(END).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_ready_while_an_engine_is_reachable() {
    let cluster = Cluster::new().await;
    let engine = required("JACKAL_DOCKER_CLASSIC");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--containerd-address",
        "/nowhere/containerd.sock",
    ];
    let mut agent = cluster.agent("n1", &format!("unix://{}", socket.display()), &flags);
    let endpoint = HttpEndpoint::of(&agent).await;
    endpoint
        .wait_for("/readyz", 503, "no engine of the node can be reached: Docker: ")
        .await;
    assert_eq!(endpoint.get("/healthz").await, Ok((200, "ok\n".to_owned())));
    std::os::unix::fs::symlink(Path::new(engine.strip_prefix("unix://").unwrap()), &socket).unwrap();
    endpoint.wait_for("/readyz", 200, "ok").await;
    let (_, metrics) = endpoint.get("/metrics").await.unwrap();
    assert!(
        !metrics.contains("jackal_leader") && !metrics.contains("jackal_packages"),
        "{metrics}"
    );
    agent.signal("TERM");
    assert!(agent.ends(END).await.success());
}

#[tokio::test]
async fn a_stopping_process_is_not_ready() {
    let cluster = Cluster::new().await;
    // Stopping takes a while, because its first list request is pending.
    let gate = ClosedApiServer::closed().await;
    let kubeconfig = gate.kubeconfig();
    let mut controller = cluster.controller_with(&["--listen", "127.0.0.1:0"], &[("KUBECONFIG", &kubeconfig)]);
    let endpoint = HttpEndpoint::of(&controller).await;
    endpoint.wait_for("/readyz", 503, "not been listed").await;
    controller.signal("TERM");
    endpoint.wait_for("/readyz", 503, "it is stopping").await;
    assert!(controller.ends(END).await.success());
}

#[tokio::test]
async fn an_unavailable_listen_address_is_reported_at_start() {
    let cluster = Cluster::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (address, code, text) in [
        (
            address.as_str(),
            1,
            format!("--listen {address}: Address already in use"),
        ),
        (":8080", 2, "write an IP address and a port, such as".to_owned()),
    ] {
        let mut controller = cluster.controller(&["--listen", address]);
        assert_eq!(controller.ends(END).await.code(), Some(code));
        assert!(controller.log().contains(&text), "{}", controller.log());
    }
}
