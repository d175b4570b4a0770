//! The names under which images and packages are served. No IO.

use std::collections::BTreeMap;

use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Location, Naming, Reference, normalised_host};

/// The tags of a repository.
pub(super) type Tags = BTreeMap<String, Tagged>;
type Repositories = BTreeMap<String, Tags>;

/// What a tag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tagged {
    /// The manifest or index.
    pub digest: Digest,
    /// The image or package that has it, and the file that it is in.
    origin: String,
}

/// All names. An image has those that `load` would give it, and its own with and without the host of its registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    all: Repositories,
    /// Those of images, by the host of their registry: what a mirror of that registry serves.
    by_registry: BTreeMap<String, Repositories>,
    /// Those that belong to no registry: of packages, and those that webhooks make.
    unhosted: Repositories,
}

impl Catalog {
    /// Adds the image `name` of the file `file`, whose root manifest is `root`, with its location under `prefix`.
    ///
    /// # Errors
    /// A stalled fault, when another image has one of its names, or it has no location.
    pub fn add_image(
        &mut self,
        name: &Reference,
        root: &Digest,
        file: &str,
        (prefix, naming): (&str, Naming),
    ) -> Result<(), Fault> {
        let location = Location::under_prefix(name, "", prefix, naming, true)
            .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
        let tagged = Tagged {
            digest: root.clone(),
            origin: format!("image `{name}` in {file}"),
        };
        // As `load` does, an image with a digest gets no tag: its tag may have moved since.
        let own = name.tag().filter(|_| name.digest().is_none());
        let own = own.map(str::to_owned);
        let registry = self.by_registry.entry(name.registry().to_owned()).or_default();
        add(registry, name.repository(), own.as_slice(), &tagged)?;
        add(&mut self.all, name.repository(), own.as_slice(), &tagged)?;
        // No repository has a colon in its name, so an image of `host:port` is found without it alone.
        if !name.registry().contains(':') {
            add(&mut self.all, &name.name(), own.as_slice(), &tagged)?;
        }
        add(&mut self.all, &location.repository, &location.tags, &tagged)?;
        if naming != Naming::Plain {
            let made = location.tags.first().filter(|tag| Some(*tag) != own.as_ref()).cloned();
            add(&mut self.unhosted, &location.repository, made.as_slice(), &tagged)?;
        }
        Ok(())
    }

    /// Adds a package whose index is `index`; `file` has it.
    ///
    /// # Errors
    /// A stalled fault, when something else has its name.
    pub fn add_package(&mut self, repository: &str, tag: &str, index: &Digest, file: &str) -> Result<(), Fault> {
        let tagged = Tagged {
            digest: index.clone(),
            origin: format!("package `{repository}:{tag}` in {file}"),
        };
        for repositories in [&mut self.all, &mut self.unhosted] {
            add(repositories, repository, &[tag.to_owned()], &tagged)?;
        }
        Ok(())
    }

    /// The tags of a repository; `None` where there is none with that name. `namespace` is the registry that the client means, as
    /// containerd tells its mirrors: then an image of another registry is not served under that name.
    pub fn repository(&self, name: &str, namespace: Option<&str>) -> Option<&Tags> {
        let Some(namespace) = namespace else {
            return self.all.get(name);
        };
        let registry = self.by_registry.get(&normalised_host(namespace));
        let mirrored = registry.and_then(|registry| registry.get(name));
        mirrored.or_else(|| self.unhosted.get(name))
    }

    /// The names of all repositories, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }
}

