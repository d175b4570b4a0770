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
//! `tag_selections` has its own tasks and its own task table. Its result is the *effective* package: the spec with the
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
