//! `pack`: packages of registries and OCI layouts as one file.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::io::AsyncSeekExt as _;
use tokio_util::sync::CancellationToken;

use super::build::made::DefinitionFlags;
use super::connection::ConnectionFlags;
use super::have::HaveFlags;
use super::output_file::standard_output;
use super::part_flags::{PartFiles, PartFlags};
use super::progress::{Display, Output, bytes};
use super::stored::Stored;
use super::{UsageError, examples, print, until};
use crate::archive::inventory::Holdings;
use crate::archive::made::MadeFile;
use crate::archive::parts::write_in_parts;
use crate::archive::{DifferentialPackage, Kept, PackageSource, Packing, PartialFile, Written, write};
use crate::oci::{Descriptor, Document, Reference};
use crate::transfer::{Destination, Progress};

/// The ends of names that Zarf's and Jackal's commands take for a package.
const SUFFIX: &str = ".tar.zst";
/// The ends of names of definitions.
const DEFINITIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Write packages of registries and OCI layouts into one file.
///
/// The file carries the packages into a network without internet: `zarf package inspect|deploy|mirror-resources FILE` reads the
/// first of them, and `load` publishes all. Content that several have is in it once. It is written while the packages are read,
/// without a temporary copy, and the same packages give the same bytes. It appears under its name when it is complete; its parts,
/// with --max-part-size, when all of them are. Until then it is `.NAME.partial` beside its name: after an interruption, the same
/// command continues it.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 a flag cannot be used or the reference is not a package, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::PACK)]
pub(super) struct Pack {
    /// The packages: each `[registry/]repository[:tag][@digest]`, or `oci:DIR:NAME` in an OCI layout; Zarf reads the first. Or one
    /// file (.yaml, .yml, .json) with a JackalPackage, as `build` takes it.
    #[arg(value_name = "REFERENCE", required = true)]
    references: Vec<String>,
    #[command(flatten)]
    connection: ConnectionFlags,
    /// The file to write, whose name ends with .tar.zst; - for standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    file: PathBuf,
    /// The architecture to pack, where a reference has packages of several.
    #[arg(long, value_name = "ARCHITECTURE")]
    architecture: Option<String>,
    #[command(flatten)]
    have: HaveFlags,
    #[command(flatten)]
    parts: PartFlags,
    #[command(flatten)]
    definition: DefinitionFlags,
    /// How the result is printed on standard output; on standard error where the package goes to standard output.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
}

/// The result, as `--format json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    file: &'a Path,
    package: &'a str,
    packages: &'a [&'a str],
    digest: &'a str,
    size: u64,
    files: usize,
    omitted_blobs: usize,
    /// The images that --zarf leaves out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    omitted_images: Vec<String>,
    /// Its parts, where it is in parts.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    parts: Option<PartFiles>,
}

