//! The program `jackal-seed`: see the documentation of the library.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use jackal_seed::arguments::{self, Arguments, USAGE};
use jackal_seed::{Store, answer, receive};
use rustix::process::{Pid, Signal, getpid, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

/// How long a client may send or take nothing.
const IDLE: Duration = Duration::from_secs(60);
/// How long another process may use the address.
const BIND_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait before it is tried again.
const BIND_DELAY: Duration = Duration::from_millis(100);
/// The first argument of the process that answers while the command runs. The process ID of the command follows, and then the
/// other arguments.
const ANSWER: &str = "--answer-for";

fn main() -> ExitCode {
    let given: Vec<OsString> = env::args_os().skip(1).collect();
    let result = match given.split_first() {
        Some((first, [parent, rest @ ..])) if first == ANSWER => answer_for(parent, rest.to_vec()),
        _ => match arguments::parse(given) {
            Ok(arguments) => run(&arguments),
            Err(error) => {
                eprintln!("jackal-seed: {error}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jackal-seed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Receives the files and executes the command. Returns only when that fails.
fn run(arguments: &Arguments) -> io::Result<()> {
    // The kernel delivers no signal to the first process of a container that it does not handle.
    for signal in [SIGTERM, SIGINT] {
        register_conditional_shutdown(signal, 128 + signal, Arc::new(AtomicBool::new(true)))?;
    }
    let context = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let listener = bind(arguments.listen).map_err(|error| context("cannot listen", error))?;
    let directory = arguments.directory.display().to_string();
    let store = Store::open(&arguments.directory, arguments.list).map_err(|error| context(&directory, error))?;
    eprintln!("jackal-seed: listening on {}", listener.local_addr()?);
    receive(listener.try_clone()?, store, IDLE)?;
    eprintln!("jackal-seed: all files are there");
    // A client whose connection broke asks whether its last file arrived, also after the command was executed.
    Command::new(env::current_exe()?)
        .args([ANSWER, &getpid().as_raw_pid().to_string()])
        .args(env::args_os().skip(1))
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .map_err(|error| context("cannot start the process that answers", error))?;
    let (program, rest) = arguments.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let error = Command::new(program).args(rest).stdin(Stdio::null()).exec();
    Err(context(&format!("cannot execute {}", program.display()), error))
}

/// Listens on `address`, as soon as the seed of a pod that ends on the same node no longer does.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let begin = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < BIND_LIMIT => {
                thread::sleep(BIND_DELAY);
            }
            bound => return bound,
        }
    }
}

/// Answers clients for as long as the process that executed the command runs. Standard input is the socket that listens.
fn answer_for(parent: &OsString, rest: Vec<OsString>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = parent
        .to_str()
        .and_then(|parent| parent.parse().ok())
        .and_then(Pid::from_raw);
    if parent.map(|parent| parent.as_raw_pid().unsigned_abs()) != Some(parent_id()) {
        return Ok(());
    }
    let arguments = arguments::parse(rest).map_err(io::Error::other)?;
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let store = Store::reopen_complete(&arguments.directory, arguments.list)?;
    answer(&listener, store, IDLE);
    Ok(())
}
