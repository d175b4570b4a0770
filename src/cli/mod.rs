//! The commands, one file each; wiring only.

mod crd;

use clap::{Parser, Subcommand};

/// Packages of images, built inside the cluster, for clusters without internet.
#[derive(Debug, Parser)]
#[command(name = "jackal-operator", version, max_term_width = 100)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the custom resource definitions.
    Crd(crd::Crd),
}

impl Command {
    /// Runs the command; the process's exit code comes back.
    pub fn run(self) -> std::process::ExitCode {
        match self.verb {
            Verb::Crd(command) => command.run(),
        }
    }
}
