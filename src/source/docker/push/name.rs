//! The names that an image has in its engine only to be pushed under them.
//!
//! An engine pushes an image under the destination's name, so the image gets that name. Before it, it gets a second one,
//! the *marker*, which says who pushes since when and holds a hash of the first: what a killed process left is found by
//! it. The destination's name is taken away before the marker, and each only while it is still the image's.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::super::engine::Engine;
use super::super::inspected::InspectedImage;
use crate::fault::Fault;
use crate::oci::{Digest, Reference};

/// What all markers begin with. No registry is there (RFC 2606), so nothing is ever pushed to it.
const MARKERS: &str = "jackal-operator.invalid/push/";
/// Before each try to take names away. An engine that restarts is back by the last one.
const REMOVALS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
];
/// How long a transfer waits until its names are gone; the removal goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long a command that pushed is taken for gone.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Who pushes. An engine has one agent, which so knows that an agent's name which is not its own was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::docker) enum Pusher {
    /// The agent of the node.
    Agent,
    /// A command, of which several may run.
    Command,
}

impl Pusher {
    fn text(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Command => "command",
        }
    }
}

/// The names of this process, by engine and marker, and who waits for their end.
struct ActiveNames {
    names: Mutex<HashSet<(String, String)>>,
    ended: Notify,
}

static LIVE: LazyLock<ActiveNames> = LazyLock::new(|| ActiveNames {
    names: Mutex::default(),
    ended: Notify::new(),
});

impl ActiveNames {
    fn names(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the names that this process gave to images are taken away, for at most `limit`. Whoever ends the process
/// does so before.
pub async fn wait_for_name_removal(limit: Duration) {
    let gone = async {
        loop {
            let ended = LIVE.ended.notified();
            tokio::pin!(ended);
            // Before the look, or the last end could come between the two.
            ended.as_mut().enable();
            if LIVE.names().is_empty() {
                return;
            }
            ended.await;
        }
    };
    if timeout(limit, gone).await.is_err() {
        warn!(
            "an image keeps the name that it was pushed under in its engine; the node's agent takes it away at its next start"
        );
    }
}

/// The second name of an image that is pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marker {
    pusher: Pusher,
    /// When the push began, in seconds of the Unix epoch.
    since: u64,
    /// The hash of the first name.
    hash: String,
}

impl Marker {
    fn of(pusher: Pusher, name: &str) -> Self {
        Self {
            pusher,
            since: now(),
            hash: hash(name),
        }
    }

    /// Reads it in docker's familiar form, which is the only one that it has.
    fn parse(name: &str) -> Option<Self> {
        let (pusher, tag) = name.strip_prefix(MARKERS)?.split_once(':')?;
        let (since, hash) = tag.split_once('-')?;
        Some(Self {
            pusher: [Pusher::Agent, Pusher::Command]
                .into_iter()
                .find(|known| known.text() == pusher)?,
            since: since.parse().ok()?,
            hash: hash.to_owned(),
        })
    }

    fn repository(&self) -> String {
        format!("{MARKERS}{}", self.pusher.text())
    }

    fn tag(&self) -> String {
        format!("{}-{}", self.since, self.hash)
    }

    fn name(&self) -> String {
        format!("{}:{}", self.repository(), self.tag())
    }

