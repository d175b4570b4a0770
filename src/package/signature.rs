//! Signs what stands in a registry or layout: the one place that writes signatures.

use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::artifact::SignDefinition;
use super::definition::Definition;
use super::publish::{PublishedPackage, TransferredImage};
use crate::fault::{Fault, Reason};
use crate::oci::Descriptor;
use crate::signing::{Bundle, Referrer, SigningKey, Statement};
use crate::transfer::Destination;

/// Signatures that are written at once.
const PARALLEL: usize = 8;
/// How often it is looked again whether another architecture's package is signed by now, which was entered just before.
const OTHER_LOOKS: u32 = 20;
/// How long each of these looks waits.
const OTHER_WAIT: Duration = Duration::from_millis(250);

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

    /// Whether the signature itself stands, not something that a registry calls so: only who has the key can have made it.
    async fn is_whole(&self, repository: &dyn Destination) -> Result<bool, Fault> {
        let document = &self.0.document;
        let found = repository.document(document.digest().as_str()).await?;
        Ok(found.is_some_and(|found| found.raw == document.raw))
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

/// What came of the signatures of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPackage {
    /// Whether any is new.
    pub new: bool,
    /// The platforms in the index under the tag whose packages the key did not sign, for which the index is not signed.
    pub foreign: Option<String>,
}

/// Signs a published package in its `repository`: the manifest, which a digest may name, and the index, which the tag does,
/// both with their `provenance`; and each of `images` in its own.
///
/// The index may list packages of other architectures, which whoever may write to the repository put there. It is signed
/// where the same key has signed each of these; a process that builds another architecture at this moment signs it soon.
///
/// The provenance says how the images were read, which somebody who finds them there does not know any more. So it is
/// written with the first signature, before it: what is signed has one.
pub async fn sign_published(
    key: &SigningKey,
    published: &PublishedPackage,
    provenance: &Statement,
    repository: &dyn Destination,
    images: &[&TransferredImage],
) -> Result<SignedPackage, Fault> {
    let (indexes, own): (Vec<_>, Vec<_>) = published
        .subjects
        .iter()
        .partition(|subject| subject.digest == published.index);
    let own = own.into_iter().map(|subject| (Some(provenance), subject, repository));
    let images = images
        .iter()
        .filter_map(|image| Some((None, published.images.get(&image.digest)?, &*image.destination)));
    let mut signing = Vec::new();
    for (before, subject, repository) in own.chain(images) {
        signing.push(sign_after(before, key, subject, repository));
    }
    let new = stream::iter(signing).buffer_unordered(PARALLEL);
    let mut new = new.try_fold(false, |any, new| async move { Ok(any || new) }).await?;
    let foreign = foreign(key, published, repository).await?;
    if foreign.is_none() {
        for index in indexes {
            new |= sign_after(Some(provenance), key, index, repository).await?;
        }
    }
    Ok(SignedPackage { new, foreign })
}

/// The platforms in the index of `published` whose packages `key` has not signed.
async fn foreign(
    key: &SigningKey,
    published: &PublishedPackage,
    repository: &dyn Destination,
) -> Result<Option<String>, Fault> {
    let mut foreign = Vec::new();
    for other in &published.others {
        let signature = Signed::new(key, &Statement::signature(&other.digest), other)?;
        let mut waits = if published.changed { OTHER_LOOKS } else { 0 };
        while !signature.is_whole(repository).await? {
            if waits == 0 {
                let platform = other.platform.as_ref().map(ToString::to_string);
                foreign.push(platform.unwrap_or_else(|| other.digest.to_string()));
                break;
            }
            waits -= 1;
            tokio::time::sleep(OTHER_WAIT).await;
        }
        // One is enough to know, and each may be waited for.
        if !foreign.is_empty() {
            break;
        }
    }
    Ok(foreign.pop())
}

/// What signs `definition` by `key` in the package itself, for `zarf package verify`; nothing for one that is not
/// [`Definition::signed`].
pub fn definition_signer(definition: &Definition, key: Option<&SigningKey>) -> Option<Box<SignDefinition>> {
    let (path, key) = (definition.signature_path()?, key?.clone());
    Some(Box::new(move |yaml| {
        Ok((path.to_owned(), Bundle::of_blob(&key, yaml).json()))
    }))
}
