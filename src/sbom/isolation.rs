//! The sandbox in which syft runs. Syft parses content chosen by the builders of images, so it is not trusted.
//!
//! A thread drops its rights and starts the program, which inherits the rest: Landlock allows reading the system's programs
//! and libraries and the given paths, and writing to its own directory; seccomp forbids opening sockets and accessing other
//! processes. Both apply only to the thread and its child processes; the rest of this process keeps its rights.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use clap::ValueEnum;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// The version of Landlock whose restrictions are requested. An older kernel enforces fewer of them.
const NEWEST: ABI = ABI::V6;
/// Paths that programs need to run: programs, libraries, and those that a shell needs. None of it is secret.
const SYSTEM: [&str; 9] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/dev/zero",
    "/dev/urandom",
];
/// The file to which unused output goes.
const NULL_DEVICE: &str = "/dev/null";
/// Forbidden system calls: network access by sockets or io_uring, and access to other processes.
const FORBIDDEN: [i64; 6] = [
    libc::SYS_socket,
    libc::SYS_io_uring_setup,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
];

/// The isolation of syft from the operator's rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// Only its own directory and no network. It is not run if the kernel cannot enforce this.
    #[default]
    Landlock,
    /// The same access to files and network as the operator.
    None,
}

/// Why a program was not started.
pub(super) enum StartError {
    /// The kernel cannot enforce the restrictions.
    Unsupported(String),
    /// The program cannot be started.
    Program(io::Error),
}

/// The rights of a program.
pub(super) struct Sandbox {
    /// Directories that it may read and execute.
    pub readable: Vec<PathBuf>,
    /// The directory that it may read and write.
    pub directory: PathBuf,
}

impl Sandbox {
    /// Starts `command` with only these rights.
    pub async fn start(self, mut command: Command) -> Result<Child, StartError> {
        let runtime = tokio::runtime::Handle::current();
        let (started, starting) = oneshot::channel();
        let start = move || {
            // The runtime in which a child is started waits for it.
            let _guard = runtime.enter();
            let child = self
                .restrict_thread()
                .map_err(StartError::Unsupported)
                .and_then(|()| command.spawn().map_err(StartError::Program));
            // If the receiver was dropped, dropping the child kills it.
            drop(started.send(child));
        };
        let thread = std::thread::Builder::new().name("sandbox".to_owned()).spawn(start);
        thread.map_err(StartError::Program)?;
        let ended = |_| StartError::Program(io::Error::other("the thread that starts it ended"));
        starting.await.map_err(ended)?
    }

    /// Drops all other rights of this thread and its future children permanently.
    fn restrict_thread(self) -> Result<(), String> {
        self.restrict_files()
            .map_err(|error| error.to_string())
            .and_then(|status| match status {
                RulesetStatus::NotEnforced => Err("the kernel has no Landlock".to_owned()),
                RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
            })?;
        restrict_calls().map_err(|error| format!("seccomp: {error}"))
    }

    fn restrict_files(self) -> Result<RulesetStatus, landlock::RulesetError> {
        let read = AccessFs::from_read(NEWEST);
        // Without the right to execute.
        let write = AccessFs::from_write(NEWEST) | AccessFs::ReadFile | AccessFs::ReadDir;
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(self.readable, read))?
            .add_rules(path_beneath_rules(
                [NULL_DEVICE],
                AccessFs::ReadFile | AccessFs::WriteFile,
            ))?
            .add_rules(path_beneath_rules([self.directory], write))?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

fn restrict_calls() -> Result<(), seccompiler::Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules: BTreeMap<i64, Vec<_>> = FORBIDDEN.into_iter().map(|call| (call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
}
