//! The location of an image in the in-cluster registry: the same transformation of references that the admission
//! webhooks of Jackal and Zarf apply to the images of pods.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Digest, Reference, normalised_host};

/// Maximum length of a tag in characters (OCI distribution specification, "Pulling manifests").
const MAX_TAG_LENGTH: usize = 128;
/// Maximum length of a repository path in characters in distribution.
const MAX_REPOSITORY_LENGTH: usize = 255;

/// How the name of an image in the cluster is derived from its original name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Naming {
    /// `path:tag-jackal-<crc>` and the plain `path:tag`, as Jackal's webhook expects.
    Jackal,
    /// `path:tag-zarf-<crc>` and the plain `path:tag`, as Zarf's webhook expects.
    Zarf,
    /// Only `path:tag`.
    Plain,
}

impl Naming {
    fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Jackal => Some("jackal"),
            Self::Zarf => Some("zarf"),
            Self::Plain => None,
        }
    }
}

/// The location of an image in a registry: what it is pushed as, and the name that pods use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Host and port as pods use them, with the prefix for images: `127.0.0.1:31999[/prefix]`.
    target: String,
    /// The repository in that registry, including the prefix.
    pub repository: String,
    /// The tags of the image, the primary one first. Empty if the reference has a digest.
    pub tags: Vec<String>,
    /// The digest in the reference, if any.
    pub digest: Option<Digest>,
    /// Whether it has the address of a registry; an OCI layout has none.
    pub has_address: bool,
    /// The plain tag, if it was omitted because it belongs to another owner.
    pub omitted_tag: Option<OmittedTag>,
    path: String,
}

/// A plain tag that was omitted because it belongs to another owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OmittedTag {
    /// The tag.
    pub tag: String,
    /// Its owner, such as `a package`.
    pub owner: String,
}

impl fmt::Display for OmittedTag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the plain tag {} belongs to {} and was omitted",
            self.tag, self.owner
        )
    }
}

/// Why an image has no location.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LocationError {
    /// The transformed tag is too long.
    #[error("the tag of `{image}` becomes `{tag}` in the cluster, which has {length} characters, but registries allow only {MAX_TAG_LENGTH}; use a shorter tag, a digest, or naming: Plain", length = tag.len())]
    TagTooLong {
        /// The image as written.
        image: String,
        /// The transformed tag.
        tag: String,
    },
    /// The repository with its prefix is too long.
    #[error("`{image}` becomes the repository `{repository}` in the cluster, which has {length} characters, but registries allow only {MAX_REPOSITORY_LENGTH}; shorten registry.repositoryPrefix or the path of the image", length = repository.len())]
    RepositoryTooLong {
        /// The image as written.
        image: String,
        /// The repository with its prefix.
        repository: String,
    },
}

impl Location {
    /// The location of `image` in the registry that pods reach at `address` (host and port), under `prefix` (may be
    /// empty). `plain` adds the plain tag to the one with a checksum.
    ///
    /// An image that is already in the destination registry keeps its name, because webhooks do not change it either.
    pub fn new(
        image: &Reference,
        address: &str,
        prefix: &str,
        naming: Naming,
        plain: bool,
    ) -> Result<Self, LocationError> {
        // Compares complete hosts, so that `registry.local` does not match `registry.local.evil`.
        let is_unchanged = image.registry() == normalised_host(address);
        Self::build(image, (address, prefix), naming, plain, is_unchanged)
    }

    /// Like [`Location::new`], but always under `prefix`: only an image that is already under it keeps its name. An
    /// empty `address` means a destination without one, such as an OCI layout.
    pub fn under_prefix(
        image: &Reference,
        address: &str,
        prefix: &str,
        naming: Naming,
        plain: bool,
    ) -> Result<Self, LocationError> {
        let has_prefix = match prefix.trim_matches('/') {
            "" => true,
            prefix => {
                let rest = image.repository().strip_prefix(prefix);
                rest.is_some_and(|rest| rest.starts_with('/'))
            }
        };
        let is_unchanged = image.registry() == normalised_host(address) && has_prefix;
        Self::build(image, (address, prefix), naming, plain, is_unchanged)
    }

