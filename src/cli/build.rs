//! `build`: the packages and images of a file, without a cluster.

mod access;
mod check;
mod content;
mod context;
mod host;
pub(super) mod made;
mod report;
mod tag_selections;
pub(super) mod target;
mod transfers;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use self::context::BuildContext;
use self::report::{Failure, Report, Reports, Row};
use self::target::Target;
use super::authorities::AuthorityFlags;
use super::cluster::duration;
use super::engine::EngineFlags;
use super::limits::LimitFlags;
use super::package_file::{FileObjects, Kind, Object};
use super::progress::{Display, Output, bytes};
use super::sbom::SbomFlags;
use super::{EXIT_USAGE, UsageError, examples, key, package_file, print};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::fault::Fault;
use crate::oci::{is_host, same_host};
use crate::package::{self, NameOwners, PlannedImage};
use crate::signing::SigningKey;
use crate::transfer::{DestinationState, Transfer};

/// Parses a host; an invalid host would match nothing.
fn host(text: &str) -> Result<String, &'static str> {
    match is_host(text) {
        true => Ok(text.to_owned()),
        false => Err("write host[:port], without a scheme or a path"),
    }
}

/// The stall timeout if neither a flag nor the object sets it.
const IDLE: Duration = Duration::from_secs(120);

/// Build packages and copy images without a cluster.
///
/// The file (YAML or JSON) contains JackalPackages, JackalImages, and the ConfigMaps and Secrets that they name, in any number of documents. The credentials of
/// docker and podman are used.
///
/// Exit codes: 0 success, 1 failure that may be temporary, 2 invalid file or flag, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::BUILD)]
pub(super) struct Build {
    /// A file with JackalPackages or JackalImages, or `-` for standard input.
    #[arg(value_name = "FILE", required_unless_present = "filename")]
    file: Option<PathBuf>,
    /// The same as FILE, as in `kubectl apply -f`.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "file")]
    filename: Option<PathBuf>,
    /// The destination: `host[:port][/prefix]` for a registry, or `oci:DIR` for an OCI layout. The prefix replaces the one
    /// in the file.
    #[arg(long, value_name = "DESTINATION", required_unless_present = "check")]
    to: Option<String>,
    /// Check that all images, charts and files exist, and list images that manifests and charts name but `images` lack;
    /// copy nothing. Exit with 1 if anything is missing. Images of an engine that does not respond are skipped.
    #[arg(long, conflicts_with_all = ["to", "dry_run"])]
    check: bool,
    /// Show what would be copied, and copy nothing.
    #[arg(long)]
    dry_run: bool,
    /// The output format.
    #[arg(long, short, default_value = "text")]
    output: Output,
    /// Print only failures.
    #[arg(long, short)]
    quiet: bool,
    /// Use plain HTTP for the destination.
    #[arg(long)]
    insecure: bool,
    /// A source registry to use plain HTTP for: host[:port]; repeatable.
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = host)]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    sbom: SbomFlags,
    /// Concurrent transfers.
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    concurrency: usize,
    #[command(flatten)]
    authorities: AuthorityFlags,
    #[command(flatten)]
    limits: LimitFlags,
    /// How long a transfer may make no progress before it is aborted. Default: the value in the package, or 2m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stall_timeout: Option<Duration>,
    /// The private key to sign the package with; COSIGN_PASSWORD is its password. Default: the Secret in `spec.signing`,
    /// which must be in the file.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// The path prefix of an object's repositories.
fn prefix(target: &Target, spec: &JackalPackageSpec) -> String {
    let prefix = target.prefix().or(spec.registry.repository_prefix.clone());
    prefix.unwrap_or_default()
}

