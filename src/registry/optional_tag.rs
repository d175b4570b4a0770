//! Tags that need not exist, such as those of signatures, in registries that refuse requests for absent tags:
//! registries that hide what exists from some accounts, and storage without the permission to list.

use std::sync::Arc;

use super::error::Error;
use super::refusals::RefusalMeaning;
use super::repository::Repository;

/// A tag that cannot exist: it contains a digest that no content is known to have.
const ABSENT_TAG: &str = "sha256-0000000000000000000000000000000000000000000000000000000000000000.sig";
/// Tags of a repository that are listed at most.
const MAX_TAGS: usize = 50_000;

impl Repository {
    /// Converts the refusal in `result`, of a request for the optional `tag`, to `None` where the tag does not exist.
    /// It remains an error where the registry lists the tag, or where it lists no tags and does not refuse a tag that
    /// cannot exist.
    ///
    /// # Errors
    /// Those of `result`, and those of determining what its refusal means.
    pub async fn absent_if_refused<T>(&self, tag: &str, result: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
        let refusal = match result {
            Err(error) if error.may_mean_absent() => error,
            result => return result,
        };
        match self.refusal_meaning().await? {
            RefusalMeaning::Listed(tags) if tags.contains(tag) => Err(refusal.with_detail("and it lists this tag")),
            RefusalMeaning::Denied => Err(refusal.with_detail("and reports that other tags do not exist")),
            RefusalMeaning::Listed(_) | RefusalMeaning::Absent => {
                tracing::debug!(error = %refusal, "a refused tag counts as absent");
                Ok(None)
            }
        }
    }

    async fn refusal_meaning(&self) -> Result<RefusalMeaning, Error> {
        let refusals = self.registry().refusals();
        if let Some(cached) = refusals.get(self.name()) {
            return Ok(cached);
        }
        let meaning = match self.existing_tags(MAX_TAGS).await {
            Ok(Some(tags)) => RefusalMeaning::Listed(Arc::new(tags.into_iter().collect())),
            Err(error) if error.is_temporary() => return Err(error),
            Ok(None) | Err(_) => match self.head_manifest(ABSENT_TAG).await {
                Err(error) if error.may_mean_absent() => RefusalMeaning::Absent,
                Err(error) => return Err(error),
                Ok(_) => RefusalMeaning::Denied,
            },
        };
        refusals.insert(self.name(), meaning.clone());
        Ok(meaning)
    }
}
