//! A namespace whose registries answer just fast enough to avoid the stall timeout, next to other namespaces of the
//! same operator.

use std::time::{Duration, Instant};

use jackal_operator::api::v1alpha1::JackalPackage;
use kube::api::ListParams;

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, noise, put};
use crate::support::objects::{package, registry_at, standalone_image};
use crate::support::registry::{TestRegistry, Version};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};
use crate::tenancy::EXCLUSIVE;

/// Packages that must become ready.
const PACKAGES: usize = 100;
/// Hosts of the attacker, and images from each of them.
const HOSTS: usize = 8;
const IMAGES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_slow_registries_does_not_delay_others() {
    check(&[
        Attack {
            attacker: "a tenant with its own registries",
            capabilities: "creates objects in its namespace; the sources send a byte now and then, without an end",
            attempt: "32 images from eight hosts, into the shared registry, with a stall timeout of ten years",
            expected: "its images make no progress",
            final_state: "100 packages of another namespace become ready in at most twice the time that they need without the attack",
            run: || on_one_thread(slow_downloads),
        },
        Attack {
            attacker: "a tenant with its own registries",
            capabilities: "creates and deletes objects in its namespace; its registries accept connections and never answer",
            attempt: "deletes eight images from eight registries that do not answer",
            expected: "its objects remain until their registries answer",
            final_state: "an object of another namespace is deleted meanwhile",
            run: || on_one_thread(unresponsive_deletions),
        },
    ])
    .await;
}

