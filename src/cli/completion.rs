//! `completion`: scripts by which shells complete commands and flags.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Command, examples, print};

/// Print the script by which a shell completes commands and flags.
///
/// Exit codes: 0 done, 1 it cannot be written, 2 a flag cannot be used.
#[derive(Debug, Args)]
#[command(after_help = examples::COMPLETION)]
pub(super) struct Completion {
    /// The shell.
    shell: Shell,
}

impl Completion {
    pub(super) fn run(self) -> ExitCode {
        print::document_of("completion", &script(self.shell))
    }
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    let mut command = Command::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        // The script calls the state of a command in two ways where the program's name has a hyphen, and so never
        // completes what follows a command (clap-rs/clap#6421).
        Shell::Bash => script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")),
        _ => script.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_has_a_script() {
        for shell in Shell::value_variants() {
            assert!(script(*shell).contains("insecure-registry"), "{shell}");
        }
    }
}
