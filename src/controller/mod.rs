//! The controller. Every replica transfers images from registries. The leader also plans packages, assigns nodes to images of
//! docker engines and containerds, and builds the packages' artifacts.

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
mod registry_role;
mod retention;
mod sbom_condition;
mod status_write;
mod summary;
mod tag_index;
mod tag_selections;
mod undecodable;

pub use lease::{Leadership, LeaseTiming};

use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::leader_metrics::LeaderMetrics;
use self::object_cache::ObjectCache;
use self::registry_role::RegistryImageRole;
use crate::runtime::{Recheck, Registries, Settings, WorkerInputs, shared_watch};
use crate::worker;

/// Runs the controller until `stop`. `identity` names this process in claims and in the lease.
pub async fn run(client: Client, identity: &str, settings: Settings, timing: LeaseTiming, stop: CancellationToken) {
    let registries = Arc::<Registries>::default();
    // The lease is released after the leader's work has ended, not before.
    let release = CancellationToken::new();
    let (leadership, contention) = lease::contend(client.clone(), identity, timing, &settings, release.clone());
    let (package_watch, packages) = shared_watch();
    let (image_watch, images) = shared_watch();
    let objects = ObjectCache { packages, images };
    settings
        .metrics
        .collect(Arc::new(LeaderMetrics::new(leadership.clone(), objects.clone())));
    let (rechecks, received_rechecks) = mpsc::channel(16);
    let role = RegistryImageRole {
        objects: objects.clone(),
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
            images: objects.images.clone(),
            rechecks: received_rechecks,
        },
        stop.clone(),
    );
    let leader = Leader {
        client: client.clone(),
        identity: identity.to_owned(),
        settings: settings.clone(),
        registries,
        objects: objects.clone(),
        rechecks: rechecks.clone(),
    };
    let work = async {
        tokio::join!(worker, leader.run(leadership, stop));
        release.cancel();
    };
    let (health, of_packages, of_images) = (&settings.health, settings.api(&client), settings.api(&client));
    let watches = async {
        tokio::join!(
            package_watch.run(of_packages, health.listing("JackalPackages")),
            image_watch.run(of_images, health.listing("JackalImages")),
            objects.recheck_for_packages(&rechecks),
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = async { tokio::join!(contention, work) } => {}
        () = watches => {}
    }
}

/// The work of the leader.
struct Leader {
    client: Client,
    identity: String,
    settings: Settings,
    registries: Arc<Registries>,
    objects: ObjectCache,
    rechecks: mpsc::Sender<Recheck>,
}

impl Leader {
    /// Works whenever this process leads, until `stop`.
    async fn run(&self, mut leadership: Leadership, stop: CancellationToken) {
        loop {
            tokio::select! {
                // First, as the process may still lead when it is stopped: no other term begins.
                biased;
                () = stop.cancelled() => return,
                () = leadership.acquired() => {}
            }
            // The leader also rechecks images that are Ready.
            let _ = self.rechecks.send(Recheck::All).await;
            let term = stop.child_token();
            let mut held = leadership.clone();
            tokio::select! {
                () = self.run_term(&leadership, &term) => {}
                () = held.lost() => info!(identity = self.identity, "not leading any more: its work stops here"),
            }
            term.cancel();
        }
    }

    async fn run_term(&self, leadership: &Leadership, term: &CancellationToken) {
        let shared = || (Arc::clone(&self.registries), self.objects.clone());
        tokio::join!(
            reconcile::run(
                self.client.clone(),
                &self.identity,
                self.settings.clone(),
                shared(),
                leadership.clone(),
                term.clone()
            ),
            image_reconcile::run(
                self.client.clone(),
                &self.identity,
                self.settings.clone(),
                shared(),
                leadership.clone(),
                term.clone()
            ),
        );
    }
}
