//! `completion`: scripts for shell completion.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Command, examples, print};

/// Print the completion script for a shell.
///
/// Exit codes: 0 success, 1 the script cannot be written, 2 invalid flag.
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
        // The script has two names for the state of a command if the program's name contains a hyphen, and then completes
        // nothing after a command (clap-rs/clap#6421).
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
            let script = script(*shell);
            assert!(script.contains("insecure-registry"), "{shell}");
            for command in Command::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
            // Scripts for Elvish and PowerShell have no values of flags.
            let has_values = !matches!(shell, Shell::Elvish | Shell::PowerShell);
            assert!(!has_values || script.contains("oci-archive"), "{shell}");
        }
    }
}
