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
    let failed = |error: String| {
        Fault::stalled(
            Reason::SigningFailed,
            format!("the signature of {} cannot be made: {error}", subject.digest),
        )
    };
    let bundle = Bundle::of_statement(key, statement).map_err(|error| failed(error.to_string()))?;
    let referrer = Referrer::of(subject, &statement.predicate_type, &bundle);
    let referrer = referrer.map_err(|error| failed(error.to_string()))?;
    let digest = referrer.document.digest();
    let new = repository.digest_of(digest.as_str()).await?.is_none();
    if new {
        for (digest, content) in &referrer.blobs {
            repository.keep(digest, content.clone()).await?;
        }
    }
    // Also where it stands: whoever wrote it may have been killed before it was listed.
    repository.attach(&referrer.document).await?;
    Ok(new)
}

/// Signs `subject` by `key`, as `cosign sign` does. True when the signature is new.
pub async fn sign(key: &SigningKey, subject: &Descriptor, repository: &dyn Destination) -> Result<bool, Fault> {
    attest(key, &Statement::signature(&subject.digest), subject, repository).await
}

/// Signs a published package in its `repository`: the index, which the tag names, and the manifest, which a digest may; and
/// each of `images` in its own. True when any signature is new.
pub async fn sign_published(
    key: &SigningKey,
    published: &Published,
    repository: &dyn Destination,
    images: Option<&[BroughtImage]>,
) -> Result<bool, Fault> {
    let own = published.subjects.iter().map(|subject| (subject, repository));
    let images = images.into_iter().flatten();
    let images = images.filter_map(|image| Some((published.images.get(&image.digest)?, &*image.destination)));
    let mut signing = Vec::new();
    for (subject, repository) in own.chain(images) {
        signing.push(sign(key, subject, repository));
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
