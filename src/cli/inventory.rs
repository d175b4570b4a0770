//! `inventory`: what a registry or an OCI layout holds, in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::build::target::Target;
use super::connection::ConnectionFlags;
use super::output_file::{OutputFile, standard_output, write_signature};
use super::progress::{Output, bytes};
use super::{UsageError, examples, key, print, until};
use crate::archive::inventory::{InventoryWriter, Place, RepositoryContent, Tag, Unreadable, collect};
use crate::fault::Fault;
use crate::oci::Digest;
use crate::package::{REF_NAME, repository};
use crate::registry::Registry;
use crate::signing::SigningKey;
use crate::transfer::LayoutDestination;

/// The most tags of a repository.
const TAGS: usize = 500_000;
/// Repositories that fail before the rest is not tried any more.
const FAILURES: usize = 20;

/// Write what a registry or an OCI layout holds into a file.
///
/// The file lists repositories, their tags with digests, and the digests of all manifests and blobs under these. `pack --have FILE`
/// leaves out what it lists. The same content and the same time give the same bytes. The registry must list its repositories
/// (`_catalog`); where it does not, name them by --repository.
///
/// Exit codes: 0 done, 1 a repository cannot be read, 2 a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::INVENTORY)]
pub(super) struct Inventory {
    /// The registry, `HOST[:PORT][/PREFIX]`, or `oci:DIR` for an OCI layout.
    #[arg(value_name = "REGISTRY")]
    place: String,
    /// A repository below the prefix, repeatable; all repositories are read without it.
    #[arg(long, value_name = "REPOSITORY")]
    repository: Vec<String>,
    /// The file to write; - for standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    file: PathBuf,
    /// Sign the file by this private key (as of `sign`). The signature is written to FILE.sigstore.json.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The time that the file names, such as 2026-11-28T06:00:00Z; the current time unless it or SOURCE_DATE_EPOCH is set.
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    #[command(flatten)]
    connection: ConnectionFlags,
    /// How the result is printed on standard output; on standard error where the inventory goes to standard output.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
}

/// The result, as `--format json` prints it.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    file: PathBuf,
    registry: String,
    digest: String,
    repositories: usize,
    tags: usize,
    manifests: usize,
    blobs: usize,
    blob_bytes: u64,
    /// Manifests that cannot be read, by repository.
    unreadable: BTreeMap<String, BTreeMap<String, String>>,
}

impl Report {
    fn add(&mut self, content: &RepositoryContent, unreadable: Vec<Unreadable>) {
        self.repositories += 1;
        self.tags += content.tags.len();
        self.manifests += content.manifests.len();
        self.blobs += content.blobs.len();
        self.blob_bytes = content
            .blobs
            .values()
            .fold(self.blob_bytes, |sum, size| size.saturating_add(sum));
        if !unreadable.is_empty() {
            let entries = unreadable.into_iter().map(|each| (each.identifier, each.message));
            self.unreadable.insert(content.repository.clone(), entries.collect());
        }
    }
}

/// What is read: each repository with its place, in the order of their names.
enum Content {
    Registry(Registry, Vec<String>),
    Layout(PathBuf, BTreeMap<String, Vec<Tag>>),
}

