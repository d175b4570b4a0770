//! The known name that is nearest to an unknown one: a field, a value of an enumeration, a kind.

/// The longest name in bytes that is compared; nobody misspells more by accident.
const LONGEST: usize = 64;
/// The shortest part of a name in characters that stands for the whole one.
const SHORTEST_PART: usize = 4;

/// The name among `known` that `written` was probably meant to be, if any is near enough: one that is merely misspelt, or
/// one that it is a part of.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let part = letters_of(written).filter(|letters| letters.len() >= SHORTEST_PART);
    misspelt(written, known.clone()).or_else(|| {
        let part = part?;
        let whole = known.into_iter().filter(|name| letters(name).contains(&part));
        whole.min_by_key(|name| (name.len(), *name))
    })
}

/// The name among `known` of which `written` is a misspelling, if any: the same letters in another case or with other
/// separators, or at most one letter in three wrong.
pub fn misspelt<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = letters_of(written)?;
    let distance = |name: &'a str| {
        let other = self::letters(name);
        let longer = letters.chars().count().max(other.chars().count());
        let edits = strsim::osa_distance(&letters, &other);
        (edits <= longer / 3).then_some(edits)
    };
    let near = known.into_iter().filter_map(|name| Some((distance(name)?, name)));
    near.min().map(|(_, name)| name)
}

/// `; did you mean NAME?`, or nothing where no name among `known` is near `written`.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(written, known) {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// The letters of a name that a person wrote; none where there are none, or more than are compared.
fn letters_of(written: &str) -> Option<String> {
    let letters = (written.len() <= LONGEST).then(|| letters(written));
    letters.filter(|letters| !letters.is_empty())
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
        assert_eq!(misspelt("secrets", fields), None, "a part is no misspelling");
        assert_eq!(did_you_mean("docker", ["Docker"]), "; did you mean Docker?");
        assert_eq!(did_you_mean("podman", ["Docker"]), "");
    }
}
