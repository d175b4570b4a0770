//! Mounts blobs from other repositories of the same registry.

use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, HeaderValue};

use super::session::{PendingUpload, Session, run_to_completion};
use crate::oci::Digest;
use crate::registry::client::RegistryRequest;
use crate::registry::error::Error;
use crate::registry::repository::Repository;
use crate::registry::token::Scope;

/// The result of a mount request.
pub enum MountResult {
    /// The blob now exists in the repository.
    Mounted,
    /// The registry did not mount the blob: it does not exist there, or the account may not read it. The registry may
    /// have started an upload instead.
    Refused(Option<PendingUpload>),
}

impl Repository {
    /// Mounts a blob of the repository `from` of the same registry into this one, without a transfer (distribution
    /// specification, "Mounting a blob from another repository").
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<MountResult, Error> {
        let (repository, digest, from) = (self.clone(), digest.clone(), from.to_owned());
        run_to_completion(async move { repository.try_mount(&digest, &from).await }).await
    }

    /// No response is an error, because the blob can be uploaded instead.
    async fn try_mount(&self, digest: &Digest, from: &str) -> Result<MountResult, Error> {
        let mut url = self.uploads();
        url.query_pairs_mut()
            .append_pair("mount", digest.as_str())
            .append_pair("from", from);
        let scope = Scope::mount(self.name(), from);
        let request =
            RegistryRequest::new(Method::POST, url, scope).with(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = match self.registry().send(&request).await {
            Ok(response) => response,
            // If all requests fail, the upload reports it.
            Err(error) => {
                tracing::debug!(%error, "the blob is uploaded instead of mounted");
                return Ok(MountResult::Refused(None));
            }
        };
        match response.status().as_u16() {
            201 => Ok(MountResult::Mounted),
            202 => Ok(MountResult::Refused(
                Session::from_response(self, &request, &response)
                    .ok()
                    .map(PendingUpload),
            )),
            status => {
                tracing::debug!(status, label = request.label, "the blob is uploaded instead of mounted");
                Ok(MountResult::Refused(None))
            }
        }
    }
}
