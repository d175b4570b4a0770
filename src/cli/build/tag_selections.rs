//! The tags that the policies of images select.

use super::access::FileAccess;
use super::{Build, Target};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::cli::package_file::FileObjects;
use crate::cli::registry_clients::RegistryClients;
use crate::fault::{Fault, Reason};
use crate::fetch::select;
use crate::package::{policy_images, with_selected_tags};

impl Build {
    /// `spec` with the tags that its policies select now.
    pub(super) async fn followed(
        &self,
        spec: &JackalPackageSpec,
        given: &FileObjects,
        target: &Target,
        access: &RegistryClients,
    ) -> Result<JackalPackageSpec, Fault> {
        let reach = FileAccess::new(self, given, target, access);
        let selections = select(&policy_images(spec)?, &reach).await?;
        with_selected_tags(spec, &selections)
            .ok_or_else(|| Fault::stalled(Reason::InvalidSpec, "a tag was not chosen for each image"))
    }
}