async fn slow_downloads() {
    let _guard = EXCLUSIVE.lock().await;
    let victims = Cluster::exclusive().await;
    let attackers = victims.another_namespace().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    for number in 0..PACKAGES {
        let repository = source.repository(&format!("good/{number}"));
        for (offset, version) in [(0, "1.0.0"), (PACKAGES, "2.0.0")] {
            let image = image(&repository, "linux/amd64", noise((offset + number) as u64, 1000)).await;
            put(&repository, &image, Some(version)).await;
        }
    }
    let large = image(&source.repository("large"), "linux/amd64", noise(1, 4 << 20)).await;
    put(&source.repository("large"), &large, Some("1")).await;
    let slow = |request: &crate::support::scripted::RecordedRequest| match request.method == "GET"
        && request.path.contains("/blobs/")
    {
        true => Action::Trickle(0, Duration::from_millis(200)),
        false => Action::Pass,
    };
    let proxies: Vec<FaultProxy> = (0..HOSTS).map(|_| FaultProxy::to(&source.host, slow)).collect();
    let mut hosts: Vec<&str> = proxies.iter().map(|proxy| proxy.host.as_str()).collect();
    hosts.extend([source.host.as_str(), registry.host.as_str()]);
    let _controller = victims.controller(&["--insecure-registry", &hosts.join(",")]);

    let undisturbed = become_ready(&victims, &source, &registry, "1.0.0").await;
    for (number, proxy) in proxies.iter().enumerate() {
        for image in 0..IMAGES {
            let more = format!(
                "stallTimeout: 87600h\n  naming: Plain\n  {}",
                registry_at(&registry.host)
            );
            let image_name = format!("{}/large:1", proxy.host);
            attackers.apply(&standalone_image(&format!("slow-{number}-{image}"), &image_name, &more));
        }
    }
    let reading = || proxies.iter().filter(|proxy| proxy.count("GET", "/blobs/") > 0).count();
    eventually(SOON, "blobs of the attacker are on their way", async || {
        match reading() {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let under_attack = become_ready(&victims, &source, &registry, "2.0.0").await;
    println!("{PACKAGES} packages: alone {undisturbed:?}, beside the attacker {under_attack:?}");
    assert!(
        under_attack <= undisturbed * 2,
        "alone {undisturbed:?}, beside the attacker {under_attack:?}"
    );
    // The next test with this API server deletes the rest.
    for cluster in [&victims, &attackers] {
        cluster.kubectl(&["delete", "jkpkg,jkimg", "--all", "--wait=false"]);
    }
}

/// Copies all packages as `version` and returns the duration.
async fn become_ready(cluster: &Cluster, source: &TestRegistry, registry: &TestRegistry, version: &str) -> Duration {
    let started = Instant::now();
    let objects: Vec<String> = (0..PACKAGES)
        .map(|number| {
            let image = format!("'{}/good/{number}:{version}'", source.host);
            let more = format!("naming: Plain\n  {}", registry_at(&registry.host));
            package(&format!("good-{number}-{}", &version[..1]), version, &[&image], &more)
        })
        .collect();
    cluster.apply(&objects.join("---\n"));
    eventually(Duration::from_secs(240), "all packages are ready", async || {
        let packages = cluster.api::<JackalPackage>().list(&ListParams::default()).await;
        let packages = packages.map_err(|error| error.to_string())?;
        let ready = |package: &&JackalPackage| {
            let conditions = package.status.as_ref().map(|status| &status.conditions[..]);
            let ready = conditions.and_then(|all| condition(all, "Ready"));
            package.spec.version() == version && ready.is_some_and(|ready| ready.status == "True")
        };
        match packages.iter().filter(ready).count() {
            PACKAGES => Ok(()),
            count => Err(format!("{count} of {PACKAGES}")),
        }
    })
    .await;
    started.elapsed()
}

async fn unresponsive_deletions() {
    let _guard = EXCLUSIVE.lock().await;
    let victims = Cluster::exclusive().await;
    let attackers = victims.another_namespace().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let good = image(&source.repository("good"), "linux/amd64", noise(1, 1000)).await;
    put(&source.repository("good"), &good, Some("1")).await;
    // The proxies behave like any registry until they are disabled; then they do not answer.
    let proxies: Vec<FaultProxy> = (0..8)
        .map(|_| {
            let silent = |_: &crate::support::scripted::RecordedRequest| Action::Delay(Duration::from_secs(3600));
            FaultProxy::with(&registry.host, |_| Action::Pass, silent)
        })
        .collect();
    let mut hosts: Vec<&str> = proxies.iter().map(|proxy| proxy.host.as_str()).collect();
    hosts.extend([source.host.as_str(), registry.host.as_str()]);
    let _controller = victims.controller(&["--insecure-registry", &hosts.join(",")]);
    let image = format!("{}/good:1", source.host);
    for (number, proxy) in proxies.iter().enumerate() {
        let registry = format!(
            "registry: {{address: '{host}', endpoint: '{host}', insecure: true, repositoryPrefix: p{number}}}",
            host = proxy.host
        );
        let more = format!("deletionPolicy: Delete\n  naming: Plain\n  {registry}");
        attackers.apply(&standalone_image(&format!("dead-{number}"), &image, &more));
    }
    let more = format!(
        "deletionPolicy: Delete\n  naming: Plain\n  {}",
        registry_at(&registry.host)
    );
    victims.apply(&standalone_image("good", &image, &more));
    victims.image_ready("good").await;
    for number in 0..proxies.len() {
        attackers.image_ready(&format!("dead-{number}")).await;
    }
    proxies.iter().for_each(FaultProxy::disable);
    attackers.kubectl(&["delete", "jkimg", "--all", "--wait=false"]);
    eventually(SOON, "the registries that do not answer are asked", async || {
        let asked = proxies
            .iter()
            .filter(|proxy| proxy.count("HEAD", "/manifests/") > 2)
            .count();
        (asked == proxies.len()).then_some(()).ok_or(format!("{asked}"))
    })
    .await;
    let started = Instant::now();
    victims.kubectl(&["delete", "jkimg", "good", "--timeout=30s"]);
    println!("the object of the victim went after {:?}", started.elapsed());
    assert_eq!(
        attackers.images().await.len(),
        proxies.len(),
        "what cannot be deleted stays"
    );
    for image in attackers.images().await {
        let name = image.metadata.name.unwrap_or_default();
        let free = r#"{"metadata":{"finalizers":null}}"#;
        attackers.kubectl(&["patch", "jkimg", &name, "--type=merge", "-p", free]);
    }
}