/// Adds `tags` to a repository, which exists then also without any.
fn add(repositories: &mut Repositories, repository: &str, tags: &[String], tagged: &Tagged) -> Result<(), Fault> {
    let known = repositories.entry(repository.to_owned()).or_default();
    for tag in tags {
        match known.get(tag) {
            Some(other) if other.digest != tagged.digest => {
                return Err(Fault::stalled(
                    Reason::InvalidReference,
                    format!(
                        "{} and {} are different, and both would be served as {repository}:{tag}; serve them from different files at different addresses",
                        other.origin, tagged.origin
                    ),
                ));
            }
            Some(_) => {}
            None => drop(known.insert(tag.clone(), tagged.clone())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(images: &[(&str, &str)], prefix: &str, naming: Naming) -> Result<Catalog, Fault> {
        let mut catalog = Catalog::default();
        for (name, content) in images {
            let root = Digest::of(content.as_bytes());
            catalog.add_image(&name.parse().unwrap(), &root, "a.tar.zst", (prefix, naming))?;
        }
        Ok(catalog)
    }

    fn all(catalog: &Catalog) -> Vec<String> {
        let repositories = catalog.all.iter();
        let names = repositories.flat_map(|(name, tags)| tags.keys().map(move |tag| format!("{name}:{tag}")));
        names.collect()
    }

    #[test]
    fn images_have_names_with_and_without_their_hosts() {
        let plain = catalog(
            &[("nginx:1", "a"), ("r.example:5000/team/app:2", "b")],
            "",
            Naming::Plain,
        )
        .unwrap();
        assert_eq!(
            all(&plain),
            ["docker.io/library/nginx:1", "library/nginx:1", "team/app:2"]
        );
        let jackal = catalog(&[("nginx:1", "a")], "site", Naming::Jackal).unwrap();
        assert_eq!(
            all(&jackal),
            [
                "docker.io/library/nginx:1",
                "library/nginx:1",
                "site/library/nginx:1",
                "site/library/nginx:1-jackal-3793515731",
            ]
        );
        let zarf = catalog(&[("nginx:1", "a")], "", Naming::Zarf).unwrap();
        assert!(all(&zarf).contains(&"library/nginx:1-zarf-3793515731".to_owned()));
    }

    #[test]
    fn an_image_with_a_digest_has_a_repository_and_no_tag() {
        let name = format!("app:1@{}", Digest::of(b"a"));
        let catalog = catalog(&[(&name, "a")], "", Naming::Zarf).unwrap();
        assert_eq!(all(&catalog), Vec::<String>::new());
        let names: Vec<&str> = catalog.names().collect();
        assert_eq!(names, ["docker.io/library/app", "library/app"]);
    }

    #[test]
    fn different_images_with_one_name_are_refused() {
        let images = [("docker.io/team/app:1", "a"), ("ghcr.io/team/app:1", "b")];
        let fault = catalog(&images, "", Naming::Plain).unwrap_err();
        for part in ["docker.io/team/app:1", "ghcr.io/team/app:1", "served as team/app:1"] {
            assert!(fault.message.contains(part), "{fault}");
        }
        let same = [("docker.io/team/app:1", "a"), ("ghcr.io/team/app:1", "a")];
        assert!(catalog(&same, "", Naming::Plain).is_ok());
        let mut packages = catalog(&images[..1], "", Naming::Plain).unwrap();
        let fault = packages
            .add_package("team/app", "1", &Digest::of(b"p"), "b.tar.zst")
            .unwrap_err();
        assert!(fault.message.contains("package `team/app:1` in b.tar.zst"), "{fault}");
    }

    #[test]
    fn a_mirror_serves_the_images_of_its_registry() {
        let images = [("docker.io/team/app:1", "a"), ("ghcr.io/team/other:1", "b")];
        let mut catalog = catalog(&images, "", Naming::Zarf).unwrap();
        catalog.add_package("shop", "1.0.0", &Digest::of(b"p"), "a").unwrap();
        let tags = |name: &str, namespace: &str| {
            let found = catalog.repository(name, Some(namespace));
            found.map(|tags| tags.keys().cloned().collect::<Vec<_>>())
        };
        assert_eq!(tags("team/app", "docker.io").unwrap(), ["1"]);
        assert_eq!(tags("team/app", "Docker.IO").unwrap(), ["1"]);
        assert_eq!(tags("team/other", "ghcr.io").unwrap(), ["1"]);
        // Other registries have no such tag, except the one of the cluster, whose names are made for it.
        let made = tags("team/app", "quay.io").unwrap();
        assert!(made.len() == 1 && made[0].starts_with("1-zarf-"), "{made:?}");
        assert_eq!(tags("shop", "127.0.0.1:31999").unwrap(), ["1.0.0"]);
        assert_eq!(tags("docker.io/team/app", "docker.io"), None);
        assert_eq!(tags("none", "docker.io"), None);
    }
}