    /// Whether the process that made it is gone, as `pusher` sees it, which has none of that name itself.
    fn is_left(&self, pusher: Pusher) -> bool {
        let abandoned = now().saturating_sub(self.since) > ABANDONED.as_secs();
        abandoned || (self.pusher, pusher) == (Pusher::Agent, Pusher::Agent)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The same for all ways to write a name.
fn hash(name: &str) -> String {
    let whole = name
        .parse::<Reference>()
        .map_or(name.to_owned(), |name| name.to_string());
    Digest::of(whole.as_bytes()).hex().to_owned()
}

/// Whether the image stays in its engine when the names for a push to `repository` go: an engine deletes an image with its
/// last name, and forgets with the last tag of a repository also the digests by which it knows it there.
fn stays(image: &InspectedImage, repository: &str) -> bool {
    let elsewhere = |name: &String| !name.starts_with(MARKERS) && hash_of_repository(name) != hash(repository);
    let known_there = |name: &String| hash_of_repository(name) == hash(repository);
    let tags_there = image.repo_tags.iter().any(known_there);
    let digests_there = image.repo_digests.iter().any(known_there);
    let named = image.repo_tags.iter().any(|name| !name.starts_with(MARKERS));
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

/// An image that has two names to be pushed.
pub(super) struct Named {
    names: Option<Names>,
}

#[derive(Clone)]
struct Names {
    engine: Engine,
    marker: Marker,
    name: String,
    id: String,
}

impl Named {
    /// Names the image `id` `repository:tag`, which the engine has not, to be pushed.
    pub async fn give(engine: &Engine, id: &str, repository: &str, tag: &str) -> Result<Self, Fault> {
        let image = engine.inspect(id).await?;
        let image = image.ok_or_else(|| super::super::engine::image_not_found(id))?;
        if !stays(&image, repository) {
            let what = "the image has no name but the one under which it would be pushed, and an engine deletes an image with its last name: give it one by `docker tag`";
            return Err(engine.failure(what));
        }
        let name = format!("{repository}:{tag}");
        let marker = Marker::of(engine.pusher(), &name);
        let names = Names {
            engine: engine.clone(),
            marker: marker.clone(),
            name,
            id: id.to_owned(),
        };
        LIVE.names().insert(names.key());
        // From here on whatever ends this takes them away.
        let named = Self { names: Some(names) };
        engine.tag(id, &marker.repository(), &marker.tag()).await?;
        engine.tag(id, repository, tag).await?;
        Ok(named)
    }

    /// Takes the names away, and waits for it a little.
    pub async fn end(mut self) {
        if let Some(removal) = self.begin_removal() {
            let _ = timeout(PATIENCE, removal).await;
        }
    }

    fn begin_removal(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let names = self.names.take()?;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => Some(runtime.spawn(names.remove())),
            Err(_) => {
                LIVE.names().remove(&names.key());
                None
            }
        }
    }
}

impl Drop for Named {
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
        // Also where the task is aborted with its runtime.
        let _ended = Ended(key);
        let mut last = None;
        for wait in REMOVALS {
            sleep(wait).await;
            match self.take_away().await {
                Ok(()) => return,
                Err(fault) => last = Some(fault),
            }
        }
        if let Some(fault) = last {
            let name = &self.name;
            warn!(name, %fault, "a name that an image was pushed under was left in its engine; it is taken away before the next push there");
        }
    }

    async fn take_away(&self) -> Result<(), Fault> {
        self.engine.untag(&self.name, &self.id).await?;
        self.engine.untag(&self.marker.name(), &self.id).await
    }
}

struct Ended((String, String));

impl Drop for Ended {
    fn drop(&mut self) {
        LIVE.names().remove(&self.0);
        LIVE.ended.notify_waiters();
    }
}

/// Takes away what processes left in `engine` that are gone.
pub(in crate::source::docker) async fn remove_abandoned_names(engine: &Engine) -> Result<(), Fault> {
    for found in engine.list_names(&format!("{MARKERS}*")).await? {
        let Some(marker) = Marker::parse(&found) else { continue };
        let own = LIVE.names().contains(&(engine.name().to_owned(), found.clone()));
        if own || !marker.is_left(engine.pusher()) {
            continue;
        }
        let Some(image) = engine.inspect(&found).await? else {
            continue;
        };
        let id = image.image_id.as_str();
        for name in image.repo_tags.iter().filter(|name| hash(name) == marker.hash) {
            engine.untag(name, id).await?;
            info!(
                name,
                engine = engine.name(),
                "took away a name that an image was pushed under"
            );
        }
        engine.untag(&found, id).await?;
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
    fn a_marker_is_read_as_it_is_written() {
        let marker = Marker::of(Pusher::Agent, "registry.example.com/team-a/app:1");
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
    fn only_what_is_gone_for_sure_counts_as_left() {
        let marker = |pusher, age: u64| Marker {
            since: now() - age,
            ..Marker::of(pusher, "a")
        };
        assert!(marker(Pusher::Agent, 0).is_left(Pusher::Agent));
        assert!(!marker(Pusher::Agent, 0).is_left(Pusher::Command));
        assert!(!marker(Pusher::Command, 3600).is_left(Pusher::Agent));
        assert!(!marker(Pusher::Command, 3600).is_left(Pusher::Command));
        assert!(marker(Pusher::Command, 100_000).is_left(Pusher::Agent));
        assert!(marker(Pusher::Agent, 100_000).is_left(Pusher::Command));
    }

    #[test]
    fn an_image_that_would_go_with_its_last_name_is_known() {
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
                stays(&image(tags, digests), repository),
                expected,
                "{tags:?} {digests:?}"
            );
        }
    }
}
