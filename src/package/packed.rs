//! Images that are about to be packed, held against the signatures that they must have: what a status says of an image is no
//! proof, and what stands in the destination may be another one than was verified.

use std::sync::Arc;

use super::verification::{VerificationCache, VerifiedSource, verify};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, Reference};
use crate::signing::Requirement;
use crate::source::ImageSource;
use crate::transfer::Destination;

/// An image that stands in the destination.
pub struct PackedImage<'a> {
    /// What it is read as.
    pub reference: &'a Reference,
    /// The platforms that were asked for; empty means all.
    pub platforms: &'a [Platform],
    /// The digest of its manifest or index, under which it is packed.
    pub digest: &'a Digest,
    /// The repository that it stands in.
    pub destination: &'a dyn Destination,
}

impl PackedImage<'_> {
    /// That it satisfies every one of `requirements`. `source` gives where it is read, and is asked only where the signatures
    /// are not beside the image. `verified` remembers what held: a repeat asks nobody.
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
        if verified.knows(&key) {
            return Ok(());
        }
        let checked = match self.platforms.is_empty() {
            true => self.verify_whole(&requirements, source).await,
            false => self.verify_chosen(requirements, verified, source).await,
        };
        checked.map_err(|fault| fault.within(format_args!("`{}`, which is to be packed", self.reference)))?;
        verified.note(key);
        Ok(())
    }

    fn key(&self, requirements: &[Requirement]) -> Digest {
        let marks = requirements
            .iter()
            .map(|requirement| requirement.fingerprint().to_string());
        let marks: Vec<String> = marks.collect();
        let platforms: Vec<String> = self.platforms.iter().map(ToString::to_string).collect();
        let (reference, digest) = (self.reference, self.digest);
        let text = format!(
            "packed {reference} {} {digest}\n{}",
            platforms.join(","),
            marks.join("\n")
        );
        Digest::of(text.as_bytes())
    }

    /// The image as its source has it: its signatures are about its digest, wherever they are.
    async fn verify_whole(
        &self,
        requirements: &[Requirement],
        source: impl AsyncFnOnce() -> Result<Arc<dyn ImageSource>, Fault>,
    ) -> Result<(), Fault> {
        let beside = verify(self.destination, self.digest, requirements, &self.destination.name()).await;
        let Err(fault) = beside else { return Ok(()) };
        let source = source().await?;
        match source.repository(self.reference) {
            Some(repository) => verify(&*repository, self.digest, requirements, &repository.name()).await,
            None => Err(fault),
        }
    }

    /// An image of some platforms: the index is signed that these are chosen from, so they are chosen once more.
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
                "{} stands in the registry, and its source has {} by now; it is brought again at the next look",
                self.digest.short_form(),
                found.short_form()
            ),
        ))
    }
}
