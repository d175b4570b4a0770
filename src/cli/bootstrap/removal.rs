//! `bootstrap --undo`.

use std::io::{IsTerminal as _, stdin};

use serde::Serialize;

use super::Bootstrap;
use crate::bootstrap::cluster::Cluster;
use crate::bootstrap::local::Records;
use crate::bootstrap::undo::{Removal, packages, undo};
use crate::cli::progress::Output;
use crate::cli::state::state_folder;
use crate::cli::{UsageError, print};

/// The most names of packages in a question.
const SHOWN: usize = 10;

/// The result, as `--output json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Result<'a> {
    removed: &'a [String],
    seeds: bool,
    stays: &'a [String],
}

impl Bootstrap {
    /// Removes the installation.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let (client, _) = self.cluster.open().await?;
        let cluster = Cluster::new(client);
        let packages = packages(&cluster).await?;
        if !packages.is_empty() && !self.yes {
            confirm(&packages)?;
        }
        let identity = cluster.identity().await?;
        let seeds = self.seeds(&cluster);
        let removal = Removal { data: self.delete_data };
        let removed = undo(&cluster, &*seeds, removal).await?;
        if let Some(folder) = state_folder("bootstrap") {
            Records::new(folder).end_all(&identity);
        }
        match self.output {
            Output::Json => {
                let result = Result {
                    removed: &removed.objects,
                    seeds: removed.seeds,
                    stays: &removed.stays,
                };
                print::line(serde_json::to_string_pretty(&result).unwrap_or_default());
            }
            Output::Text => {
                for object in &removed.objects {
                    print::line(format_args!("removed {object}"));
                }
                for stays in &removed.stays {
                    print::line(format_args!("stays: {stays}"));
                }
                if removed.objects.is_empty() && !removed.seeds {
                    print::line("there is nothing to remove");
                }
            }
        }
        Ok(())
    }
}

/// Asks on the terminal whether the packages may be deleted.
fn confirm(packages: &[String]) -> anyhow::Result<()> {
    let mut names: Vec<&str> = packages.iter().map(String::as_str).take(SHOWN).collect();
    if packages.len() > SHOWN {
        names.push("...");
    }
    let what = format!("--undo deletes {} packages: {}", packages.len(), names.join(", "));
    if !stdin().is_terminal() {
        return Err(UsageError(format!("{what}; add --yes if that is meant")).into());
    }
    print::note(format_args!("{what}. Delete them? [y/N]"));
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "yes" => Ok(()),
        _ => Err(UsageError("nothing was deleted".to_owned()).into()),
    }
}
