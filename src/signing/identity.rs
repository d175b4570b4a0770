//! Identities that may sign without a key: an issuer and a subject.

use std::fmt;

use regex::Regex;
use thiserror::Error;

use super::certificate::Certificate;

/// The longest pattern in bytes, and its most memory in bytes.
const PATTERN_LIMIT: usize = 1024;
const PATTERN_MEMORY: usize = 1024 * 1024;

/// An identity in a certificate by Fulcio.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The issuer of the identity token, such as `https://token.actions.githubusercontent.com`.
    pub issuer: String,
    /// The subject of the certificate.
    pub subject: SubjectMatch,
}

/// The subjects that match.
#[derive(Clone, Debug)]
pub enum SubjectMatch {
    /// Only this one.
    Exact(String),
    /// All subjects that the expression matches as a whole.
    Pattern(Regex),
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            SubjectMatch::Exact(text) => write!(formatter, "{} of {}", text, self.issuer),
            SubjectMatch::Pattern(pattern) => write!(formatter, "/{}/ of {}", pattern.as_str(), self.issuer),
        }
    }
}

/// A text is not a valid pattern.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a regular expression (RE2 syntax) of at most {PATTERN_LIMIT} bytes")]
pub struct IdentityError(String);

impl SubjectMatch {
    /// A regular expression, which must match the whole subject: otherwise `https://github.com/acme/` would also match
    /// `https://evil.example/https://github.com/acme/`.
    pub fn pattern(text: &str) -> Result<Self, IdentityError> {
        let error = || IdentityError(text.chars().take(100).collect());
        if text.len() > PATTERN_LIMIT {
            return Err(error());
        }
        let built = regex::RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(PATTERN_MEMORY)
            .build();
        built.map(Self::Pattern).map_err(|_| error())
    }

    fn matches(&self, subject: &str) -> bool {
        match self {
            Self::Exact(text) => text == subject,
            Self::Pattern(pattern) => pattern.is_match(subject),
        }
    }
}

impl Identity {
    /// Whether the certificate is for this identity.
    pub(super) fn matches(&self, certificate: &Certificate) -> bool {
        certificate.issuer.as_ref() == Some(&self.issuer)
            && certificate.subjects.iter().any(|subject| self.subject.matches(subject))
    }
}
