//! The name that was probably meant by one that is not known: a field, a value of an enumeration, a kind.

/// The longest name in bytes that is compared; nobody misspells more by accident.
const LONGEST: usize = 64;
/// The shortest part of a name in characters that stands for the whole one.
const SHORTEST_PART: usize = 4;

/// The name among `known` that `written` was probably meant to be, if any is near enough: the same letters in another
/// case or with other separators, at most one letter in three wrong, or a part of the name.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > LONGEST {
        return None;
    }
    let letters = letters(written);
    if letters.is_empty() {
        return None;
    }
    let distance = |name: &'a str| {
        let other = self::letters(name);
        let longer = letters.chars().count().max(other.chars().count());
        let edits = strsim::osa_distance(&letters, &other);
        let is_part = letters.len() >= SHORTEST_PART && other.contains(&letters);
        match edits <= longer / 3 {
            true => Some(edits),
            // Behind every name that is merely misspelt.
            false => is_part.then_some(LONGEST + other.len()),
        }
    };
    let near = known.into_iter().filter_map(|name| Some((distance(name)?, name)));
    near.min().map(|(_, name)| name)
}

/// `; did you mean NAME?`, or nothing where no name among `known` is near `written`.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(written, known) {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// Only letters and digits count, in lower case.
fn letters(name: &str) -> String {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_was_meant() {
        let fields = [
            "image",
            "imagePullSecrets",
            "nodeSelector",
            "platforms",
            "source",
            "tag",
        ];
        for (written, meant) in [
            ("platfroms", Some("platforms")),
            ("platform", Some("platforms")),
            ("Image", Some("image")),
            ("image_pull_secrets", Some("imagePullSecrets")),
            ("image-pull-secret", Some("imagePullSecrets")),
            ("pullSecrets", Some("imagePullSecrets")),
            ("nodeselector", Some("nodeSelector")),
            ("sauce", Some("source")),
            ("src", None),
            ("colour", None),
            ("", None),
            ("---", None),
            (&"p".repeat(65), None),
        ] {
            assert_eq!(nearest(written, fields), meant, "{written}");
        }
        assert_eq!(nearest("docker", ["Registry", "Docker"]), Some("Docker"));
        assert_eq!(nearest("dokcer", ["Registry", "Docker"]), Some("Docker"));
        assert_eq!(
            nearest("ab", ["ac", "AB"]),
            Some("AB"),
            "short names differ by case only"
        );
        assert_eq!(did_you_mean("docker", ["Docker"]), "; did you mean Docker?");
        assert_eq!(did_you_mean("podman", ["Docker"]), "");
    }
}
