//! `build`: a package from a file, without a cluster.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::cluster::duration;
use super::progress::{Display, Output, bytes};
use super::{UNUSABLE, credentials};
use crate::api::v1alpha1::{JackalPackage, SourceKind};
use crate::fault::{Disposition, Fault, Reason};
use crate::package::{BroughtImage, Definition, Plan, PlannedImage, publish, repository};
use crate::registry::{Endpoint, Registry};
use crate::source::docker::{Docker, Engine};
use crate::source::{ImageSource, RegistrySource};
use crate::transfer::{Destination, KnownBlobs, LayoutDestination, Progress, RegistryDestination, Transfer};

/// Build a package without a cluster.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used,
/// 130 interrupted.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// A file with a JackalPackage, or `-` for standard input.
    file: PathBuf,
    /// Where it goes: `host[:port][/prefix]` of a registry, or `oci:DIR` for an OCI layout.
    #[arg(long, value_name = "DESTINATION")]
    to: String,
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
    /// Where the docker engine listens: unix:///path or tcp://host:port.
    #[arg(
        long,
        env = "DOCKER_HOST",
        default_value = "unix:///var/run/docker.sock",
        value_name = "ADDRESS"
    )]
    docker_host: String,
    /// Where the engine's root is found, if not where the engine says. Layers are read there where they can be.
    #[arg(long, env = "JACKAL_DOCKER_ROOT", value_name = "PATH")]
    docker_root: Option<PathBuf>,
    /// Images that move at once.
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    concurrency: usize,
    /// How long a transfer may stand still. Default: the package's own, or 2m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

/// What is printed with `--output json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    package: String,
    version: String,
    dry_run: bool,
    /// The digest of the artifact's manifest; absent on a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    changed: bool,
    moved_bytes: u64,
    images: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    image: String,
    name: String,
    source_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// Why a better way was not taken, or not for all of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    method_reason: Option<String>,
    moved_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_blobs: Option<u64>,
    current: bool,
}

impl Build {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let result = tokio::select! {
            result = self.build() => result,
            () = stop.cancelled() => {
                eprintln!("jackal-operator build: interrupted; what was moved is found again by the next run");
                return ExitCode::from(130);
            }
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("jackal-operator build: {error:#}");
                let stalled = error
                    .downcast_ref::<Fault>()
                    .is_some_and(|fault| fault.disposition == Disposition::Stalled);
                if stalled || error.is::<Unusable>() {
                    ExitCode::from(UNUSABLE)
                } else {
                    ExitCode::FAILURE
                }
            }
        }
    }

    async fn build(&self) -> anyhow::Result<()> {
        let package = self.read()?;
        let target = Target::parse(&self.to)?;
        let spec = &package.spec;
        let address = spec.registry.address.clone().unwrap_or_else(|| target.address());
        let prefix = target
            .prefix()
            .or(spec.registry.repository_prefix.clone())
            .unwrap_or_default();
        let plan = Plan::of(spec, &address, &prefix)?;
        let definition = Definition::of(&package.name_any(), spec, &plan)?;
        let idle = self
            .timeout
            .or(spec.timeout.map(Into::into))
            .unwrap_or(Duration::from_secs(120));
        let works = Works::open(self, &plan, target, idle).await?;
        let display = Display::new(self.output);
        let moves = plan
            .images
            .iter()
            .map(|planned| self.one(&works, spec.compression, planned, &display));
        // In the plan's order, so that two runs print the same.
        let rows: Vec<Row> = futures::stream::iter(moves)
            .buffered(self.concurrency.max(1))
            .try_collect()
            .await?;
        let mut report = Report {
            package: package.name_any(),
            version: spec.version.clone(),
            dry_run: self.dry_run,
            digest: None,
            changed: rows.iter().any(|row| !row.current),
            moved_bytes: rows.iter().map(|row| row.moved_bytes).sum(),
            images: rows,
        };
        let name = repository(&prefix, &report.package);
        if !self.dry_run {
            let mut brought = Vec::with_capacity(plan.images.len());
            for (planned, row) in plan.images.iter().zip(&report.images) {
                brought.push(BroughtImage {
                    reference: planned.listed(),
                    digest: row.digest.as_deref().unwrap_or_default().parse()?,
                    destination: works.destination(&planned.location.repository)?,
                });
            }
            let published = publish(&definition, &brought, &*works.destination(&name)?, &spec.version).await?;
            report.changed |= published.changed;
            report.moved_bytes += published.moved_bytes;
            report.digest = Some(published.manifest.to_string());
        }
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
            Output::Text => match &report.digest {
                None => println!("would move {} to {}", bytes(report.moved_bytes), self.to),
                Some(digest) => println!(
                    "{name}:{} is {digest} ({} sent)",
                    report.version,
                    bytes(report.moved_bytes)
                ),
            },
        }
        Ok(())
    }

    /// Brings one image, or says what that would move.
    async fn one(
        &self,
        works: &Works,
        compression: crate::oci::Compression,
        planned: &PlannedImage,
        display: &Display,
    ) -> anyhow::Result<Row> {
        let progress = Arc::<Progress>::default();
        let transfer = Transfer {
            source: works.source(planned).await?,
            reference: planned.image.clone(),
            platforms: planned
                .spec
                .platforms
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
            destination: works.destination(&planned.location.repository)?,
            location: planned.location.clone(),
            compression,
            progress: Arc::clone(&progress),
            known: Arc::clone(&works.known),
        };
        let name = planned.location.to_string();
        let image = planned.spec.image.clone();
        if self.dry_run {
            let estimate = transfer.estimate().await.map_err(|fault| fault.within(&image))?;
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
                current,
            });
        }
        let outcome = display
            .follow(&image, &progress, transfer.run())
            .await
            .map_err(|fault| fault.within(&image))?;
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
            current: outcome.moved_blobs == 0 && outcome.method == crate::source::Method::Unchanged,
        })
    }

    fn read(&self) -> anyhow::Result<JackalPackage> {
        let name = self.file.display();
        let text = match self.file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(&self.file),
        };
        let text = text.map_err(|error| Unusable(format!("{name} cannot be read: {error}")))?;
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&text).map_err(|error| Unusable(format!("{name} is not YAML: {error}")))?;
        let mut packages = documents
            .into_iter()
            .filter(|document| document["kind"] == "JackalPackage");
        let (Some(package), None) = (packages.next(), packages.next()) else {
            return Err(Unusable(format!("{name} must hold one JackalPackage")).into());
        };
        if package["apiVersion"] != "jackal.dev/v1alpha1" {
            return Err(Unusable(format!(
                "{name}: the apiVersion is {}, not jackal.dev/v1alpha1",
                package["apiVersion"]
            ))
            .into());
        }
        let package: JackalPackage = serde_json::from_value(package)
            .map_err(|error| Unusable(format!("{name} is no JackalPackage: {error}")))?;
        if package.name_any().is_empty() {
            return Err(Unusable(format!("{name}: metadata.name is missing")).into());
        }
        Ok(package)
    }
}

