//! What happens to a transfer when its object is deleted, suspended or edited, or its process is stopped.

use std::time::Duration;

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::Document;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::sync::MutexGuard;

use super::{QUIET, package, unique};
use crate::docker::engines::{Image, Real, tar};
use crate::support::cluster::{Cluster, condition, required};
use crate::support::image::{self, noise};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, at_leisure, eventually};
use crate::support::writes::kubeconfig_to;

/// How long a transfer may go on after somebody ended it.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long a process may take to stop.
const STOP: Duration = Duration::from_secs(5);
/// The size of the layer in bytes.
const LARGE: usize = 60_000_000;
/// Bytes a second: the layer takes fifteen seconds, and what lies in the kernel's buffers one.
const SLOW: u64 = 4_000_000;

/// From where the image comes.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Registry,
    Docker,
}

const BOTH: [From; 2] = [From::Registry, From::Docker];

/// A transfer that is under way.
struct Slow {
    controller: Operator,
    agent: Operator,
    source: TestRegistry,
    docker: String,
    registry: TestRegistry,
    to: Throttle,
    /// The image's repository in both registries.
    path: String,
    line: String,
    cluster: Cluster,
    _quiet: MutexGuard<'static, ()>,
}

impl Slow {
    /// Starts everything, applies a package of one large image and waits until its layer is on its way.
    async fn start(from: From) -> Self {
        let quiet = QUIET.lock().await;
        let cluster = Cluster::new().await;
        let (source, registry) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
        let to = Throttle::to(&registry.host, SLOW);
        let [real, ..] = Real::all();
        let path = unique("large");
        let large = noise(fastrand::u64(..), LARGE);
        let line = match from {
            From::Registry => {
                let repository = source.repository(&path);
                let large = image::image(&repository, "linux/amd64", large).await;
                image::put(&repository, &large, Some("1")).await;
                format!("{{image: '{}/{path}:1'}}", source.host)
            }
            From::Docker => {
                real.load(&Image::new(&format!("{path}:1"), vec![tar(&[("large", large)])]).archive());
                format!("{{image: '{path}:1', source: Docker}}")
            }
        };
        let slow = Self {
            controller: cluster.controller(&["--insecure-registry", &source.host]),
            agent: cluster.agent("n1", &real.host, &[]),
            source,
            docker: real.host,
            registry,
            to,
            path,
            line,
            cluster,
            _quiet: quiet,
        };
        slow.cluster.apply(&slow.package(&slow.line));
        slow.moves().await;
        slow
    }

    fn package(&self, line: &str) -> String {
        package("app", &self.to.host, &[line], "naming: Plain")
    }

    /// Waits until the layer is on its way.
    async fn moves(&self) {
        let before = self.to.sent();
        eventually(SOON, "the layer moves", async || {
            let sent = self.to.sent() - before;
            if self.to.carrying() == 1 && sent > SLOW / 4 {
                Ok(())
            } else {
                Err(format!("{sent} bytes"))
            }
        })
        .await;
    }

    /// Waits until nothing moves any more, and expects that what was sent is no image.
    async fn stops_at_once(&self) {
        eventually(at_leisure(AT_ONCE), "the connection is closed", async || {
            match self.to.carrying() {
                0 => Ok(()),
                open => Err(format!("{open} connections, {} bytes", self.to.sent())),
            }
        })
        .await;
        assert!(self.to.sent() < LARGE as u64, "it moved to its end");
        assert!(self.standing("1").await.is_none(), "a tag points at half an image");
    }

    async fn standing(&self, tag: &str) -> Option<Document> {
        self.registry.repository(&self.path).manifest(tag).await.unwrap()
    }

    /// Lets it finish, and expects that it does.
    async fn finishes(&self, tag: &str) {
        self.to.set_rate(0);
        let package = self.cluster.ready("app").await;
        let digest = package.status.unwrap().images[0].digest.clone().unwrap();
        assert_eq!(self.standing(tag).await.unwrap().digest().as_str(), digest);
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let name = format!("{}:1", self.path);
        if self.line.contains("Docker") {
            let host = Real::all().into_iter().find(|real| real.host == self.docker);
            host.unwrap().run(&["image", "rm", "--force", &name]);
        }
    }
}

#[tokio::test]
async fn a_package_deleted_in_mid_transfer_is_gone_at_once() {
    for from in BOTH {
        let slow = Slow::start(from).await;
        let (packages, images) = (slow.cluster.api::<JackalPackage>(), slow.cluster.api::<JackalImage>());
        packages.delete("app", &DeleteParams::background()).await.unwrap();
        eventually(at_leisure(AT_ONCE), "the package and its image are gone", async || {
            let package = packages.get_opt("app").await.unwrap();
            let images = images.list(&Default::default()).await.unwrap().items;
            match package.is_none() && images.is_empty() {
                true => Ok(()),
                false => Err(format!("{package:?} {images:?}")),
            }
        })
        .await;
        slow.stops_at_once().await;
    }
}

