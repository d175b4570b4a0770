//! Verifies that images which are about to be packed have the signatures that the package requires, whatever the
//! statuses of their objects say.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use kube::ResourceExt as _;

use super::super::access::ObjectAccess;
use super::super::context::PackageContext;
use crate::api::v1alpha1::JackalPackage;
use crate::fault::Fault;
use crate::package::{PackedImage, Plan, PlannedImage, TransferredImage, requirements};
use crate::runtime::NamespaceEntryReader;
use crate::source::{ImageSource, RegistrySource};

/// Images that are verified at once.
const PARALLEL: usize = 4;

/// Verifies those of `images`, which are those of `plan` in its order, that the package has requirements for.
pub(super) async fn verify(
    context: &PackageContext,
    package: &JackalPackage,
    plan: &Plan,
    images: &[TransferredImage],
    access: &ObjectAccess<'_>,
) -> Result<(), Fault> {
    let with_requirements = plan
        .images
        .iter()
        .zip(images)
        .filter(|(planned, _)| !planned.verify.is_empty());
    let entries = NamespaceEntryReader::new(&context.client, &package.namespace().unwrap_or_default());
    let mut checks = Vec::new();
    for (planned, image) in with_requirements {
        checks.push(verify_image(context, planned, image, &entries, access));
    }
    stream::iter(checks)
        .buffer_unordered(PARALLEL)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn verify_image(
    context: &PackageContext,
    planned: &PlannedImage,
    image: &TransferredImage,
    entries: &NamespaceEntryReader,
    access: &ObjectAccess<'_>,
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
        let registry = access.registry(&request.reference, &what).await?;
        Ok(Arc::new(RegistrySource::new(registry)) as Arc<dyn ImageSource>)
    };
    packed.verify(requirements, &context.verified, source).await
}
