//! `import-images`: what a seed runs on a node with `bootstrap --import`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::progress::{Display, Output, bytes};
use super::{examples, failure, print, until};
use crate::archive;
use crate::bootstrap::import::{ImportedImage, import};
use crate::fault::Fault;
use crate::runtime::{Health, Metrics};
use crate::server::{ListenAddress, Server, ServerHandle};
use crate::source::containerd::{Client, DEFAULT_ADDRESS, DEFAULT_NAMESPACE, ImageWriter};
use crate::transfer::Progress;

/// How long containerd may not answer while content is sent.
const IDLE: Duration = Duration::from_secs(60);

/// Import the images of an archive into the containerd of this machine, under their tags and digests.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(hide = true, after_help = examples::IMPORT_IMAGES)]
pub(super) struct ImportImages {
    /// The archive.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The socket of the containerd.
    #[arg(long, default_value = DEFAULT_ADDRESS, value_name = "ADDRESS")]
    socket: String,
    /// The namespace of the images.
    #[arg(long, default_value = DEFAULT_NAMESPACE, value_name = "NAMESPACE")]
    namespace: String,
    /// Label the images so that the kubelet does not remove them.
    #[arg(long)]
    pin: bool,
    /// After the import, listen on this address and stay until a signal: what asks there knows that the images are imported.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<ListenAddress>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// One image, as `--output json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    names: &'a [String],
    digest: &'a str,
    sent_bytes: u64,
}

impl ImportImages {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let listen = self.listen;
        let code = until(stop.clone(), "import-images", self.import()).await;
        let Some(address) = listen.filter(|_| code == ExitCode::SUCCESS) else {
            return code;
        };
        match serve(&address, &stop).await {
            Ok(server) => {
                stop.cancelled().await;
                server.end().await;
                ExitCode::SUCCESS
            }
            Err(error) => failure("import-images", &error),
        }
    }

    async fn import(&self) -> anyhow::Result<()> {
        let within = |fault: Fault| fault.with_context(self.file.display());
        let archive = archive::open(&self.file).await?;
        let client = Client::new(&self.socket, &self.namespace, IDLE)?;
        let progress = Arc::new(Progress::default());
        progress.set_total(archive.blobs().fold(0, |sum, (_, size)| size.saturating_add(sum)));
        let writer = ImageWriter::open(&client).await?;
        let display = Display::new(self.output, false);
        let name = self.file.display().to_string();
        let work = import(&archive, &writer, self.pin, &progress);
        let imported = display.follow(&name, &progress, work).await;
        // Without the lease, containerd collects what no image has.
        let finished = writer.finish().await;
        let imported = imported.map_err(within)?;
        finished?;
        self.report(&imported);
        Ok(())
    }

    fn report(&self, imported: &[ImportedImage]) {
        match self.output {
            Output::Json => {
                let reports = imported.iter().map(|image| Report {
                    names: &image.names,
                    digest: &image.digest,
                    sent_bytes: image.sent,
                });
                let reports: Vec<Report<'_>> = reports.collect();
                print::line(serde_json::to_string_pretty(&reports).unwrap_or_default());
            }
            Output::Text => {
                for image in imported {
                    for name in &image.names {
                        print::line(format_args!("{name} ({} sent)", bytes(image.sent)));
                    }
                }
            }
        }
    }
}

/// Answers on `address`.
async fn serve(address: &ListenAddress, stop: &CancellationToken) -> anyhow::Result<ServerHandle> {
    let server = Server::bind(address).await?;
    Ok(server.start(Metrics::default(), Health::default(), stop.clone()))
}
