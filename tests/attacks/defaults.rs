//! An installation with default configuration: what it denies to tenants and pods.

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
            attempt: "copies another image to the name of a victim's image",
            expected: "it is stored below the attacker's namespace",
            final_state: "the victim's tag matches its status, and the victim can copy more images",
            run: || on_one_thread(|| overwrite_anothers_tag().boxed_local()),
        },
        Attack {
            attacker: "a tenant",
            capabilities: "writes objects in its own namespace",
            attempt: "requests an image of a node whose agent has no --admit",
            expected: "PolicyDenied, which names --admit",
            final_state: "nothing has left the node",
            run: || on_one_thread(|| read_node_image().boxed_local()),
        },
        Attack {
            attacker: "a pod",
            capabilities: "has the login for pulling its images, and network access",
            attempt: "pushes, deletes and mounts in the registry that the chart deploys, at both ports",
            expected: "401 at the first port, 405 at the second",
            final_state: "the pushed content exists and can be pulled",
            run: || on_one_thread(|| push_from_a_pod().boxed_local()),
        },
        Attack {
            attacker: "an observer of the network",
            capabilities: "sees the connection between the operator and the registry that the chart deploys",
            attempt: "makes the client use plain HTTP, or trust another certificate",
            expected: "plain HTTP is refused before a login is read, and the certificate is verified",
            final_state: "no login was sent unencrypted",
            run: || on_one_thread(|| plain_http_and_certificate().boxed_local()),
        },
    ];
    check(&attacks).await;
}

async fn overwrite_anothers_tag() {
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
    // The attacker comes first, and of two objects that want the same name the older one gets it.
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
    // Nor by requesting that name explicitly.
    let prefix = format!(
        "naming: Plain\n  registry: {{repositoryPrefix: '../{}'}}",
        victim.namespace
    );
    let response = attacker.try_apply(&standalone_image("up", &format!("{}/team/app:1", evil.host), &prefix));
    if response.is_ok() {
        image_stalled(&attacker, "up", "InvalidReference").await;
    }
    let name = format!("{}/team/app", victim.namespace);
    let existing = registry.repository(&name).head_manifest("1").await.unwrap().unwrap();
    assert_eq!(Some(existing.digest.to_string()), ours.digest);
    assert_ne!(ours.digest, theirs.digest);
    clear(&[&victim, &attacker]);
}

async fn read_node_image() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let [_, engine, _] = DockerEngine::all();
    let name = unique("secret:dev");
    engine.load(&layered(&name, "what a node holds").archive());
    // As the chart starts it when agent.admit is not set.
    let _agent = cluster.agent_with("n1", &engine.host, &[], &[("JACKAL_ADMIT", "")]);
    let _controller = cluster.controller(&[]);
    let to = format!(
        "source: Docker\n  registry: {{address: '{}', insecure: true}}",
        registry.host
    );
    cluster.apply(&standalone_image("stolen", &name, &to));
    let response = image_stalled(&cluster, "stolen", "PolicyDenied").await;
    assert!(response.contains("--admit"), "{response}");
    let repository = registry.repository(name.split(':').next().unwrap());
    assert_eq!(repository.tags(10).await.unwrap(), Some(Vec::new()));
}

async fn push_from_a_pod() {
    let deployed = Deployed::start(&json!({})).await;
    let ((_, writer), (host, reader)) = (
        deployed.login("shop-registry-login"),
        deployed.login("shop-registry-pull"),
    );
    // The login of pods is for the port that pods pull from.
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
        // Nor with the operator's login, if a pod had it.
        assert_eq!(ask(reads, Some(&writer)), "401", "{method} {path}");
    }
    let base = |host: &str| format!("https://{host}/v2/");
    assert_eq!(deployed.asks("GET", &base(reads), Some(&reader)), "200");
    assert_eq!(deployed.asks("GET", &base(reads), None), "401");
}

async fn plain_http_and_certificate() {
    let deployed = Deployed::start(&json!({})).await;
    let (_, writer) = deployed.login("shop-registry-login");
    for host in [&deployed.writes, &deployed.reads] {
        let response = deployed.asks("GET", &format!("http://{host}/v2/"), Some(&writer));
        assert_eq!(response, "400", "a server of TLS");
    }
    assert_eq!(
        deployed.asks("GET", &format!("https://{}/v2/", deployed.writes), Some(&writer)),
        "200"
    );
    // The certificate of another installation is not trusted.
    let other = Deployed::start(&json!({})).await;
    let response = deployed.asks("GET", &format!("https://{}/v2/", other.writes), Some(&writer));
    assert!(
        response.contains("000") && response.contains("certificate"),
        "{response}"
    );
}
