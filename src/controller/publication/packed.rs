//! That the images which are packed have the signatures that they must have, whatever their objects' statuses say.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use kube::ResourceExt as _;

use super::super::access::ObjectAccess;
use super::super::packages::Packages;
use super::Publication;
use crate::api::v1alpha1::JackalPackage;
use crate::fault::Fault;
use crate::package::{PackedImage, PlannedImage, TransferredImage, requirements};
use crate::runtime::NamespaceEntryReader;
use crate::source::{ImageSource, RegistrySource};

/// Images that are verified at once.
const PARALLEL: usize = 4;

/// Verifies those of `images`, which are those of the plan in its order, that the package has requirements for.
pub(super) async fn verify(
    packages: &Packages,
    package: &JackalPackage,
    publication: &Publication,
    images: &[TransferredImage],
    reached: &ObjectAccess<'_>,
) -> Result<(), Fault> {
    let planned = publication.plan.images.iter().zip(images);
    let demanding = planned.filter(|(planned, _)| !planned.verify.is_empty());
    let entries = NamespaceEntryReader::new(&packages.client, &package.namespace().unwrap_or_default());
    let mut checks = Vec::new();
    for (planned, image) in demanding {
        checks.push(one(packages, planned, image, &entries, reached));
    }
    stream::iter(checks)
        .buffer_unordered(PARALLEL)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn one(
    packages: &Packages,
    planned: &PlannedImage,
    image: &TransferredImage,
    entries: &NamespaceEntryReader,
    reached: &ObjectAccess<'_>,
) -> Result<(), Fault> {
    let requirements = requirements(&planned.verify, entries).await?;
    let request = &planned.request;
    let packed = PackedImage {
        reference: &request.reference,
        platforms: &request.platforms,
        digest: &image.digest,
        destination: &*image.destination,
    };
    let source = async || {
        let what = format!("image `{}`", planned.spec.image);
        let registry = reached.registry(&request.reference, &what).await?;
        Ok(Arc::new(RegistrySource::new(registry)) as Arc<dyn ImageSource>)
    };
    packed.verify(requirements, &packages.verified, source).await
}
