//! `bootstrap export`: the images of an archive as files that distributions of Kubernetes read from disk.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::output_file::OutputFile;
use super::progress::{Display, Output, bytes};
use super::{UsageError, examples, print, until};
use crate::archive::unpack::{
    Chosen, Unpacked, Wanted, choose, write_compressed_oci_archive, write_docker_archive, write_oci_archive,
};
use crate::archive::{self, Archive};
use crate::bootstrap::export::{Content, Distribution, Form, files, with_final_names};
use crate::fault::Fault;
use crate::oci::{Platform, Reference};
use crate::transfer::Progress;

/// What reads the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum For {
    /// k3s: agent/images/*.tar.zst.
    K3s,
    /// RKE2: agent/images/*.tar.zst.
    Rke2,
    /// k0s: images/*.tar.
    K0s,
    /// containerd: a file for ctr.
    Containerd,
    /// Docker: a file for docker load.
    Docker,
}

impl From<For> for Distribution {
    fn from(of: For) -> Self {
        match of {
            For::K3s => Self::K3s,
            For::Rke2 => Self::Rke2,
            For::K0s => Self::K0s,
            For::Containerd => Self::Containerd,
            For::Docker => Self::Docker,
        }
    }
}

/// Write the images of an archive as files that a distribution of Kubernetes reads from the disks of nodes.
///
/// Images have their own names, and those that pods use after an installation, at 127.0.0.1:31999. The directory gets a README.txt
/// with the command for each node. The files are written while the archive is read, without a temporary copy; the same archive gives
/// the same bytes.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::BOOTSTRAP_EXPORT)]
pub(super) struct Export {
    /// The archive.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What reads the files.
    #[arg(long = "for", value_enum, value_name = "DISTRIBUTION")]
    of: For,
    /// The directory to write, which is made.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// An image to export, by its name in the archive; may be repeated. Without it, all images of containers.
    #[arg(long = "image", value_name = "REFERENCE")]
    images: Vec<Reference>,
    /// The platform of the images in a tar for docker, which has one, such as linux/arm64. Default: that of this machine.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What was written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    directory: PathBuf,
    images: usize,
    files: Vec<Written>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
}

/// A file that was written.
#[derive(Debug, Serialize)]
struct Written {
    path: String,
    size: u64,
}

impl Export {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "bootstrap export", self.export()).await
    }

    async fn export(&self) -> anyhow::Result<()> {
        let docker = self.of == For::Docker;
        if self.platform.is_some() && !docker {
            return Err(
                UsageError("--platform is for --for docker: the other files have all platforms".to_owned()).into(),
            );
        }
        let archive = archive::open(&self.file).await?;
        let machine = Platform::new("linux", std::env::consts::ARCH).normalised();
        let wanted = Wanted {
            names: &self.images,
            platform: self.platform.as_ref().or(docker.then_some(&machine)),
            unspecified_fits: self.platform.is_none(),
            containers_only: true,
        };
        let within = |fault: Fault| fault.with_context(self.file.display());
        let (images, left_out) = choose(&archive, &wanted).await.map_err(within)?;
        if images.is_empty() {
            return Err(UsageError(format!("{} has no image of a container", self.file.display())).into());
        }
        let images = with_final_names(images).map_err(within)?;
        let mut report = Report {
            directory: self.to.clone(),
            images: images.len(),
            files: Vec::new(),
            left_out,
        };
        for file in files(self.of.into(), &images, None) {
            let path = self.to.join(&file.path);
            let folder = path.parent().unwrap_or(&self.to);
            let made = tokio::fs::create_dir_all(folder).await;
            made.with_context(|| format!("{} cannot be made", folder.display()))?;
            let size = match file.content {
                Content::Images(form) => self.write_images(&archive, &images, form, &path).await?.size,
                Content::Text(text) => {
                    OutputFile::beside(&path)?.write(text.as_bytes()).await?;
                    text.len() as u64
                }
            };
            report.files.push(Written { path: file.path, size });
        }
        self.print(&report)
    }

    async fn write_images(
        &self,
        archive: &Archive,
        images: &[Chosen],
        form: Form,
        path: &Path,
    ) -> anyhow::Result<Unpacked> {
        let file = OutputFile::beside(path)?;
        let mut out = file.open()?;
        let progress = Arc::new(Progress::default());
        let work = async {
            match form {
                Form::OciArchive => write_oci_archive(archive, images, &mut out, &progress).await,
                Form::CompressedOciArchive => write_compressed_oci_archive(archive, images, &mut out, &progress).await,
                Form::DockerArchive => write_docker_archive(archive, images, &mut out, &progress).await,
            }
        };
        let name = self.file.display().to_string();
        let written = Display::new(self.output, false).follow(&name, &progress, work).await;
        let written = written.map_err(|fault| fault.with_context(self.file.display()))?;
        let flushed = out.flush().await;
        flushed.with_context(|| format!("{} cannot be written", path.display()))?;
        file.finish().await?;
        Ok(written)
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        if !report.left_out.is_empty() {
            print::note(format_args!(
                "jackal-operator bootstrap export: left out, since they are not images of containers: {}",
                report.left_out.join(", ")
            ));
        }
        let text = match self.output {
            Output::Json => serde_json::to_string_pretty(report)? + "\n",
            Output::Text => {
                let rows: Vec<Vec<String>> = report
                    .files
                    .iter()
                    .map(|file| vec![self.to.join(&file.path).display().to_string(), bytes(file.size)])
                    .collect();
                print::table(&rows)
            }
        };
        print::document(&text)?;
        Ok(())
    }
}
