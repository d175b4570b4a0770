//! The temporary names that images get in an engine in order to be pushed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jackal_operator::api::v1alpha1::JackalImage;
use jackal_operator::oci::{Compression, Digest};
use jackal_operator::source::Method;
use jackal_operator::source::docker::{Docker, StorageKind, wait_for_name_removal};
use jackal_operator::transfer::{DestinationState, RegistryDestination};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::{Attack, check};
use crate::docker::engines::{DedicatedEngine, DockerEngine, Image};
use crate::docker::push::break_exports;
use crate::docker::transfer;
use crate::support::cluster::{Cluster, condition};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::objects::standalone_image;
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version, plain_client};
use crate::support::scripted::RecordedRequest;
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};

/// Longer than any test takes.
const FOREVER: Duration = Duration::from_secs(3600);

/// The name by which the engine lists an image without one.
const UNNAMED: &str = "<none>:<none>";

/// All image names in the engine.
fn names(dedicated: &DedicatedEngine) -> Vec<String> {
    let output = dedicated
        .engine
        .output(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    let mut names: Vec<String> = output.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// An engine that cannot export, with exactly these images, loaded in this order.
fn engine_without_exports(images: &[&Image]) -> DedicatedEngine {
    let dedicated = DedicatedEngine::start("docker-classic", StorageKind::Classic);
    for image in images {
        dedicated.engine.load(&image.archive());
    }
    break_exports(dedicated.name());
    dedicated
}

/// Whether the request was sent by the engine.
fn is_sent_by_engine(request: &RecordedRequest) -> bool {
    let agent = request.headers.get("user-agent");
    agent.is_some_and(|agent| agent.starts_with("docker/"))
}

/// A registry that accepts no upload from the engine.
fn stalling_registry(registry: &TestRegistry) -> FaultProxy {
    FaultProxy::to(&registry.host, |request| {
        match is_sent_by_engine(request) && request.method == "POST" {
            true => Action::Delay(FOREVER),
            false => Action::Pass,
        }
    })
}

/// Waits until the engine pushes.
async fn wait_for_engine_push(proxy: &FaultProxy) {
    eventually(SOON, "the engine pushes", async || {
        match proxy.count("POST", "/blobs/uploads/") {
            0 => Err(format!("{:?}", proxy.requests())),
            _ => Ok(()),
        }
    })
    .await;
}

/// Waits until the engine has exactly these names.
async fn wait_for_names(dedicated: &DedicatedEngine, expected: &[&str]) {
    eventually(SOON, "the engine has the names that it had", async || {
        let found = names(dedicated);
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
}

/// A transfer of `name` from `docker` to a registry that accepts no upload, cancelled by `end` while the engine pushes.
async fn cancel_during_push(docker: &Docker, name: &str, end: impl FnOnce(&str)) {
    let registry = TestRegistry::start(Version::V31);
    let proxy = stalling_registry(&registry);
    let mut transfer = transfer(docker, name, &registry, "in", Compression::None);
    let repository = transfer.location.repository.clone();
    let client = plain_client(&proxy.host, |_| {});
    transfer.destination = Arc::new(RegistryDestination::new(client.repository(&repository)));
    let given = format!("{}/{repository}:1", proxy.host);
    tokio::select! {
        outcome = transfer.run() => panic!("{outcome:?}"),
        () = wait_for_engine_push(&proxy) => {}
    }
    end(&given);
}

/// A proxy for an engine's socket that can be interrupted.
struct InterruptibleSocket {
    broken: AtomicBool,
    refused: AtomicUsize,
}

impl InterruptibleSocket {
    /// A proxy for `dedicated`; also the engine through it, and the task that keeps it open.
    fn open(dedicated: &DedicatedEngine, folder: &Path) -> (Arc<Self>, Docker, AbortOnDropHandle<()>) {
        let (socket, to) = (folder.join("docker.sock"), dedicated.engine.host.clone());
        let listener = UnixListener::bind(&socket).unwrap();
        let socket_proxy = Arc::new(Self {
            broken: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        });
        let own = Arc::clone(&socket_proxy);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                if own.broken.load(Ordering::SeqCst) {
                    own.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let to = to.strip_prefix("unix://").unwrap().to_owned();
                connections.spawn(async move {
                    let mut server = UnixStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        let engine = DockerEngine::at(format!("unix://{}", socket.display()), StorageKind::Classic);
        (socket_proxy, engine.docker, AbortOnDropHandle::new(task))
    }
}

/// An agent whose engine pushes `name` to a registry that accepts no upload. It is the operator's own registry: an
/// engine pushes to no other.
async fn start_agent_push(dedicated: &DedicatedEngine, name: &str) -> (Cluster, Operator, TestRegistry, FaultProxy) {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let proxy = stalling_registry(&registry);
    cluster.create_node(&cluster.namespace, &[]).await;
    let controller = controller(&cluster, &proxy);
    let agent = agent(&cluster, dedicated, &proxy);
    cluster.apply(&object(&cluster, name, ""));
    wait_for_engine_push(&proxy).await;
    assert_ne!(names(dedicated), [name]);
    drop(controller);
    (cluster, agent, registry, proxy)
}

/// An image of the cluster's node; `more` are other fields of its spec.
fn object(cluster: &Cluster, name: &str, more: &str) -> String {
    let fields = format!("source: Docker\n  nodeName: {}\n  {more}", cluster.namespace);
    standalone_image("pushed", name, &fields)
}

fn controller(cluster: &Cluster, proxy: &FaultProxy) -> Operator {
    // The machine may be busy with other tests.
    cluster.controller_with(&own_registry(proxy), &[("JACKAL_LEASE_DURATION", "30s")])
}

/// The flags that name the operator's own registry.
fn own_registry(proxy: &FaultProxy) -> [&str; 3] {
    ["--registry-address", &proxy.host, "--registry-insecure"]
}

fn agent(cluster: &Cluster, dedicated: &DedicatedEngine, proxy: &FaultProxy) -> Operator {
    // The engine's folder is not read, so that it is asked to export.
    let flags = ["--docker-root", "/nowhere", "--admit", "*=*"];
    let flags = [&flags[..], &own_registry(proxy)].concat();
    cluster.agent(&cluster.namespace, &dedicated.engine.host, &flags)
}

#[tokio::test]
async fn an_engine_push_leaves_no_image_names_behind() {
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "tenant",
            capabilities: "has an image of a node's engine pushed, and exhausts the node's memory",
            attempt: "the agent is killed while the engine pushes, so that the name remains",
            expected: "the next agent removes the name",
            final_state: "the engine has its original names",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/killed:1";
                    let dedicated = engine_without_exports(&[&Image::varied(name)]);
                    let (cluster, mut killed, _registry, proxy) = start_agent_push(&dedicated, name).await;
                    killed.signal("KILL");
                    killed.ends(SOON).await;
                    assert_ne!(names(&dedicated), [name]);
                    // No object makes the next agent push again.
                    cluster.kubectl(&["delete", "jackalimage", "pushed", "--wait=false"]);
                    let _agent = agent(&cluster, &dedicated, &proxy);
                    wait_for_names(&dedicated, &[name]).await;
                })
            },
        },
        Attack {
            attacker: "tenant",
            capabilities: "has an image of a node's engine pushed while its agent is updated",
            attempt: "the agent is stopped while the engine pushes",
            expected: "the agent removes the name before it ends",
            final_state: "the engine has its original names",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/stopped:1";
                    let dedicated = engine_without_exports(&[&Image::varied(name)]);
                    let (_cluster, mut stopped, _registry, _front) = start_agent_push(&dedicated, name).await;
                    stopped.signal("TERM");
                    stopped.ends(SOON).await;
                    assert_eq!(names(&dedicated), [name]);
                })
            },
        },
        Attack {
            attacker: "tenant",
            capabilities: "deletes or suspends an object",
            attempt: "the transfer is cancelled while the engine pushes and does not answer for a while",
            expected: "the name is removed once the engine answers",
            final_state: "the engine has its original names",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/cancelled:1";
                    let dedicated = engine_without_exports(&[&Image::varied(name)]);
                    cancel_during_push(&dedicated.engine.docker, name, |_| ()).await;
                    wait_for_names(&dedicated, &[name]).await;
                    let folder = tempfile::tempdir().unwrap();
                    let (socket_proxy, docker, _open) = InterruptibleSocket::open(&dedicated, folder.path());
                    cancel_during_push(&docker, name, |_| socket_proxy.broken.store(true, Ordering::SeqCst)).await;
                    eventually(SOON, "a try to take the name away", async || {
                        match socket_proxy.refused.load(Ordering::SeqCst) {
                            0 => Err("none".to_owned()),
                            _ => Ok(()),
                        }
                    })
                    .await;
                    assert_ne!(names(&dedicated), [name]);
                    socket_proxy.broken.store(false, Ordering::SeqCst);
                    wait_for_name_removal(SOON).await;
                    wait_for_names(&dedicated, &[name]).await;
                })
            },
        },
        Attack {
            attacker: "user of a node's engine",
            capabilities: "names images",
            attempt: "gives the name to another image before the engine pushes the original one, whose only name is then the temporary one and would be removed with it",
            expected: "the engine does not push the image that lost its name; it pushes the image that has the name now",
            final_state: "the engine keeps both images with the names that its user assigned",
            run: || {
                on_one_thread(|| async {
                    let (name, other) = ("jackal-test/nameless:1", "jackal-test/newer:1");
                    let (nameless, newer) = (Image::varied(name), Image::varied(other));
                    let dedicated = engine_without_exports(&[&nameless, &newer]);
                    let id = Digest::of(&nameless.config);
                    let registry = TestRegistry::start(Version::V31);
                    let transfer = transfer(&dedicated.engine.docker, name, &registry, "in", Compression::None);
                    let DestinationState::Differs(resolved) = transfer.check().await.unwrap() else {
                        panic!("it stands");
                    };
                    dedicated.engine.run(&["tag", other, name]);
                    let outcome = transfer.copy(&resolved).await;
                    let held = dedicated
                        .engine
                        .output(&["image", "ls", "--all", "--no-trunc", "--format", "{{.ID}}"]);
                    assert!(held.contains(id.as_str()), "{id} is gone: {held}");
                    let pushed = transfer.destination.holds(&id).await.unwrap();
                    assert_eq!(pushed, None, "the image that lost its name was pushed");
                    let outcome = outcome.unwrap();
                    assert_eq!(outcome.method, Method::DockerPush);
                    assert_eq!(outcome.source_digest, Digest::of(&newer.config));
                    wait_for_name_removal(SOON).await;
                    wait_for_names(&dedicated, &[UNNAMED, name, other]).await;
                })
            },
        },
        Attack {
            attacker: "user of a node's engine",
            capabilities: "names images",
            attempt: "gives the name to another image while the engine pushes",
            expected: "the name is kept for that image",
            final_state: "the engine has the name that its user assigned",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/renamed:1";
                    let other = "jackal-test/other:1";
                    let dedicated = engine_without_exports(&[&Image::varied(name), &Image::varied(other)]);
                    let mut given = String::new();
                    cancel_during_push(&dedicated.engine.docker, name, |pushed| {
                        given = pushed.to_owned();
                        dedicated.engine.run(&["tag", other, pushed]);
                    })
                    .await;
                    let mut expected = [&*given, other, name];
                    expected.sort_unstable();
                    wait_for_name_removal(SOON).await;
                    wait_for_names(&dedicated, &expected).await;
                })
            },
        },
    ];
    check(ATTACKS).await;
}

