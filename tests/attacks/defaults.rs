//! An installation that nobody configured further: what its defaults keep from tenants and pods.

use futures::FutureExt as _;
use serde_json::json;

use super::{Attack, check};
use crate::chart::registry::Deployed;
use crate::cluster::{layered, unique};
use crate::docker::engines::DockerEngine;
use crate::support::cluster::{Cluster, image_stalled};
use crate::support::image::{image, noise, put};
use crate::support::objects::{ADDRESS, standalone_image};
use crate::support::registry::{TestRegistry, Version};
use crate::support::table::on_one_thread;
use crate::tenancy::{EXCLUSIVE, clear};

#[tokio::test]
async fn default_configuration_denies_access() {
    let attacks = [
        Attack {
            attacker: "a tenant",
            capabilities: "writes objects in its own namespace",
            attempt: "brings another image to the name that a victim's image has",
            expected: "it lands below the name of the attacker's namespace",
            final_state: "the victim's tag is what its status says, and the victim can bring more",
            run: || on_one_thread(|| overwrites().boxed_local()),
        },
        Attack {
            attacker: "a tenant",
            capabilities: "writes objects in its own namespace",
            attempt: "asks for an image that lies on a node, whose agent has no --admit",
            expected: "PolicyDenied, which names --admit",
            final_state: "nothing has left the node",
            run: || on_one_thread(|| node_image().boxed_local()),
        },
        Attack {
            attacker: "a pod",
            capabilities: "the login by which its images are pulled, the network",
            attempt: "pushes, deletes and mounts in the registry that the chart deploys, at both ports",
            expected: "401 at the one, 405 at the other",
            final_state: "what was pushed stands, and it can be pulled",
            run: || on_one_thread(|| pushes().boxed_local()),
        },
        Attack {
            attacker: "who reads the network",
            capabilities: "sees the way between the operator and the registry that the chart deploys",
            attempt: "has plain HTTP spoken, or another certificate believed",
            expected: "plain HTTP is refused before a login is heard, and the certificate is verified",
            final_state: "no login went over the network in the clear",
            run: || on_one_thread(|| listens().boxed_local()),
        },
    ];
    check(&attacks).await;
}

async fn overwrites() {
    let _guard = EXCLUSIVE.lock().await;
    let victim = Cluster::exclusive().await;
    let attacker = victim.another_namespace().await;
    let registry = TestRegistry::start(Version::V31);
    let (good, evil) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    for (source, seed) in [(&good, 71), (&evil, 72)] {
        let repository = source.repository("team/app");
        put(
            &repository,
            &image(&repository, "linux/amd64", noise(seed, 5_000)).await,
            Some("1"),
        )
        .await;
    }
    let insecure = format!("{},{}", good.host, evil.host);
    let _controller = victim.controller(&[
        "--insecure-registry",
        &insecure,
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &registry.host,
        "--registry-insecure",
    ]);
    // The attacker is first, and of two that want a name the older one has it.
    attacker.apply(&standalone_image(
        "app",
        &format!("{}/team/app:1", evil.host),
        "naming: Plain",
    ));
    let theirs = attacker.image_ready("app").await.status.unwrap();
    victim.apply(&standalone_image(
        "app",
        &format!("{}/team/app:1", good.host),
        "naming: Plain",
    ));
    let ours = victim.image_ready("app").await.status.unwrap();
    let part = |cluster: &Cluster| format!("{ADDRESS}/{}/team/app:1", cluster.namespace);
    assert_eq!(theirs.name, Some(part(&attacker)));
    assert_eq!(ours.name, Some(part(&victim)));
    // Nor by asking for it.
    let prefix = format!(
        "naming: Plain\n  registry: {{repositoryPrefix: '../{}'}}",
        victim.namespace
    );
    let said = attacker.try_apply(&standalone_image("up", &format!("{}/team/app:1", evil.host), &prefix));
    if said.is_ok() {
        image_stalled(&attacker, "up", "InvalidReference").await;
    }
    let name = format!("{}/team/app", victim.namespace);
    let standing = registry.repository(&name).head_manifest("1").await.unwrap().unwrap();
    assert_eq!(Some(standing.digest.to_string()), ours.digest);
    assert_ne!(ours.digest, theirs.digest);
    clear(&[&victim, &attacker]);
}

