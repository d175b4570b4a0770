//! The temporary names of an image in its engine, under which it is pushed.
//!
//! An engine pushes an image under the destination's name, so the image gets that name. Before, it gets a second name, the
//! *marker*, which says which process pushes since when and has a hash of the destination's name: by it the names of a process
//! that was killed are found. The destination's name is removed before the marker, and each only if it is still the image's.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::super::engine::Engine;
use super::super::inspected_image::InspectedImage;
use super::super::pusher::Pusher;
use crate::fault::Fault;
use crate::oci::{Digest, Reference};

/// The prefix of all markers. The domain cannot exist (RFC 2606), so nothing is ever pushed there.
const MARKER_PREFIX: &str = "jackal-operator.invalid/push/";
/// The waits before the attempts to remove names. An engine that restarts is back by the last one.
const REMOVAL_WAITS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
];
/// How long a transfer waits until its names are removed; the removal continues in the background.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The age at which the names of a command count as abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The names of this process, by engine and marker.
struct ActiveNames {
    names: Mutex<HashSet<(String, String)>>,
    /// Is notified when one is removed.
    removed: Notify,
}

static ACTIVE: LazyLock<ActiveNames> = LazyLock::new(|| ActiveNames {
    names: Mutex::default(),
    removed: Notify::new(),
});

impl ActiveNames {
    fn names(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the names that this process gave to images are removed, for at most `limit`. Call it before the process ends.
pub async fn wait_for_name_removal(limit: Duration) {
    let all_removed = async {
        loop {
            let removed = ACTIVE.removed.notified();
            tokio::pin!(removed);
            // Before the check, or a removal between the two would be missed.
            removed.as_mut().enable();
            if ACTIVE.names().is_empty() {
                return;
            }
            removed.await;
        }
    };
    if timeout(limit, all_removed).await.is_err() {
        warn!(
            "an image keeps the temporary name that it was pushed under in its engine; the node's agent removes it at its next start"
        );
    }
}

/// The marker of an image that is pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marker {
    pusher: Pusher,
    /// When the push began, in seconds of the Unix epoch.
    since: u64,
    /// The hash of the first name.
    hash: String,
}

impl Marker {
    fn new(pusher: Pusher, name: &str) -> Self {
        Self {
            pusher,
            since: now(),
            hash: hash(name),
        }
    }

    /// Parses a name in docker's familiar form.
    fn parse(name: &str) -> Option<Self> {
        let (pusher, tag) = name.strip_prefix(MARKER_PREFIX)?.split_once(':')?;
        let (since, hash) = tag.split_once('-')?;
        Some(Self {
            pusher: [Pusher::Agent, Pusher::Command]
                .into_iter()
                .find(|known| known.name() == pusher)?,
            since: since.parse().ok()?,
            hash: hash.to_owned(),
        })
    }

    fn repository(&self) -> String {
        format!("{MARKER_PREFIX}{}", self.pusher.name())
    }

    fn tag(&self) -> String {
        format!("{}-{}", self.since, self.hash)
    }

    fn name(&self) -> String {
        format!("{}:{}", self.repository(), self.tag())
    }

    /// Whether the process that made it is gone, for a `pusher` that did not make it.
    fn is_abandoned(&self, pusher: Pusher) -> bool {
        let too_old = now().saturating_sub(self.since) > ABANDONED_AFTER.as_secs();
        too_old || (self.pusher, pusher) == (Pusher::Agent, Pusher::Agent)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The same for all forms of a name.
fn hash(name: &str) -> String {
    let whole = name
        .parse::<Reference>()
        .map_or(name.to_owned(), |name| name.to_string());
    Digest::of(whole.as_bytes()).hex().to_owned()
}

/// Whether the image remains in its engine when the names for a push to `repository` are removed: an engine deletes an image
/// with its last name, and with the last tag of a repository also its digests in that repository.
fn remains(image: &InspectedImage, repository: &str) -> bool {
    let elsewhere = |name: &String| !name.starts_with(MARKER_PREFIX) && hash_of_repository(name) != hash(repository);
    let known_there = |name: &String| hash_of_repository(name) == hash(repository);
    let tags_there = image.repo_tags.iter().any(known_there);
    let digests_there = image.repo_digests.iter().any(known_there);
    let named = image.repo_tags.iter().any(|name| !name.starts_with(MARKER_PREFIX));
    (tags_there || !digests_there) && (named || image.repo_digests.iter().any(elsewhere))
}

fn hash_of_repository(name: &str) -> String {
    let bare = name.split('@').next().unwrap_or(name);
    let bare = match bare.rsplit_once(':') {
        Some((before, after)) if !after.contains('/') => before,
        _ => bare,
    };
    hash(bare)
}

/// The temporary names of an image. They are removed when this is dropped.
pub(super) struct TemporaryName {
    names: Option<Names>,
}

#[derive(Clone)]
struct Names {
    engine: Engine,
    marker: Marker,
    name: String,
    id: String,
}

impl TemporaryName {
    /// Gives the image `id` the name `repository:tag`, which no image of the engine has.
    pub async fn create(engine: &Engine, id: &str, repository: &str, tag: &str) -> Result<Self, Fault> {
        let image = engine.inspect(id).await?;
        let image = image.ok_or_else(|| super::super::engine::image_not_found(id))?;
        if !remains(&image, repository) {
            let what = "the image has no name but the one under which it would be pushed, and an engine deletes an image with its last name: give it another one by `docker tag`";
            return Err(engine.failure(what));
        }
        let name = format!("{repository}:{tag}");
        let marker = Marker::new(engine.pusher(), &name);
        let names = Names {
            engine: engine.clone(),
            marker: marker.clone(),
            name,
            id: id.to_owned(),
        };
        ACTIVE.names().insert(names.key());
        // From here on they are removed also when this is cancelled.
        let temporary_name = Self { names: Some(names) };
        engine.tag(id, &marker.repository(), &marker.tag()).await?;
        engine.tag(id, repository, tag).await?;
        Ok(temporary_name)
    }

    /// Removes the names, and waits for that for a limited time.
    pub async fn remove(mut self) {
        if let Some(removal) = self.begin_removal() {
            let _ = timeout(REMOVAL_TIMEOUT, removal).await;
        }
    }

    fn begin_removal(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let names = self.names.take()?;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => Some(runtime.spawn(names.remove())),
            Err(_) => {
                ACTIVE.names().remove(&names.key());
                None
            }
        }
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        drop(self.begin_removal());
    }
}

impl Names {
    fn key(&self) -> (String, String) {
        (self.engine.name().to_owned(), self.marker.name())
    }

