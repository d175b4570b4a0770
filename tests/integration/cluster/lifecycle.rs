//! What happens to a transfer when its object is deleted, suspended or edited, or its process is stopped.

use std::time::Duration;

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::Document;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::sync::MutexGuard;

use super::{TIMING_LOCK, package, unique};
use crate::docker::engines::{DockerEngine, Image, tar};
use crate::support::api_proxy::kubeconfig_to;
use crate::support::cluster::{Cluster, condition, required};
use crate::support::image::{self, noise};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually, scaled_by_load};

/// How long a transfer may continue after it was stopped.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long a process may take to stop.
const STOP: Duration = Duration::from_secs(5);
/// The size of the layer in bytes.
const LAYER_SIZE: usize = 60_000_000;
/// Bytes per second: the layer takes fifteen seconds, and kernel buffers hold one second of it.
const BYTES_PER_SECOND: u64 = 4_000_000;

/// The source of the image.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Registry,
    Docker,
}

const BOTH: [From; 2] = [From::Registry, From::Docker];

/// A transfer in progress.
struct RunningTransfer {
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
    _guard: MutexGuard<'static, ()>,
}

impl RunningTransfer {
    /// Starts everything, applies a package with one large image and waits until its layer is being uploaded.
    async fn start(from: From) -> Self {
        let quiet = TIMING_LOCK.lock().await;
        let cluster = Cluster::new().await;
        let (source, registry) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
        let to = Throttle::to(&registry.host, BYTES_PER_SECOND);
        let [engine, ..] = DockerEngine::all();
        let path = unique("large");
        let large = noise(fastrand::u64(..), LAYER_SIZE);
        let line = match from {
            From::Registry => {
                let repository = source.repository(&path);
                let large = image::image(&repository, "linux/amd64", large).await;
                image::put(&repository, &large, Some("1")).await;
                format!("{{image: '{}/{path}:1'}}", source.host)
            }
            From::Docker => {
                engine.load(&Image::new(&format!("{path}:1"), vec![tar(&[("large", large)])]).archive());
                format!("{{image: '{path}:1', source: Docker}}")
            }
        };
        let running = Self {
            controller: cluster.controller(&["--insecure-registry", &source.host]),
            agent: cluster.agent("n1", &engine.host, &[]),
            source,
            docker: engine.host,
            registry,
            to,
            path,
            line,
            cluster,
            _guard: quiet,
        };
        running.cluster.apply(&running.package(&running.line));
        running.wait_for_upload().await;
        running
    }

    fn package(&self, line: &str) -> String {
        package("app", &self.to.host, &[line], "naming: Plain")
    }

    /// Waits until the layer is being uploaded.
    async fn wait_for_upload(&self) {
        let before = self.to.sent();
        eventually(SOON, "the layer moves", async || {
            let sent = self.to.sent() - before;
            if self.to.carrying() == 1 && sent > BYTES_PER_SECOND / 4 {
                Ok(())
            } else {
                Err(format!("{sent} bytes"))
            }
        })
        .await;
    }

    /// Waits until the transfer has stopped, and expects that no image was stored.
    async fn assert_stopped(&self) {
        eventually(
            scaled_by_load(AT_ONCE),
            "the connection is closed",
            async || match self.to.carrying() {
                0 => Ok(()),
                open => Err(format!("{open} connections, {} bytes", self.to.sent())),
            },
        )
        .await;
        assert!(self.to.sent() < LAYER_SIZE as u64, "it moved to its end");
        assert!(
            self.stored_document("1").await.is_none(),
            "a tag points at half an image"
        );
    }

    async fn stored_document(&self, tag: &str) -> Option<Document> {
        self.registry.repository(&self.path).manifest(tag).await.unwrap()
    }

    /// Removes the throttle, and expects that the transfer finishes.
    async fn finish(&self, tag: &str) {
        self.to.set_rate(0);
        let package = self.cluster.ready("app").await;
        let digest = package.status.unwrap().images[0].digest.clone().unwrap();
        assert_eq!(self.stored_document(tag).await.unwrap().digest().as_str(), digest);
    }
}

impl Drop for RunningTransfer {
    fn drop(&mut self) {
        let name = format!("{}:1", self.path);
        if self.line.contains("Docker") {
            let host = DockerEngine::all()
                .into_iter()
                .find(|engine| engine.host == self.docker);
            host.unwrap().run(&["image", "rm", "--force", &name]);
        }
    }
}

#[tokio::test]
async fn a_package_deleted_during_a_transfer_is_removed_at_once() {
    for from in BOTH {
        let running = RunningTransfer::start(from).await;
        let (packages, images) = (
            running.cluster.api::<JackalPackage>(),
            running.cluster.api::<JackalImage>(),
        );
        packages.delete("app", &DeleteParams::background()).await.unwrap();
        eventually(
            scaled_by_load(AT_ONCE),
            "the package and its image are gone",
            async || {
                let package = packages.get_opt("app").await.unwrap();
                let images = images.list(&Default::default()).await.unwrap().items;
                match package.is_none() && images.is_empty() {
                    true => Ok(()),
                    false => Err(format!("{package:?} {images:?}")),
                }
            },
        )
        .await;
        running.assert_stopped().await;
    }
}

