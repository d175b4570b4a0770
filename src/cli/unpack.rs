//! `unpack`: the images of an archive as files for other programs.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::progress::{Display, Output, bytes};
use super::{UsageError, examples, print, until};
use crate::archive::unpack::{Chosen, Unpacked, Wanted, choose, write_docker_archive, write_layout, write_oci_archive};
use crate::archive::{self, Archive};
use crate::fault::Fault;
use crate::oci::{Platform, Reference};
use crate::transfer::Progress;

/// The form in which images are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An OCI layout in a directory.
    Oci,
    /// A tar of an OCI layout, for containerd, podman and skopeo.
    OciArchive,
    /// A tar for `docker load`.
    DockerArchive,
}

/// Write the images of an archive as an OCI layout, a tar of one, or a tar for docker.
///
/// Tars are written while the archive is read, without a temporary copy. Manifests and layers keep their bytes, so images keep
/// their digests; in a tar for docker, layers in Zstandard are decompressed, and images keep their IDs. Every digest is verified.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::UNPACK)]
pub(super) struct Unpack {
    /// The archive.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The same as --output.
    #[arg(value_name = "OUTPUT", conflicts_with = "output")]
    to: Option<PathBuf>,
    /// The form of the images.
    #[arg(long, value_enum)]
    format: Format,
    /// The file or directory to write; - for standard output, which is the default for a tar where it is not a terminal.
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// An image to unpack, by its name in the archive; may be repeated. Without it, all images.
    #[arg(long = "image", value_name = "REFERENCE")]
    images: Vec<Reference>,
    /// The platform to unpack, such as linux/arm64. Without it, all platforms of an image; in a tar for docker, which has one
    /// platform of each image, that of this machine.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

impl Unpack {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "unpack", self.unpack()).await
    }

    async fn unpack(&self) -> anyhow::Result<()> {
        let to = self.destination()?;
        let archive = archive::open(&self.file).await?;
        let machine = Platform::new("linux", std::env::consts::ARCH).normalised();
        let docker = self.format == Format::DockerArchive;
        let wanted = Wanted {
            names: &self.images,
            platform: self.platform.as_ref().or(docker.then_some(&machine)),
            // What a user asks for is not guessed; an engine takes such an image for one of its own platform.
            unspecified_fits: self.platform.is_none(),
            containers_only: docker,
        };
        let within = |fault: Fault| fault.with_context(self.file.display());
        let (images, left_out) = choose(&archive, &wanted).await.map_err(within)?;
        if !left_out.is_empty() {
            print::note(format_args!(
                "jackal-operator unpack: left out, since they are not images of containers: {}",
                left_out.join(", ")
            ));
        }
        if images.is_empty() {
            return Err(UsageError(format!("{} has no image to unpack", self.file.display())).into());
        }
        let progress = Arc::new(Progress::default());
        let pipe = to == Path::new("-");
        let display = Display::new(Output::Text, false);
        let name = self.file.display().to_string();
        let work = async {
            match self.format {
                Format::Oci => Ok(write_layout(&archive, &images, &to, &progress).await.map_err(within)?),
                _ if pipe => self.write_tar(&archive, &images, standard_output()?, &progress).await,
                _ => self.write_file(&archive, &images, &to, &progress).await,
            }
        };
        let unpacked = display.follow(&name, &progress, work).await?;
        let report = format!(
            "{}: {} images, {} files, {}",
            to.display(),
            images.len(),
            unpacked.files,
            bytes(unpacked.size)
        );
        match pipe {
            true => print::note(report),
            false => print::line(report),
        }
        Ok(())
    }

    /// Where the images go.
    fn destination(&self) -> Result<PathBuf, UsageError> {
        let to = self.output.as_ref().or(self.to.as_ref());
        match (to, self.format) {
            (Some(to), Format::Oci) if to == Path::new("-") => Err(UsageError(
                "--format oci writes a directory: name it with --output, or use --format oci-archive".to_owned(),
            )),
            (Some(to), _) if to == Path::new("-") && std::io::stdout().is_terminal() => Err(UsageError(
                "standard output is a terminal: name a file with --output, or connect a pipe".to_owned(),
            )),
            (Some(to), _) => Ok(to.clone()),
            (None, Format::OciArchive | Format::DockerArchive) if !std::io::stdout().is_terminal() => Ok("-".into()),
            (None, _) => Err(UsageError(
                "name the file or directory to write with --output".to_owned(),
            )),
        }
    }

    async fn write_tar(
        &self,
        archive: &Archive,
        images: &[Chosen],
        out: impl AsyncWrite + Unpin,
        progress: &Progress,
    ) -> anyhow::Result<Unpacked> {
        let written = match self.format {
            Format::DockerArchive => write_docker_archive(archive, images, out, progress).await,
            _ => write_oci_archive(archive, images, out, progress).await,
        };
        Ok(written.map_err(|fault| fault.with_context(self.file.display()))?)
    }

    /// Writes to a file beside the one that is meant, which takes its name at the end.
    async fn write_file(
        &self,
        archive: &Archive,
        images: &[Chosen],
        to: &Path,
        progress: &Progress,
    ) -> anyhow::Result<Unpacked> {
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        let cannot = || format!("{} cannot be written", to.display());
        let temporary = tempfile::Builder::new()
            .prefix(".jackal-unpack-")
            .suffix(".partial")
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .with_context(cannot)?;
        let mut out = tokio::fs::File::from_std(temporary.reopen().with_context(cannot)?);
        let written = self.write_tar(archive, images, &mut out, progress).await?;
        out.flush().await.with_context(cannot)?;
        out.sync_all().await.with_context(cannot)?;
        let file = temporary
            .persist(to)
            .map_err(|error| error.error)
            .with_context(cannot)?;
        // A temporary file is its owner's alone; what is unpacked is read by other programs.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.set_permissions(permissions).with_context(cannot)?;
        Ok(written)
    }
}

/// Standard output without the buffer that ends lines.
fn standard_output() -> anyhow::Result<tokio::fs::File> {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let out = out.context("standard output cannot be written")?;
    Ok(tokio::fs::File::from_std(out.into()))
}
