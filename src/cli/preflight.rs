//! `preflight`: whether `bootstrap` can install the operator in a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kubeconfig::KubeconfigFlags;
use super::progress::Output;
use super::{EXIT_INTERRUPTED, EXIT_USAGE, examples, failure, print};
use crate::archive;
use crate::bootstrap::install::Size;
use crate::bootstrap::preflight::{Report, Status, Wanted, gather, judge, summarise, unreachable};

/// Check whether the operator and its registry can be installed in a cluster.
///
/// Nothing is changed in the cluster: objects are only tried by server-side dry runs. Each check is ok, a warning or a failure, with
/// advice; docs/preflight.md explains each. Without FILE, the checks that compare the cluster with an archive are left out.
///
/// Exit codes: 0 no failure, 1 the API server cannot be reached, 2 a failure must be corrected first, or a file or flag cannot be
/// used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::PREFLIGHT)]
pub(super) struct Preflight {
    /// The archive that `bootstrap` will be given.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: KubeconfigFlags,
    /// The storage class of the registry's volume. Default: the default class of the cluster.
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,
    /// The size of the registry's volume, such as 50Gi. Default: that of the chart.
    #[arg(long, value_name = "SIZE")]
    storage_size: Option<Size>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Preflight {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        tokio::select! {
            code = self.preflight() => code.unwrap_or_else(|error| failure("preflight", &error)),
            () = stop.cancelled() => {
                print::note("jackal-operator preflight: interrupted");
                ExitCode::from(EXIT_INTERRUPTED)
            }
        }
    }

    async fn preflight(&self) -> anyhow::Result<ExitCode> {
        let archive = match &self.file {
            Some(file) => {
                let within = |fault: crate::fault::Fault| fault.with_context(file.display());
                let archive = archive::open(file).await?;
                Some(summarise(&archive).await.map_err(within)?)
            }
            None => None,
        };
        let (client, server) = self.cluster.open().await?;
        let wanted = Wanted {
            storage_class: self.storage_class.clone(),
            storage_size: self.storage_size.as_ref().map(Size::bytes),
            ephemeral: false,
        };
        let (report, code) = match gather(&client, &server).await {
            Ok(facts) => {
                let report = judge(&facts, archive.as_ref(), &wanted);
                let code = match report.status {
                    Status::Failure => ExitCode::from(EXIT_USAGE),
                    Status::Ok | Status::Warning => ExitCode::SUCCESS,
                };
                (report, code)
            }
            Err(reason) => {
                let code = match reason.is_refusal {
                    true => ExitCode::from(EXIT_USAGE),
                    false => ExitCode::FAILURE,
                };
                (unreachable(&server, &reason), code)
            }
        };
        print::document(&match self.output {
            Output::Json => serde_json::to_string_pretty(&report)? + "\n",
            Output::Text => text_of(&report),
        })?;
        Ok(code)
    }
}

/// The report as a table: a row for each check, and one below it with the advice.
pub(super) fn text_of(report: &Report) -> String {
    let word = |status: Status| match status {
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Failure => "failure",
    };
    let mut rows = Vec::new();
    for check in &report.checks {
        let row = [word(check.status), check.name, &check.found];
        rows.push(row.map(print::shown).to_vec());
        if !check.advice.is_empty() {
            rows.push(["", "", &format!("-> {}", check.advice)].map(print::shown).to_vec());
        }
    }
    let mut text = print::table(&rows);
    if !report.not_checked.is_empty() {
        text += &format!("Not checked without FILE: {}\n", report.not_checked.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::preflight::Unreachable;

    #[test]
    fn advice_is_below_what_was_found() {
        let reason = Unreachable {
            message: "refused".to_owned(),
            is_refusal: false,
        };
        let text = text_of(&unreachable("https://x:6443", &reason));
        assert_eq!(
            text,
            "failure  api-server  https://x:6443: refused\n                     -> see that the API server runs and that this \
             machine reaches it, and run the command again (docs/preflight.md#api-server)\n"
        );
    }
}