impl Pack {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "pack", self.pack()).await
    }

    async fn pack(&self) -> anyhow::Result<()> {
        let pipe = self.file == Path::new("-");
        if !pipe && !self.file.to_string_lossy().ends_with(SUFFIX) {
            let message = format!(
                "--output {}: name the file *{SUFFIX}, by which Zarf knows a package",
                self.file.display()
            );
            return Err(UsageError(message).into());
        }
        let into = self.parts.parts();
        if pipe && into.is_some() {
            return Err(UsageError("--max-part-size needs a file as --output".to_owned()).into());
        }
        if let Some(path) = self.definition() {
            return self.pack_definition(path, pipe).await;
        }
        let mut opened = Vec::with_capacity(self.references.len());
        for reference in &self.references {
            let stored = Stored::open(reference, &self.connection).await?;
            let manifest = self.select(&*stored.repository, &stored.document, &stored.name).await?;
            opened.push((stored, manifest));
        }
        let layers = opened.iter().filter_map(|(_, manifest)| manifest.manifest());
        let layers = layers.flat_map(|manifest| &manifest.layers);
        let wanted = layers.map(|layer| layer.digest.clone()).collect();
        let holdings = self.have.read(&wanted).await?;
        let differential = match (self.have.for_zarf(), opened.as_slice()) {
            (false, _) => None,
            (true, [(stored, manifest)]) => {
                Some(DifferentialPackage::of(&*stored.repository, manifest, &holdings).await?)
            }
            (true, _) => return Err(UsageError("--zarf needs one package: Zarf reads no other".to_owned()).into()),
        };
        let packing = match &differential {
            Some(differential) => {
                let source = PackageSource {
                    repository: differential,
                    manifest: differential.manifest(),
                };
                Packing::of(&[source], &Holdings::default()).await?
            }
            None => {
                let sources = opened.iter().map(|(stored, manifest)| PackageSource {
                    repository: &*stored.repository,
                    manifest,
                });
                Packing::of(&sources.collect::<Vec<_>>(), &holdings).await?
            }
        };
        let left_out = differential.as_ref().map_or(&[][..], DifferentialPackage::omitted);
        let names: Vec<&str> = opened.iter().map(|(stored, _)| stored.name.as_str()).collect();
        let progress = Arc::new(Progress::default());
        let display = Display::new(self.format, pipe);
        let work = async {
            if let Some(into) = into {
                let write = |out| write(&packing, Kept::nothing(), out, &progress);
                let (written, list) = write_in_parts(&self.file, into, &progress, write).await?;
                return Ok((written, Some(PartFiles::of(&self.file, &list))));
            }
            let written = match pipe {
                true => write(&packing, Kept::nothing(), standard_output()?, &progress).await?,
                false => self.write_file(&packing, &progress).await?,
            };
            anyhow::Ok((written, None))
        };
        let (written, parts) = display.follow(names.first().unwrap_or(&""), &progress, work).await?;
        if written.omitted > 0 {
            print::note(format_args!(
                "jackal-operator pack: {} blobs that {} holds are left out: only `load` reads this file, Zarf does not",
                written.omitted, holdings.registry
            ));
        }
        if !left_out.is_empty() {
            print::note(format_args!(
                "jackal-operator pack: {} images that {} has are left out",
                left_out.len(),
                holdings.registry
            ));
        }
        self.report(&names, &written, (parts, left_out), pipe);
        Ok(())
    }

    /// The first argument that names a definition.
    fn definition(&self) -> Option<&Path> {
        let mut paths = self.references.iter().map(Path::new);
        paths.find(|path| {
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            suffix.is_some_and(|suffix| DEFINITIONS.contains(&suffix)) && path.exists()
        })
    }

    /// Builds the package of a definition in the file.
    async fn pack_definition(&self, path: &Path, pipe: bool) -> anyhow::Result<()> {
        let unusable = |what: &str| Err(UsageError(format!("{}: {what}", path.display())).into());
        if self.references.len() > 1 {
            return unusable("a definition is packed alone; build it in a registry to pack it with other packages");
        }
        if pipe {
            return unusable(
                "the digests of its content are not known before it is read, so it cannot be written to a pipe; name a file as --output",
            );
        }
        if self.parts.parts().is_some() || self.have.is_given() {
            return unusable(
                "--max-part-size and --have need a package that is published; or pack the definition into a file, and split that",
            );
        }
        let cannot = || format!("{} cannot be written", self.file.display());
        let partial = self.partial()?;
        partial.file().set_len(0).with_context(cannot)?;
        let made = |images: usize| anyhow::Ok(Arc::new(MadeFile::new(Arc::clone(partial.file()), images)?));
        let (name, made) = self.definition.build(path, &self.connection, made).await?;
        let written = made.finish().await?;
        tokio::task::spawn_blocking(move || partial.complete())
            .await?
            .with_context(cannot)?;
        self.report(&[name.as_str()], &written, (None, &[]), pipe);
        Ok(())
    }

    /// The file until it is complete.
    fn partial(&self) -> anyhow::Result<PartialFile> {
        let cannot = || format!("{} cannot be written", self.file.display());
        let partial = PartialFile::open(&self.file).with_context(cannot)?;
        partial.with_context(|| {
            format!(
                "another pack writes {}; wait for it, or write to another file",
                self.file.display()
            )
        })
    }

    /// The manifest of the one package that is meant.
    async fn select(&self, repository: &dyn Destination, found: &Document, name: &str) -> anyhow::Result<Document> {
        let Some(index) = found.index().filter(|_| found.is_package()) else {
            return Ok(found.clone());
        };
        let architecture = |entry: &Descriptor| entry.platform.as_ref().map(|platform| platform.architecture.clone());
        let all: Vec<String> = index.manifests.iter().filter_map(architecture).collect();
        let mut entries = index.manifests.iter().filter(|entry| match &self.architecture {
            Some(asked) => architecture(entry).as_ref() == Some(asked),
            None => true,
        });
        let entry = match (entries.next(), entries.next()) {
            (Some(entry), None) => entry,
            _ => {
                let message = format!(
                    "{name} has packages for {}; choose one by --architecture",
                    all.join(", ")
                );
                return Err(UsageError(message).into());
            }
        };
        let document = repository.document(entry.digest.as_str()).await?;
        document.with_context(|| {
            format!(
                "{name} lists {}, which does not exist; publish the package again",
                entry.digest
            )
        })
    }

    /// Writes to a file beside the one that is meant, which takes its name at the end, or continues it.
    async fn write_file(&self, packing: &Packing<'_>, progress: &Progress) -> anyhow::Result<Written> {
        let cannot = || format!("{} cannot be written", self.file.display());
        let partial = self.partial()?;
        let kept = Kept::of(packing, partial.file()).await?;
        if kept.content > 0 {
            print::note(format_args!(
                "jackal-operator pack: {} continues with {} of {}",
                partial.path().display(),
                bytes(kept.content),
                bytes(packing.size())
            ));
        }
        let missing = packing.size().saturating_sub(kept.content);
        partial.file().set_len(kept.size).with_context(cannot)?;
        // Content that gets shorter may have room all the same.
        if let Ok(available) = partial.available()
            && available < missing
        {
            print::note(format_args!(
                "jackal-operator pack: the disk may be too small: up to {} are to be written, and {} are free",
                bytes(missing),
                bytes(available)
            ));
        }
        let mut out = tokio::fs::File::from_std(partial.file().try_clone().with_context(cannot)?);
        out.seek(SeekFrom::Start(kept.size)).await.with_context(cannot)?;
        let written = write(packing, kept, &mut out, progress).await?;
        tokio::task::spawn_blocking(move || partial.complete())
            .await?
            .with_context(cannot)?;
        Ok(written)
    }

    fn report(
        &self,
        names: &[&str],
        written: &Written,
        (parts, left_out): (Option<PartFiles>, &[Reference]),
        pipe: bool,
    ) {
        let text = match self.format {
            Output::Text => format!(
                "{}: {}, {} files{}, {} ({})",
                self.file.display(),
                names.join(", "),
                written.files,
                parts.map_or_else(String::new, |parts| format!(" in {}", parts.text())),
                bytes(written.size),
                written.digest
            ),
            Output::Json => {
                let report = Report {
                    file: &self.file,
                    package: names.first().copied().unwrap_or_default(),
                    packages: names,
                    digest: written.digest.as_str(),
                    size: written.size,
                    files: written.files,
                    omitted_blobs: written.omitted,
                    omitted_images: left_out.iter().map(Reference::to_string).collect(),
                    parts,
                };
                serde_json::to_string_pretty(&report).unwrap_or_default()
            }
        };
        match pipe {
            true => print::note(text),
            false => print::line(text),
        }
    }
}
