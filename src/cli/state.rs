//! Where commands keep what a repetition needs.

use std::path::PathBuf;

/// The folder `name` below `XDG_STATE_HOME` (XDG Base Directory Specification); `None` without a home.
pub(super) fn state_folder(name: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("jackal-operator").join(name))
}
