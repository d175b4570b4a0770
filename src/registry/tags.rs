//! The tags of a repository (OCI distribution specification, "Listing Tags").

use std::collections::HashSet;

use reqwest::Method;
use serde::Deserialize;

use super::client::Call;
use super::error::{Error, Kind};
use super::pages::Pages;
use super::repository::Repository;
use super::token::Scope;
use crate::decode;

/// How many tags a page is asked to have; it may have more or less.
const PAGE: usize = 1000;
/// Bytes of a tag in a listing, with its quotes and white space, at most.
const TAG_BYTES: usize = 160;
/// Bytes of a listing besides, so that of one with too many tags at once their number is known.
const OTHER_BYTES: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
struct Page {
    // `null` and nothing are what Go writes for none.
    tags: Option<Vec<Option<String>>>,
}

impl Repository {
    /// Every tag, each once in the registry's order, or none when there are more than `limit`. A repository that does not
    /// exist has none.
    pub async fn tags(&self, limit: usize) -> Result<Option<Vec<String>>, Error> {
        match self.existing_tags(limit).await {
            Err(error) if error.kind() == &Kind::NotFound => Ok(Some(Vec::new())),
            listed => listed,
        }
    }

    /// As [`Repository::tags`], but a repository that does not exist is an error of the kind [`Kind::NotFound`]. Some
    /// registries answer so for one without tags.
    pub async fn existing_tags(&self, limit: usize) -> Result<Option<Vec<String>>, Error> {
        let registry = self.registry();
        let plain = registry.url(self.name(), ["tags", "list"]);
        let (mut first, asked) = (plain.clone(), limit.clamp(1, PAGE));
        first.query_pairs_mut().append_pair("n", &asked.to_string());
        let bytes = limit.saturating_mul(TAG_BYTES).saturating_add(OTHER_BYTES);
        let mut pages = Pages::at(first.clone(), bytes);
        let (mut tags, mut seen) = (Vec::new(), HashSet::new());
        // Whether the page is asked for without the registry having said that there is one.
        let mut supposed = false;
        loop {
            let call = Call::new(Method::GET, pages.url().clone(), Scope::pull(self.name()));
            let mut answer = registry.send(&call).await?;
            match answer.status().as_u16() {
                200 => {}
                // It may not know how to cut pages, or not into such.
                400 | 405 | 422 if *pages.url() == first => {
                    pages.go_to(plain.clone());
                    continue;
                }
                400 | 404 | 405 | 422 | 501 if supposed => return Ok(Some(tags)),
                // Not as though all that was listed were not there.
                404 if !tags.is_empty() => {
                    let detail = "the page that the one before it led to does not exist";
                    return Err(Error::new(Kind::Interrupted, &call.label, detail));
                }
                _ => return Err(answer.failure().await),
            }
            let body = pages.read(self, &mut answer).await?;
            let page: Page = decode::json(&body)
                .map_err(|_| Error::new(Kind::Protocol, &call.label, "the answer is not a list of tags"))?;
            let page: Vec<String> = page.tags.unwrap_or_default().into_iter().flatten().collect();
            let (listed, before, last) = (page.len(), tags.len(), page.last().cloned());
            tags.extend(page.into_iter().filter(|tag| seen.insert(tag.clone())));
            if tags.len() > limit {
                return Ok(None);
            }
            let new = tags.len() - before;
            if supposed && new == 0 {
                return Ok(Some(tags));
            }
            if pages.turn(registry, &answer, listed, new)? {
                supposed = false;
                continue;
            }
            // Not every registry that cuts pages says where the next one is (distribution specification 1.0, "Content
            // Discovery": `last` leads there). As many tags as were asked for may not be all.
            let Some(last) = last.filter(|_| listed == asked) else {
                return Ok(Some(tags));
            };
            let mut next = first.clone();
            next.query_pairs_mut().append_pair("last", &last);
            pages.go_to(next);
            supposed = true;
        }
    }
}
