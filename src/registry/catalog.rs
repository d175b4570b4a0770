//! The list of repositories (distribution, "Listing Repositories"; it is not part of the OCI specification).

use std::collections::BTreeSet;

use reqwest::Method;

use super::client::{Registry, RegistryRequest};
use super::error::{Error, Kind};
use super::pages::Pages;
use super::token::Scope;
use crate::decode;

/// Requested repositories per page; a registry may return more or fewer.
const PAGE_SIZE: &str = "1000";
/// Repositories of a registry at most.
const MAX_REPOSITORIES: usize = 100_000;
/// Bytes of a listing at most, over all its pages.
const MAX_LISTING_BYTES: usize = 32 * 1024 * 1024;

impl Registry {
    /// The names of all repositories that the registry lists for this account, sorted.
    ///
    /// # Errors
    /// Also where the registry does not list them, or has more than 100,000.
    pub async fn repositories(&self) -> Result<Vec<String>, Error> {
        let mut first = self.url("_catalog", []);
        first.query_pairs_mut().append_pair("n", PAGE_SIZE);
        let mut pages = Pages::new(first, MAX_LISTING_BYTES);
        let mut names = BTreeSet::new();
        loop {
            let request = RegistryRequest::new(Method::GET, pages.url().clone(), Scope::catalog());
            let mut response = self.expect(&request, &[200]).await?;
            let body = pages.read(self, &mut response).await?;
            let page = decode::json_texts(&body, "repositories", MAX_REPOSITORIES).map_err(|_| {
                Error::new(
                    Kind::Protocol,
                    &request.label,
                    "the response is not a list of repositories",
                )
            })?;
            let (listed, before) = (page.as_ref().map_or(0, Vec::len), names.len());
            let is_complete = page.map(|page| names.extend(page)).is_some();
            if !is_complete || names.len() > MAX_REPOSITORIES {
                let detail = format!("the registry has more than {MAX_REPOSITORIES} repositories");
                return Err(Error::new(Kind::TooLarge, &request.label, detail));
            }
            if !pages.advance(self, &response, listed, names.len() - before)? {
                return Ok(names.into_iter().collect());
            }
        }
    }
}
