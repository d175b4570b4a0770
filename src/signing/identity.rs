//! Who may have signed without a key: an issuer of identities, and whom it knows.

use std::fmt;

use regex::Regex;
use thiserror::Error;

use super::certificate::Certificate;

/// The longest pattern in bytes, and the memory in bytes that it may take.
const PATTERN_LIMIT: usize = 1024;
const PATTERN_MEMORY: usize = 1024 * 1024;

/// An identity that a certificate of Fulcio may be for.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The issuer of the token that the certificate was given for, such as `https://token.actions.githubusercontent.com`.
    pub issuer: String,
    /// Whom the certificate names.
    pub subject: SubjectMatch,
}

/// Whom a certificate may name.
#[derive(Clone, Debug)]
pub enum SubjectMatch {
    /// This one.
    Exact(String),
    /// Everybody whose whole name the expression fits.
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

/// Why a text is no pattern.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is no regular expression (RE2 syntax) of at most {PATTERN_LIMIT} bytes")]
pub struct IdentityError(String);

impl SubjectMatch {
    /// A regular expression, which has to fit the whole subject: else `https://github.com/acme/` would fit
    /// `https://evil.example/https://github.com/acme/` too.
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

    fn fits(&self, subject: &str) -> bool {
        match self {
            Self::Exact(text) => text == subject,
            Self::Pattern(pattern) => pattern.is_match(subject),
        }
    }
}

impl Identity {
    /// Whether the certificate is for this identity.
    pub(super) fn fits(&self, certificate: &Certificate) -> bool {
        certificate.issuer.as_ref() == Some(&self.issuer)
            && certificate.subjects.iter().any(|subject| self.subject.fits(subject))
    }
}
