//! `probe`: asks a server for its health, where there is no shell and no other client, such as in `helm test`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::cluster::duration;
use super::{UNUSABLE, examples, print};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// What is shown of an answer.
const SHOWN: usize = 500;

/// Ask a server in the cluster for its health.
///
/// The address is asked over plain HTTP until it answers with success.
///
/// Exit codes: 0 it did, 1 it did not in time, 2 the address or a flag cannot be used.
#[derive(Debug, Args)]
#[command(after_help = examples::PROBE)]
pub(super) struct Probe {
    /// Such as http://jackal-controller.jackal.svc:8080/readyz.
    url: Url,
    /// How long it may take until it does.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    within: Duration,
}

impl Probe {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        if self.url.scheme() != "http" {
            print::note(format_args!(
                "jackal-operator probe: {} is not of plain HTTP: name an http:// address",
                self.url
            ));
            return ExitCode::from(UNUSABLE);
        }
        // What is asked is in the cluster: never by a proxy.
        let client = match reqwest::Client::builder().no_proxy().timeout(ANSWER).build() {
            Ok(client) => client,
            Err(error) => {
                print::note(format_args!(
                    "jackal-operator probe: the client could not be made: {error}"
                ));
                return ExitCode::FAILURE;
            }
        };
        let mut last = "it was not asked".to_owned();
        let asking = async {
            while let Err(said) = ask(&client, &self.url).await {
                last = said;
                tokio::time::sleep(PAUSE).await;
            }
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.within, asking) => answered.is_ok(),
            () = stop.cancelled() => false,
        };
        if answered {
            print::line(format_args!("{} answers with success", self.url));
            return ExitCode::SUCCESS;
        }
        let within = self.within.as_secs_f64();
        print::note(format_args!(
            "jackal-operator probe: {} did not answer with success within {within} s: {last}",
            self.url
        ));
        ExitCode::FAILURE
    }
}

/// One question; what was said where it was not success.
async fn ask(client: &reqwest::Client, url: &Url) -> Result<(), String> {
    let mut answer = client.get(url.clone()).send().await.map_err(said)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() >= SHOWN {
            text.truncate(SHOWN);
            break;
        }
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&text).trim()))
}

/// An error with its causes: reqwest's own words do not say why a connection failed.
fn said(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
