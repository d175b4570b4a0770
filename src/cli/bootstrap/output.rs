//! What `bootstrap` prints.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::bootstrap::install::Object;
use crate::bootstrap::preflight::{Report, Status};
use crate::bootstrap::steps::{DoneStep, Observer, Prepared, Step, Uploaded};
use crate::cli::print;
use crate::cli::progress::{Display, Output, bytes};

/// Shows steps on standard error, and keeps them for the result.
pub(super) struct Steps {
    display: Display,
    done: Mutex<Vec<DoneStep>>,
    begin: Instant,
}

impl Steps {
    pub(super) fn new(display: Display) -> Self {
        Self {
            display,
            done: Mutex::default(),
            begin: Instant::now(),
        }
    }

    pub(super) fn display(&self) -> &Display {
        &self.display
    }

    /// Ends a step that began first.
    pub(super) fn ended(&self, step: Step, what: String) {
        self.done(&DoneStep {
            step,
            elapsed: self.begin.elapsed(),
            what,
        });
    }
}

impl Observer for Steps {
    fn begins(&self, step: Step) {
        self.display.note(format_args!("{}...", step.name()));
    }

    fn done(&self, done: &DoneStep) {
        let seconds = done.elapsed.as_secs_f64();
        self.display
            .note(format_args!("{}: {} ({seconds:.1} s)", done.step.name(), done.what));
        let mut all = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(done.clone());
    }

    fn note(&self, text: &str) {
        self.display.note(text);
    }
}

/// The result, as `--output json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Result<'a> {
    cluster: &'a str,
    archive: &'a str,
    version: &'a str,
    expose: &'a str,
    packages: &'a [String],
    images: &'a [String],
    sent_bytes: u64,
    steps: Vec<StepResult<'a>>,
    /// For `helm upgrade --install`.
    helm_values: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepResult<'a> {
    step: &'a str,
    seconds: f64,
    result: &'a str,
}

/// Prints what was installed.
pub(super) fn report(output: Output, prepared: &Prepared, uploaded: &Uploaded, steps: &Steps) {
    let done = steps.done.lock().unwrap_or_else(PoisonError::into_inner);
    match output {
        Output::Json => {
            let steps = done.iter().map(|done| StepResult {
                step: done.step.name(),
                seconds: done.elapsed.as_secs_f64(),
                result: &done.what,
            });
            let result = Result {
                cluster: &prepared.cluster,
                archive: &prepared.archive,
                version: &prepared.version,
                expose: prepared.expose.value(),
                packages: &uploaded.packages,
                images: &uploaded.images,
                sent_bytes: uploaded.sent,
                steps: steps.collect(),
                helm_values: prepared.helm_values(),
            };
            print::line(serde_json::to_string_pretty(&result).unwrap_or_default());
        }
        Output::Text => {
            for name in uploaded.images.iter().chain(&uploaded.packages) {
                print::line(name);
            }
            let total: Duration = steps.begin.elapsed();
            print::line(format_args!(
                "installed version {} in the cluster {} in {:.1} s ({} sent)",
                prepared.version,
                prepared.cluster,
                total.as_secs_f64(),
                bytes(uploaded.sent)
            ));
        }
    }
}

/// What the preflight checks found, in short.
pub(super) fn summary(report: &Report) -> String {
    let count = |status: Status| report.checks.iter().filter(|check| check.status == status).count();
    format!(
        "{} checks are ok, {} warnings, {} failures",
        count(Status::Ok),
        count(Status::Warning),
        count(Status::Failure)
    )
}

/// Prints all objects as YAML, without the values of Secrets.
pub(super) fn print_objects(prepared: &Prepared, seeds: &[Object]) -> anyhow::Result<()> {
    let state = prepared.state_at(Step::Preflight).object()?;
    let mut text = String::new();
    for object in prepared.objects.iter().chain([&state]).chain(seeds) {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&shown(object))?);
    }
    Ok(print::document(&text)?)
}

/// The object as it is shown.
fn shown(object: &Object) -> Value {
    let mut content = object.content.clone();
    if object.kind.kind == "Secret" {
        for field in ["data", "stringData"] {
            let values = content.get_mut(field).and_then(Value::as_object_mut);
            for value in values.into_iter().flat_map(|values| values.values_mut()) {
                *value = Value::from("<redacted>");
            }
        }
    }
    // The program of the seed.
    let values = content.get_mut("binaryData").and_then(Value::as_object_mut);
    for value in values.into_iter().flat_map(|values| values.values_mut()) {
        let length = value.as_str().map_or(0, |text| text.len() / 4 * 3);
        *value = Value::from(format!("<{length} bytes>"));
    }
    content
}
