//! The binary.

use std::process::ExitCode;

use clap::Parser;
use jackal_operator::cli::Command;

fn main() -> ExitCode {
    Command::parse().run()
}
