//! `serve`: a read-only registry directly from package files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::load::NamingFlag;
use super::progress::Output;
use super::{EXIT_INTERRUPTED, UsageError, examples, failure, print};
use crate::archive;
use crate::serve::{Content, Counts, Limits, Server};
use crate::server::{ListenAddress, ListenError, server_config};

/// Serve package files as a read-only registry, without unpacking them.
///
/// containerd, docker, skopeo, oras, crane, Flux and Helm pull the original digests. An image has its own name with and without the
/// host of its registry, so that the server also works as a mirror; a package is below the prefix. There are no logins: whoever
/// reaches the address reads everything.
///
/// Exit codes: 0 stopped after all responses, 1 something failed and may succeed another time, 2 a file or a flag cannot be used, 130
/// stopped before some responses were complete.
#[derive(Debug, Args)]
#[command(after_help = examples::SERVE)]
pub(super) struct Serve {
    /// The files, all under one address.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The IP address and port to listen on; with port 0, a free one is chosen and printed.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS")]
    listen: ListenAddress,
    /// The certificate of the server with its chain, as PEM; without it, plain HTTP is served.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as unencrypted PEM.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The path below which packages are served, and images too.
    #[arg(long, default_value = "", value_name = "PATH")]
    prefix: String,
    /// The additional names of the images, as `load` makes them.
    #[arg(long, value_enum, default_value = "plain")]
    naming: NamingFlag,
    /// How the address is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What is served, as `--output json` prints it at the start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    address: String,
    images: usize,
    packages: usize,
    repositories: Vec<&'a str>,
}

impl Serve {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let started = tokio::select! {
            started = self.start() => started,
            () = stop.cancelled() => return ExitCode::from(EXIT_INTERRUPTED),
        };
        let (server, content) = match started {
            Ok(started) => started,
            Err(error) => return failure("serve", &error),
        };
        self.report(&server, &content);
        match server.run(content, Limits::default(), stop).await {
            true => ExitCode::SUCCESS,
            false => {
                print::note("jackal-operator serve: stopped before some responses were complete");
                ExitCode::from(EXIT_INTERRUPTED)
            }
        }
    }

    async fn start(&self) -> anyhow::Result<(Server, Arc<Content>)> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(server_config(
                &read("--tls-cert", certificate)?,
                &read("--tls-key", key)?,
            )?),
            _ => None,
        };
        let mut archives = Vec::with_capacity(self.files.len());
        for file in &self.files {
            archives.push((file.as_path(), archive::open(file).await?));
        }
        let content = Content::new(archives, &self.prefix, self.naming.into())?;
        let server = Server::bind(&self.listen, tls).await.map_err(|error| match error {
            ListenError::Invalid => anyhow::Error::from(UsageError(error.to_string())),
            ListenError::Refused { .. } => error.into(),
        })?;
        Ok((server, Arc::new(content)))
    }

    fn report(&self, server: &Server, content: &Content) {
        let Counts { images, packages } = content.counts();
        let address = server.address().to_string();
        match self.output {
            Output::Json => {
                let report = Report {
                    address,
                    images,
                    packages,
                    repositories: content.repositories().collect(),
                };
                print::line(serde_json::to_string_pretty(&report).unwrap_or_default());
            }
            Output::Text => {
                let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
                print::line(format_args!(
                    "serving {images} {} and {packages} {} at {scheme}://{address}",
                    if images == 1 { "image" } else { "images" },
                    if packages == 1 { "package" } else { "packages" },
                ));
            }
        }
    }
}

/// The content of the file that `flag` names.
fn read(flag: &str, path: &Path) -> Result<Vec<u8>, UsageError> {
    std::fs::read(path).map_err(|error| UsageError(format!("{flag} {}: {error}", path.display())))
}
