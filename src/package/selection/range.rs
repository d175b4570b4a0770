//! Version ranges in the notation of Flux and OCM: `>=6.0 <7`, `^6`, `~6.1`, `6.x`, `1.2 - 2`, alternatives separated by `||`.
//!
//! Versions are ordered as in Semantic Versioning 2.0. A pre-release is in an alternative only if that alternative names a
//! pre-release: `>=6.0-0` contains all of them.

use std::cmp::Ordering;
use std::fmt;

use semver::{BuildMetadata, Prerelease, Version};

/// The longest range in characters.
const LENGTH: usize = 256;

/// A set of versions.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    text: String,
    /// Alternatives.
    groups: Vec<Group>,
}

/// Comparisons that must all be true.
#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    comparisons: Vec<Comparison>,
    /// Whether one of them names a pre-release.
    prereleases: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Comparison {
    /// At least this version.
    AtLeast(Version),
    /// Less than this version.
    Below(Version),
    /// Less than the first version, or at least the second.
    Outside(Version, Version),
}

/// A version whose last parts may be missing or `x`.
#[derive(Clone, Debug, Default)]
struct Partial {
    parts: Vec<u64>,
    pre: Prerelease,
}

/// A text is not a version range.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{text}` is not a version range ({why}); write it as >=6.0 <7, ^6, ~6.1, 6.x or 1.2 - 2, and || between alternatives"
)]
pub struct RangeError {
    text: String,
    why: String,
}

impl Range {
    /// Reads a range.
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let error = |why: String| RangeError {
            text: text.chars().take(80).collect(),
            why,
        };
        if text.len() > LENGTH {
            return Err(error(format!("longer than {LENGTH} characters")));
        }
        let groups = text.split("||").map(Group::parse).collect::<Result<_, _>>();
        Ok(Self {
            text: text.trim().to_owned(),
            groups: groups.map_err(error)?,
        })
    }

    /// Whether a version is in it.
    pub fn contains(&self, version: &Version) -> bool {
        self.groups.iter().any(|group| group.contains(version))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Group {
    fn parse(text: &str) -> Result<Self, String> {
        let mut group = Self::default();
        let words: Vec<&str> = text.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Err("an alternative is empty".to_owned());
        }
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let end = word
                .find(|letter: char| !"=!<>~^".contains(letter))
                .unwrap_or(word.len());
            let (operator, mut rest) = word.split_at(end);
            // The operator may be separated from the version.
            if rest.is_empty() {
                rest = words.next().ok_or_else(|| format!("nothing follows {operator}"))?;
            }
            let version = Partial::parse(rest)?;
            if operator.is_empty() && words.peek() == Some(&"-") {
                words.next();
                let last = words.next().ok_or("nothing follows -")?;
                let last = Partial::parse(last)?;
                group.add(">=", &version)?;
                group.add("<=", &last)?;
            } else {
                group.add(operator, &version)?;
            }
        }
        Ok(group)
    }

    fn add(&mut self, operator: &str, version: &Partial) -> Result<(), String> {
        self.prereleases |= !version.pre.is_empty();
        let first = version.first();
        // A complete version means itself; an incomplete one all versions that begin with its parts.
        let after = version.after();
        let complete = version.parts.len() == 3;
        let bounds = |from: Option<Version>, below: Option<Version>| {
            let from = from.map(Comparison::AtLeast);
            from.into_iter().chain(below.map(Comparison::Below))
        };
        match operator {
            // Any version.
            "" | "=" | "^" | "~" | "~>" | ">=" | "=>" | "<=" | "=<" if version.parts.is_empty() => {}
            "" | "=" => self.comparisons.extend(bounds(Some(first), after)),
            "!=" => self
                .comparisons
                .extend(after.map(|after| Comparison::Outside(first, after))),
            ">" => self.comparisons.extend(bounds(after, None)),
            ">=" | "=>" => self.comparisons.extend(bounds(Some(first), None)),
            "<" if complete => self.comparisons.extend(bounds(None, Some(first))),
            // `<7` should not include the pre-releases of 7, although they are less than 7.
            "<" => self.comparisons.extend(bounds(None, Some(lowest(first)))),
            "<=" | "=<" => self.comparisons.extend(bounds(None, after)),
            "~" | "~>" => {
                let below = version.next(version.parts.len().min(2));
                self.comparisons.extend(bounds(Some(first), below));
            }
            "^" => {
                // The first part that is not 0 is fixed.
                let kept = version.parts.iter().position(|part| *part != 0);
                let below = version.next(kept.map_or(version.parts.len(), |at| at + 1));
                self.comparisons.extend(bounds(Some(first), below));
            }
            other => return Err(format!("unknown operator {other}")),
        }
        // No version is greater than any version.
        if version.parts.is_empty() && matches!(operator, ">" | "<" | "!=") {
            return Err(format!("no version is {operator} any version"));
        }
        Ok(())
    }

    fn contains(&self, version: &Version) -> bool {
        (self.prereleases || version.pre.is_empty())
            && self.comparisons.iter().all(|comparison| match comparison {
                Comparison::AtLeast(from) => version.cmp_precedence(from) != Ordering::Less,
                Comparison::Below(below) => version.cmp_precedence(below) == Ordering::Less,
                Comparison::Outside(from, below) => {
                    version.cmp_precedence(from) == Ordering::Less || version.cmp_precedence(below) != Ordering::Less
                }
            })
    }
}

