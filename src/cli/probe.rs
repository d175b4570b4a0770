//! `probe`: checks the health of a server, for containers without shell and curl, such as in `helm test`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::cluster::duration;
use super::{EXIT_USAGE, examples, print};

/// The timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The delay between two requests.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The length of a response body in messages, in bytes.
const BODY_LIMIT: usize = 500;

/// Check the health of a server in the cluster.
///
/// Requests the URL over plain HTTP until the response is a success.
///
/// Exit codes: 0 success, 1 no successful response in time, 2 invalid URL or flag.
#[derive(Debug, Args)]
#[command(after_help = examples::PROBE)]
pub(super) struct Probe {
    /// The URL, such as http://jackal-controller.jackal.svc:8080/readyz.
    url: Url,
    /// How long to wait for a successful response.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    within: Duration,
}

impl Probe {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        if self.url.scheme() != "http" {
            print::note(format_args!(
                "jackal-operator probe: {}: unsupported scheme: use an http:// URL",
                self.url
            ));
            return ExitCode::from(EXIT_USAGE);
        }
        // The server is in the cluster, so no proxy is used.
        let client = match reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build() {
            Ok(client) => client,
            Err(error) => {
                print::note(format_args!(
                    "jackal-operator probe: cannot create the HTTP client: {error}"
                ));
                return ExitCode::FAILURE;
            }
        };
        let mut last = "no request was sent".to_owned();
        let asking = async {
            while let Err(error) = request(&client, &self.url).await {
                last = error;
                tokio::time::sleep(RETRY_DELAY).await;
            }
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.within, asking) => answered.is_ok(),
            () = stop.cancelled() => false,
        };
        if answered {
            print::line(format_args!("{} responded with success", self.url));
            return ExitCode::SUCCESS;
        }
        let within = self.within.as_secs_f64();
        print::note(format_args!(
            "jackal-operator probe: {}: no successful response in {within} s: {last}",
            self.url
        ));
        ExitCode::FAILURE
    }
}

/// Sends one request; the error describes an unsuccessful response.
async fn request(client: &reqwest::Client, url: &Url) -> Result<(), String> {
    let mut answer = client.get(url.clone()).send().await.map_err(with_causes)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() >= BODY_LIMIT {
            text.truncate(BODY_LIMIT);
            break;
        }
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&text).trim()))
}

/// An error with its causes: the message of reqwest alone does not say why a connection failed.
fn with_causes(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
