//! `load` continues the upload of a large blob: through a tunnel that ends, and after the process was killed.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::support::image::{image, noise, put};
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace};

const MIB: u64 = 1 << 20;
/// The length of the large layer.
const SIZE: u64 = 200 * MIB;

/// A tunnel to a registry, which counts the bytes that it carries there, and stops at a limit.
struct Tunnel {
    carried: Arc<AtomicU64>,
    task: Option<AbortOnDropHandle<()>>,
    address: std::net::SocketAddr,
    to: String,
}

impl Tunnel {
    /// A tunnel that stalls after it has carried `limit` bytes.
    fn open(to: &str, limit: u64) -> Self {
        let mut tunnel = Self {
            carried: Arc::default(),
            task: None,
            // No other test connects from this address, which would take the port while nothing listens.
            address: ([127, 0, 0, 2], 0).into(),
            to: to.to_owned(),
        };
        tunnel.start(limit);
        tunnel
    }

    fn host(&self) -> String {
        self.address.to_string()
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Ends every connection, and refuses new ones.
    async fn end(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Listens again at the same address. The limit counts from now on.
    fn start(&mut self, limit: u64) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        // Bytes wait in the client instead of the kernel.
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        self.address = listener.local_addr().unwrap();
        let limit = self.carried().saturating_add(limit);
        let task = tokio::spawn(serve(listener, self.to.clone(), Arc::clone(&self.carried), limit));
        self.task = Some(AbortOnDropHandle::new(task));
    }
}

async fn serve(listener: TcpListener, to: String, carried: Arc<AtomicU64>, limit: u64) {
    // Dropped with this task, which ends all connections.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect(&to).await.unwrap();
        connections.spawn(carry(client, server, Arc::clone(&carried), limit));
    }
}

async fn carry(client: TcpStream, server: TcpStream, carried: Arc<AtomicU64>, limit: u64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            if to_server.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            if carried.fetch_add(length as u64, Ordering::Relaxed) + length as u64 >= limit {
                std::future::pending::<()>().await;
            }
        }
    };
    let downward = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::select! {
        () = upward => {}
        () = downward => {}
    }
}

/// A packed package with a layer of 200 MiB, in the file `shop.tar.zst`. Its digests.
async fn packed() -> (Workspace, [String; 2]) {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/app");
    let layer = noise(1, usize::try_from(SIZE).unwrap());
    put(&repository, &image(&repository, "linux/amd64", layer).await, Some("1")).await;
    let workspace = Workspace::new();
    let host = &registry.host;
    let text = serde_json::json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
        "spec": { "version": "1", "format": "Zarf", "components": [{ "name": "a", "images": [format!("{host}/team/app:1")] }] },
    });
    workspace.text_report(&text.to_string(), host, &[host], &[]);
    let reference = format!("{host}/shop:1");
    let pack = ["pack", &reference, "--insecure", "--output", "shop.tar.zst"];
    workspace.run(&pack).succeeded();
    let digests = ["shop:1", "team/app:1"].map(|name| registry.crane("digest", name));
    (workspace, digests)
}

/// Starts `load` without anything between it and its signals.
fn start(workspace: &Workspace, host: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_jackal-operator"))
        .args(["load", "shop.tar.zst", "--to", host, "--insecure", "--output", "json"])
        .current_dir(workspace.path("."))
        .env_clear()
        .env("HOME", workspace.path("."))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the tunnel has carried `bytes`.
async fn carried(tunnel: &Tunnel, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while tunnel.carried() < bytes {
        assert!(
            Instant::now() < deadline,
            "only {} bytes were carried",
            tunnel.carried()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The records of uploads that are left.
fn records(workspace: &Workspace) -> usize {
    std::fs::read_dir(workspace.path(".local/state/jackal-operator/uploads"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_load_is_continued_inside_the_blob() {
    let (workspace, digests) = packed().await;
    let site = TestRegistry::start(Version::V31);
    let mut tunnel = Tunnel::open(&site.host, 150 * MIB);
    let mut first = start(&workspace, &tunnel.host());
    carried(&tunnel, 150 * MIB).await;
    // SIGKILL.
    first.kill().unwrap();
    first.wait().unwrap();
    tunnel.end().await;
    assert_eq!(records(&workspace), 1);
    let before = tunnel.carried();
    tunnel.start(u64::MAX);
    let second = start(&workspace, &tunnel.host()).wait_with_output().unwrap();
    second.succeeded();
    let again = tunnel.carried() - before;
    assert!(again < SIZE - 150 * MIB + SIZE / 10, "{again} bytes were sent");
    let report: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert!(report["sentBytes"].as_u64().unwrap() < 70 * MIB, "{report}");
    assert_eq!(["shop:1", "team/app:1"].map(|name| site.crane("digest", name)), digests);
    site.crane("validate", "team/app:1");
    assert_eq!((records(&workspace), site.unfinished("shop")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_may_end_several_times() {
    let (workspace, digests) = packed().await;
    let site = TestRegistry::start(Version::V31);
    let mut tunnel = Tunnel::open(&site.host, 50 * MIB);
    let load = start(&workspace, &tunnel.host());
    for round in 1..=3 {
        carried(&tunnel, round * 50 * MIB).await;
        tunnel.end().await;
        // Longer than the requests of one upload are repeated.
        tokio::time::sleep(Duration::from_secs(12)).await;
        tunnel.start(50 * MIB);
    }
    tunnel.end().await;
    tunnel.start(u64::MAX);
    let done = tokio::task::spawn_blocking(move || load.wait_with_output().unwrap())
        .await
        .unwrap();
    done.succeeded();
    let carried = tunnel.carried();
    assert!(carried < SIZE + SIZE / 10, "{carried} bytes were sent");
    assert_eq!(["shop:1", "team/app:1"].map(|name| site.crane("digest", name)), digests);
    assert_eq!((records(&workspace), site.unfinished("shop")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_forgot_is_begun_again() {
    let (workspace, digests) = packed().await;
    for version in [Version::V31, Version::V28] {
        let site = TestRegistry::start(version);
        let mut tunnel = Tunnel::open(&site.host, 100 * MIB);
        let mut first = start(&workspace, &tunnel.host());
        carried(&tunnel, 100 * MIB).await;
        first.kill().unwrap();
        first.wait().unwrap();
        tunnel.end().await;
        if version == Version::V31 {
            // It still writes what it received.
            site.restart();
            for upload in site.uploads("shop") {
                std::fs::remove_dir_all(upload).unwrap();
            }
        }
        // A record that names another place is not followed.
        let folder = workspace.path(".local/state/jackal-operator/uploads");
        let record = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(&record).unwrap();
        assert!(text.contains("/v2/shop/blobs/uploads/"), "{text}");
        if version == Version::V28 {
            std::fs::write(&record, text.replace("/v2/shop/", "/v2/other/")).unwrap();
        }
        tunnel.start(u64::MAX);
        start(&workspace, &tunnel.host())
            .wait_with_output()
            .unwrap()
            .succeeded();
        assert_eq!(["shop:1", "team/app:1"].map(|name| site.crane("digest", name)), digests);
        assert_eq!(records(&workspace), 0);
    }
}

#[tokio::test]
async fn a_registry_that_was_never_there_is_not_waited_for() {
    let (workspace, _) = packed().await;
    let began = Instant::now();
    let flags = ["load", "shop.tar.zst", "--to", "127.0.0.1:1", "--insecure"];
    workspace.run(&flags).failed(1, &["127.0.0.1:1"]);
    assert!(began.elapsed() < Duration::from_secs(60));
}
