//! What the leader deletes of a package's artifacts: what `retention` does not keep, once its plan has stood in the
//! status for a while, and all of it with the package.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource as _, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::conflict;
use super::deletion::{Deletion, UNRECORDED, moved};
use super::deletion_tasks::{DeletionRequest, as_leader};
use super::packages::Packages;
use super::retention::{self, RetentionContext, RetentionResult};
use crate::api::v1alpha1::{Garbage, JackalPackage, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::same_host;
use crate::runtime::{RegistryTarget, kube_fault, qualified_name};

impl Packages {
    /// Digests that other packages name in the repository `written` of the artifacts of `package`, whatever they call the
    /// registry.
    pub(super) fn claimed(
        &self,
        package: &JackalPackage,
        place: &RegistryTarget,
        written: &WrittenRepository,
    ) -> BTreeSet<String> {
        let names = self.names(place);
        let known = self.known.state();
        let others = known.iter().filter_map(|other| other.0.as_ref().ok());
        others
            .filter(|other| other.uid() != package.uid() && shares(other, names.as_deref(), written))
            .flat_map(conflict::artifacts)
            .map(str::to_owned)
            .collect()
    }

    /// What the registry of `place` is called, as far as that is known without asking; none where it may have other names.
    fn names(&self, place: &RegistryTarget) -> Option<Vec<String>> {
        let flags = &self.settings.defaults.registry;
        let home: Vec<&String> = flags.address.iter().chain(&flags.endpoint).collect();
        flags.address.as_ref()?;
        let mut names = vec![place.address.clone(), place.endpoint.host.clone()];
        let at_home = names.iter().any(|name| home.iter().any(|known| same_host(known, name)));
        names.extend(home.into_iter().filter(|_| at_home).cloned());
        Some(names)
    }

    fn deletion(&self) -> Deletion<'_> {
        Deletion {
            client: &self.client,
            settings: &self.settings,
            registries: &self.registries,
            events: &self.events,
        }
    }

    /// Has what of the plan in the status is due deleted by a task of its own, and says when to look again. What fails is told
    /// and tried again; the package stays as ready as it is.
    pub(super) fn collect(self: &Arc<Self>, package: &Arc<JackalPackage>, place: &RegistryTarget) -> Option<Duration> {
        let status = package.status.as_ref()?;
        let uid = package.uid().unwrap_or_default();
        let now = Time(jiff::Timestamp::now());
        let next = retention::next(status)?;
        if next.0 > now.0 {
            return Some(Duration::try_from(next.0.duration_since(now.0)).unwrap_or_default());
        }
        let name = crate::package::repository(&place.prefix, &package.name_any());
        let written = self.settings.defaults.written(&package.spec.registry, place, &name);
        // What was planned for a former registry is planned anew by the task that publishes.
        if !status.registry.as_ref().is_some_and(|known| known.is(&written)) {
            return None;
        }
        let repository = format!("{}/{name}", place.address);
        let claimed = self.claimed(package, place, &written);
        let around = RetentionContext {
            repository: &repository,
            claimed: &claimed,
            images: &[],
            after: now.clone(),
            anew: false,
        };
        let due = retention::due(&package.spec, status, &around, &now);
        // It is planned no more: the plan is made anew with the next look at the package.
        if due.is_empty() {
            return None;
        }
        let token = match self.removals.decide(&uid) {
            DeletionRequest::Begin(token) => token,
            DeletionRequest::Later(later) => return later,
        };
        let (packages, package, place) = (Arc::clone(self), Arc::clone(package), place.clone());
        self.tasks.spawn(async move {
            let work = packages.settle(&package, &place, &name, &due);
            packages.removed(&package, &uid, token, work).await;
        });
        None
    }

    /// Runs `work`, a deletion of content of `package`, as long as this process leads; tells why it failed where that is news, and looks at the package again.
    pub(super) async fn removed(
        &self,
        package: &JackalPackage,
        uid: &str,
        token: CancellationToken,
        work: impl Future<Output = Result<(), Fault>>,
    ) {
        match self.removals.run(uid, token, as_leader(&self.leadership, work)).await {
            Some(Err(fault)) => {
                warn!(package = qualified_name(package), %fault, "deleting artifacts");
                let before = self.collections().insert(uid.to_owned(), fault.message.clone());
                if before.as_ref() != Some(&fault.message) {
                    let reason = "GarbageCollectionFailed";
                    self.events.warning(package, reason, &fault.message).await;
                }
            }
            Some(Ok(())) => drop(self.collections().remove(uid)),
            None => {}
        }
        self.wake(package).await;
    }

    /// Deletes `entries` and notes in the status what came of each.
    async fn settle(
        &self,
        package: &JackalPackage,
        place: &RegistryTarget,
        name: &str,
        entries: &[Garbage],
    ) -> Result<(), Fault> {
        let deletion = self.deletion();
        let (settled, result) = deletion
            .artifacts(place, name, entries, || self.leadership.is_held())
            .await;
        if !settled.is_empty() {
            let news = AtomicBool::new(false);
            self.change(package, |status, _| {
                news.store(retention::settle(status, &settled), Ordering::Relaxed);
            })
            .await
            .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))?;
            self.tell(package, &settled, news.into_inner()).await;
        }
        result
    }

    async fn tell(&self, package: &JackalPackage, settled: &[(Garbage, RetentionResult)], news: bool) {
        let (deletion, object) = (self.deletion(), package.object_ref(&()));
        for (entry, end) in settled {
            match (end, entry.digest.parse()) {
                (RetentionResult::Gone, Ok(digest)) => deletion.gone(&object, &entry.reference, &digest).await,
                (RetentionResult::RetainedReason(why), _) if news && entry.kept.as_ref() != Some(why) => {
                    deletion.failed(&object, &entry.reference, &why.message).await;
                }
                _ => {}
            }
        }
    }

    /// Deletes every artifact that `package`, which is going, wrote.
    pub(super) async fn take_back(&self, package: &JackalPackage) -> Result<(), Fault> {
        let mut status = package.status.clone().unwrap_or_default();
        retention::interrupted(&mut status);
        if status.history.is_empty() {
            return Ok(());
        }
        let place = self.place(package).await?;
        let name = crate::package::repository(&place.prefix, &package.name_any());
        let written = self.settings.defaults.written(&package.spec.registry, &place, &name);
        let stays = match &status.registry {
            Some(known) if known.is(&written) => None,
            Some(known) => Some(moved(known, &written)),
            None => Some(UNRECORDED.to_owned()),
        };
        if let Some(why) = stays {
            let what = "what the package wrote";
            self.deletion().failed(&package.object_ref(&()), what, &why).await;
            return Ok(());
        }
        let repository = format!("{}/{name}", place.address);
        let claimed = self.claimed(package, &place, &written);
        let around = RetentionContext {
            repository: &repository,
            claimed: &claimed,
            images: &[],
            after: Time(jiff::Timestamp::now()),
            anew: true,
        };
        let entries = retention::plan(&package.spec, &status, &around);
        let deletion = self.deletion();
        let (settled, result) = deletion
            .artifacts(&place, &name, &entries, || self.leadership.is_held())
            .await;
        self.tell(package, &settled, true).await;
        result?;
        match settled.len() < entries.len() {
            true => Err(Fault::retryable(
                Reason::PackageFailed,
                "the lease was lost while artifacts were deleted",
            )),
            false => Ok(()),
        }
    }
}

/// Whether the artifacts of `other` are in the repository `written`, whose registry has these `names`; without them, or
/// where `other` does not say which registry received its artifacts, any may be.
fn shares(other: &JackalPackage, names: Option<&[String]>, written: &WrittenRepository) -> bool {
    let Some(status) = &other.status else { return false };
    match (&status.registry, &status.artifact) {
        (Some(known), _) => {
            let named = |names: &[String]| known.hosts().any(|host| names.iter().any(|name| same_host(name, host)));
            known.repository == written.repository && names.is_none_or(named)
        }
        (None, Some(artifact)) => {
            let rest = artifact
                .url
                .strip_prefix("oci://")
                .and_then(|rest| rest.split_once('/'));
            let repository = rest.and_then(|(_, rest)| rest.rsplit_once(':')).map(|(path, _)| path);
            repository == Some(written.repository.as_str())
        }
        (None, None) => false,
    }
}
