//! Why files of an engine are not read. Their content is then read in another way.

use std::fmt;

/// The length of a reason in characters.
const REASON_LIMIT: usize = 400;

/// Why something is not read from an engine's files. The text follows a colon in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnreadableReason(pub(super) String);

impl UnreadableReason {
    // The author of a layer chooses the names of its files, and they appear in a status.
    pub fn new(what: impl Into<String>) -> Self {
        let what: String = what.into();
        let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        Self(what.chars().map(printable).take(REASON_LIMIT).collect())
    }
}

impl fmt::Display for UnreadableReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The name of a file, shortened for a message. The author of a layer chooses it.
pub(super) fn printable_name(name: &[u8]) -> String {
    const LIMIT: usize = 120;
    match name.get(..LIMIT) {
        Some(beginning) if name.len() > LIMIT => format!("{}…", String::from_utf8_lossy(beginning)),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}

/// Runs `work` in a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UnreadableReason> + Send + 'static,
) -> Result<T, UnreadableReason> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(UnreadableReason::new(format!("its reader failed: {error}"))))
}
