//! The commands, one file each. They only connect flags to the other modules.

mod agent;
mod authorities;
mod bootstrap;
mod bootstrap_export;
mod build;
mod cluster;
mod completion;
mod connection;
mod controller;
mod convert;
mod crd;
mod credential_helper;
mod credentials;
mod diff;
mod engine;
mod examples;
mod files;
mod garbage_collect;
mod have;
mod idle;
mod import_images;
mod inspect;
mod inventory;
mod join;
mod key;
mod kubeconfig;
mod limits;
mod load;
mod output_file;
mod pack;
mod package_file;
mod part_flags;
mod plugin;
mod preflight;
mod print;
mod probe;
mod progress;
mod proxy;
mod receipt;
mod registry_clients;
mod repair;
mod sbom;
mod serve;
mod sign;
mod signer;
mod split;
mod state;
mod stored;
mod unpack;
mod verify;
mod verify_file;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub use self::plugin::Plugin;
use crate::fault::{Fault, Frontend};
use crate::source::docker;

/// Builds packages of images for clusters without internet access, and copies images into their registries.
#[derive(Debug, Parser)]
#[command(name = "jackal-operator", version, max_term_width = 100, after_help = examples::COMMAND)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
    /// The log filter, such as `info` or `jackal_operator=debug,kube=info`.
    #[arg(
        long,
        global = true,
        env = "JACKAL_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
    /// The format of the log on standard error.
    #[arg(long, global = true, env = "JACKAL_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The commands. Each documents its purpose and exit codes in its own module.
#[derive(Debug, Subcommand)]
enum Action {
    Controller(controller::Controller),
    Agent(agent::Agent),
    Build(build::Build),
    Convert(convert::Convert),
    Pack(pack::Pack),
    Load(load::Load),
    Inventory(inventory::Inventory),
    Split(split::Split),
    Join(join::Join),
    Repair(repair::Repair),
    Unpack(unpack::Unpack),
    Inspect(inspect::Inspect),
    Diff(diff::Diff),
    Serve(serve::Serve),
    Preflight(preflight::Preflight),
    Bootstrap(bootstrap::Bootstrap),
    ImportImages(import_images::ImportImages),
    Proxy(proxy::Proxy),
    GarbageCollect(garbage_collect::GarbageCollect),
    Idle(idle::Idle),
    Sbom(sbom::Sbom),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Crd(crd::Crd),
    Probe(probe::Probe),
    Completion(completion::Completion),
}

/// The stack size of each thread in bytes. Without optimisation, the deepest calls (a deletion) exceed the default of 2 MiB.
const STACK_SIZE: usize = 8 << 20;
/// How long the process waits at its end for the cleanup of engines that pushed images.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The exit code for invalid input or flags; other failures exit with 1.
const EXIT_USAGE: u8 = 2;
/// The exit code after SIGTERM or SIGINT, when something was left undone.
const EXIT_INTERRUPTED: u8 = 130;

/// Invalid input or an invalid flag.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

impl Command {
    /// Runs the command and returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        // There is one provider per process. It is installed first, so this cannot fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Err(error) = start_log(&self.log, self.log_format) {
            print::note(format_args!("jackal-operator: --log {}: {error}", self.log));
            return ExitCode::from(EXIT_USAGE);
        }
        let front = match self.action {
            Action::Controller(_) | Action::Agent(_) | Action::Proxy(_) => Frontend::Cluster,
            _ => Frontend::CommandLine,
        };
        front.choose();
        match self.action {
            Action::Controller(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Agent(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Build(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Pack(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Load(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Inventory(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Split(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Join(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Repair(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Unpack(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Inspect(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Diff(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Serve(command) => in_runtime(front, |stop| command.run(stop)),
            Action::ImportImages(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Bootstrap(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Preflight(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Proxy(command) => in_runtime(front, |stop| command.run(stop)),
            Action::GarbageCollect(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Idle(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Sbom(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Sign(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Verify(command) => in_runtime(front, |stop| command.run(stop)),
            Action::Probe(command) => in_runtime(front, |stop| command.run(stop)),
            // These block only on files and standard input, so a signal ends them by default.
            Action::Convert(command) => command.run(),
            Action::Crd(command) => command.run(),
            Action::Completion(command) => command.run(),
        }
    }
}

/// Runs `work` in a new runtime, with a token that SIGTERM and SIGINT cancel.
fn in_runtime<W: Future<Output = ExitCode>>(front: Frontend, work: impl FnOnce(CancellationToken) -> W) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.enable_all().thread_stack_size(STACK_SIZE).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::note(format_args!("jackal-operator: cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let stop = CancellationToken::new();
    runtime.spawn(stop_on_signal(stop.clone(), front));
    let code = runtime.block_on(work(stop));
    // Cancelled transfers undo their changes to engines.
    runtime.block_on(docker::wait_for_name_removal(CLEANUP_TIMEOUT));
    // A blocking read of an unavailable file system must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// Runs `work` of the command `name` until `stop`, and prints its error. Exit codes: 0 success, 1 failure, 2 invalid input
/// or flags, 130 interrupted.
async fn until(stop: CancellationToken, name: &str, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let error = tokio::select! {
        result = work => match result {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => error,
        },
        () = stop.cancelled() => {
            print::note(format_args!("jackal-operator {name}: interrupted"));
            return ExitCode::from(EXIT_INTERRUPTED);
        }
    };
    failure(name, &error)
}

/// Prints the error of the command `name`, and returns the exit code for it.
fn failure(name: &str, error: &anyhow::Error) -> ExitCode {
    let fault = error.downcast_ref::<Fault>();
    let stalled = fault.is_some_and(Fault::is_stalled);
    match fault {
        Some(fault) => print::note(format_args!("jackal-operator {name}: {}", fault.message)),
        None => print::note(format_args!("jackal-operator {name}: {error:#}")),
    }
    match stalled || error.is::<UsageError>() {
        true => ExitCode::from(EXIT_USAGE),
        false => ExitCode::FAILURE,
    }
}

/// Libraries whose logs repeat errors that the operator reports itself.
const QUIET_LIBRARIES: [&str; 5] = [
    "rustls",
    "hyper",
    "hyper_util",
    "reqwest",
    "kube_client::client::builder",
];

fn start_log(filter: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    // Any non-empty NO_COLOR disables colours (no-color.org).
    let disabled = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !disabled && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let is_requested = |library: &str| ["debug", "trace", library].iter().any(|word| filter.contains(word));
    let quiet = QUIET_LIBRARIES.iter().filter(|library| !is_requested(library));
    let directives: Vec<String> = quiet.map(|library| format!("{library}=off")).collect();
    let filter = EnvFilter::try_new([&[filter.to_owned()][..], &directives].concat().join(","))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        // Such an error would be written to the standard error that cannot be written.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Cancels `stop` on SIGTERM and SIGINT. A process in a cluster logs that.
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
