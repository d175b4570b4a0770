//! Tag listings (OCI distribution specification, "Listing Tags").

use std::collections::HashSet;

use reqwest::Method;

use super::client::RegistryRequest;
use super::error::{Error, Kind};
use super::pages::Pages;
use super::repository::Repository;
use super::token::Scope;
use crate::decode;

/// Requested tags per page; a registry may return more or fewer.
const PAGE_SIZE: usize = 1000;
/// Maximum bytes of a tag in a listing, with its quotes and white space.
const MAX_TAG_BYTES: usize = 160;
/// Additional bytes of a listing, so that a listing that exceeds the limit of tags can be counted.
const EXTRA_BYTES: usize = 8 * 1024 * 1024;

/// Maximum length of a tag (distribution specification, "Pulling manifests"). Longer ones cannot be requested.
const MAX_TAG_LENGTH: usize = 128;

impl Repository {
    /// All tags, each once in the order of the registry; `None` if there are more than `limit`. Empty if the repository
    /// does not exist.
    pub async fn tags(&self, limit: usize) -> Result<Option<Vec<String>>, Error> {
        match self.existing_tags(limit).await {
            Err(error) if error.kind() == &Kind::NotFound => Ok(Some(Vec::new())),
            listed => listed,
        }
    }

    /// Like [`Repository::tags`], but a repository that does not exist is an error of the kind [`Kind::NotFound`]. Some
    /// registries return it for a repository without tags too.
    pub async fn existing_tags(&self, limit: usize) -> Result<Option<Vec<String>>, Error> {
        let registry = self.registry();
        let unpaginated = registry.url(self.name(), ["tags", "list"]);
        let (mut first, page_size) = (unpaginated.clone(), limit.clamp(1, PAGE_SIZE));
        first.query_pairs_mut().append_pair("n", &page_size.to_string());
        let bytes = limit.saturating_mul(MAX_TAG_BYTES).saturating_add(EXTRA_BYTES);
        let mut pages = Pages::new(first.clone(), bytes);
        let (mut tags, mut seen) = (Vec::new(), HashSet::new());
        // Whether this page was requested although the previous response did not link to it.
        let mut is_guessed = false;
        loop {
            let request = RegistryRequest::new(Method::GET, pages.url().clone(), Scope::pull(self.name()));
            let mut response = registry.send(&request).await?;
            match response.status().as_u16() {
                200 => {}
                // The registry may not support pagination, or not this page size.
                400 | 405 | 422 if *pages.url() == first => {
                    pages.go_to(unpaginated.clone());
                    continue;
                }
                400 | 404 | 405 | 422 | 501 if is_guessed => return Ok(Some(tags)),
                // The tags that were already listed must not be reported as all.
                404 if !tags.is_empty() => {
                    let detail = "the next page of the listing does not exist";
                    return Err(Error::new(Kind::Interrupted, &request.label, detail));
                }
                _ => return Err(response.into_error().await),
            }
            let body = pages.read(registry, &mut response).await?;
            let page = decode::json_texts(&body, "tags", limit)
                .map_err(|_| Error::new(Kind::Protocol, &request.label, "the response is not a list of tags"))?;
            let Some(page) = page else { return Ok(None) };
            drop(body);
            let (listed, count_before, last) = (page.len(), tags.len(), page.last().cloned());
            let page = page.into_iter().filter(|tag| tag.len() <= MAX_TAG_LENGTH);
            tags.extend(page.filter(|tag| seen.insert(tag.clone())));
            if tags.len() > limit {
                return Ok(None);
            }
            let new = tags.len() - count_before;
            if is_guessed && new == 0 {
                return Ok(Some(tags));
            }
            if pages.advance(registry, &response, listed, new)? {
                is_guessed = false;
                continue;
            }
            // Not every registry that paginates links to the next page (distribution specification 1.0, "Content
            // Discovery": `last` selects it). A full page may not be the last one.
            let Some(last) = last.filter(|_| listed == page_size) else {
                return Ok(Some(tags));
            };
            let mut next = first.clone();
            next.query_pairs_mut().append_pair("last", &last);
            pages.go_to(next);
            is_guessed = true;
        }
    }
}