#[tokio::test]
async fn a_package_suspended_during_a_transfer_stops_and_finishes_when_resumed() {
    for from in BOTH {
        let running = RunningTransfer::start(from).await;
        running
            .cluster
            .patch::<JackalPackage>("app", json!({"spec": {"suspend": true}}))
            .await;
        running.assert_stopped().await;
        let is_suspended = |conditions: &[Condition]| {
            let ready = condition(conditions, "Ready")?;
            let alone = condition(conditions, "Reconciling").is_none();
            (ready.reason == "Suspended" && ready.status == "False" && alone).then_some(())
        };
        let package = running.cluster.package_where("app", "suspended", |package| {
            is_suspended(&package.status.as_ref()?.conditions)
        });
        let name = package.await.status.unwrap().images[0].resource.clone();
        let image = running.cluster.image_where(&name, "suspended", |image| {
            let status = image.status.as_ref()?;
            is_suspended(&status.conditions).filter(|()| status.claim.is_none())
        });
        image.await;
        assert!(running.stored_document("1").await.is_none());
        running
            .cluster
            .patch::<JackalPackage>("app", json!({"spec": {"suspend": false}}))
            .await;
        running.finish("1").await;
    }
}

#[tokio::test]
async fn a_package_edited_during_a_transfer_copies_the_new_spec() {
    for from in BOTH {
        let running = RunningTransfer::start(from).await;
        let other = match from {
            From::Registry => {
                let repository = running.source.repository(&running.path);
                let other = image::image(&repository, "linux/amd64", noise(1, 100_000)).await;
                image::put(&repository, &other, Some("2")).await;
                running.line.replace(":1'", ":2'")
            }
            From::Docker => {
                let [engine, ..] = DockerEngine::all();
                engine.load(&super::layered(&format!("{}:2", running.path), "2").archive());
                running.line.replace(":1'", ":2'")
            }
        };
        let first = running.cluster.image().await;
        running.cluster.apply(&running.package(&other));
        running.assert_stopped().await;
        // The throttle is still active: small requests pass.
        let package = running.cluster.ready("app").await;
        let status = package.status.unwrap();
        assert_eq!(status.images.len(), 1);
        assert_ne!(Some(&status.images[0].resource), first.metadata.name.as_ref());
        assert_eq!(
            running.cluster.image().await.metadata.name.as_ref(),
            Some(&status.images[0].resource)
        );
        assert!(
            running.stored_document("1").await.is_none(),
            "the first image came nevertheless"
        );
        let existing = running.stored_document("2").await.unwrap();
        assert_eq!(status.images[0].digest.as_deref(), Some(existing.digest().as_str()));
    }
}

#[tokio::test]
async fn a_process_stopped_during_a_transfer_releases_its_claim_and_its_successor_finishes() {
    for from in BOTH {
        let mut running = RunningTransfer::start(from).await;
        let name = running.cluster.image().await.metadata.name.unwrap();
        let holder = running
            .cluster
            .image_where(&name, "claimed", |image| image.status.as_ref()?.claim.clone());
        let holder = holder.await.status.unwrap().claim.unwrap().holder;
        let stopped = match from {
            From::Registry => &mut running.controller,
            From::Docker => &mut running.agent,
        };
        stopped.signal("TERM");
        let code = stopped.ends(scaled_by_load(STOP)).await;
        assert_eq!(code.code(), Some(0), "{code}");
        running.assert_stopped().await;
        let image: JackalImage = running.cluster.api().get(&name).await.unwrap();
        assert_eq!(image.status.unwrap().claim, None, "{holder} gave its claim back");
        let leases = running.cluster.api::<Lease>();
        match from {
            From::Registry => {
                let lease = leases.get("jackal-operator-leader").await.unwrap();
                assert_eq!(
                    lease.spec.unwrap().holder_identity,
                    None,
                    "{holder} gave its lease back"
                );
                running.controller = running
                    .cluster
                    .controller(&["--insecure-registry", &running.source.host]);
            }
            From::Docker => {
                assert!(leases.get_opt("jackal-agent-n1").await.unwrap().is_none());
                running.agent = running.cluster.agent("n1", &running.docker, &[]);
            }
        }
        running.wait_for_upload().await;
        running.finish("1").await;
    }
}

#[tokio::test]
async fn a_process_without_an_api_server_stops() {
    let cluster = Cluster::new().await;
    // It accepts connections and never responds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, kubeconfig_to(&silent.local_addr().unwrap().to_string())).unwrap();
    let elsewhere = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let mut controller = cluster.controller_with(&["--lease-duration", "15s"], &elsewhere);
    let mut agent = cluster.agent_with("n1", &required("JACKAL_DOCKER20"), &[], &elsewhere);
    for process in [&mut controller, &mut agent] {
        // A process that has not installed its signal handlers yet would just die.
        eventually(SOON, "it asks the API server", async || {
            let asks = process.log().contains("requesting");
            if asks { Ok(()) } else { Err(process.log()) }
        })
        .await;
        process.signal("TERM");
        let code = process.ends(scaled_by_load(STOP)).await;
        assert_eq!(code.code(), Some(0), "{code}: {}", process.log());
    }
}
