//! Which images a replica of the controller transfers, and how it reads them.

use std::sync::Arc;

use async_trait::async_trait;
use kube::Client;

use super::access::{AccessClients, ObjectAccess};
use super::archived::image_of_archive;
use super::conflict;
use super::lease::Leadership;
use super::object_cache::ObjectCache;
use crate::api::v1alpha1::{ImageOrigin, JackalImage, SourceKind};
use crate::fault::Fault;
use crate::oci::Reference;
use crate::runtime::{Registries, RegistryTarget, Role, Settings};
use crate::source::{ImageSource, RegistrySource};

/// The role of a replica of the controller: it transfers images from registries.
pub(super) struct RegistryImageRole {
    pub client: Client,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub leadership: Leadership,
    pub objects: ObjectCache,
}

#[async_trait]
impl Role for RegistryImageRole {
    fn may_transfer(&self, image: &JackalImage) -> bool {
        image.spec.source == SourceKind::Registry
    }

    fn rechecks(&self) -> bool {
        self.leadership.is_held()
    }

    async fn report(&self, _: &JackalImage) -> Result<(), Fault> {
        Ok(())
    }

    async fn plain_tag_owner(&self, image: &JackalImage) -> Result<Option<String>, Fault> {
        self.objects.plain_tag_owner(&self.client, &self.settings, image).await
    }

    fn affects_others(&self, before: Option<&JackalImage>, now: Option<&JackalImage>) -> bool {
        conflict::affects_tags(before, now)
    }

    fn concerns(&self, changed: &JackalImage, other: &JackalImage) -> bool {
        self.may_transfer(other) && conflict::may_conflict(other, changed)
    }

    async fn source(
        &self,
        image: &JackalImage,
        reference: &Reference,
        target: &RegistryTarget,
    ) -> Result<Arc<dyn ImageSource>, Fault> {
        let clients = AccessClients::of(&self.client, &self.settings, &self.registries);
        let access = ObjectAccess::of_image(clients, image, target);
        if let Some(ImageOrigin { archive }) = &image.spec.from {
            return Ok(Arc::new(image_of_archive(&access, archive, reference).await?));
        }
        let registry = access
            .registry(reference, &format!("image `{}`", image.spec.image))
            .await?;
        Ok(Arc::new(RegistrySource::new(registry)))
    }
}
