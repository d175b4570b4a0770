//! Text that a cluster wrote, for people.

/// Characters that change how text around them is shown (Unicode, "Bidirectional Algorithm", explicit formatting).
const DIRECTIONS: [std::ops::RangeInclusive<char>; 2] = ['\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}'];

/// The first `length` characters of `text`, on one line, without control characters.
pub(in crate::bootstrap) fn clean(text: &str, length: usize) -> String {
    let is_hidden = |letter: char| letter.is_control() || DIRECTIONS.iter().any(|range| range.contains(&letter));
    let mut letters = text.trim().chars();
    let mut shown: String = letters
        .by_ref()
        .take(length)
        .map(|letter| match letter {
            '\n' | '\t' => ' ',
            letter if is_hidden(letter) => '\u{fffd}',
            letter => letter,
        })
        .collect();
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The names as a list, the first few of them.
pub(in crate::bootstrap) fn names<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| clean(name.as_ref(), 80)).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `count` of `one`, in the plural where it is not one.
pub(in crate::bootstrap) fn count(count: usize, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shortened_and_has_no_control_characters() {
        assert_eq!(
            clean(" a\u{1b}[31m\n\u{202e}b\u{7} ", 100),
            "a\u{fffd}[31m \u{fffd}b\u{fffd}"
        );
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean("abc", 3), "abc");
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(names(&many), "a, b, c, d, e and 2 more");
        assert_eq!(names(&many[..2]), "a, b");
        assert_eq!(
            (count(1, "node"), count(0, "node")),
            ("1 node".to_owned(), "0 nodes".to_owned())
        );
    }
}
