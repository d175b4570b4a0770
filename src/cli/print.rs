//! Output of commands to standard output and standard error. A closed pipe, as by `head`, is not a failure: the command
//! continues.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Writes a line to standard output. Errors are ignored.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a line to standard error. Errors are ignored.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a document to standard output. A closed pipe is ignored; other errors, such as a full disk, are returned.
pub(super) fn document(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The same for the command `name`; returns its exit code.
pub(super) fn document_of(name: &str, text: &str) -> ExitCode {
    match document(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!(
                "jackal-operator {name}: cannot write to standard output: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}