impl Inventory {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "inventory", self.inventory()).await
    }

    async fn inventory(&self) -> anyhow::Result<()> {
        let pipe = self.file == Path::new("-");
        if pipe && self.key.is_some() {
            return Err(UsageError("--key: the signature needs a file; set --output FILE".to_owned()).into());
        }
        let key = match &self.key {
            Some(path) => Some(key::read(path).await?),
            None => None,
        };
        let time = time(self.time)?;
        let content = self.content().await?;
        let report = match pipe {
            true => self.write(content, time, standard_output()?).await?,
            false => self.write_file(content, time, key.as_ref()).await?,
        };
        self.print(&report, pipe);
        Ok(())
    }

    /// Writes to a file beside the one that is meant, which takes its name at the end.
    async fn write_file(&self, content: Content, time: Timestamp, key: Option<&SigningKey>) -> anyhow::Result<Report> {
        let file = OutputFile::beside(&self.file)?;
        let report = self.write(content, time, file.open()?).await?;
        if let Some(key) = key {
            write_signature(key, &report.digest.parse::<Digest>()?, &self.file).await?;
        }
        file.finish().await?;
        Ok(report)
    }

    async fn content(&self) -> anyhow::Result<Content> {
        let target = Target::parse(&self.place)
            .map_err(|error| UsageError(error.to_string().trim_start_matches("--to ").to_owned()))?;
        match target {
            Target::Archive(_) | Target::Nowhere => {
                Err(UsageError(format!("{}: it names no registry", self.place)).into())
            }
            Target::Layout(_) if !self.repository.is_empty() => {
                let message = "--repository: an OCI layout lists its repositories itself".to_owned();
                Err(UsageError(message).into())
            }
            Target::Layout(directory) => {
                let entries = LayoutDestination::new(&directory, "").entries().await?;
                let mut tags: BTreeMap<String, Vec<Tag>> = BTreeMap::new();
                for entry in entries {
                    let Some(name) = entry.annotations.get(REF_NAME) else {
                        continue;
                    };
                    let (repository, tag) = name.rsplit_once(':').unwrap_or(("", name));
                    tags.entry(repository.to_owned()).or_default().push(Tag {
                        name: tag.to_owned(),
                        identifier: entry.digest.to_string(),
                    });
                }
                Ok(Content::Layout(directory, tags))
            }
            Target::Registry { host, prefix } => {
                let clients = self.connection.clients().await?;
                let registry = clients.destination(&host, &prefix, self.connection.insecure).await?;
                let names = match self.repository.as_slice() {
                    [] => {
                        let all = registry.repositories().await;
                        let all = all.map_err(|error| error.into_read_fault(&host))?;
                        let below = format!("{prefix}/");
                        let is_meant = |name: &String| prefix.is_empty() || *name == prefix || name.starts_with(&below);
                        all.into_iter().filter(is_meant).collect()
                    }
                    named => {
                        let mut names: Vec<_> = named.iter().map(|name| repository(&prefix, name)).collect();
                        names.sort();
                        names.dedup();
                        names
                    }
                };
                Ok(Content::Registry(registry, names))
            }
        }
    }

    async fn write(&self, content: Content, time: Timestamp, out: tokio::fs::File) -> anyhow::Result<Report> {
        let registry = self.place.trim_end_matches('/').to_owned();
        let mut writer = InventoryWriter::begin(out, &registry, time).await?;
        let mut report = Report {
            file: self.file.clone(),
            registry,
            ..Report::default()
        };
        let mut failures: Vec<String> = Vec::new();
        match content {
            Content::Layout(directory, repositories) => {
                for (name, tags) in repositories {
                    let place = Place::Layout(LayoutDestination::new(&directory, &name));
                    let (content, unreadable) = collect(&place, &name, tags).await?;
                    writer.repository(&content).await?;
                    report.add(&content, unreadable);
                }
            }
            Content::Registry(registry, names) => {
                for name in names {
                    match self.repository_content(&registry, &name).await {
                        Ok(Some((content, unreadable))) => {
                            writer.repository(&content).await?;
                            report.add(&content, unreadable);
                        }
                        Ok(None) => {}
                        Err(fault) => failures.push(format!("\n  {name}: {}", fault.message)),
                    }
                    if failures.len() == FAILURES {
                        failures.push("\n  the rest was not tried".to_owned());
                        break;
                    }
                }
            }
        }
        report.digest = writer.finish().await?.to_string();
        if !failures.is_empty() {
            bail!(
                "no inventory is written, because these repositories cannot be read:{}",
                failures.concat()
            );
        }
        Ok(report)
    }

    /// What the repository `name` holds; `None` where it has no tags.
    async fn repository_content(
        &self,
        registry: &Registry,
        name: &str,
    ) -> Result<Option<(RepositoryContent, Vec<Unreadable>)>, Fault> {
        let repository = registry.repository(name);
        // One that is listed may have been deleted; one that a flag names must be there.
        let tags = match self.repository.is_empty() {
            true => repository.tags(TAGS).await,
            false => repository.existing_tags(TAGS).await,
        };
        let full_name = format!("{}/{name}", registry.host());
        let tags = tags.map_err(|error| error.into_read_fault(&full_name))?;
        let tags = tags.ok_or_else(|| {
            let message = format!("it has more than {TAGS} tags");
            Fault::stalled(crate::fault::Reason::SourceFailed, message)
        })?;
        if tags.is_empty() {
            return Ok(None);
        }
        let tags = tags.into_iter().map(|tag| Tag {
            identifier: tag.clone(),
            name: tag,
        });
        let place = Place::Registry(repository);
        collect(&place, name, tags.collect()).await.map(Some)
    }

    fn print(&self, report: &Report, pipe: bool) {
        for (repository, manifests) in &report.unreadable {
            for (identifier, message) in manifests {
                print::note(format_args!(
                    "jackal-operator inventory: {repository}: {identifier} is left out: {message}"
                ));
            }
        }
        let text = match self.format {
            Output::Json => serde_json::to_string_pretty(report).unwrap_or_default(),
            Output::Text => format!(
                "{}: {}, {} repositories, {} tags, {} manifests, {} blobs of {} ({})",
                report.file.display(),
                report.registry,
                report.repositories,
                report.tags,
                report.manifests,
                report.blobs,
                bytes(report.blob_bytes),
                report.digest
            ),
        };
        match pipe {
            true => print::note(text),
            false => print::line(text),
        }
    }
}

/// The time that a document names: `given`, or the one in SOURCE_DATE_EPOCH, or now.
pub(super) fn time(given: Option<Timestamp>) -> anyhow::Result<Timestamp> {
    if let Some(time) = given {
        return Ok(time);
    }
    match std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty()) {
        None => Ok(Timestamp::from_second(Timestamp::now().as_second())?),
        Some(text) => {
            let seconds = text.parse().ok();
            let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
            let time = time.ok_or_else(|| UsageError(format!("SOURCE_DATE_EPOCH={text} is not a number of seconds")));
            time.context("the time")
        }
    }
}
