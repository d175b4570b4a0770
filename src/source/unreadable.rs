//! Why files of an engine are not read, where there is another way to what they hold.

use std::fmt;

/// Of one reason in characters.
const DOUBT_LIMIT: usize = 400;

/// Why something is not read from an engine's files, in words that follow a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnreadableReason(pub(super) String);

impl UnreadableReason {
    // A layer's maker chooses the names of its files, and they end up in a status.
    pub fn new(what: impl Into<String>) -> Self {
        let what: String = what.into();
        let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        Self(what.chars().map(shown).take(DOUBT_LIMIT).collect())
    }
}

impl fmt::Display for UnreadableReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The name of a file, for a message. A layer's maker chose it, and how long it is.
pub(super) fn shown(name: &[u8]) -> String {
    const LIMIT: usize = 120;
    match name.get(..LIMIT) {
        Some(beginning) if name.len() > LIMIT => format!("{}…", String::from_utf8_lossy(beginning)),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}

/// Runs `work` where it may wait for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UnreadableReason> + Send + 'static,
) -> Result<T, UnreadableReason> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(UnreadableReason::new(format!("reading it was given up: {error}"))))
}
