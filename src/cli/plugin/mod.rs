//! `kubectl jackal`: shows and changes the packages of a cluster. kubectl runs the binary under the name `kubectl-jackal`.

mod advice;
mod change;
mod events;
mod explain;
mod objects;
mod scope;
mod status;
mod tree;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{in_runtime, until};
use crate::fault::Frontend;

/// The name of the binary as a plugin of kubectl.
const PROGRAM: &str = "kubectl-jackal";

const EXAMPLES: &str = "\
Examples:
  # The packages of the namespace, and their images that are not ready
  kubectl jackal status
  # Until the package is ready or fails, in all lines what changed
  kubectl jackal status shop --watch
  # Why a package is not ready, and what to do
  kubectl jackal explain shop
  # Check the sources now, and wait
  kubectl jackal reconcile shop --wait

Exit codes: 0 success, 1 failure that may be temporary, 2 invalid flag or name, 130 interrupted.";

/// Shows and changes the JackalPackages of a cluster.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, bin_name = "kubectl jackal", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Plugin {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Status(status::Status),
    Tree(tree::Tree),
    Explain(explain::Explain),
    Events(events::Events),
    Reconcile(change::Reconcile),
    Suspend(change::Suspend),
    Resume(change::Resume),
}

impl Plugin {
    /// Whether a program that was started as `program` is the plugin.
    pub fn is_named(program: &OsStr) -> bool {
        let name = Path::new(program).file_stem();
        name.is_some_and(|name| name == PROGRAM)
    }

    /// Runs the command and returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        // There is one provider per process. It is installed first, so this cannot fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let front = Frontend::CommandLine;
        front.choose();
        match self.action {
            Action::Status(command) => in_runtime(front, |stop| until(stop, "status", command.run())),
            Action::Tree(command) => in_runtime(front, |stop| until(stop, "tree", command.run())),
            Action::Explain(command) => in_runtime(front, |stop| until(stop, "explain", command.run())),
            Action::Events(command) => in_runtime(front, |stop| until(stop, "events", command.run())),
            Action::Reconcile(command) => in_runtime(front, |stop| until(stop, "reconcile", command.run())),
            Action::Suspend(command) => in_runtime(front, |stop| until(stop, "suspend", command.run())),
            Action::Resume(command) => in_runtime(front, |stop| until(stop, "resume", command.run())),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_name_of_the_program_selects_the_plugin() {
        assert!(Plugin::is_named(OsStr::new("/usr/local/bin/kubectl-jackal")));
        assert!(!Plugin::is_named(OsStr::new("/usr/local/bin/jackal-operator")));
        Plugin::command().debug_assert();
    }

    #[test]
    fn every_example_is_a_command() {
        let examples = EXAMPLES
            .lines()
            .filter_map(|line| line.trim().strip_prefix("kubectl jackal"));
        let mut count = 0;
        for example in examples {
            let words = [PROGRAM].into_iter().chain(example.split_whitespace());
            assert!(Plugin::try_parse_from(words).is_ok(), "{example}");
            count += 1;
        }
        assert_eq!(count, 4);
    }
}
