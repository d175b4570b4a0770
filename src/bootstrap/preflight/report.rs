//! The result of the checks.

use serde::Serialize;

use crate::bootstrap::install::Expose;
use crate::bootstrap::text::clean;

/// The most characters of what a check found, and of its advice.
const LENGTH: usize = 4000;
/// The page that explains each check, under its name.
const PAGE: &str = "docs/preflight.md";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// Nothing has to be done.
    Ok,
    /// The installation may succeed; the advice says what to look at.
    Warning,
    /// The installation does not succeed before this is corrected.
    Failure,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name, which is also the anchor of its section in `docs/preflight.md`.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Check {
    /// A check without advice.
    pub fn ok(name: &'static str, found: impl AsRef<str>) -> Self {
        Self::of(name, Status::Ok, found.as_ref(), "")
    }

    /// A check that ended in a warning.
    pub fn warning(name: &'static str, found: impl AsRef<str>, advice: impl AsRef<str>) -> Self {
        Self::of(name, Status::Warning, found.as_ref(), advice.as_ref())
    }

    /// A check that failed.
    pub fn failure(name: &'static str, found: impl AsRef<str>, advice: impl AsRef<str>) -> Self {
        Self::of(name, Status::Failure, found.as_ref(), advice.as_ref())
    }

    fn of(name: &'static str, status: Status, found: &str, advice: &str) -> Self {
        let advice = match advice {
            "" => String::new(),
            advice => format!("{} ({PAGE}#{name})", clean(advice, LENGTH)),
        };
        Self {
            name,
            status,
            found: clean(found, LENGTH),
            advice,
        }
    }
}

/// All checks of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The address of the API server.
    pub server: String,
    /// The worst of all checks.
    pub status: Status,
    /// How container runtimes should reach the registry; absent where the cluster cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose: Option<Expose>,
    /// The checks, in a fixed order.
    pub checks: Vec<Check>,
    /// The names of checks that need an archive, where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_checked: Vec<&'static str>,
}

impl Report {
    /// The report of `checks`.
    pub(super) fn new(server: &str, expose: Option<Expose>, checks: Vec<Check>) -> Self {
        let worst = checks.iter().map(|check| check.status).max();
        Self {
            server: clean(server, LENGTH),
            status: worst.unwrap_or(Status::Ok),
            expose,
            checks,
            not_checked: Vec::new(),
        }
    }

    /// The check of that name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

/// Gathers what several objects have in common: the worst status, and one text for each.
#[derive(Debug, Default)]
pub(super) struct Findings {
    failures: Vec<String>,
    warnings: Vec<String>,
    fine: Vec<String>,
    advice: Vec<String>,
}

impl Findings {
    pub fn ok(&mut self, found: impl Into<String>) {
        self.fine.push(found.into());
    }

    pub fn warning(&mut self, found: impl Into<String>, advice: impl Into<String>) {
        self.warnings.push(found.into());
        self.advise(advice.into());
    }

    pub fn failure(&mut self, found: impl Into<String>, advice: impl Into<String>) {
        self.failures.push(found.into());
        self.advise(advice.into());
    }

    fn advise(&mut self, advice: String) {
        if !advice.is_empty() && !self.advice.contains(&advice) {
            self.advice.push(advice);
        }
    }

    /// The check; what failed comes first. Without any finding it is ok and says `nothing`.
    pub fn check(self, name: &'static str, nothing: &str) -> Check {
        let status = match (self.failures.is_empty(), self.warnings.is_empty()) {
            (false, _) => Status::Failure,
            (true, false) => Status::Warning,
            (true, true) => Status::Ok,
        };
        let mut texts: Vec<String> = [self.failures, self.warnings, self.fine].concat();
        if texts.is_empty() {
            texts.push(nothing.to_owned());
        }
        Check::of(name, status, &texts.join("; "), &self.advice.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_comes_first() {
        let mut findings = Findings::default();
        findings.ok("a is fine");
        findings.warning("b is old", "renew b");
        findings.failure("c is broken\u{1b}[2J", "repair c");
        findings.failure("d is broken", "repair c");
        let check = findings.check("nodes", "none");
        assert_eq!(check.status, Status::Failure);
        assert_eq!(check.found, "c is broken\u{fffd}[2J; d is broken; b is old; a is fine");
        assert_eq!(check.advice, "renew b; repair c (docs/preflight.md#nodes)");
        let nothing = Findings::default().check("nodes", "none");
        assert_eq!((nothing.status, nothing.found.as_str()), (Status::Ok, "none"));
        let report = Report::new("https://x", None, vec![Check::ok("nodes", "2"), check]);
        assert_eq!(report.status, Status::Failure);
        assert_eq!(report.check("nodes").unwrap().advice, "");
    }
}
