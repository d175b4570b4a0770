//! Signs packages and images in a registry or layout: the only module that writes signatures.

use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::artifact::SignDefinition;
use super::definition::Definition;
use super::publish::{PublishedPackage, TransferredImage};
use crate::fault::{Fault, Reason};
use crate::oci::Descriptor;
use crate::signing::{Bundle, Referrer, SigningKey, Statement};
use crate::transfer::Destination;

/// The number of signatures that are written concurrently.
const PARALLEL: usize = 8;
/// How often to check again whether another architecture's package, which may have been published just before, is signed.
const OTHER_CHECKS: u32 = 20;
/// The time between these checks.
const OTHER_WAIT: Duration = Duration::from_millis(250);

/// Attaches `statement`, signed by `key`, to `subject` in its repository. The same statement by the same key gives the same
/// manifest: if it exists already, nothing is written. True if it is new.
pub async fn attest(
    key: &SigningKey,
    statement: &Statement,
    subject: &Descriptor,
    repository: &dyn Destination,
) -> Result<bool, Fault> {
    let signed = SignedStatement::new(key, statement, subject)?;
    let new = !signed.exists(repository).await?;
    signed.attach(new, repository).await?;
    Ok(new)
}

/// A signed statement as a referrer of its subject.
struct SignedStatement(Referrer);

impl SignedStatement {
    fn new(key: &SigningKey, statement: &Statement, subject: &Descriptor) -> Result<Self, Fault> {
        let failed = |error: String| {
            Fault::stalled(
                Reason::SigningFailed,
                format!("cannot sign {}: {error}", subject.digest),
            )
        };
        let bundle = Bundle::of_statement(key, statement).map_err(|error| failed(error.to_string()))?;
        let referrer = Referrer::of(subject, &statement.predicate_type, &bundle);
        Ok(Self(referrer.map_err(|error| failed(error.to_string()))?))
    }

    /// Whether the signature itself exists, compared by its bytes: only the owner of the key can have made it.
    async fn is_intact(&self, repository: &dyn Destination) -> Result<bool, Fault> {
        let document = &self.0.document;
        let found = repository.document(document.digest().as_str()).await?;
        Ok(found.is_some_and(|found| found.raw == document.raw))
    }

    async fn exists(&self, repository: &dyn Destination) -> Result<bool, Fault> {
        let found = repository.digest_of(self.0.document.digest().as_str()).await?;
        Ok(found.is_some())
    }

    /// Writes it if it is `new`, and lists it.
    async fn attach(&self, new: bool, repository: &dyn Destination) -> Result<(), Fault> {
        if new {
            for (digest, content) in &self.0.blobs {
                repository.keep(digest, content.clone()).await?;
            }
        }
        // Also if it exists: the process that wrote it may have ended before it listed it.
        repository.attach(&self.0.document).await
    }
}

/// Signs `subject` with `key`, as `cosign sign` does. True if the signature is new.
pub async fn sign(key: &SigningKey, subject: &Descriptor, repository: &dyn Destination) -> Result<bool, Fault> {
    sign_after(None, key, subject, repository).await
}

/// The same, but the statement `before` is attached before a new signature.
async fn sign_after(
    before: Option<&Statement>,
    key: &SigningKey,
    subject: &Descriptor,
    repository: &dyn Destination,
) -> Result<bool, Fault> {
    let signature = SignedStatement::new(key, &Statement::signature(&subject.digest), subject)?;
    let new = !signature.exists(repository).await?;
    if let Some(before) = before.filter(|_| new) {
        attest(key, before, subject, repository).await?;
    }
    signature.attach(new, repository).await?;
    Ok(new)
}

/// The result of [`sign_published`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPackage {
    /// Whether any signature is new.
    pub new: bool,
    /// A platform in the index under the tag whose package the key did not sign; because of it the index is not signed.
    pub foreign: Option<String>,
}

/// Signs a published package in its `repository`: the manifest, and the index under the tag, both with their `provenance`;
/// and each of `images` in the image's repository.
///
/// The index may list packages of other architectures, written by anybody with write access to the repository. It is
/// signed only if the same key has signed each of them; a process that builds another architecture at the same time signs
/// its package soon.
///
/// The provenance says how the images were read, which a later publication of the same images does not know. So it is
/// written once, before the first signature: everything signed has one.
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
    let foreign = unsigned_platform(key, published, repository).await?;
    if foreign.is_none() {
        for index in indexes {
            new |= sign_after(Some(provenance), key, index, repository).await?;
        }
    }
    Ok(SignedPackage { new, foreign })
}

/// A platform in the index of `published` whose package `key` has not signed.
async fn unsigned_platform(
    key: &SigningKey,
    published: &PublishedPackage,
    repository: &dyn Destination,
) -> Result<Option<String>, Fault> {
    let mut foreign = Vec::new();
    for other in &published.others {
        let signature = SignedStatement::new(key, &Statement::signature(&other.digest), other)?;
        let mut waits = if published.changed { OTHER_CHECKS } else { 0 };
        while !signature.is_intact(repository).await? {
            if waits == 0 {
                let platform = other.platform.as_ref().map(ToString::to_string);
                foreign.push(platform.unwrap_or_else(|| other.digest.to_string()));
                break;
            }
            waits -= 1;
            tokio::time::sleep(OTHER_WAIT).await;
        }
        // One is enough, and each may have to be waited for.
        if !foreign.is_empty() {
            break;
        }
    }
    Ok(foreign.pop())
}

/// Signs `definition` with `key` inside the package, for `zarf package verify`. `None` for a definition that is not
/// [`Definition::signed`].
pub fn definition_signer(definition: &Definition, key: Option<&SigningKey>) -> Option<Box<SignDefinition>> {
    let (path, key) = (definition.signature_path()?, key?.clone());
    Some(Box::new(move |yaml| {
        Ok((path.to_owned(), Bundle::of_blob(&key, yaml).json()))
    }))
}
