//! Output of commands to standard output and standard error. A closed pipe, as by `head`, is not a failure: the command
//! continues. `unpack` and `pack` write archives to standard output themselves, and fail there.

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

/// `text` of an external source on one line of a terminal: without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .collect()
}

/// Rows with columns of equal width, two blanks apart.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_the_width_of_their_longest_cell() {
        let rows = [vec!["a", "b"], vec!["long", "x"], vec!["é", ""]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(table(&rows), "a     b\nlong  x\né\n");
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