#[tokio::test]
async fn a_package_suspended_in_mid_transfer_stops_at_once_and_finishes_when_resumed() {
    for from in BOTH {
        let slow = Slow::start(from).await;
        slow.cluster
            .patch::<JackalPackage>("app", json!({"spec": {"suspend": true}}))
            .await;
        slow.stops_at_once().await;
        let is_suspended = |conditions: &[Condition]| {
            let ready = condition(conditions, "Ready")?;
            let alone = condition(conditions, "Reconciling").is_none();
            (ready.reason == "Suspended" && ready.status == "False" && alone).then_some(())
        };
        let package = slow.cluster.package_where("app", "suspended", |package| {
            is_suspended(&package.status.as_ref()?.conditions)
        });
        let name = package.await.status.unwrap().images[0].resource.clone();
        let image = slow.cluster.image_where(&name, "suspended", |image| {
            let status = image.status.as_ref()?;
            is_suspended(&status.conditions).filter(|()| status.claim.is_none())
        });
        image.await;
        assert!(slow.standing("1").await.is_none());
        slow.cluster
            .patch::<JackalPackage>("app", json!({"spec": {"suspend": false}}))
            .await;
        slow.finishes("1").await;
    }
}

#[tokio::test]
async fn a_package_edited_in_mid_transfer_brings_what_it_says_now() {
    for from in BOTH {
        let slow = Slow::start(from).await;
        let other = match from {
            From::Registry => {
                let repository = slow.source.repository(&slow.path);
                let other = image::image(&repository, "linux/amd64", noise(1, 100_000)).await;
                image::put(&repository, &other, Some("2")).await;
                slow.line.replace(":1'", ":2'")
            }
            From::Docker => {
                let [real, ..] = Real::all();
                real.load(&super::layered(&format!("{}:2", slow.path), "2").archive());
                slow.line.replace(":1'", ":2'")
            }
        };
        let first = slow.cluster.image().await;
        slow.cluster.apply(&slow.package(&other));
        slow.stops_at_once().await;
        // The throttle stands: what is small passes it.
        let package = slow.cluster.ready("app").await;
        let status = package.status.unwrap();
        assert_eq!(status.images.len(), 1);
        assert_ne!(Some(&status.images[0].resource), first.metadata.name.as_ref());
        assert_eq!(
            slow.cluster.image().await.metadata.name.as_ref(),
            Some(&status.images[0].resource)
        );
        assert!(slow.standing("1").await.is_none(), "the first image came nevertheless");
        let standing = slow.standing("2").await.unwrap();
        assert_eq!(status.images[0].digest.as_deref(), Some(standing.digest().as_str()));
    }
}

#[tokio::test]
async fn a_process_stopped_in_mid_transfer_gives_its_claim_back_and_its_successor_finishes() {
    for from in BOTH {
        let mut slow = Slow::start(from).await;
        let name = slow.cluster.image().await.metadata.name.unwrap();
        let holder = slow
            .cluster
            .image_where(&name, "claimed", |image| image.status.as_ref()?.claim.clone());
        let holder = holder.await.status.unwrap().claim.unwrap().holder;
        let stopped = match from {
            From::Registry => &mut slow.controller,
            From::Docker => &mut slow.agent,
        };
        stopped.signal("TERM");
        let code = stopped.ends(at_leisure(STOP)).await;
        assert_eq!(code.code(), Some(0), "{code}");
        slow.stops_at_once().await;
        let image: JackalImage = slow.cluster.api().get(&name).await.unwrap();
        assert_eq!(image.status.unwrap().claim, None, "{holder} gave its claim back");
        let leases = slow.cluster.api::<Lease>();
        match from {
            From::Registry => {
                let lease = leases.get("jackal-operator-leader").await.unwrap();
                assert_eq!(
                    lease.spec.unwrap().holder_identity,
                    None,
                    "{holder} gave its lease back"
                );
                slow.controller = slow.cluster.controller(&["--insecure-registry", &slow.source.host]);
            }
            From::Docker => {
                assert!(leases.get_opt("jackal-agent-n1").await.unwrap().is_none());
                slow.agent = slow.cluster.agent("n1", &slow.docker, &[]);
            }
        }
        slow.moves().await;
        slow.finishes("1").await;
    }
}

#[tokio::test]
async fn a_process_that_cannot_reach_the_api_server_stops_too() {
    let cluster = Cluster::new().await;
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, kubeconfig_to(&silent.local_addr().unwrap().to_string())).unwrap();
    let elsewhere = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let mut controller = cluster.controller_with(&["--lease-duration", "15s"], &elsewhere);
    let mut agent = cluster.agent_with("n1", &required("JACKAL_DOCKER20"), &[], &elsewhere);
    for process in [&mut controller, &mut agent] {
        // A process that has not come to its signals yet would just die.
        eventually(SOON, "it asks the API server", async || {
            let asks = process.log().contains("requesting");
            if asks { Ok(()) } else { Err(process.log()) }
        })
        .await;
        process.signal("TERM");
        let code = process.ends(at_leisure(STOP)).await;
        assert_eq!(code.code(), Some(0), "{code}: {}", process.log());
    }
}
