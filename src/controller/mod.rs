//! The controller: every replica moves images from registries; the one that leads plans packages, assigns
//! nodes to images that engines hold, and puts the packages' artifacts together.

mod access;
mod assignment;
mod children;
mod collection;
mod conflict;
mod context;
mod deletion;
mod deletion_tasks;
mod finalizers;
mod image_assignment;
mod image_context;
mod image_reconcile;
mod image_selection;
mod leader_metrics;
mod lease;
mod object_cache;
mod package_selection;
mod package_status;
mod package_tags;
mod publication;
mod reconcile;
mod retention;
mod sbom_condition;
mod status_write;
mod summary;
mod tag_index;
mod tag_selections;
mod undecodable;

use access::{AccessClients, ObjectAccess};
use leader_metrics::LeaderMetrics;
pub use lease::{Leadership, LeaseTiming};
use object_cache::ObjectCache;

use std::sync::Arc;

use async_trait::async_trait;
use kube::Client;
use kube::runtime::reflector;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::v1alpha1::{JackalImage, SourceKind};
use crate::fault::Fault;
use crate::oci::Reference;
use crate::runtime::{Recheck, Registries, RegistryTarget, Role, Settings, WorkerInputs};
use crate::source::{ImageSource, RegistrySource};
use crate::worker;

/// Runs the controller until `stop`. `identity` names this process in claims and in the lease.
pub async fn run(client: Client, identity: &str, settings: Settings, terms: LeaseTiming, stop: CancellationToken) {
    let registries = Arc::<Registries>::default();
    // The lease is given back after the leader's work has ended, not before.
    let (leases, leading) = (CancellationToken::new(), stop.clone());
    let (leadership, contention) = lease::contend(client.clone(), identity, terms, &settings, leases.clone());
    let tally = Arc::new(LeaderMetrics::new(leadership.clone()));
    settings.metrics.collect(Arc::clone(&tally));
    let (nudge, nudges) = mpsc::channel(16);
    let (packages_seen, packages_writer) = reflector::store();
    let (images_seen, images_writer) = reflector::store();
    let seen = ObjectCache {
        packages: packages_seen,
        images: images_seen,
    };
    let changes = seen.follow_packages(&client, &settings, packages_writer, nudge.clone());
    let duty = RegistryImageRole {
        seen: seen.clone(),
        client: client.clone(),
        settings: settings.clone(),
        registries: Arc::clone(&registries),
        leadership: leadership.clone(),
    };
    let worker = worker::run(
        client.clone(),
        identity,
        Arc::new(duty),
        settings.clone(),
        Arc::clone(&registries),
        WorkerInputs {
            images: images_writer,
            nudges,
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
            let _ = nudge.send(Recheck::All).await;
            let term = leading.child_token();
            let work = async {
                tokio::join!(
                    reconcile::run(
                        client.clone(),
                        identity,
                        settings.clone(),
                        Arc::clone(&registries),
                        leadership.clone(),
                        &tally,
                        term.clone()
                    ),
                    image_reconcile::run(
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
    fn admits(&self, image: &JackalImage) -> bool {
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

    fn is_news(&self, before: Option<&JackalImage>, now: Option<&JackalImage>) -> bool {
        conflict::is_news(before, now)
    }

    fn concerns(&self, changed: &JackalImage, other: &JackalImage) -> bool {
        self.admits(other) && conflict::are_rivals(other, changed)
    }

    async fn source(
        &self,
        image: &JackalImage,
        reference: &Reference,
        target: &RegistryTarget,
    ) -> Result<Arc<dyn ImageSource>, Fault> {
        let clients = AccessClients::of(&self.client, &self.settings, &self.registries);
        let access = ObjectAccess::of_image(clients, image, target);
        let registry = access
            .registry(reference, &format!("image `{}`", image.spec.image))
            .await?;
        Ok(Arc::new(RegistrySource::new(registry)))
    }
}