impl Partial {
    fn parse(text: &str) -> Result<Self, String> {
        let not = || format!("`{text}` is not a version");
        let bare = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (numbers, pre) = bare.split_once('-').map_or((bare, ""), |(numbers, pre)| (numbers, pre));
        if bare.contains('+') {
            return Err(format!("`{text}` has build metadata, which tags cannot have"));
        }
        let mut parts = Vec::new();
        let mut has_wildcard = false;
        for part in numbers.split('.') {
            if matches!(part, "x" | "X" | "*") {
                has_wildcard = true;
            } else if has_wildcard {
                return Err(not());
            } else {
                parts.push(number(part).ok_or_else(not)?);
            }
        }
        if numbers.split('.').count() > 3 {
            return Err(not());
        }
        Ok(Self {
            parts,
            pre: Prerelease::new(pre).map_err(|_| not())?,
        })
    }

    fn part(&self, at: usize) -> u64 {
        self.parts.get(at).copied().unwrap_or_default()
    }

    /// The first version that begins with its parts.
    fn first(&self) -> Version {
        Version {
            pre: self.pre.clone(),
            ..Version::new(self.part(0), self.part(1), self.part(2))
        }
    }

    /// The first version after all that begin with its parts; for a complete version, the next one. `None` if there is no
    /// next version.
    fn after(&self) -> Option<Version> {
        if self.pre.is_empty() {
            return self.next(self.parts.len());
        }
        let pre = Prerelease::new(&format!("{}.0", self.pre)).ok()?;
        Some(Version { pre, ..self.first() })
    }

    /// The first version that is higher in its first `parts` parts: for two parts of 1.2.3 the lowest pre-release of 1.3.0.
    fn next(&self, parts: usize) -> Option<Version> {
        let mut numbers = [self.part(0), self.part(1), self.part(2)];
        let last = parts.checked_sub(1)?;
        *numbers.get_mut(last)? = numbers.get(last)?.checked_add(1)?;
        for number in &mut numbers[parts..] {
            *number = 0;
        }
        Some(lowest(Version::new(numbers[0], numbers[1], numbers[2])))
    }
}

/// The lowest pre-release of a version.
fn lowest(version: Version) -> Version {
    let pre = Prerelease::new("0").unwrap_or_default();
    Version { pre, ..version }
}

