//! What a package in a file may access: any host, with the user's credentials, and the ConfigMaps in the file.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Build, Target};
use crate::cli::package_file::FileObjects;
use crate::cli::registry_clients::RegistryClients;
use crate::fault::{Fault, Reason};
use crate::fetch::ContentAccess;
use crate::oci::Reference;
use crate::registry::Registry;

/// The access of a package in a file.
pub(super) struct FileAccess<'a> {
    build: &'a Build,
    given: &'a FileObjects,
    target: &'a Target,
    access: &'a RegistryClients,
}

impl<'a> FileAccess<'a> {
    pub fn new(build: &'a Build, given: &'a FileObjects, target: &'a Target, access: &'a RegistryClients) -> Self {
        Self {
            build,
            given,
            target,
            access,
        }
    }
}

#[async_trait]
impl ContentAccess for FileAccess<'_> {
    async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault> {
        let plain_http = self.build.is_plain_http(reference.registry(), self.target);
        self.access.source(reference, plain_http).await.map_err(|error| {
            // An invalid credentials file does not become valid by a retry.
            let failed = |error| Fault::stalled(Reason::AuthenticationFailed, format!("{what}: {error:#}"));
            error.downcast::<Fault>().unwrap_or_else(failed)
        })
    }

    async fn host(&self, host: &str, _: &str) -> Result<Registry, Fault> {
        self.access.anonymous(host, self.build.is_plain_http(host, self.target))
    }

    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault> {
        self.given.config_maps.get(name).cloned().ok_or_else(|| {
            Fault::stalled(
                Reason::ConfigMapUnavailable,
                format!("the ConfigMap {name} is not in the file: add it as a further document"),
            )
        })
    }
}
