//! The controller. Every replica transfers images from registries. The leader plans packages, assigns nodes to images
//! of engines, publishes the artifacts of packages, and deletes.
//!
//! # Planning
//!
//! The leader lists a package's images once for each generation, to find the images that the plan lacks. After that it
//! uses the objects that its watch received: a list costs as much as there are images in the namespace, and would be
//! repeated at each change of an image. Watched objects are stored without their managed fields. The cost of one object
//! at the API server does not depend on the number of objects (`make bench-scale`).
//!
//! A `JackalImage` is named after the digest of its request. The input of that digest never changes. An object that an
//! earlier version created for the same request under another name is kept.
//!
//! Agents do not agree on a node among themselves; the leader assigns it. This is one more write, but no agent has to
//! know whether all others have answered.
//!
//! # Tag policies
//!
//! `package_selection` has its own tasks and its own task table. Its result is the *effective* package: the spec with the
//! selected tags and version written into it. The rest of the reconciler uses only this package, except for the
//! versions of other packages in `conflict`, which are those of their artifacts. After a restart a package is not
//! processed before its tags were listed again; a suspended package keeps the selection in its status. A failed
//! selection is a failure of the package, like a failed image.
//!
//! # Publication
//!
//! The component tars, charts and files of a package are gathered when all its images are ready, then the artifact is
//! published by mounts. Publications into one repository run one after the other within a process: distribution 2.8
//! rejects blobs that are being mounted at the same time.
//!
//! `naming: Auto` depends on the destination registry, not only on the cluster: the webhook changes images to names in
//! the registry of its state, and an object that goes to another registry is found there by plain names only. The
//! result is stored in the status, because Deployments contain the resulting names.
//!
//! # Tag ownership
//!
//! Two rules prevent writers from overwriting each other.
//!
//! *Content*: `transfer` and `package::publish` read a tag immediately before they write it (`Document::is_package`
//! distinguishes images from packages). The first check of an image does the same, so nothing is transferred in vain. A
//! repeat for an image whose plain tag was omitted costs one HEAD and one GET of the manifest under that tag.
//! Registries have no conditional writes, so two writers at the same moment are detected only by the check after the
//! write.
//!
//! *Objects*: `conflict` decides, without IO, which of two objects owns a tag. It uses specs and metadata, because
//! statuses of objects in other namespaces are not trusted. One rule applies to packages and images: the oldest object
//! that competes for a tag owns it. An object that does not own the tag that names it writes nothing, and so keeps no
//! other object from another tag. Packages for different architectures share a tag, as do images with the same request.
//! Every replica watches packages and images for this purpose (`object_cache`) and decides about images from registries
//! at each reconciliation; the decision is part of the task's key, so another decision starts another task. The leader
//! decides about images of engines and writes the decision into the assignment, because agents cannot read packages.
//! When an object changes, appears or disappears, and when it starts or stops waiting for a tag, all objects that this
//! may concern are reconciled again. Registries are compared by all of their known names, repositories by the last part
//! of their path first, which no prefix changes.
//!
//! # Deletion
//!
//! `retention` decides from the package's spec and status only. `tag_index` reads every tag of the repository before a
//! deletion, because a registry deletes by digest and removes all tags of that digest. `deletion` performs the
//! deletion.
//!
//! The publishing task writes the plan into the status. The reconciler acts on it in a later pass, when the time has
//! come and no task of the package runs, so that publication and deletion never overlap. A digest is `adopted` when its
//! first publication wrote nothing. Whether an earlier attempt wrote it is known from `status.publishing`, which is
//! recorded before an artifact's first byte, and for an image from a claim of the same generation. An artifact that was
//! started and then abandoned for another one is added to the history as `Interrupted` and deleted like the others.
//!
//! A status outlives edits of the spec, and tenants may have written it. `status.registry` records where content was
//! sent, including the receiving host if an object chose it (how the operator reaches its own registry may differ
//! between processes and over time). `retention` ignores the ownership of everything that was written elsewhere before
//! it announces or records a deletion, and `runtime::status` decides again what is `adopted`. The same content has the
//! same digest everywhere, so a name and a digest prove nothing about another registry. `deletion` computes an image's
//! location from the spec and compares it with the status.
//!
//! `retention` deletes only artifacts, not the manifests of images: an artifact contains its images, and
//! `deletionPolicy` deletes the tag of an image that left the package together with its `JackalImage`. An image that a
//! newer one replaced under its tag has no name any more. Deleting it by digest would need a record of every image of
//! every revision; the registry's garbage collection does it.
//!
//! Deletions run as tasks beside the reconcilers, with a deadline (`deletion_tasks`). `leader_metrics` counts packages
//! and images when the metrics are requested, from the objects in the watches.

mod access;
mod archived;
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

pub use children::PACKAGE_LABEL;
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
