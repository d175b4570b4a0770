//! What to do about a reason, as the table in docs/reference.md says.

use std::sync::LazyLock;

/// The page with the table of reasons, which `explain` quotes, so that there is one text.
const PAGE: &str = include_str!("../../../docs/reference.md");

/// The rows of the table: reason, meaning, what to do.
static ROWS: LazyLock<Vec<[&'static str; 3]>> = LazyLock::new(|| {
    let table = PAGE
        .split("| reason | meaning | what to do |\n")
        .nth(1)
        .unwrap_or_default();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let reason = cells.next()?.trim_matches('`');
        Some([
            reason,
            cells.next()?,
            cells.next().unwrap_or_default().trim_matches([' ', '|']),
        ])
    })
    .collect()
});

/// What `reason` means, and what to do about it: both without the marks of Markdown.
pub(super) fn advice(reason: &str) -> Option<(String, String)> {
    let row = ROWS.iter().find(|row| row[0] == reason)?;
    Some((plain(row[1]), plain(row[2])))
}

/// Markdown as text: code without its marks, links by their text.
fn plain(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text.replace(['`', '[', ']'], "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Reason;

    #[test]
    fn every_reason_has_advice() {
        let reasons = [
            Reason::AmbiguousSource,
            Reason::AuthenticationFailed,
            Reason::ConfigMapUnavailable,
            Reason::DigestMismatch,
            Reason::InternalError,
            Reason::InvalidReference,
            Reason::InvalidSpec,
            Reason::NodeUnavailable,
            Reason::PackageFailed,
            Reason::PolicyDenied,
            Reason::PushFailed,
            Reason::RateLimited,
            Reason::RegistryUnavailable,
            Reason::RepositoryConflict,
            Reason::SbomFailed,
            Reason::SecretUnavailable,
            Reason::SigningFailed,
            Reason::SourceFailed,
            Reason::SourceNotFound,
            Reason::TimedOut,
            Reason::VerificationError,
        ];
        for reason in reasons {
            let (meaning, action) = advice(&reason.to_string()).unwrap_or_else(|| panic!("{reason}"));
            assert!(!meaning.is_empty() && !action.is_empty(), "{reason}");
            assert!(
                !format!("{meaning}{action}").contains(['`', '[', '|']),
                "{reason}: {meaning} {action}"
            );
        }
        assert_eq!(advice("Unheard"), None);
        assert_eq!(plain("an [image](#a-b) of `x`"), "an image of x");
    }
}
