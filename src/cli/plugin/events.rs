//! `kubectl jackal events`: what happened to a package and its images.

use std::collections::BTreeSet;

use clap::Args;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::super::print;
use super::objects::{PackageState, package_state, requested};
use super::scope::ScopeFlags;

/// The most events that are read.
const MOST: u32 = 2000;

/// Show the events of a package and of its images, the oldest first.
///
/// The API server keeps events for an hour by default.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// The package.
    #[arg(value_name = "PACKAGE")]
    name: String,
    #[command(flatten)]
    scope: ScopeFlags,
}

impl Events {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        let state = package_state(&scope, &self.name).await?;
        let api: Api<Event> = Api::namespaced(scope.client.clone(), &scope.namespace);
        let listed = requested("cannot list events", api.list(&ListParams::default().limit(MOST))).await?;
        let text = rows(&state, listed.items);
        match text.is_empty() {
            true => print::note(format_args!("{} has no events", self.name)),
            false => print::line(text.trim_end()),
        }
        Ok(())
    }
}

/// The lines of those of `events` that regard the package or one of its images.
fn rows(state: &PackageState, events: Vec<Event>) -> String {
    let own = [state.package.uid()].into_iter();
    let uids: BTreeSet<String> = own
        .chain(state.images.values().map(ResourceExt::uid))
        .flatten()
        .collect();
    let mut dated: Vec<(String, Vec<String>)> = Vec::new();
    for event in events {
        let Some(object) = event
            .regarding
            .filter(|object| object.uid.as_ref().is_some_and(|uid| uids.contains(uid)))
        else {
            continue;
        };
        let series = event.series.map(|series| series.last_observed_time.0.to_string());
        let once = event.event_time.map(|time| time.0.to_string());
        let time = series.or(once).unwrap_or_default();
        let cells = [Some(time.clone()), event.type_, object.name, event.reason, event.note];
        dated.push((time, cells.map(|cell| print::shown(&cell.unwrap_or_default())).to_vec()));
    }
    dated.sort();
    print::table(&dated.into_iter().map(|(_, cells)| cells).collect::<Vec<_>>())
}