#[tokio::test]
async fn an_engine_pushes_only_to_the_operators_registry() {
    const ATTACKS: &[Attack] = &[Attack {
        attacker: "tenant",
        capabilities: "copies an image of a node's engine, which cannot export it, to its own registry",
        attempt: "the registry waits for the engine, which follows every redirect of a registry",
        expected: "the engine does not push, and its export failure is reported",
        final_state: "the registry got requests from the operator only, and the engine has its original names",
        run: || {
            on_one_thread(|| async {
                let name = "jackal-test/led:1";
                let dedicated = engine_without_exports(&[&Image::varied(name)]);
                let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
                let [operator_registry, tenant_registry] =
                    [(); 2].map(|()| FaultProxy::to(&registry.host, |_| Action::Pass));
                cluster.create_node(&cluster.namespace, &[]).await;
                let _controller = controller(&cluster, &operator_registry);
                let _agent = agent(&cluster, &dedicated, &operator_registry);
                let theirs = format!("registry: {{address: '{}', insecure: true}}", tenant_registry.host);
                cluster.apply(&object(&cluster, name, &theirs));
                let failure_message = |image: &JackalImage| {
                    let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
                    (ready.reason == "SourceFailed").then(|| ready.message.clone())
                };
                let image = cluster
                    .image_where("pushed", "SourceFailed", |image| failure_message(image))
                    .await;
                let output = failure_message(&image).unwrap();
                assert!(output.contains("/docker/tmp"), "{output}");
                assert!(!output.contains("asked to push"), "{output}");
                assert!(!tenant_registry.requests().is_empty());
                for request in tenant_registry.requests().iter().chain(&operator_registry.requests()) {
                    assert!(!is_sent_by_engine(request), "{request:?}");
                }
                assert_eq!(names(&dedicated), [name]);
            })
        },
    }];
    check(ATTACKS).await;
}
