//! Signs what stands in a registry or layout: the one place that writes signatures.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::artifact::SignDefinition;
use super::definition::Definition;
use super::publish::{BroughtImage, Published};
use crate::fault::{Fault, Reason};
use crate::oci::Descriptor;
use crate::signing::{Bundle, Referrer, SigningKey, Statement};
use crate::transfer::Destination;

/// Signatures that are written at once.
const PARALLEL: usize = 8;

/// Has `statement`, signed by `key`, refer to `subject` in its repository. The same statement by the same key is the same
/// manifest: where it stands already, nothing is written.
pub async fn attest(
    key: &SigningKey,
    statement: &Statement,
    subject: &Descriptor,
    repository: &dyn Destination,
) -> Result<bool, Fault> {
    let signed = Signed::new(key, statement, subject)?;
    let new = !signed.stands(repository).await?;
    signed.attach(new, repository).await?;
    Ok(new)
}

/// A signed statement, as something that refers to its subject.
struct Signed(Referrer);

impl Signed {
    fn new(key: &SigningKey, statement: &Statement, subject: &Descriptor) -> Result<Self, Fault> {
        let failed = |error: String| {
            Fault::stalled(
                Reason::SigningFailed,
                format!("the signature of {} cannot be made: {error}", subject.digest),
            )
        };
        let bundle = Bundle::of_statement(key, statement).map_err(|error| failed(error.to_string()))?;
        let referrer = Referrer::of(subject, &statement.predicate_type, &bundle);
        Ok(Self(referrer.map_err(|error| failed(error.to_string()))?))
    }

    async fn stands(&self, repository: &dyn Destination) -> Result<bool, Fault> {
        let found = repository.digest_of(self.0.document.digest().as_str()).await?;
        Ok(found.is_some())
    }

    /// Writes it where it is `new`, and lists it.
    async fn attach(&self, new: bool, repository: &dyn Destination) -> Result<(), Fault> {
        if new {
            for (digest, content) in &self.0.blobs {
                repository.keep(digest, content.clone()).await?;
            }
        }
        // Also where it stands: whoever wrote it may have been killed before it was listed.
        repository.attach(&self.0.document).await
    }
}

/// Signs `subject` by `key`, as `cosign sign` does. True when the signature is new.
pub async fn sign(key: &SigningKey, subject: &Descriptor, repository: &dyn Destination) -> Result<bool, Fault> {
    sign_after(None, key, subject, repository).await
}

/// The same, where a signature that is new comes after the statement `before`.
async fn sign_after(
    before: Option<&Statement>,
    key: &SigningKey,
    subject: &Descriptor,
    repository: &dyn Destination,
) -> Result<bool, Fault> {
    let signature = Signed::new(key, &Statement::signature(&subject.digest), subject)?;
    let new = !signature.stands(repository).await?;
    if let Some(before) = before.filter(|_| new) {
        attest(key, before, subject, repository).await?;
    }
    signature.attach(new, repository).await?;
    Ok(new)
}

/// Signs a published package in its `repository`: the index, which the tag names, and the manifest, which a digest may, both
/// with their `provenance`; and each of `images` in its own. True when any signature is new.
///
/// The provenance says how the images were read, which somebody who finds them there does not know any more. So it is
/// written with the first signature, before it: what is signed has one.
pub async fn sign_published(
    key: &SigningKey,
    published: &Published,
    provenance: &Statement,
    repository: &dyn Destination,
    images: &[&BroughtImage],
) -> Result<bool, Fault> {
    let own = published.subjects.iter();
    let own = own.map(|subject| (Some(provenance), subject, repository));
    let images = images
        .iter()
        .filter_map(|image| Some((None, published.images.get(&image.digest)?, &*image.destination)));
    let mut signing = Vec::new();
    for (before, subject, repository) in own.chain(images) {
        signing.push(sign_after(before, key, subject, repository));
    }
    let new = stream::iter(signing).buffer_unordered(PARALLEL);
    new.try_fold(false, |any, new| async move { Ok(any || new) }).await
}

/// What signs `definition` by `key` in the package itself, for `zarf package verify`; nothing for one that is not
/// [`Definition::signed`].
pub fn definition_signer(definition: &Definition, key: Option<&SigningKey>) -> Option<Box<SignDefinition>> {
    let (path, key) = (definition.signature_path()?, key?.clone());
    Some(Box::new(move |yaml| {
        Ok((path.to_owned(), Bundle::of_blob(&key, yaml).json()))
    }))
}