async fn node_image() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let [_, engine, _] = DockerEngine::all();
    let name = unique("secret:dev");
    engine.load(&layered(&name, "what a node holds").archive());
    // As the chart starts it where agent.admit says nothing.
    let _agent = cluster.agent_with("n1", &engine.host, &[], &[("JACKAL_ADMIT", "")]);
    let _controller = cluster.controller(&[]);
    let to = format!(
        "source: Docker\n  registry: {{address: '{}', insecure: true}}",
        registry.host
    );
    cluster.apply(&standalone_image("stolen", &name, &to));
    let said = image_stalled(&cluster, "stolen", "PolicyDenied").await;
    assert!(said.contains("--admit"), "{said}");
    let repository = registry.repository(name.split(':').next().unwrap());
    assert_eq!(repository.tags(10).await.unwrap(), Some(Vec::new()));
}

async fn pushes() {
    let deployed = Deployed::start(&json!({})).await;
    let ((_, writer), (host, reader)) = (
        deployed.login("shop-registry-login"),
        deployed.login("shop-registry-pull"),
    );
    // What a pod has is for the port that pods pull from.
    assert_eq!(host, "127.0.0.1:31999");
    let (writes, reads) = (&deployed.writes, &deployed.reads);
    let upload = |host: &str| format!("https://{host}/v2/team/app/blobs/uploads/");
    assert_eq!(
        deployed.asks("POST", &upload(writes), Some(&writer)),
        "202",
        "the operator's"
    );
    let digest = format!("sha256:{}", "a".repeat(64));
    for (method, path) in [
        ("POST", "team/app/blobs/uploads/".to_owned()),
        (
            "POST",
            format!("team/app/blobs/uploads/?mount={digest}&from=team/other"),
        ),
        ("PUT", "team/app/manifests/1".to_owned()),
        ("DELETE", format!("team/app/manifests/{digest}")),
        ("DELETE", format!("team/app/blobs/{digest}")),
    ] {
        let ask = |host: &str, login: Option<&str>| deployed.asks(method, &format!("https://{host}/v2/{path}"), login);
        assert_eq!(ask(writes, Some(&reader)), "401", "{method} {path}");
        assert_eq!(ask(writes, None), "401", "{method} {path}");
        assert_eq!(ask(reads, Some(&reader)), "405", "{method} {path}");
        // Nor by the operator's login, if a pod had it.
        assert_eq!(ask(reads, Some(&writer)), "401", "{method} {path}");
    }
    let base = |host: &str| format!("https://{host}/v2/");
    assert_eq!(deployed.asks("GET", &base(reads), Some(&reader)), "200");
    assert_eq!(deployed.asks("GET", &base(reads), None), "401");
}

async fn listens() {
    let deployed = Deployed::start(&json!({})).await;
    let (_, writer) = deployed.login("shop-registry-login");
    for host in [&deployed.writes, &deployed.reads] {
        let said = deployed.asks("GET", &format!("http://{host}/v2/"), Some(&writer));
        assert_eq!(said, "400", "a server of TLS");
    }
    assert_eq!(
        deployed.asks("GET", &format!("https://{}/v2/", deployed.writes), Some(&writer)),
        "200"
    );
    // Another installation's is another's.
    let other = Deployed::start(&json!({})).await;
    let said = deployed.asks("GET", &format!("https://{}/v2/", other.writes), Some(&writer));
    assert!(said.contains("000") && said.contains("certificate"), "{said}");
}
