//! The commands, one file each; wiring only.

mod agent;
mod authorities;
mod build;
mod cluster;
mod completion;
mod controller;
mod convert;
mod crd;
mod credential_helper;
mod credentials;
mod engine;
mod examples;
mod files;
mod key;
mod limits;
mod package_file;
mod print;
mod probe;
mod progress;
mod registry_clients;
mod sbom;
mod sign;
mod stored;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::fault::{Fault, Frontend};
use crate::source::docker;

/// Packages of images, built inside the cluster, for clusters without internet.
#[derive(Debug, Parser)]
#[command(name = "jackal-operator", version, max_term_width = 100, after_help = examples::COMMAND)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
    /// What is logged, such as `info` or `jackal_operator=debug,kube=info`.
    #[arg(
        long,
        global = true,
        env = "JACKAL_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
    /// How it is logged, on standard error.
    #[arg(long, global = true, env = "JACKAL_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// What each is for, and its exit codes, stands at its flags.
#[derive(Debug, Subcommand)]
enum Action {
    Controller(controller::Controller),
    Agent(agent::Agent),
    Build(build::Build),
    Convert(convert::Convert),
    Sbom(sbom::Sbom),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Crd(crd::Crd),
    Probe(probe::Probe),
    Completion(completion::Completion),
}

/// Bytes of stack of each thread. What runs deepest (a deletion beside all that guards it) takes more than the usual 2 MiB where
/// nothing is optimised.
const STACK: usize = 8 << 20;
/// How long the process waits at its end for engines that pushed images.
const SETTLING: Duration = Duration::from_secs(10);

/// Exit code of a command whose input or flags cannot be used; what failed otherwise exits with 1.
const UNUSABLE: u8 = 2;

/// What cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

impl Command {
    /// Runs the command; the process's exit code comes back.
    pub fn run(self) -> ExitCode {
        // One provider in the whole process; it is the first thing that is done, so that nobody was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Err(error) = start_log(&self.log, self.log_format) {
            print::note(format_args!("jackal-operator: --log {}: {error}", self.log));
            return ExitCode::from(UNUSABLE);
        }
        let front = match self.action {
            Action::Controller(_) | Action::Agent(_) => Frontend::Cluster,
            _ => Frontend::CommandLine,
        };
        front.choose();
        match self.action {
            Action::Controller(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Agent(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Build(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Sbom(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Sign(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Verify(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Probe(command) => in_runtime(front, |stop| command.run(stop)),
            // These wait for files and standard input alone, so a signal ends them as it ends any process.
            Action::Convert(command) => command.run(),
            Action::Crd(command) => command.run(),
            Action::Completion(command) => command.run(),
        }
    }
}

/// Runs `work` in a runtime of its own, with what a signal cancels.
fn in_runtime<W: Future<Output = ExitCode>>(front: Frontend, work: impl FnOnce(CancellationToken) -> W) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.enable_all().thread_stack_size(STACK).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::note(format_args!(
                "jackal-operator: the threads could not be started: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    let stop = CancellationToken::new();
    runtime.spawn(stop_on_signal(stop.clone(), front));
    let code = runtime.block_on(work(stop));
    // What was cancelled above takes back what it did to an engine.
    runtime.block_on(docker::wait_for_name_removal(SETTLING));
    // A blocking read of a dead file system must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// Runs `work` of the command `name` until `stop`, and says what failed. Exit codes: 0 done, 1 something failed, 2 the
/// input or a flag cannot be used, 130 interrupted.
async fn until(stop: CancellationToken, name: &str, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let error = tokio::select! {
        result = work => match result {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => error,
        },
        () = stop.cancelled() => {
            print::note(format_args!("jackal-operator {name}: interrupted"));
            return ExitCode::from(130);
        }
    };
    let fault = error.downcast_ref::<Fault>();
    let stalled = fault.is_some_and(Fault::is_stalled);
    match fault {
        Some(fault) => print::note(format_args!("jackal-operator {name}: {}", fault.message)),
        None => print::note(format_args!("jackal-operator {name}: {error:#}")),
    }
    match stalled || error.is::<UsageError>() {
        true => ExitCode::from(UNUSABLE),
        false => ExitCode::FAILURE,
    }
}

/// Libraries whose warnings are about what our own errors say better, beside the number of the line that is at fault.
const QUIET: [&str; 4] = ["rustls", "hyper", "hyper_util", "reqwest"];

fn start_log(filter: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    // Whatever NO_COLOR says, unless it is empty (no-color.org).
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !forbidden && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let asked = |library: &str| ["debug", "trace", library].iter().any(|word| filter.contains(word));
    let quiet = QUIET.iter().filter(|library| !asked(library));
    let directives: Vec<String> = quiet.map(|library| format!("{library}=off")).collect();
    let filter = EnvFilter::try_new([&[filter.to_owned()][..], &directives].concat().join(","))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        // It would be told on the standard error that cannot be written.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Cancels `stop` on SIGTERM and SIGINT. The log of what runs in a cluster says so.
async fn stop_on_signal(stop: CancellationToken, front: Frontend) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    if front == Frontend::Cluster {
        tracing::info!("stopping");
    }
    stop.cancel();
}
