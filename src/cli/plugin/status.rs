//! `kubectl jackal status`: packages, and the images that are not ready yet, with their progress.

use std::time::Duration;

use clap::{Args, ValueEnum};
use kube::ResourceExt as _;
use serde_json::json;

use super::super::print;
use super::objects::{PackageState, packages};
use super::scope::ScopeFlags;
use crate::api::v1alpha1::{ImageState, JackalImage, PackagedImage, TransferProgress};

/// How often `--watch` reads the objects.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Show packages, and their images that are not ready.
///
/// For an image that is being transferred: the part that is in the registry, the rate, the time that is left at that rate, and the
/// process that transfers it. With names, all images are shown.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The packages. Default: all of the namespace.
    #[arg(value_name = "PACKAGE")]
    names: Vec<String>,
    #[command(flatten)]
    scope: ScopeFlags,
    /// Show the packages of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["names", "namespace"])]
    all_namespaces: bool,
    /// Show the state again whenever it changes, until every package is ready or fails for good.
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// The forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table.
    Text,
    /// The packages and their images as JSON.
    Json,
    /// The names of the packages.
    Name,
}

impl Status {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scope = self.scope.open().await?;
        let mut last = String::new();
        loop {
            let states = packages(&scope, &self.names, self.all_namespaces).await?;
            let text = match self.output {
                Format::Text if states.is_empty() => {
                    print::note(format_args!("the namespace {} has no JackalPackage", scope.namespace));
                    String::new()
                }
                Format::Text => table(&states, self.all_namespaces, !self.names.is_empty()),
                Format::Json => serde_json::to_string_pretty(&states.iter().map(document).collect::<Vec<_>>())?,
                Format::Name => names(&states),
            };
            if text != last && !text.is_empty() {
                print::line(text.trim_end());
                last = text;
            }
            if !self.watch || states.iter().all(is_final) {
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}

/// Whether nothing is to be expected before the object changes.
fn is_final(state: &PackageState) -> bool {
    let is = |kind: &str, value: &str| state.condition(kind).is_some_and(|condition| condition.status == value);
    is("Ready", "True") || is("Stalled", "True")
}

fn names(states: &[PackageState]) -> String {
    let lines = states
        .iter()
        .map(|state| format!("jackalpackage.jackal.dev/{}\n", state.package.name_any()));
    lines.collect()
}

/// A package as JSON: the object, and its images.
fn document(state: &PackageState) -> serde_json::Value {
    json!({ "package": state.package, "images": state.images.values().collect::<Vec<_>>() })
}

/// The rows of all packages. `is_whole`: images that are ready are shown too.
fn table(states: &[PackageState], is_everywhere: bool, is_whole: bool) -> String {
    let header = ["NAME", "VERSION", "READY", "DONE", "RATE", "LEFT", "HOLDER", "STATUS"];
    let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
    for state in states {
        let status = state.package.status.as_ref();
        let name = match is_everywhere {
            true => format!(
                "{}/{}",
                state.package.namespace().unwrap_or_default(),
                state.package.name_any()
            ),
            false => state.package.name_any(),
        };
        let ready = state.condition("Ready");
        let counts = status.and_then(|status| status.counts.as_ref());
        rows.push(vec![
            name,
            status.and_then(|status| status.version.clone()).unwrap_or_default(),
            ready.map(|ready| ready.status.clone()).unwrap_or_default(),
            counts.map(|counts| counts.display.clone()).unwrap_or_default(),
            String::new(),
            String::new(),
            String::new(),
            ready.map_or_else(|| "Pending".to_owned(), |ready| ready.reason.clone()),
        ]);
        let images = status.map(|status| status.images.as_slice()).unwrap_or_default();
        for image in images {
            if is_whole || image.state != ImageState::Ready {
                rows.push(image_row(image, state.images.get(&image.resource)));
            }
        }
    }
    let shown = rows
        .into_iter()
        .map(|row| row.iter().map(|cell| print::shown(cell)).collect());
    print::table(&shown.collect::<Vec<Vec<String>>>())
}

fn image_row(image: &PackagedImage, object: Option<&JackalImage>) -> Vec<String> {
    let status = object.and_then(|object| object.status.as_ref());
    let progress = status.and_then(|status| status.progress.as_ref());
    let holder = status
        .and_then(|status| status.claim.as_ref())
        .map(|claim| claim.holder.clone());
    let is_moving = image.state == ImageState::Transferring;
    let progress = progress.filter(|_| is_moving);
    let rate = progress
        .and_then(|progress| progress.bytes_per_second)
        .unwrap_or_default();
    let is_ready = if image.state == ImageState::Ready {
        "True"
    } else {
        "False"
    };
    vec![
        format!("  {}", image.image),
        String::new(),
        is_ready.to_owned(),
        progress.map(part).unwrap_or_default(),
        match rate {
            1.. => format!("{}/s", size(rate)),
            _ => String::new(),
        },
        progress.and_then(left).unwrap_or_default(),
        holder.filter(|_| is_moving).unwrap_or_default(),
        image.reason.clone(),
    ]
}

/// Bytes as text.
pub(super) fn size(bytes: i64) -> String {
    super::super::progress::bytes(u64::try_from(bytes).unwrap_or_default())
}

fn part(progress: &TransferProgress) -> String {
    match progress.total_bytes {
        1.. => format!("{} of {}", size(progress.done_bytes), size(progress.total_bytes)),
        _ => size(progress.done_bytes),
    }
}

/// How long the rest takes at the present rate.
fn left(progress: &TransferProgress) -> Option<String> {
    let rate = progress.bytes_per_second.filter(|rate| *rate > 0)?;
    let rest = progress.total_bytes.saturating_sub(progress.done_bytes);
    let seconds = (rest > 0).then(|| rest.saturating_add(rate - 1) / rate)?;
    Some(match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn state(package: Value, images: Vec<Value>) -> PackageState {
        let images = images
            .into_iter()
            .map(|image| serde_json::from_value::<JackalImage>(image).unwrap());
        PackageState {
            package: serde_json::from_value(package).unwrap(),
            images: images
                .map(|image| (image.name_any(), image))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn package(name: &str, status: Value) -> Value {
        json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "version": "1", "components": [{ "name": "web", "images": ["web:1"] }] },
            "status": status,
        })
    }

    #[test]
    fn a_transfer_has_its_rate_the_time_left_and_its_holder() {
        let ready = json!({
            "type": "Ready", "status": "Unknown", "reason": "Transferring", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = json!({
            "version": "1.4.0", "conditions": [ready],
            "counts": { "total": 2, "ready": 1, "failed": 0, "display": "1/2" },
            "images": [
                { "image": "a/web:1", "name": "c/web:1", "resource": "web", "state": "Transferring", "reason": "Transferring" },
                { "image": "a/app:1\u{1b}[2J", "name": "c/app:1", "resource": "app", "state": "Ready", "reason": "Succeeded" },
            ],
        });
        let image = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "web" },
            "spec": { "image": "a/web:1" },
            "status": {
                "claim": { "holder": "pod-1", "renewTime": "2026-01-01T00:00:00.000000Z" },
                "progress": { "doneBytes": 1 << 20, "totalBytes": 11 << 20, "bytesPerSecond": 1 << 20 },
            },
        });
        let states = [state(package("shop", status), vec![image])];
        let text = table(&states, true, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["shop/shop", "1.4.0", "Unknown", "1/2", "Transferring"]);
        assert!(
            lines[2].contains("1.00 MiB of 11.0 MiB") || lines[2].contains("MiB of 11"),
            "{text}"
        );
        for part in ["a/web:1", "MiB/s", "10 s", "pod-1"] {
            assert!(lines[2].contains(part), "{part}: {text}");
        }
        let whole = table(&states, false, true);
        assert!(whole.lines().count() == 4 && !whole.contains('\u{1b}'), "{whole}");
        assert!(!is_final(&states[0]));
        assert_eq!(names(&states), "jackalpackage.jackal.dev/shop\n");
    }

    #[test]
    fn a_package_without_status_is_pending() {
        let text = table(&[state(package("shop", Value::Null), Vec::new())], false, false);
        assert!(text.contains("Pending"), "{text}");
    }

    #[test]
    fn the_time_left_needs_a_rate() {
        let progress = |done, total, rate| TransferProgress::new(done, total, rate);
        assert_eq!(left(&progress(0, 100, None)), None);
        assert_eq!(left(&progress(0, 0, Some(5))), None);
        assert_eq!(left(&progress(0, 100, Some(30))).unwrap(), "4 s");
        assert_eq!(left(&progress(0, 36_000, Some(10))).unwrap(), "60 min");
        assert_eq!(left(&progress(0, 360_000, Some(10))).unwrap(), "10 h");
    }
}