/// A number in digits; leading zeros, as in dates, are allowed.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The version in a tag: `1.2.3` or `1.2`, with an optional `v` before it and pre-release after it. A single number is not a
/// version: it may be a date, or a tag that moves with every release.
pub fn version_of(tag: &str) -> Option<Version> {
    let bare = tag.strip_prefix('v').unwrap_or(tag);
    let (numbers, pre) = bare
        .split_once('-')
        .map_or((bare, None), |(numbers, pre)| (numbers, Some(pre)));
    let mut parts = numbers.split('.').map(number);
    let (major, minor) = (parts.next()??, parts.next()??);
    let patch = match parts.next() {
        Some(patch) => patch?,
        None => 0,
    };
    if parts.next().is_some() || pre == Some("") {
        return None;
    }
    Some(Version {
        major,
        minor,
        patch,
        pre: Prerelease::new(pre.unwrap_or_default()).ok()?,
        build: BuildMetadata::EMPTY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: &str, within: &str, without: &str) {
        let parsed = Range::parse(range).unwrap_or_else(|error| panic!("{error}"));
        let version = |text: &&str| version_of(text).unwrap_or_else(|| panic!("{text}"));
        for text in within.split(' ').filter(|text| !text.is_empty()) {
            assert!(parsed.contains(&version(&text)), "{text} in {range}: {parsed:?}");
        }
        for text in without.split(' ').filter(|text| !text.is_empty()) {
            assert!(!parsed.contains(&version(&text)), "{text} not in {range}: {parsed:?}");
        }
    }

    #[test]
    fn ranges_contain_the_expected_versions() {
        check(">=6.0 <7", "6.0 v6.0.0 6.99.1", "5.9.9 7.0 7.0.0-rc.1 6.1.0-rc.1");
        check(">=6.0, <7", "6.0.0 6.5", "5.9 7.0 7.1");
        check(">= 6.0 < 7", "6.0.0 6.5", "5.9 7.0");
        check("^6", "6.0 6.9.9", "5.9 7.0");
        check("^6.1.2", "6.1.2 6.9", "6.1.1 7.0");
        check("^0.2", "0.2.0 0.2.9", "0.3.0 0.1.9 1.0");
        check("^0.0.3", "0.0.3", "0.0.4 0.0.2");
        check("^0", "0.0.1 0.9.0", "1.0");
        check("^0.0", "0.0.1", "0.1.0");
        check("~6.1", "6.1.0 6.1.9", "6.2.0 6.0.9");
        check("~6.1.4", "6.1.4 6.1.9", "6.1.3 6.2.0");
        check("~6", "6.0 6.9", "7.0");
        check("~> 6.1", "6.1.9", "6.2");
        check("6.x", "6.0 6.9.9", "7.0 5.9");
        check("6.1.*", "6.1.3", "6.2.0");
        check("v6.1", "6.1.3", "6.2.0");
        check("=6.1.2", "6.1.2", "6.1.3 6.1.1 6.1.2-rc.1");
        check("1.2 - 2", "1.2.0 2.9.9", "1.1.9 3.0");
        check("1.2.3 - 2.3.4", "1.2.3 2.3.4", "2.3.5 1.2.2");
        check("1.x || >=3 <4", "1.2 3.5", "2.0 4.0");
        check(">6", "7.0 8.1", "6.9.9");
        check(">6.1", "6.2.0", "6.1.9");
        check(">6.1.2", "6.1.3", "6.1.2");
        check("<=6", "6.9.9 1.0", "7.0");
        check("<=6.1.2", "6.1.2", "6.1.3");
        check("<6", "5.9", "6.0");
        check("!=6.1 >=6 <7", "6.0 6.2", "6.1.0 6.1.9");
        check("*", "0.0.1 99.0", "1.0.0-rc.1");
        check("2024.01 - 2024.06", "2024.1.0 2024.06.30", "2024.7.0 2023.12");
    }

    #[test]
    fn prereleases_are_contained_only_if_the_range_names_one() {
        check(">=6.0-0 <7", "6.0.0-alpha 6.1.0-rc.1 6.2.0", "7.0.0-rc.1 7.0.0 5.9");
        check(">=6.0.0-rc.2", "6.0.0-rc.2 6.0.0-rc.10 6.0.0 6.1.0-alpha", "6.0.0-rc.1");
        check("=6.0.0-rc.1", "6.0.0-rc.1", "6.0.0-rc.2 6.0.0 6.0.0-rc.1.1");
        check(">6.0.0-rc.1", "6.0.0-rc.2 6.0.0", "6.0.0-rc.1");
        check(">=5.0-0 <6 || >=7", "5.1.0-rc.1 7.0", "7.1.0-rc.1");
        check("^0.0.3-rc.1", "0.0.3-rc.1 0.0.3-rc.2 0.0.3", "0.0.4 0.0.3-beta");
        check("<7.0.0-rc.2 >=6", "7.0.0-rc.1", "7.0.0-rc.2");
    }

    #[test]
    fn an_invalid_range_is_an_error_with_a_reason() {
        for (text, why) in [
            ("", "is empty"),
            ("6 ||", "is empty"),
            ("latest", "`latest` is not a version"),
            (">=", "nothing follows >="),
            ("1.2 -", "nothing follows -"),
            ("1.2.3.4", "not a version"),
            ("1.x.3", "not a version"),
            (">=6+build", "build metadata"),
            ("<<6", "unknown operator <<"),
            (">*", "no version is > any version"),
            (&"1".repeat(300), "longer than"),
            ("99999999999999999999", "not a version"),
        ] {
            let error = Range::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn versions_are_read_from_tags() {
        for (tag, version) in [
            ("1.2.3", "1.2.3"),
            ("v1.2", "1.2.0"),
            ("1.2-rc.1", "1.2.0-rc.1"),
            ("2024.01.02", "2024.1.2"),
        ] {
            assert_eq!(version_of(tag).unwrap().to_string(), version, "{tag}");
        }
        for tag in [
            "latest", "6", "v6", "20240102", "1.2.3.4", "1.2.x", "1.2-", "1.2_3", "vv1.2", "1..2", "",
        ] {
            assert_eq!(version_of(tag), None, "{tag}");
        }
    }
}
