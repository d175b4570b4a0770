//! Range requests (RFC 9110, section 14) and conditional requests (section 13). No IO.

use std::ops::Range;

/// What of some content a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    /// All of it.
    Whole,
    /// The bytes of this range, which is not empty.
    Part(Range<u64>),
    /// Nothing that is there.
    Unsatisfiable,
}

/// What the field `Range: {field}` selects of content of `size` bytes. Fields of other units, with several ranges or with a wrong
/// syntax are ignored, as the RFC allows.
pub(super) fn selected(field: &str, size: u64) -> Selected {
    let Some((unit, ranges)) = field.split_once('=') else {
        return Selected::Whole;
    };
    let range = ranges.trim();
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else {
        return Selected::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || size == 0 {
        return Selected::Whole;
    }
    match (number(first), number(last)) {
        (Ok(None), Ok(Some(0))) => Selected::Unsatisfiable,
        (Ok(None), Ok(Some(length))) => Selected::Part(size.saturating_sub(length)..size),
        (Ok(Some(first)), Ok(last)) if last.is_none_or(|last| first <= last) => match first < size {
            true => Selected::Part(first..last.map_or(size, |last| last.saturating_add(1).min(size))),
            false => Selected::Unsatisfiable,
        },
        _ => Selected::Whole,
    }
}

/// The number `text`; `None` where it is empty. One that is too large for 64 bits is larger than any content.
fn number(text: &str) -> Result<Option<u64>, ()> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(());
    }
    Ok((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

/// Whether the field `If-None-Match: {field}` names `tag`, so that the client has the content already.
pub(super) fn names_tag(field: &str, tag: &str) -> bool {
    field.split(',').map(str::trim).any(|known| {
        let known = known.strip_prefix("W/").unwrap_or(known);
        known == "*" || known == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_selected() {
        for (field, expected) in [
            ("bytes=0-0", Selected::Part(0..1)),
            ("bytes=0-", Selected::Part(0..10)),
            ("bytes=3-5", Selected::Part(3..6)),
            ("Bytes = 3 - 5", Selected::Part(3..6)),
            ("bytes=9-100", Selected::Part(9..10)),
            ("bytes=0-99999999999999999999999", Selected::Part(0..10)),
            ("bytes=-3", Selected::Part(7..10)),
            ("bytes=-100", Selected::Part(0..10)),
            ("bytes=-0", Selected::Unsatisfiable),
            ("bytes=10-", Selected::Unsatisfiable),
            ("bytes=10-12", Selected::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selected::Unsatisfiable),
            ("bytes=5-3", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("bytes=", Selected::Whole),
            ("bytes", Selected::Whole),
            ("bytes=+1-2", Selected::Whole),
            ("bytes=1-2-3", Selected::Whole),
            ("bytes=a-b", Selected::Whole),
            ("bytes=0-1,3-4", Selected::Whole),
            ("lines=0-1", Selected::Whole),
        ] {
            assert_eq!(selected(field, 10), expected, "{field}");
        }
    }

    #[test]
    fn empty_content_has_no_parts() {
        for field in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(selected(field, 0), Selected::Whole, "{field}");
        }
    }

    #[test]
    fn known_tags_are_found() {
        for field in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert!(names_tag(field, "\"a\""), "{field}");
        }
        for field in ["", "a", "\"b\"", "\"A\""] {
            assert!(!names_tag(field, "\"a\""), "{field}");
        }
    }
}
