//! The controller: every replica moves images from registries; the one that leads plans packages, assigns
//! nodes to images that engines hold, and puts the packages' artifacts together.

mod access;
mod assignment;
mod children;
mod collection;
mod conflict;
mod deletion;
mod deletion_tasks;
mod finalizers;
mod images;
mod leader_metrics;
mod lease;
mod object_cache;
mod package_status;
mod packages;
mod publication;
mod retention;
mod sboms;
mod selection_tasks;
mod summary;
mod tag_index;
mod tag_selections;
mod undecodable;

use access::ObjectAccess;
use leader_metrics::LeaderMetrics;
pub use lease::{Leadership, LeaseTiming};
use object_cache::ObjectCache;

use std::sync::Arc;

use async_trait::async_trait;
use kube::Client;
use kube::runtime::reflector;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::v1alpha1::{JackalImage, SourceKind};
use crate::fault::Fault;
use crate::oci::Reference;
use crate::runtime::{Recheck, Registries, RegistryTarget, Role, Settings, WorkerInputs};
use crate::source::{ImageSource, RegistrySource};
use crate::worker;

/// The label of a Lease by which an agent says that it runs on a node.
pub const AGENT_LABEL: &str = "jackal.dev/agent";

/// What the name of such a Lease begins with; the node's follows. The API server lets an agent write its own node's alone
/// (the chart's policy), so the name counts, and nothing that stands in the Lease.
const AGENT_LEASE: &str = "jackal-agent-";

/// The name of the Lease of the agent of `node`.
pub fn agent_lease(node: &str) -> String {
    format!("{AGENT_LEASE}{node}")
}

/// Runs the controller until `stop`. `identity` names this process in claims and in the lease.
pub async fn run(client: Client, identity: &str, settings: Settings, terms: LeaseTiming, stop: CancellationToken) {
    let registries = Arc::<Registries>::default();
    // The lease is given back after the leader's work has ended, not before.
    let (leases, leading) = (CancellationToken::new(), stop.clone());
    let (leadership, contention) = lease::contend(client.clone(), identity, terms, &settings, leases.clone());
    let tally = Arc::new(LeaderMetrics::new(leadership.clone()));
    settings.metrics.collect(Arc::clone(&tally));
    let (recheck, rechecks) = mpsc::channel(16);
    let (packages_seen, packages_writer) = reflector::store();
    let (images_seen, images_writer) = reflector::store();
    let seen = ObjectCache {
        packages: packages_seen,
        images: images_seen,
    };
    let changes = seen.follow_packages(&client, &settings, packages_writer, recheck.clone());
    let role = RegistryImageRole {
        seen: seen.clone(),
        client: client.clone(),
        settings: settings.clone(),
        registries: Arc::clone(&registries),
        leadership: leadership.clone(),
    };
    let worker = worker::run(
        client.clone(),
        identity,
        Arc::new(role),
        settings.clone(),
        Arc::clone(&registries),
        WorkerInputs {
            images: images_writer,
            rechecks,
        },
        stop.clone(),
    );
    let leader = async {
        let mut leadership = leadership.clone();
        loop {
            tokio::select! {
                // First, for it leads still when it is told to stop: no other term begins.
                biased;
                () = leading.cancelled() => return,
                () = leadership.acquired() => {}
            }
            // Looking again at what is ready is the leader's duty.
            let _ = recheck.send(Recheck::All).await;
            let term = leading.child_token();
            let work = async {
                tokio::join!(
                    packages::run(
                        client.clone(),
                        identity,
                        settings.clone(),
                        Arc::clone(&registries),
                        leadership.clone(),
                        &tally,
                        term.clone()
                    ),
                    images::run(
                        client.clone(),
                        identity,
                        settings.clone(),
                        (Arc::clone(&registries), seen.clone()),
                        leadership.clone(),
                        term.clone()
                    ),
                )
            };
            let mut held = leadership.clone();
            tokio::select! {
                _ = work => {}
                () = held.lost() => info!(identity, "not leading any more: its work stops here"),
            }
            term.cancel();
            tally.forget();
        }
    };
    let work = async {
        tokio::join!(worker, leader);
        leases.cancel();
    };
    tokio::select! {
        _ = async { tokio::join!(contention, work) } => {}
        () = async { changes.await; std::future::pending::<()>().await } => {}
    }
}

/// Any replica moves images from registries.
struct RegistryImageRole {
    client: Client,
    settings: Settings,
    registries: Arc<Registries>,
    leadership: Leadership,
    seen: ObjectCache,
}

#[async_trait]
impl Role for RegistryImageRole {
    fn may_transfer(&self, image: &JackalImage) -> bool {
        image.spec.source == SourceKind::Registry
    }

    fn rechecks(&self) -> bool {
        self.leadership.is_held()
    }

    async fn report(&self, _: &JackalImage) -> Result<(), Fault> {
        Ok(())
    }

    async fn plain_tag_owner(&self, image: &JackalImage) -> Result<Option<String>, Fault> {
        self.seen.plain_tag_owner(&self.client, &self.settings, image).await
    }

    fn affects_others(&self, before: Option<&JackalImage>, now: Option<&JackalImage>) -> bool {
        conflict::is_news(before, now)
    }

    fn concerns(&self, changed: &JackalImage, other: &JackalImage) -> bool {
        self.may_transfer(other) && conflict::are_rivals(other, changed)
    }

    async fn source(
        &self,
        image: &JackalImage,
        reference: &Reference,
        place: &RegistryTarget,
    ) -> Result<Arc<dyn ImageSource>, Fault> {
        let spec = &image.spec;
        let reached = ObjectAccess {
            client: &self.client,
            settings: &self.settings,
            registries: &self.registries,
            place,
            namespace: image.metadata.namespace.clone().unwrap_or_default(),
            pull_secrets: &spec.image_pull_secrets,
            account: spec.service_account_name.as_deref(),
            sources: &spec.source_registries,
            idle: self.settings.idle(spec.stall_timeout),
            credentials: OnceCell::new(),
        };
        let registry = reached.registry(reference, &format!("image `{}`", spec.image)).await?;
        Ok(Arc::new(RegistrySource::new(registry)))
    }
}