    fn build(
        image: &Reference,
        (address, prefix): (&str, &str),
        naming: Naming,
        plain: bool,
        is_unchanged: bool,
    ) -> Result<Self, LocationError> {
        let prefix = prefix.trim_matches('/');
        let (target, repository) = match prefix {
            prefix if is_unchanged || prefix.is_empty() => (address.to_owned(), image.repository().to_owned()),
            prefix => (
                [address, prefix].join("/").trim_start_matches('/').to_owned(),
                format!("{prefix}/{}", image.repository()),
            ),
        };
        let path = image.repository().to_owned();
        let has_address = !address.is_empty();
        if repository.len() > MAX_REPOSITORY_LENGTH {
            return Err(LocationError::RepositoryTooLong {
                image: image.to_string(),
                repository,
            });
        }
        if let Some(digest) = image.digest() {
            return Ok(Self {
                target,
                repository,
                tags: Vec::new(),
                digest: Some(digest.clone()),
                has_address,
                omitted_tag: None,
                path,
            });
        }
        let tag = image.tag().unwrap_or("latest").to_owned();
        let tags = match naming.suffix() {
            Some(suffix) if !is_unchanged => {
                let checksum = crc32fast::hash(image.name().as_bytes());
                let suffixed = format!("{tag}-{suffix}-{checksum}");
                if plain { vec![suffixed, tag] } else { vec![suffixed] }
            }
            _ => vec![tag],
        };
        if let Some(tag) = tags.iter().find(|tag| tag.len() > MAX_TAG_LENGTH) {
            return Err(LocationError::TagTooLong {
                image: image.to_string(),
                tag: tag.clone(),
            });
        }
        Ok(Self {
            target,
            repository,
            tags,
            digest: None,
            has_address,
            omitted_tag: None,
            path,
        })
    }

    /// All names of the image: the one that pods use, and the plain one if it has one.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let plain = self.plain_tag().map(|tag| format!("{}:{tag}", self.name()));
        [self.to_string()].into_iter().chain(plain)
    }

    /// The name without tag and digest.
    fn name(&self) -> String {
        match self.target.as_str() {
            "" => self.path.clone(),
            target => format!("{target}/{}", self.path),
        }
    }

    /// The additional plain tag, which another image or a package may use too.
    pub fn plain_tag(&self) -> Option<&str> {
        self.tags.get(1).map(String::as_str)
    }

    /// Omits the plain tag, if there is one, because it belongs to `owner`.
    pub fn omit_plain_tag(&mut self, owner: &str) {
        if self.tags.len() > 1 {
            self.omitted_tag = self.tags.pop().map(|tag| OmittedTag {
                tag,
                owner: owner.to_owned(),
            });
        }
    }
}

