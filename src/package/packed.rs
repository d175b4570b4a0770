//! Verifies the signatures of images before they are packed. The status of an image is not a proof, and the destination may
//! contain another image than the one that was verified.

use std::sync::Arc;

use super::verification::{VerificationCache, VerifiedSource, verify};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, Reference};
use crate::signing::Requirement;
use crate::source::ImageSource;
use crate::transfer::Destination;

/// An image in the destination.
pub struct PackedImage<'a> {
    /// The reference that is read at its source.
    pub reference: &'a Reference,
    /// The requested platforms; empty means all.
    pub platforms: &'a [Platform],
    /// The digest of its manifest or index, which is packed.
    pub digest: &'a Digest,
    /// The repository that contains it.
    pub destination: &'a dyn Destination,
}

impl PackedImage<'_> {
    /// Checks that it satisfies all `requirements`. `source` returns its source, and is called only if the destination does
    /// not contain the signatures. Results are cached in `verified`, so that a repeat sends no request.
    pub async fn verify(
        &self,
        requirements: Vec<Requirement>,
        verified: &Arc<VerificationCache>,
        source: impl AsyncFnOnce() -> Result<Arc<dyn ImageSource>, Fault>,
    ) -> Result<(), Fault> {
        if requirements.is_empty() {
            return Ok(());
        }
        let key = self.key(&requirements);
        if verified.contains(&key) {
            return Ok(());
        }
        let checked = match self.platforms.is_empty() {
            true => self.verify_whole(&requirements, source).await,
            false => self.verify_chosen(requirements, verified, source).await,
        };
        checked.map_err(|fault| fault.with_context(format_args!("the package cannot include `{}`", self.reference)))?;
        verified.insert(key);
        Ok(())
    }

    fn key(&self, requirements: &[Requirement]) -> Digest {
        let fingerprints = requirements
            .iter()
            .map(|requirement| requirement.fingerprint().to_string());
        let fingerprints: Vec<String> = fingerprints.collect();
        let platforms: Vec<String> = self.platforms.iter().map(ToString::to_string).collect();
        let (reference, digest) = (self.reference, self.digest);
        let text = format!(
            "packed {reference} {} {digest}\n{}",
            platforms.join(","),
            fingerprints.join("\n")
        );
        Digest::of(text.as_bytes())
    }

    /// Verifies an unchanged image. Its signatures are for its digest, so they may be in the destination or at the source.
    async fn verify_whole(
        &self,
        requirements: &[Requirement],
        source: impl AsyncFnOnce() -> Result<Arc<dyn ImageSource>, Fault>,
    ) -> Result<(), Fault> {
        let in_destination = verify(self.destination, self.digest, requirements, &self.destination.name()).await;
        let Err(fault) = in_destination else { return Ok(()) };
        let source = source().await?;
        match source.repository(self.reference) {
            Some(repository) => verify(&*repository, self.digest, requirements, &repository.name()).await,
            None => Err(fault),
        }
    }

    /// Verifies an image of selected platforms: the index from which they are selected is signed, so they are selected again.
    async fn verify_chosen(
        &self,
        requirements: Vec<Requirement>,
        verified: &Arc<VerificationCache>,
        source: impl AsyncFnOnce() -> Result<Arc<dyn ImageSource>, Fault>,
    ) -> Result<(), Fault> {
        let source = VerifiedSource::of(source().await?, self.reference, requirements, verified)?;
        let resolved = source.resolve(self.reference, self.platforms).await?;
        let found = resolved.identity.digest();
        if found == self.digest {
            return Ok(());
        }
        Err(Fault::retryable(
            Reason::VerificationError,
            format!(
                "the registry contains {}, but its source has {} now; the next reconciliation copies it again",
                self.digest.short_form(),
                found.short_form()
            ),
        ))
    }
}
