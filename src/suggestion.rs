//! The known name that is nearest to an unknown one: a field, a value of an enumeration, a kind.

/// Maximum length in bytes of a name that is compared.
const MAX_LENGTH: usize = 64;
/// Minimum length in characters of a part that is completed to a whole name.
const MIN_PART_LENGTH: usize = 4;

/// The name in `known` that was probably intended, if one is close enough: a misspelling, or a name that contains the
/// input.
pub fn nearest<'a>(input: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let part = normalize_input(input).filter(|part| part.len() >= MIN_PART_LENGTH);
    misspelt(input, known.clone()).or_else(|| {
        let part = part?;
        let whole = known.into_iter().filter(|name| normalize(name).contains(&part));
        whole.min_by_key(|name| (name.len(), *name))
    })
}

/// The name in `known` that `input` is a misspelling of, if any: the same letters with other case or separators, or at
/// most one letter in three wrong.
pub fn misspelt<'a>(input: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normalized = normalize_input(input)?;
    let distance = |name: &'a str| {
        let other = normalize(name);
        let longer = normalized.chars().count().max(other.chars().count());
        let edits = strsim::osa_distance(&normalized, &other);
        (edits <= longer / 3).then_some(edits)
    };
    let near = known.into_iter().filter_map(|name| Some((distance(name)?, name)));
    near.min().map(|(_, name)| name)
}

/// `; did you mean NAME?`, or an empty text if no name in `known` is close to `input`.
pub fn did_you_mean<'a>(input: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(input, known) {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// The normalised input; `None` if it is empty or too long to compare.
fn normalize_input(input: &str) -> Option<String> {
    let normalized = (input.len() <= MAX_LENGTH).then(|| normalize(input));
    normalized.filter(|normalized| !normalized.is_empty())
}

/// Lower-case letters and digits only.
fn normalize(name: &str) -> String {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_and_partial_names_are_suggested() {
        let fields = [
            "image",
            "imagePullSecrets",
            "nodeSelector",
            "platforms",
            "source",
            "tag",
        ];
        for (input, meant) in [
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
            assert_eq!(nearest(input, fields), meant, "{input}");
        }
        assert_eq!(nearest("docker", ["Registry", "Docker"]), Some("Docker"));
        assert_eq!(nearest("dokcer", ["Registry", "Docker"]), Some("Docker"));
        assert_eq!(
            nearest("ab", ["ac", "AB"]),
            Some("AB"),
            "short names differ by case only"
        );
        assert_eq!(misspelt("secrets", fields), None, "a part is not a misspelling");
        assert_eq!(did_you_mean("docker", ["Docker"]), "; did you mean Docker?");
        assert_eq!(did_you_mean("podman", ["Docker"]), "");
    }
}
