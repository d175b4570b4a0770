//! The sandbox that syft runs in. It reads every byte that builders of images chose, so it is treated as if they wrote it.
//!
//! A thread gives up its rights and starts the program, which inherits what is left: by Landlock it reads the system's
//! programs and libraries and what it is given, and writes to its own folder; by seccomp it opens no socket and looks into no
//! other process. The rest of this process keeps its rights: both hold for a thread and what it starts.

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

/// The newest version of Landlock whose restrictions are asked for. An older kernel has fewer of them.
const NEWEST: ABI = ABI::V6;
/// What a program takes to run: itself, its libraries, and what the shell of a script has. None of it is secret.
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
/// Where output goes that nobody wants.
const NOWHERE: &str = "/dev/null";
/// System calls that are refused: to be somewhere else by a socket, without one by io_uring, or in another process.
const REFUSED: [i64; 6] = [
    libc::SYS_socket,
    libc::SYS_io_uring_setup,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
];

/// How syft is kept from what the operator may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// It reads and writes its own folder, and has no network. Where the kernel cannot keep it so, it is not run.
    #[default]
    Landlock,
    /// It may read what the operator may read, and reach what it reaches.
    None,
}

/// Why a program was not started.
pub(super) enum StartError {
    /// The kernel keeps no program from anything.
    Unsupported(String),
    /// The program cannot be run.
    Program(io::Error),
}

/// What a program may do.
pub(super) struct Sandbox {
    /// It reads what lies beneath these, and runs it.
    pub readable: Vec<PathBuf>,
    /// It reads and writes beneath this one.
    pub folder: PathBuf,
}

impl Sandbox {
    /// Starts `command` with no more rights than that.
    pub async fn start(self, mut command: Command) -> Result<Child, StartError> {
        let runtime = tokio::runtime::Handle::current();
        let (started, starting) = oneshot::channel();
        let start = move || {
            // A child is watched by the runtime that it is started in.
            let _entered = runtime.enter();
            let child = self
                .enter()
                .map_err(StartError::Unsupported)
                .and_then(|()| command.spawn().map_err(StartError::Program));
            // Where nobody waits for it any more, the child is killed with its value.
            drop(started.send(child));
        };
        let thread = std::thread::Builder::new().name("sandbox".to_owned()).spawn(start);
        thread.map_err(StartError::Program)?;
        let ended = |_| StartError::Program(io::Error::other("the thread that starts it ended"));
        starting.await.map_err(ended)?
    }

    /// Takes all other rights from this thread and whatever it starts, for good.
    fn enter(self) -> Result<(), String> {
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
        // It has nothing to run there.
        let write = AccessFs::from_write(NEWEST) | AccessFs::ReadFile | AccessFs::ReadDir;
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(self.readable, read))?
            .add_rules(path_beneath_rules([NOWHERE], AccessFs::ReadFile | AccessFs::WriteFile))?
            .add_rules(path_beneath_rules([self.folder], write))?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

fn restrict_calls() -> Result<(), seccompiler::Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules: BTreeMap<i64, Vec<_>> = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
}
