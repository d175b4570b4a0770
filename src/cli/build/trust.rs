//! The certificates in Secrets that an object names, from the same file.

use super::{Build, Target};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::cli::UsageError;
use crate::cli::package_file::FileObjects;
use crate::cli::progress::Display;
use crate::cli::registry_clients::RegistryClients;
use crate::registry::Trust;

impl Build {
    /// Adds to `access` the certificates that `spec` names for its sources and the destination. A Secret that is not in the
    /// file is reported and skipped: the host may be trusted without it.
    pub(super) fn trusting(
        &self,
        mut access: RegistryClients,
        spec: &JackalPackageSpec,
        given: &FileObjects,
        target: &Target,
        display: &Display,
    ) -> Result<RegistryClients, UsageError> {
        let sources = spec.source_registries.iter().map(|source| {
            let field = format!("sourceRegistries[] of {}", source.host);
            (source.host.as_str(), &source.cert_secret_ref.name, field)
        });
        let destination = match target {
            Target::Registry { host, .. } => spec.registry.cert_secret_ref.as_ref().map(|name| {
                let field = "registry.certSecretRef".to_owned();
                (host.as_str(), &name.name, field)
            }),
            Target::Layout(_) | Target::Archive(_) | Target::Nowhere => None,
        };
        for (host, name, field) in sources.chain(destination) {
            if !given.has_secret(name) {
                display.warn(format_args!(
                    "the Secret {name} of {field} is not in the file, so nothing of it is trusted; add it as a further document, or give the CA by --ca-file"
                ));
                continue;
            }
            let trust = Trust::from_secret(|entry| given.secret(name, entry));
            let trust = trust.map_err(|reason| UsageError(format!("the Secret {name} of {field} {reason}")))?;
            access = access.trusting(host, trust);
        }
        Ok(access)
    }
}