impl fmt::Display for Location {
    /// The name in the `image` field of a pod; without an address, the part after it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name())?;
        match (&self.digest, self.tags.first()) {
            (Some(digest), _) => write!(formatter, "@{digest}"),
            (None, Some(tag)) => write!(formatter, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location_of(image: &str, naming: Naming) -> Result<Location, LocationError> {
        Location::new(&image.parse().unwrap(), "gitlab.com", "project", naming, true)
    }

    #[test]
    fn names_equal_those_of_zarf() {
        let digest = Digest::of(b"");
        for (image, name) in [
            ("nginx", "library/nginx:latest-zarf-3793515731".to_owned()),
            ("nginx:1.23.3", "library/nginx:1.23.3-zarf-3793515731".to_owned()),
            (
                "ghcr.io/stefanprodan/podinfo:6.3.3",
                "stefanprodan/podinfo:6.3.3-zarf-2985051089".to_owned(),
            ),
            (
                "oci://10.43.130.183:5000/stefanprodan/manifests/podinfo",
                "stefanprodan/manifests/podinfo:latest-zarf-531355090".to_owned(),
            ),
            (&format!("busybox:latest@{digest}"), format!("library/busybox@{digest}")),
            ("alpine:3", "library/alpine:3-zarf-1117969859".to_owned()),
            ("busybox:1", "library/busybox:1-zarf-2140033595".to_owned()),
            ("registry:3", "library/registry:3-zarf-2874453864".to_owned()),
        ] {
            assert_eq!(
                location_of(image, Naming::Zarf).unwrap().to_string(),
                format!("gitlab.com/project/{name}"),
                "{image}"
            );
        }
    }

    #[test]
    fn the_plain_tag_is_added() {
        let location = location_of("nginx:1", Naming::Jackal).unwrap();
        assert_eq!(location.repository, "project/library/nginx");
        assert_eq!(location.tags, ["1-jackal-3793515731", "1"]);
        assert_eq!(location_of("nginx:1", Naming::Plain).unwrap().tags, ["1"]);
        let image = "nginx:1".parse().unwrap();
        assert_eq!(
            Location::new(&image, "r:1", "", Naming::Jackal, false).unwrap().tags,
            ["1-jackal-3793515731"]
        );
    }

    #[test]
    fn images_of_the_destination_keep_their_names() {
        let image: Reference = "127.0.0.1:31999/library/bb:1".parse().unwrap();
        let location = Location::new(&image, "127.0.0.1:31999", "team", Naming::Zarf, true).unwrap();
        assert_eq!(
            (location.to_string().as_str(), location.tags.len()),
            ("127.0.0.1:31999/library/bb:1", 1)
        );
        for (image, address) in [
            ("Registry.Local/bb:1", "registry.local"),
            ("registry.local/bb:1", "Registry.Local"),
            ("[::1]:5000/bb:1", "[0:0::1]:5000"),
        ] {
            let location = Location::new(&image.parse().unwrap(), address, "team", Naming::Zarf, true).unwrap();
            assert_eq!(location.to_string(), format!("{address}/bb:1"));
        }
        let other = Location::new(&image, "127.0.0.1:3199", "", Naming::Zarf, true).unwrap();
        assert!(other.to_string().starts_with("127.0.0.1:3199/library/bb:1-zarf-"));
    }

    #[test]
    fn images_are_moved_under_the_prefix() {
        let below = |image: &str, address: &str, prefix: &str| {
            let location =
                Location::under_prefix(&image.parse().unwrap(), address, prefix, Naming::Zarf, true).unwrap();
            (location.to_string(), location.repository, location.tags.len())
        };
        let (name, repository, tags) = below("r.example/app:1", "r.example", "team");
        assert!(name.starts_with("r.example/team/app:1-zarf-"), "{name}");
        assert_eq!((repository.as_str(), tags), ("team/app", 2));
        let is_unchanged = ("r.example/team/app:1".to_owned(), "team/app".to_owned(), 1);
        assert_eq!(below("r.example/team/app:1", "r.example", "team"), is_unchanged);
        assert_eq!(below("r.example/teams/app:1", "r.example", "team").1, "team/teams/app");
        assert_eq!(below("r.example/app:1", "r.example", "").1, "app");
        let (name, repository, _) = below("r.example/app:1", "", "team");
        assert!(name.starts_with("team/app:1-zarf-"), "{name}");
        assert_eq!(repository, "team/app");
        assert!(below("r.example/app:1", "", "").0.starts_with("app:1-zarf-"));
    }

    #[test]
    fn too_long_names_are_rejected() {
        let tag = "t".repeat(118);
        let error = location_of(&format!("nginx:{tag}"), Naming::Jackal).unwrap_err();
        assert!(error.to_string().contains("136 characters"), "{error}");
        assert!(location_of(&format!("nginx:{tag}"), Naming::Plain).is_ok());
        let path = format!("ghcr.io/{}/x:1", "a/".repeat(125).trim_end_matches('/'));
        assert!(matches!(
            location_of(&path, Naming::Plain),
            Err(LocationError::RepositoryTooLong { .. })
        ));
    }
}
