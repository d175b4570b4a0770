//! `pack FILE`: a package that is built in a package file instead of a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::report::Reports;
use super::target::Target;
use super::{Build, host};
use crate::archive::made::MadeFile;
use crate::cli::connection::ConnectionFlags;
use crate::cli::engine::EngineFlags;
use crate::cli::package_file::{self, Kind};
use crate::cli::progress::{Display, Output};
use crate::cli::sbom::SbomFlags;
use crate::cli::{UsageError, print};
use crate::fault::{Fault, Reason};
use crate::package::NameOwners;

/// The flags of `pack` for the definition of a package.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct DefinitionFlags {
    /// With a definition: a source registry to use plain HTTP for: host[:port]; repeatable.
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = host)]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    sbom: SbomFlags,
    /// With a definition: the private key to sign the package with; COSIGN_PASSWORD is its password.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl DefinitionFlags {
    /// Builds the one package of the definition `path` in the file that `make` makes for a number of images. Says its name.
    pub async fn build(
        &self,
        path: &Path,
        connection: &ConnectionFlags,
        make: impl FnOnce(usize) -> anyhow::Result<Arc<MadeFile>>,
    ) -> anyhow::Result<(String, Arc<MadeFile>)> {
        let owned = path.to_owned();
        let file = tokio::task::spawn_blocking(move || package_file::read(&owned)).await??;
        let [object] = file.objects.as_slice() else {
            let message = format!("{}: pack takes a file with one JackalPackage", path.display());
            return Err(UsageError(message).into());
        };
        if object.kind != Kind::Package {
            let message = format!("{}: it has no JackalPackage", path.display());
            return Err(UsageError(message).into());
        }
        let images = object.spec.components.iter().map(|component| component.images.len());
        let made = make(images.sum())?;
        let build = Build {
            file: Some(path.to_owned()),
            filename: None,
            to: None,
            check: false,
            dry_run: false,
            output: Output::Text,
            quiet: true,
            insecure: connection.insecure,
            insecure_registry: self.insecure_registry.clone(),
            engine: self.engine.clone(),
            sbom: self.sbom.clone(),
            // One image after the other, so that the same package gives the same file.
            concurrency: 1,
            authorities: connection.authorities.clone(),
            limits: connection.limits.clone(),
            stall_timeout: Some(connection.stall_timeout),
            key: self.key.clone(),
        };
        let display = Display::new(Output::Text, true);
        for skipped in &file.skipped {
            print::note(format_args!("jackal-operator pack: {skipped}"));
        }
        let mut reports = Reports::new(false);
        let report = reports.begin(object, false);
        let target = Target::Archive(Arc::clone(&made));
        let names = &mut NameOwners::default();
        build
            .object(object, &file.given, (&target, names), &display, report)
            .await?;
        if let Some(failure) = report.failures.first() {
            let message = format!("{failure}; nothing was packed");
            return Err(match report.failures.iter().any(|failure| failure.stalled) {
                true => Fault::stalled(Reason::PackageFailed, message),
                false => Fault::retryable(Reason::PackageFailed, message),
            }
            .into());
        }
        let named = report.named.as_ref();
        let name = named.map(|named| format!("{}@{}", named.reference, named.digest));
        Ok((name.unwrap_or_else(|| object.name.clone()), made))
    }
}
