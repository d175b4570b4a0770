//! The names that an image gets in its engine to be pushed under them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jackal_operator::api::v1alpha1::JackalImage;
use jackal_operator::oci::{Compression, Digest};
use jackal_operator::source::Method;
use jackal_operator::source::docker::{Docker, StorageKind, settled};
use jackal_operator::transfer::{DestinationState, RegistryDestination};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::{Attack, check};
use crate::docker::engines::{Image, Real, Victim};
use crate::docker::push::break_exports;
use crate::docker::transfer;
use crate::support::cluster::{Cluster, condition};
use crate::support::faulty::Seen;
use crate::support::front::{Act, Front};
use crate::support::objects::lone;
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version, plain_client};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};

/// Longer than any test takes.
const FOREVER: Duration = Duration::from_secs(3600);

/// The name by which the engine lists an image without one.
const UNNAMED: &str = "<none>:<none>";

/// All names that the engine has.
fn names(victim: &Victim) -> Vec<String> {
    let said = victim
        .real
        .output(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    let mut names: Vec<String> = said.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// An engine that exports nothing, with these images alone, which were loaded in their order.
fn engine_with(images: &[&Image]) -> Victim {
    let victim = Victim::start("docker-classic", StorageKind::Classic);
    for image in images {
        victim.real.load(&image.archive());
    }
    break_exports(victim.name());
    victim
}

/// Whether an engine sent this by itself.
fn is_engines(seen: &Seen) -> bool {
    let agent = seen.headers.get("user-agent");
    agent.is_some_and(|agent| agent.starts_with("docker/"))
}

/// A registry that takes nothing of what an engine sends by itself.
fn stalling(registry: &TestRegistry) -> Front {
    Front::to(&registry.host, |seen| match is_engines(seen) && seen.method == "POST" {
        true => Act::Delay(FOREVER),
        false => Act::Pass,
    })
}

/// Waits until the engine pushes.
async fn pushing(front: &Front) {
    eventually(SOON, "the engine pushes", async || {
        match front.count("POST", "/blobs/uploads/") {
            0 => Err(format!("{:?}", front.seen())),
            _ => Ok(()),
        }
    })
    .await;
}

/// Waits until the engine has these names alone.
async fn has(victim: &Victim, expected: &[&str]) {
    eventually(SOON, "the engine has the names that it had", async || {
        let found = names(victim);
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
}

/// A transfer of `name` out of `docker` to a registry that takes nothing, broken off by `end` while the engine pushes.
async fn broken_off(docker: &Docker, name: &str, end: impl FnOnce(&str)) {
    let registry = TestRegistry::start(Version::V31);
    let front = stalling(&registry);
    let mut transfer = transfer(docker, name, &registry, "in", Compression::None);
    let repository = transfer.location.repository.clone();
    let client = plain_client(&front.host, |_| {});
    transfer.destination = Arc::new(RegistryDestination::new(client.repository(&repository)));
    let given = format!("{}/{repository}:1", front.host);
    tokio::select! {
        outcome = transfer.run() => panic!("{outcome:?}"),
        () = pushing(&front) => {}
    }
    end(&given);
}

/// A way to an engine that breaks.
struct Breaking {
    broken: AtomicBool,
    refused: AtomicUsize,
}

impl Breaking {
    /// A way to `victim`; also the engine at its other end, and what keeps it open.
    fn open(victim: &Victim, folder: &Path) -> (Arc<Self>, Docker, AbortOnDropHandle<()>) {
        let (socket, to) = (folder.join("docker.sock"), victim.real.host.clone());
        let listener = UnixListener::bind(&socket).unwrap();
        let way = Arc::new(Self {
            broken: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        });
        let own = Arc::clone(&way);
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
        let real = Real::at(format!("unix://{}", socket.display()), StorageKind::Classic);
        (way, real.docker, AbortOnDropHandle::new(task))
    }
}

/// An agent whose engine pushes `name` to a registry that takes nothing. It is the operator's own: an engine pushes by
/// itself to no other.
async fn agent_pushing(victim: &Victim, name: &str) -> (Cluster, Operator, TestRegistry, Front) {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let front = stalling(&registry);
    cluster.create_node(&cluster.namespace, &[]).await;
    let controller = controller(&cluster, &front);
    let agent = agent(&cluster, victim, &front);
    cluster.apply(&object(&cluster, name, ""));
    pushing(&front).await;
    assert_ne!(names(victim), [name]);
    drop(controller);
    (cluster, agent, registry, front)
}

/// An image of the cluster's node, with other fields of its spec (`more`).
fn object(cluster: &Cluster, name: &str, more: &str) -> String {
    let fields = format!("source: Docker\n  nodeName: {}\n  {more}", cluster.namespace);
    lone("pushed", name, &fields)
}

fn controller(cluster: &Cluster, front: &Front) -> Operator {
    // The machine may be busy with other tests.
    cluster.controller_with(&own_registry(front), &[("JACKAL_LEASE_DURATION", "30s")])
}

/// The flags that name the operator's own registry.
fn own_registry(front: &Front) -> [&str; 3] {
    ["--registry-address", &front.host, "--registry-insecure"]
}

fn agent(cluster: &Cluster, victim: &Victim, front: &Front) -> Operator {
    // The engine's folder is not read, so that it is asked to export.
    let flags = ["--docker-root", "/nowhere", "--admit", "*=*"];
    let flags = [&flags[..], &own_registry(front)].concat();
    cluster.agent(&cluster.namespace, &victim.real.host, &flags)
}

#[tokio::test]
async fn an_engine_keeps_the_names_that_it_had() {
    const ATTACKS: &[Attack] = &[
        Attack {
            attacker: "tenant",
            capabilities: "has an image of a node's engine pushed, and the node's memory run out",
            attempt: "the agent is killed while the engine pushes, so that the name stays",
            expected: "the next agent takes the name away",
            final_state: "the engine has the names that it had",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/killed:1";
                    let victim = engine_with(&[&Image::varied(name)]);
                    let (cluster, mut killed, _registry, front) = agent_pushing(&victim, name).await;
                    killed.signal("KILL");
                    killed.ends(SOON).await;
                    assert_ne!(names(&victim), [name]);
                    // Nobody asks the next agent to push again.
                    cluster.kubectl(&["delete", "jackalimage", "pushed", "--wait=false"]);
                    let _agent = agent(&cluster, &victim, &front);
                    has(&victim, &[name]).await;
                })
            },
        },
        Attack {
            attacker: "tenant",
            capabilities: "has an image of a node's engine pushed while its agent is updated",
            attempt: "the agent is asked to stop while the engine pushes",
            expected: "the agent takes the name away before it ends",
            final_state: "the engine has the names that it had",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/stopped:1";
                    let victim = engine_with(&[&Image::varied(name)]);
                    let (_cluster, mut stopped, _registry, _front) = agent_pushing(&victim, name).await;
                    stopped.signal("TERM");
                    stopped.ends(SOON).await;
                    assert_eq!(names(&victim), [name]);
                })
            },
        },
        Attack {
            attacker: "tenant",
            capabilities: "deletes or suspends an object",
            attempt: "the transfer is cancelled while the engine pushes, which answers nobody for a while",
            expected: "the name is taken away once the engine answers",
            final_state: "the engine has the names that it had",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/cancelled:1";
                    let victim = engine_with(&[&Image::varied(name)]);
                    broken_off(&victim.real.docker, name, |_| ()).await;
                    has(&victim, &[name]).await;
                    let folder = tempfile::tempdir().unwrap();
                    let (way, docker, _open) = Breaking::open(&victim, folder.path());
                    broken_off(&docker, name, |_| way.broken.store(true, Ordering::SeqCst)).await;
                    eventually(SOON, "a try to take the name away", async || {
                        match way.refused.load(Ordering::SeqCst) {
                            0 => Err("none".to_owned()),
                            _ => Ok(()),
                        }
                    })
                    .await;
                    assert_ne!(names(&victim), [name]);
                    way.broken.store(false, Ordering::SeqCst);
                    settled(SOON).await;
                    has(&victim, &[name]).await;
                })
            },
        },
        Attack {
            attacker: "user of a node's engine",
            capabilities: "names images",
            attempt: "gives the name to another image before the engine pushes the one that had it, which so gets its only name for the push and would go with it",
            expected: "the engine does not push the image that lost its name; the one that has it now is pushed",
            final_state: "the engine keeps both images with the names that its user gave",
            run: || {
                on_one_thread(|| async {
                    let (name, other) = ("jackal-test/nameless:1", "jackal-test/newer:1");
                    let (nameless, newer) = (Image::varied(name), Image::varied(other));
                    let victim = engine_with(&[&nameless, &newer]);
                    let id = Digest::of(&nameless.config);
                    let registry = TestRegistry::start(Version::V31);
                    let transfer = transfer(&victim.real.docker, name, &registry, "in", Compression::None);
                    let DestinationState::Differs(resolved) = transfer.check().await.unwrap() else {
                        panic!("it stands");
                    };
                    victim.real.run(&["tag", other, name]);
                    let outcome = transfer.copy(&resolved).await;
                    let held = victim
                        .real
                        .output(&["image", "ls", "--all", "--no-trunc", "--format", "{{.ID}}"]);
                    assert!(held.contains(id.as_str()), "{id} is gone: {held}");
                    let pushed = transfer.destination.holds(&id).await.unwrap();
                    assert_eq!(pushed, None, "the image that lost its name was pushed");
                    let outcome = outcome.unwrap();
                    assert_eq!(outcome.method, Method::DockerPush);
                    assert_eq!(outcome.source_digest, Digest::of(&newer.config));
                    settled(SOON).await;
                    has(&victim, &[UNNAMED, name, other]).await;
                })
            },
        },
        Attack {
            attacker: "user of a node's engine",
            capabilities: "names images",
            attempt: "gives the name to another image while the engine pushes",
            expected: "it stays that image's",
            final_state: "the engine has the name that its user gave",
            run: || {
                on_one_thread(|| async {
                    let name = "jackal-test/renamed:1";
                    let other = "jackal-test/other:1";
                    let victim = engine_with(&[&Image::varied(name), &Image::varied(other)]);
                    let mut given = String::new();
                    broken_off(&victim.real.docker, name, |pushed| {
                        given = pushed.to_owned();
                        victim.real.run(&["tag", other, pushed]);
                    })
                    .await;
                    let mut expected = [&*given, other, name];
                    expected.sort_unstable();
                    settled(SOON).await;
                    has(&victim, &expected).await;
                })
            },
        },
    ];
    check(ATTACKS).await;
}

