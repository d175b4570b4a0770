//! The binary.

use std::process::ExitCode;

use clap::Parser;
use jackal_operator::cli::{Command, Plugin};

fn main() -> ExitCode {
    match std::env::args_os()
        .next()
        .is_some_and(|program| Plugin::is_named(&program))
    {
        true => Plugin::parse().run(),
        false => Command::parse().run(),
    }
}