impl Build {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let display = Display::new(self.output, self.quiet);
        let mut reports = Reports::new(self.dry_run);
        let interrupted = tokio::select! {
            result = self.all(&mut reports, &display) => {
                if let Err(error) = result {
                    reports.fail(error.into(), &display);
                }
                false
            }
            () = stop.cancelled() => true,
        };
        if interrupted {
            reports.fail(Failure::interrupted(&reports), &display);
        }
        if self.output == Output::Text {
            reports.summarize();
        }
        let mut written = ExitCode::SUCCESS;
        if self.output == Output::Json {
            written = match reports.json() {
                Ok(text) => print::document_of("build", &text),
                Err(error) => {
                    display.warn(format_args!("the report cannot be written: {error}"));
                    ExitCode::FAILURE
                }
            };
        }
        if reports.failures().next().is_none() {
            return match self.check && reports.lack_images() {
                true => ExitCode::FAILURE,
                false => written,
            };
        }
        if interrupted {
            return ExitCode::from(130);
        }
        // For a check, a missing image is a result, not an invalid file.
        let unusable = |failure: &Failure| failure.stalled && !(self.check && failure.image.is_some());
        match reports.failures().any(unusable) {
            true => ExitCode::from(EXIT_USAGE),
            false => ExitCode::FAILURE,
        }
    }

    /// Builds all objects of the file. The failure of one does not stop the others.
    async fn all(&self, reports: &mut Reports, display: &Display) -> anyhow::Result<()> {
        let path = self.file.as_ref().or(self.filename.as_ref());
        let path = path.cloned().unwrap_or_else(|| PathBuf::from("-"));
        // On a blocking thread, because standard input may block.
        let file = tokio::task::spawn_blocking(move || package_file::read(&path)).await??;
        for skipped in &file.skipped {
            display.warn(skipped);
        }
        let target = match self.check {
            true => Target::Nowhere,
            false => Target::parse(self.to.as_deref().unwrap_or_default())?,
        };
        let several = file.objects.len() > 1;
        let mut names = NameOwners::default();
        for object in file.objects.iter().filter(|object| object.kind == Kind::Package) {
            let repository = package::repository(&prefix(&target, &object.spec), &object.name);
            names.add_artifact(&object.shown(), &repository, &object.spec);
        }
        for object in &file.objects {
            let report = reports.begin(object, several);
            if let Target::Layout(directory) = &target {
                report.layout = Some(directory.display().to_string());
            }
            let built = self.object(object, &file.given, (&target, &mut names), display, &mut *report);
            if let Err(error) = built.await {
                report.fail(error.into(), display);
            }
        }
        Ok(())
    }

    /// The stall timeout of `object`.
    fn idle(&self, object: &Object) -> Duration {
        let own = object.spec.stall_timeout.map(Into::into);
        self.stall_timeout.or(own).unwrap_or(IDLE)
    }

    /// Whether plain HTTP is used to read from `host`.
    fn is_plain_http(&self, host: &str, target: &Target) -> bool {
        let same = matches!(target, Target::Registry { host: to, .. } if same_host(to, host)) && self.insecure;
        same || self.insecure_registry.iter().any(|insecure| same_host(insecure, host))
    }

    /// The key to sign the package with, if any.
    async fn signing_key(
        &self,
        spec: &JackalPackageSpec,
        given: &FileObjects,
    ) -> Result<Option<SigningKey>, UsageError> {
        match (&self.key, &spec.signing) {
            (Some(path), _) => key::read(path).await.map(Some),
            (None, Some(signing)) => key::of_secret(&signing.secret_ref.name, given).await.map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Copies one image unless `standing` says that it is up to date; for a dry run, prints what would be copied.
    async fn one(
        &self,
        works: &BuildContext,
        planned: &PlannedImage,
        transfer: &Transfer,
        standing: Option<DestinationState>,
        display: &Display,
    ) -> Result<Row, Fault> {
        let name = works.name_of(&planned.location);
        let image = planned.spec.image.clone();
        if self.dry_run {
            let estimate = transfer.estimate().await?;
            let moves = match (estimate.current, estimate.blobs) {
                (true, _) => "nothing".to_owned(),
                (false, Some(blobs)) => format!("{} in {blobs} blobs", bytes(estimate.bytes)),
                (false, None) => format!("up to {}", bytes(estimate.bytes)),
            };
            display.say(format_args!("{image} -> {name}: {moves}"));
            let (current, moved_bytes, moved_blobs) = (estimate.current, estimate.bytes, estimate.blobs);
            let source_digest = estimate.source_digest.to_string();
            return Ok(Row {
                image,
                name,
                source_digest,
                digest: None,
                method: None,
                method_reason: None,
                method_message: None,
                moved_bytes,
                moved_blobs,
                moved_referrers: 0,
                omitted_tag: planned.location.omitted_tag.clone(),
                current,
                documents: Vec::new(),
            });
        }
        let outcome = match standing {
            Some(DestinationState::Current(outcome)) => outcome,
            Some(DestinationState::Differs(resolved)) => {
                let moving = transfer.copy(&resolved);
                display.follow(&image, &transfer.progress, moving).await?
            }
            None => display.follow(&image, &transfer.progress, transfer.run()).await?,
        };
        let omitted = outcome.omitted_tag.as_ref().map(|omitted| format!("; {omitted}"));
        display.say(format_args!(
            "{image} -> {name}: {} ({}, {} sent){}",
            outcome.digest.short_form(),
            outcome.method,
            bytes(outcome.moved_bytes),
            omitted.unwrap_or_default()
        ));
        Ok(Row {
            image,
            name,
            source_digest: outcome.source_digest.to_string(),
            digest: Some(outcome.digest.to_string()),
            method: Some(outcome.method.to_string()),
            method_reason: outcome
                .method_message
                .as_ref()
                .map(|_| outcome.method.method_reason().to_owned()),
            method_message: outcome.method_message,
            moved_bytes: outcome.moved_bytes,
            moved_blobs: Some(outcome.moved_blobs),
            moved_referrers: outcome.referrers,
            omitted_tag: outcome.omitted_tag,
            current: outcome.moved_blobs == 0
                && outcome.referrers == 0
                && outcome.method == crate::source::Method::Unchanged,
            documents: outcome.documents,
        })
    }
}