#[tokio::test]
async fn an_engine_pushes_into_the_operators_own_registry_only() {
    const ATTACKS: &[Attack] = &[Attack {
        attacker: "tenant",
        capabilities: "has an image of a node's engine, which cannot export it, brought to a registry of its own",
        attempt: "the registry waits for the engine, which follows wherever a registry leads",
        expected: "the engine is not asked to push, and that it cannot export is told",
        final_state: "the registry was asked by the operator alone, and the engine has the names that it had",
        run: || {
            on_one_thread(|| async {
                let name = "jackal-test/led:1";
                let victim = engine_with(&[&Image::varied(name)]);
                let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
                let [home, tenants] = [(); 2].map(|()| Front::to(&registry.host, |_| Act::Pass));
                cluster.create_node(&cluster.namespace, &[]).await;
                let _controller = controller(&cluster, &home);
                let _agent = agent(&cluster, &victim, &home);
                let theirs = format!("registry: {{address: '{}', insecure: true}}", tenants.host);
                cluster.apply(&object(&cluster, name, &theirs));
                let told = |image: &JackalImage| {
                    let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
                    (ready.reason == "SourceFailed").then(|| ready.message.clone())
                };
                let image = cluster.image_where("pushed", "SourceFailed", |image| told(image)).await;
                let said = told(&image).unwrap();
                assert!(said.contains("/docker/tmp"), "{said}");
                assert!(!said.contains("asked to push"), "{said}");
                assert!(!tenants.seen().is_empty());
                for seen in tenants.seen().iter().chain(&home.seen()) {
                    assert!(!is_engines(seen), "{seen:?}");
                }
                assert_eq!(names(&victim), [name]);
            })
        },
    }];
    check(ATTACKS).await;
}
