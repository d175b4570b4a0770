//! What commands write to standard output and standard error. A reader that left, as `head` does, is no failure: what a
//! command does beside writing goes on.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Writes a line to standard output. It is lost where nobody can read it.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a line to standard error. It is lost where nobody can read it.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a document to standard output, all of it. That its reader left early is fine; any other failure, such as a full
/// disk, is one of the command.
pub(super) fn document(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The same, with the exit code of the command `name`.
pub(super) fn document_of(name: &str, text: &str) -> ExitCode {
    match document(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!(
                "jackal-operator {name}: standard output cannot be written: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}
