//! Whether an installation may begin in a cluster with some state. No IO.

use jiff::Timestamp;
use semver::Version;

use crate::bootstrap::cluster::State;
use crate::fault::{Fault, Reason};

/// What the user wants to install.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The digest of what the archive holds.
    pub archive: &'a str,
    /// The version of its operator; may be empty.
    pub version: &'a str,
    /// Whether an unfinished installation of another archive is continued with this one.
    pub replace: bool,
    /// Whether an earlier version replaces a later one.
    pub downgrade: bool,
}

/// What an installation is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing is installed.
    First,
    /// The same archive is installed partly.
    Continue,
    /// The same archive is installed.
    Repeat,
    /// Another archive is installed, of this version.
    Change(String),
}

/// What the installation of `wanted` is in a cluster with `state`.
///
/// # Errors
/// A stalled fault that says what to do, where another archive is not finished, or is of a later version.
pub fn begin(state: Option<&State>, wanted: &Wanted<'_>) -> Result<Begin, Fault> {
    let Some(state) = state else { return Ok(Begin::First) };
    if state.archive == wanted.archive {
        return Ok(match state.is_finished() {
            true => Begin::Repeat,
            false => Begin::Continue,
        });
    }
    let refused = |message: String| Fault::stalled(Reason::InvalidSpec, message);
    if !state.is_finished() && !wanted.replace {
        return Err(refused(format!(
            "the bootstrap of another archive ({}, begun at {}) is not finished: its last step was `{}`. Finish it with that archive, \
             remove it with --undo, or continue with this archive with --replace",
            describe(&state.version, &state.archive),
            time(state.started),
            state.step.name(),
        )));
    }
    if is_earlier(wanted.version, &state.version) && !wanted.downgrade {
        return Err(refused(format!(
            "the cluster has version {} and the archive has version {}; to install the earlier version, add --downgrade",
            state.version, wanted.version
        )));
    }
    Ok(Begin::Change(state.version.clone()))
}

fn describe(version: &str, archive: &str) -> String {
    let archive: String = archive.chars().take(19).collect();
    match version {
        "" => archive,
        version => format!("version {version}, {archive}"),
    }
}

fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Whether `new` is an earlier version than `old`; `false` where that is not known.
fn is_earlier(new: &str, old: &str) -> bool {
    let parsed = |text: &str| Version::parse(text.trim_start_matches('v')).ok();
    matches!((parsed(new), parsed(old)), (Some(new), Some(old)) if new < old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::steps::Step;

    fn state(archive: &str, version: &str, step: Step) -> State {
        State {
            archive: archive.to_owned(),
            version: version.to_owned(),
            step,
            started: 1_800_000_000,
            values: String::new(),
        }
    }

    const WANTED: Wanted<'_> = Wanted {
        archive: "sha256:new",
        version: "0.2.0",
        replace: false,
        downgrade: false,
    };

    #[test]
    fn the_same_archive_continues_or_repeats() {
        assert_eq!(begin(None, &WANTED).unwrap(), Begin::First);
        let of = |step| begin(Some(&state("sha256:new", "0.2.0", step)), &WANTED).unwrap();
        assert_eq!(of(Step::Upload), Begin::Continue);
        assert_eq!(of(Step::Finished), Begin::Repeat);
    }

    #[test]
    fn another_archive_waits_for_an_unfinished_one() {
        let unfinished = state("sha256:old", "0.1.0", Step::Upload);
        let message = begin(Some(&unfinished), &WANTED).unwrap_err().message;
        for part in [
            "version 0.1.0, sha256:old",
            "2027-01-15T08:00:00Z",
            "`upload`",
            "--undo",
            "--replace",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let replace = Wanted {
            replace: true,
            ..WANTED
        };
        assert_eq!(
            begin(Some(&unfinished), &replace).unwrap(),
            Begin::Change("0.1.0".to_owned())
        );
        let finished = state("sha256:old", "0.1.0", Step::Finished);
        assert_eq!(
            begin(Some(&finished), &WANTED).unwrap(),
            Begin::Change("0.1.0".to_owned())
        );
    }

    #[test]
    fn an_earlier_version_needs_the_flag() {
        let later = state("sha256:old", "0.10.0", Step::Finished);
        let message = begin(Some(&later), &WANTED).unwrap_err().message;
        assert!(
            message.contains("has version 0.10.0") && message.contains("--downgrade"),
            "{message}"
        );
        let downgrade = Wanted {
            downgrade: true,
            ..WANTED
        };
        assert!(begin(Some(&later), &downgrade).is_ok());
        for unknown in ["", "main", "0.2.0"] {
            assert!(
                begin(Some(&state("sha256:old", unknown, Step::Finished)), &WANTED).is_ok(),
                "{unknown}"
            );
        }
    }
}