    async fn remove(self) {
        let key = self.key();
        // Also when the task is aborted with its runtime.
        let _active = ActiveGuard(key);
        let mut last = None;
        for wait in REMOVAL_WAITS {
            sleep(wait).await;
            match self.try_remove().await {
                Ok(()) => return,
                Err(fault) => last = Some(fault),
            }
        }
        if let Some(fault) = last {
            let name = &self.name;
            warn!(name, %fault, "the temporary name of an image remains in its engine; it is removed before the next push there");
        }
    }

    async fn try_remove(&self) -> Result<(), Fault> {
        self.engine.untag(&self.name, &self.id).await?;
        self.engine.untag(&self.marker.name(), &self.id).await
    }
}

// Removes the entry of [`ACTIVE`] when it is dropped.
struct ActiveGuard((String, String));

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        ACTIVE.names().remove(&self.0);
        ACTIVE.removed.notify_waiters();
    }
}

/// Removes the names in `engine` of processes that are gone.
pub(in crate::source::docker) async fn remove_abandoned_names(engine: &Engine) -> Result<(), Fault> {
    for listed in engine.list_names(&format!("{MARKER_PREFIX}*")).await? {
        let Some(marker) = Marker::parse(&listed) else { continue };
        let own = ACTIVE.names().contains(&(engine.name().to_owned(), listed.clone()));
        if own || !marker.is_abandoned(engine.pusher()) {
            continue;
        }
        let Some(image) = engine.inspect(&listed).await? else {
            continue;
        };
        let id = image.image_id.as_str();
        for name in image.repo_tags.iter().filter(|name| hash(name) == marker.hash) {
            engine.untag(name, id).await?;
            info!(name, engine = engine.name(), "removed the temporary name of an image");
        }
        engine.untag(&listed, id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], digests: &[&str]) -> InspectedImage {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        InspectedImage {
            image_id: Digest::of(b"image"),
            diff_ids: Vec::new(),
            size: None,
            platform: None,
            descriptor: None,
            manifests: None,
            repo_digests: owned(digests),
            repo_tags: owned(tags),
        }
    }

    #[test]
    fn a_marker_is_parsed_as_it_is_written() {
        let marker = Marker::new(Pusher::Agent, "registry.example.com/team-a/app:1");
        assert_eq!(Marker::parse(&marker.name()).as_ref(), Some(&marker));
        assert!(marker.name().parse::<Reference>().is_ok());
        assert!(marker.tag().len() <= 128);
        assert_eq!(marker.hash, hash("REGISTRY.example.com/team-a/app:1"));
        assert_eq!(hash("docker.io/library/app:1"), hash("app:1"));
        assert_ne!(hash("docker.io/library/app:1"), hash("app:2"));
        for other in [
            "jackal-operator.invalid/push/agent",
            "jackal-operator.invalid/push/agent:1",
            "jackal-operator.invalid/push/other:1-ab",
            "jackal-operator.invalid/push/agent:x-ab",
            "app:1",
        ] {
            assert_eq!(Marker::parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_names_of_processes_that_ended_are_abandoned() {
        let marker = |pusher, age: u64| Marker {
            since: now() - age,
            ..Marker::new(pusher, "a")
        };
        assert!(marker(Pusher::Agent, 0).is_abandoned(Pusher::Agent));
        assert!(!marker(Pusher::Agent, 0).is_abandoned(Pusher::Command));
        assert!(!marker(Pusher::Command, 3600).is_abandoned(Pusher::Agent));
        assert!(!marker(Pusher::Command, 3600).is_abandoned(Pusher::Command));
        assert!(marker(Pusher::Command, 100_000).is_abandoned(Pusher::Agent));
        assert!(marker(Pusher::Agent, 100_000).is_abandoned(Pusher::Command));
    }

    #[test]
    fn an_image_without_another_name_does_not_remain() {
        let repository = "r:5000/team-a/app";
        let there = "r:5000/team-a/app@sha256:aa";
        let elsewhere = "q/app@sha256:aa";
        for (tags, digests, expected) in [
            (&["app:1"][..], &[][..], true),
            (&["app:1"], &["app@sha256:aa"], true),
            (&[], &[], false),
            (&[], &[elsewhere], true),
            (&[], &[there], false),
            (&["app:1"], &[there], false),
            (&["app:1", "r:5000/team-a/app:2"], &[there], true),
            (&["jackal-operator.invalid/push/agent:1-ab"], &[], false),
        ] {
            assert_eq!(
                remains(&image(tags, digests), repository),
                expected,
                "{tags:?} {digests:?}"
            );
        }
    }
}
