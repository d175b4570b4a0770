//! The names of images on nodes.

use crate::archive::unpack::Chosen;
use crate::bootstrap::install::ADDRESS;
use crate::fault::{Fault, Reason};
use crate::oci::{Location, Naming, Reference};

/// `image` with the names that pods use after an installation, too: each by its tag and by its digest.
pub(super) fn with_final(mut image: Chosen) -> Result<Chosen, Fault> {
    let mut found: Vec<Reference> = Vec::new();
    for name in &image.names {
        let location = Location::under_prefix(name, ADDRESS, "", Naming::Plain, true)
            .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
        // A location has the digest of a name that has one, and no tag.
        let tag = name.tag().or_else(|| location.tags.first().map(String::as_str));
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let text = format!("{ADDRESS}/{}{tag}@{}", location.repository, image.listed);
        let name: Reference = text.parse().map_err(|error| {
            Fault::stalled(
                Reason::InvalidReference,
                format!("{text} cannot be the name of an image: {error}"),
            )
        })?;
        if !found.contains(&name) && !image.names.contains(&name) {
            found.push(name);
        }
    }
    image.names.extend(found);
    Ok(image)
}

/// All names, one a line, as containerd has them after an import.
pub(super) fn listed(images: &[Chosen]) -> String {
    let names = images.iter().flat_map(Chosen::layout_names);
    names.map(|name| format!("{name}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Digest, Document, Manifest};

    fn image(names: &[&str]) -> Chosen {
        let document = Document::of_manifest(Manifest::new(Descriptor::empty(), Vec::new())).unwrap();
        Chosen {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            listed: document.digest().clone(),
            documents: vec![document],
        }
    }

    #[test]
    fn images_keep_their_names_and_get_those_of_the_registry() {
        let plain = image(&["ghcr.io/team/web:1.2", "nginx"]);
        let digest = plain.listed.clone();
        let expected = [
            "ghcr.io/team/web:1.2".to_owned(),
            "docker.io/library/nginx:latest".to_owned(),
            "127.0.0.1:31999/team/web:1.2".to_owned(),
            format!("127.0.0.1:31999/team/web@{digest}"),
            "127.0.0.1:31999/library/nginx:latest".to_owned(),
            format!("127.0.0.1:31999/library/nginx@{digest}"),
        ];
        let named = with_final(plain).unwrap();
        assert_eq!(
            listed(std::slice::from_ref(&named)),
            expected.map(|name| name + "\n").concat()
        );
        // A repeat adds nothing.
        assert_eq!(with_final(named.clone()).unwrap(), named);
    }

    #[test]
    fn names_with_digests_and_names_of_the_registry() {
        let digest = Digest::of(b"other");
        let own = image(&[]).listed;
        let named = with_final(image(&[
            &format!("ghcr.io/team/web@{own}"),
            "127.0.0.1:31999/team/app:2",
        ]))
        .unwrap();
        let text = listed(&[named]);
        let expected = [
            format!("ghcr.io/team/web@{own}\n"),
            "127.0.0.1:31999/team/app:2\n".to_owned(),
            format!("127.0.0.1:31999/team/web@{own}\n"),
            format!("127.0.0.1:31999/team/app@{own}\n"),
        ];
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
            lines.sort();
            lines.dedup();
            lines
        };
        assert_eq!(lines(&text), lines(&expected.concat()));
        assert!(!text.contains(digest.as_str()));
        let long = format!("ghcr.io/{}", vec!["a"; 120].join("/"));
        assert!(with_final(image(&[&long])).is_ok());
    }
}
