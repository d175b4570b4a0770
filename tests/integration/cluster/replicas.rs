//! Two controllers at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;

use super::{package, unique};
use crate::support::cluster::Cluster;
use crate::support::image::{self, noise};
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually, scaled_by_load};

/// How long the claim of a dead process blocks others, plus the time to notice it and to finish.
const CLAIM_EXPIRY: Duration = Duration::from_secs(40);

async fn leader(cluster: &Cluster) -> Option<String> {
    let lease = cluster
        .api::<Lease>()
        .get_opt("jackal-operator-leader")
        .await
        .unwrap()?;
    lease.spec?.holder_identity
}

async fn claims(cluster: &Cluster) -> Vec<String> {
    let images = cluster.images().await;
    images
        .into_iter()
        .filter_map(|image| Some(image.status?.claim?.holder))
        .collect()
}

#[tokio::test]
async fn replicas_share_transfers_and_one_becomes_leader_when_the_leader_is_killed() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let path = unique("app");
    let repository = source.repository(&path);
    let mut lines = Vec::new();
    for number in 0..4 {
        let image = image::image(&repository, "linux/amd64", noise(number, 4_000_000)).await;
        image::put(&repository, &image, Some(&number.to_string())).await;
        lines.push(format!("{{image: '{}/{path}:{number}'}}", source.host));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let to = Throttle::to(&registry.host, 200_000);
    let flags = |identity| {
        [
            "--identity",
            identity,
            "--concurrency",
            "1",
            "--insecure-registry",
            &source.host,
        ]
    };
    let mut replicas = vec![
        ("a", cluster.controller(&flags("a"))),
        ("b", cluster.controller(&flags("b"))),
    ];

    cluster.apply(&package("slow", &to.host, &lines, ""));
    eventually(SOON, "both replicas move images", async || {
        let holders: BTreeSet<String> = claims(&cluster).await.into_iter().collect();
        match holders.iter().eq(["a", "b"]) && to.carrying() == 2 {
            true => Ok(()),
            false => Err(format!("{holders:?} move")),
        }
    })
    .await;
    let first = leader(&cluster).await.expect("a leader");
    let position = replicas.iter().position(|(name, _)| *name == first).unwrap();
    let (_, mut killed) = replicas.remove(position);
    killed.signal("KILL");
    killed.ends(SOON).await;
    let gone = Instant::now();
    // The lease lasts three seconds after the other saw its renewal; the rest is for a busy machine.
    let second = replicas[0].0;
    eventually(
        scaled_by_load(Duration::from_secs(8)),
        "the other replica leads",
        async || {
            let now = leader(&cluster).await;
            if now.as_deref() == Some(second) {
                Ok(())
            } else {
                Err(format!("{now:?} leads"))
            }
        },
    )
    .await;
    to.set_rate(0);
    // Unclaimed images do not wait for the claim of the dead process.
    cluster.apply(&package("prompt", &registry.host, &lines[..1], "naming: Plain"));
    cluster.ready("prompt").await;
    assert!(gone.elapsed() < CLAIM_EXPIRY, "it took {:?}", gone.elapsed());
    eventually(SOON, "only the dead holds what it moved", async || {
        let holders = claims(&cluster).await;
        if holders == [first.as_str()] {
            Ok(())
        } else {
            Err(format!("{holders:?} hold"))
        }
    })
    .await;
    let limit = CLAIM_EXPIRY + Duration::from_secs(25);
    eventually(limit, "the slow package is Ready too", async || {
        let status = cluster.package("slow").await.status.unwrap_or_default();
        match status
            .conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
        {
            true => Ok(()),
            false => Err(format!("{:?}", status.conditions)),
        }
    })
    .await;
    assert!(
        gone.elapsed() > CLAIM_EXPIRY - Duration::from_secs(5),
        "the claim was taken after {:?}",
        gone.elapsed()
    );
}
