//! `build`: a package from a file, without a cluster.

mod check;
mod following;
mod moves;
mod reach;
mod report;
mod sboms;
mod target;
mod works;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use self::report::{Failure, Report, Row};
use self::target::Target;
use self::works::Works;
use super::cluster::duration;
use super::engine::EngineFlags;
use super::limits::LimitFlags;
use super::package_file::Given;
use super::progress::{Display, Output, bytes};
use super::sbom::SbomFlags;
use super::{UNUSABLE, Unusable, credentials, key, package_file};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::fault::Fault;
use crate::package::{BroughtImage, Definition, Parts, Plan, PlannedImage, assemble, component, repository};
use crate::registry::{Endpoint, Registry};
use crate::signing::SigningKey;
use crate::transfer::{Standing, Transfer};

/// Build a package without a cluster.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used,
/// 130 interrupted.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// A file with a JackalPackage, or `-` for standard input.
    file: PathBuf,
    /// Where it goes: `host[:port][/prefix]` of a registry, or `oci:DIR` for an OCI layout.
    #[arg(long, value_name = "DESTINATION", required_unless_present = "check")]
    to: Option<String>,
    /// Say which images the manifests and charts name that `images` lack, and move nothing; exit with 1 if there are any.
    #[arg(long, conflicts_with_all = ["to", "dry_run"])]
    check: bool,
    /// Say what would move, and move nothing.
    #[arg(long)]
    dry_run: bool,
    /// How results are printed.
    #[arg(long, short, default_value = "text")]
    output: Output,
    /// The destination speaks plain HTTP.
    #[arg(long)]
    insecure: bool,
    /// Source registries that speak plain HTTP: host[:port], repeatable.
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    sbom: SbomFlags,
    /// Images that move at once.
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    concurrency: usize,
    #[command(flatten)]
    limits: LimitFlags,
    /// How long a transfer may stand still. Default: the package's own, or 2m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stall_timeout: Option<Duration>,
    /// Sign the package by this private key, whose password is in COSIGN_PASSWORD. Default: what `spec.signing` names,
    /// where the Secret stands beside the package in its file.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Build {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let mut report = Report {
            dry_run: self.dry_run,
            ..Report::default()
        };
        let interrupted = tokio::select! {
            result = self.build(&mut report) => {
                if let Err(error) = result {
                    report.failures.push(error.into());
                }
                false
            }
            () = stop.cancelled() => true,
        };
        if interrupted {
            report.failures.push(Failure {
                image: None,
                reason: "Interrupted".to_owned(),
                message: "interrupted; what was moved is found again by the next run".to_owned(),
                stalled: false,
            });
        }
        for failure in &report.failures {
            eprintln!("jackal-operator build: {failure}");
        }
        if self.output == Output::Json {
            match serde_json::to_string_pretty(&report) {
                Ok(text) => println!("{text}"),
                Err(error) => eprintln!("jackal-operator build: the report cannot be written: {error}"),
            }
        }
        match report.failures.as_slice() {
            [] if self.check && !report.missing_images.is_empty() => ExitCode::FAILURE,
            [] => ExitCode::SUCCESS,
            _ if interrupted => ExitCode::from(130),
            failures if failures.iter().any(|failure| failure.stalled) => ExitCode::from(UNUSABLE),
            _ => ExitCode::FAILURE,
        }
    }

    /// Builds the package, and writes to `report` what came of it as far as it came.
    async fn build(&self, report: &mut Report) -> anyhow::Result<()> {
        // Where it may block: standard input says nothing until somebody writes there.
        let file = self.file.clone();
        let given = tokio::task::spawn_blocking(move || package_file::read(&file)).await??;
        let package = &given.package;
        report.package = Some(package.name_any());
        let to = self.to.as_deref().unwrap_or_default();
        let target = match self.check {
            // The default of a layout will do for names.
            true => Target::Layout(PathBuf::new()),
            false => Target::parse(to)?,
        };
        let idle = self
            .stall_timeout
            .or(package.spec.stall_timeout.map(Into::into))
            .unwrap_or(Duration::from_secs(120));
        let spec = &self.followed(&given, &target, idle).await?;
        report.version = spec.version.clone();
        let address = spec.registry.address.clone().unwrap_or_else(|| target.address());
        let prefix = target
            .prefix()
            .or(spec.registry.repository_prefix.clone())
            .unwrap_or_default();
        let plan = Plan::of(spec, &address, &prefix)?;
        let found = self.gather(&given, &target, idle).await?;
        let definition = Definition::of(&package.name_any(), spec, &plan)?.holding(spec, &found);
        let display = Display::new(self.output);
        report.charts = component::pinned(spec, &found);
        report.missing_images = component::missing_images(spec, &plan, &found);
        self.say_missing(report, &display);
        if self.check {
            return Ok(());
        }
        let key = self.signing_key(spec, &given).await?;
        let works = Works::open(self, &plan, target, idle, &given).await?;
        let forms = (spec.compression, spec.referrers.unwrap_or_default());
        self.move_all(&works, forms, &plan, &display, report).await;
        if !report.failures.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            display.say(&format!("would move {} to {to}", bytes(report.moved_bytes)));
            return Ok(());
        }
        let name = repository(&prefix, &package.name_any());
        let mut brought = Vec::with_capacity(plan.images.len());
        for (planned, row) in plan.images.iter().zip(&mut report.images) {
            brought.push(BroughtImage {
                reference: planned.listed(),
                digest: row.digest.as_deref().unwrap_or_default().parse()?,
                destination: works.destination(&planned.location.repository)?,
                origin: Some(row.material(planned)?),
                documents: std::mem::take(&mut row.documents),
            });
        }
        let destination = works.destination(&name)?;
        let mut archives = component::archives(spec, &found);
        archives.extend(self.sboms(spec, &mut brought, &display, report).await?);
        let parts = Parts {
            definition,
            spec,
            images: &brought,
            archives: &archives,
            charts: &report.charts,
            url: &format!("oci://{address}/{name}:{}", spec.version()),
            key: key.as_ref(),
            previous: None,
        };
        let assembled = assemble(parts, &*destination, async |_| Ok(())).await?;
        let published = assembled.published;
        report.changed |= assembled.signed;
        report.changed |= published.changed;
        report.moved_bytes += published.moved_bytes;
        let digest = published.manifest.to_string();
        display.say(&format!(
            "{name}:{} is {digest} ({} sent)",
            spec.version(),
            bytes(report.moved_bytes)
        ));
        report.digest = Some(digest);
        report.differential = assembled.differential;
        if let Some(left_out) = &report.differential {
            let saved = bytes(published.saved_bytes);
            display.say(&format!(
                "{} images are left out, {saved}: version {} holds them",
                left_out.omitted_images, left_out.version
            ));
        }
        Ok(())
    }

    /// A client for `host`, with the credentials that docker knows.
    async fn open(&self, host: &str, plain_http: bool, idle: Duration) -> anyhow::Result<Registry> {
        let endpoint = Endpoint {
            plain_http,
            credentials: credentials::of(host).await?,
            idle,
            ..Endpoint::new(host).within(self.limits.limits())
        };
        Registry::new(endpoint).map_err(|error| anyhow::Error::from(error.pushing(host)))
    }

    /// Whether `host`, which something is read from, speaks plain HTTP.
    fn is_plain_http(&self, host: &str, target: &Target) -> bool {
        let same = matches!(target, Target::Registry { host: to, .. } if to == host) && self.insecure;
        same || self.insecure_registry.iter().any(|insecure| insecure == host)
    }

    /// The key that the package is signed by, if it is.
    async fn signing_key(&self, spec: &JackalPackageSpec, given: &Given) -> Result<Option<SigningKey>, Unusable> {
        match (&self.key, &spec.signing) {
            (Some(path), _) => key::read(path).await.map(Some),
            (None, Some(signing)) => key::of_secret(&signing.secret_ref.name, given).await.map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Brings one image, unless `standing` says that it stands, or says what that would move.
    async fn one(
        &self,
        planned: &PlannedImage,
        transfer: &Transfer,
        standing: Option<Result<Standing, Fault>>,
        display: &Display,
    ) -> Result<Row, Fault> {
        let name = planned.location.to_string();
        let image = planned.spec.image.clone();
        if self.dry_run {
            let estimate = transfer.estimate().await?;
            let moves = match (estimate.current, estimate.blobs) {
                (true, _) => "nothing".to_owned(),
                (false, Some(blobs)) => format!("{} in {blobs} blobs", bytes(estimate.bytes)),
                (false, None) => format!("up to {}", bytes(estimate.bytes)),
            };
            display.say(&format!("{image} -> {name}: {moves}"));
            let (current, moved_bytes, moved_blobs) = (estimate.current, estimate.bytes, estimate.blobs);
            let source_digest = estimate.source_digest.to_string();
            return Ok(Row {
                image,
                name,
                source_digest,
                digest: None,
                method: None,
                method_reason: None,
                moved_bytes,
                moved_blobs,
                moved_referrers: 0,
                current,
                documents: Vec::new(),
            });
        }
        let outcome = match standing.transpose()? {
            Some(Standing::Current(outcome)) => outcome,
            Some(Standing::Differs(resolved)) => {
                let moving = transfer.bring(&resolved);
                display.follow(&image, &transfer.progress, moving).await?
            }
            None => display.follow(&image, &transfer.progress, transfer.run()).await?,
        };
        display.say(&format!(
            "{image} -> {name}: {} ({}, {} sent)",
            outcome.digest.short_form(),
            outcome.method,
            bytes(outcome.moved_bytes)
        ));
        Ok(Row {
            image,
            name,
            source_digest: outcome.source_digest.to_string(),
            digest: Some(outcome.digest.to_string()),
            method: Some(outcome.method.to_string()),
            method_reason: outcome.declined,
            moved_bytes: outcome.moved_bytes,
            moved_blobs: Some(outcome.moved_blobs),
            moved_referrers: outcome.referrers,
            current: outcome.moved_blobs == 0
                && outcome.referrers == 0
                && outcome.method == crate::source::Method::Unchanged,
            documents: outcome.documents,
        })
    }
}
