//! Tags that need not exist, such as those of signatures, in registries that refuse what they do not have: those that may
//! not say so to everybody, and storage without the right to list.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;
use super::repository::Repository;

/// A tag that nobody has: it is made of a digest that no content is known to have.
const NOBODYS: &str = "sha256-0000000000000000000000000000000000000000000000000000000000000000.sig";
/// How long what was found of a repository is believed.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Repositories that are remembered.
const REPOSITORIES: usize = 256;
/// The tags of a repository that are read.
const TAGS: usize = 50_000;

/// What a refusal to give a tag means in a repository.
#[derive(Clone, Debug)]
enum Meaning {
    /// What it means of any other tag: the registry lists those that there are.
    Listed(Arc<HashSet<String>>),
    /// The tags cannot be listed, and one that nobody has is refused too.
    Nothing,
    /// The tags cannot be listed, and one that nobody has is not refused.
    Denied,
}

/// What is known of the repositories of a registry that refused a tag.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<String, (Instant, Meaning)>>);

impl Refusals {
    fn known(&self, repository: &str) -> Option<Meaning> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, meaning) = known.get(repository)?;
        (since.elapsed() < REMEMBERED_FOR).then(|| meaning.clone())
    }

    fn note(&self, repository: &str, meaning: Meaning) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // All at once: what is forgotten costs another list.
        if known.len() >= REPOSITORIES {
            known.clear();
        }
        known.insert(repository.to_owned(), (Instant::now(), meaning));
    }
}

impl Repository {
    /// What `looked`, a look at `tag`, which need not exist, comes to. A refusal is one only where the registry lists the
    /// tag, or where it lists none and does not refuse a tag that nobody has.
    ///
    /// # Errors
    /// Those of `looked`, and those of finding out what its refusal means.
    pub async fn absent_if_refused<T>(&self, tag: &str, looked: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
        let refused = match looked {
            Err(error) if error.may_mean_absent() => error,
            looked => return looked,
        };
        match self.meaning_of_refusals().await? {
            Meaning::Listed(tags) if tags.contains(tag) => Err(refused.adding("and it lists this tag")),
            Meaning::Denied => Err(refused.adding("and says of other tags that they do not exist")),
            Meaning::Listed(_) | Meaning::Nothing => {
                tracing::debug!(error = %refused, "taken for absent");
                Ok(None)
            }
        }
    }

    async fn meaning_of_refusals(&self) -> Result<Meaning, Error> {
        let refusals = self.registry().refusals();
        if let Some(known) = refusals.known(self.name()) {
            return Ok(known);
        }
        let meaning = match self.existing_tags(TAGS).await {
            Ok(Some(tags)) => Meaning::Listed(Arc::new(tags.into_iter().collect())),
            Err(error) if error.temporary() => return Err(error),
            Ok(None) | Err(_) => match self.head_manifest(NOBODYS).await {
                Err(error) if error.may_mean_absent() => Meaning::Nothing,
                Err(error) => return Err(error),
                Ok(_) => Meaning::Denied,
            },
        };
        refusals.note(self.name(), meaning.clone());
        Ok(meaning)
    }
}