/// The file or a flag cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(String);

/// Where a package goes.
enum Target {
    Registry { host: String, prefix: String },
    Layout(PathBuf),
}

impl Target {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(directory) = text.strip_prefix("oci:").filter(|rest| !rest.starts_with("//")) {
            if directory.is_empty() {
                return Err(Unusable("--to oci: names no directory: write oci:DIR".to_owned()).into());
            }
            return Ok(Self::Layout(directory.into()));
        }
        let bare = text.strip_prefix("oci://").unwrap_or(text);
        if bare.contains("://") {
            return Err(Unusable(format!(
                "--to {text}: write host[:port][/prefix]; plain HTTP is asked for by --insecure"
            ))
            .into());
        }
        let (host, prefix) = bare
            .trim_end_matches('/')
            .split_once('/')
            .unwrap_or((bare.trim_end_matches('/'), ""));
        if host.is_empty() {
            return Err(Unusable("--to names no registry: write host[:port][/prefix], or oci:DIR".to_owned()).into());
        }
        Ok(Self::Registry {
            host: host.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// What the names in the cluster begin with, where the package does not say.
    fn address(&self) -> String {
        match self {
            Self::Registry { host, .. } => host.clone(),
            Self::Layout(_) => "127.0.0.1:31999".to_owned(),
        }
    }

    fn prefix(&self) -> Option<String> {
        match self {
            Self::Registry { prefix, .. } if !prefix.is_empty() => Some(prefix.clone()),
            _ => None,
        }
    }
}

/// The open ends: the destination, and every source that the plan reads.
struct Works {
    target: Target,
    destination: Option<Registry>,
    registries: HashMap<String, Registry>,
    docker: Option<Arc<Docker>>,
    known: Arc<KnownBlobs>,
}

impl Works {
    async fn open(build: &Build, plan: &Plan, target: Target, idle: Duration) -> anyhow::Result<Self> {
        let open = async |host: &str, plain_http: bool| {
            let credentials = credentials::of(host).await?;
            let endpoint = Endpoint {
                plain_http,
                credentials,
                idle,
                ..Endpoint::new(host)
            };
            Registry::new(endpoint).map_err(|error| anyhow::Error::from(error.pushing(host)))
        };
        let destination = match &target {
            Target::Registry { host, .. } => Some(open(host, build.insecure).await?),
            Target::Layout(_) => None,
        };
        let mut registries = HashMap::new();
        let mut docker = None;
        for planned in &plan.images {
            match planned.spec.source {
                SourceKind::Docker if docker.is_none() => {
                    docker = Some(Arc::new(Docker::new(
                        Engine::new(Some(&build.docker_host), idle)?,
                        build.docker_root.clone(),
                    )));
                }
                SourceKind::Registry if !registries.contains_key(planned.image.registry()) => {
                    let host = planned.image.registry();
                    let same = matches!(&target, Target::Registry { host: to, .. } if to == host) && build.insecure;
                    let plain_http = same || build.insecure_registry.iter().any(|insecure| insecure == host);
                    registries.insert(host.to_owned(), open(host, plain_http).await?);
                }
                _ => {}
            }
        }
        Ok(Self {
            target,
            destination,
            registries,
            docker,
            known: Arc::default(),
        })
    }

    async fn source(&self, planned: &PlannedImage) -> anyhow::Result<Arc<dyn ImageSource>> {
        let unplanned = || Fault::stalled(Reason::InvalidSpec, format!("{} has no source", planned.image));
        Ok(match planned.spec.source {
            SourceKind::Docker => Arc::clone(self.docker.as_ref().ok_or_else(unplanned)?) as Arc<dyn ImageSource>,
            _ => {
                let registry = self.registries.get(planned.image.registry()).ok_or_else(unplanned)?;
                Arc::new(RegistrySource::new(registry.clone()))
            }
        })
    }

    fn destination(&self, repository: &str) -> anyhow::Result<Arc<dyn Destination>> {
        Ok(match (&self.target, &self.destination) {
            (Target::Layout(directory), _) => Arc::new(LayoutDestination::new(directory, repository)),
            (Target::Registry { .. }, Some(registry)) => {
                Arc::new(RegistryDestination::new(registry.repository(repository)))
            }
            (Target::Registry { host, .. }, None) => anyhow::bail!("{host} is not open"),
        })
    }
}
