//! Where an image lands in the in-cluster registry: the reference transform that Jackal's and Zarf's admission
//! webhooks apply to the images of pods, so that what we push is what they look for.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Digest, Reference, normalised_host};

/// The longest tag in characters (OCI distribution specification, "Pulling manifests").
const TAG_LIMIT: usize = 128;
/// The longest repository path in characters that distribution takes.
const REPOSITORY_LIMIT: usize = 255;

/// How an image's name in the cluster is made from its name outside.
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

/// The place of an image in a registry: what it is pushed as, and what a pod calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Host and port as pods write it, with the prefix that images are put under: `127.0.0.1:31999[/prefix]`.
    target: String,
    /// The repository in that registry, with the prefix.
    pub repository: String,
    /// The tags that the image gets, the one that names it first. Empty when its digest names it.
    pub tags: Vec<String>,
    /// The digest that names the image, when its reference has one.
    pub digest: Option<Digest>,
    /// Whether it names a registry: an OCI layout has no address.
    pub has_address: bool,
    /// The plain tag, where the image does not get it because it belongs to somebody else.
    pub omitted_tag: Option<OmittedTag>,
    path: String,
}

/// A plain tag that an image did not get, because it belongs to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OmittedTag {
    /// The tag.
    pub tag: String,
    /// Whose it is, such as `a package`.
    pub owner: String,
}

impl fmt::Display for OmittedTag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the plain tag {} belongs to {} and was left out",
            self.tag, self.owner
        )
    }
}

/// Why an image has no place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LocationError {
    /// The transformed tag is longer than a registry takes.
    #[error("the tag of `{image}` becomes `{tag}` in the cluster, {length} characters where a registry takes {TAG_LIMIT}; give the image a shorter tag, name it by digest, or set naming: Plain", length = tag.len())]
    TagTooLong {
        /// The image as written.
        image: String,
        /// The tag that it would get.
        tag: String,
    },
    /// The repository with its prefix is longer than a registry takes.
    #[error("`{image}` becomes the repository `{repository}` in the cluster, {length} characters where a registry takes {REPOSITORY_LIMIT}; shorten registry.repositoryPrefix or the image's path", length = repository.len())]
    RepositoryTooLong {
        /// The image as written.
        image: String,
        /// The repository that it would get.
        repository: String,
    },
}

impl Location {
    /// The place of `image` in the registry that pods call `address` (host and port), below `prefix` (may be
    /// empty). `plain` asks for the plain tag beside the one with a checksum.
    ///
    /// An image that already names the destination stays what it is, for no webhook changes its name either.
    pub fn of(
        image: &Reference,
        address: &str,
        prefix: &str,
        naming: Naming,
        plain: bool,
    ) -> Result<Self, LocationError> {
        // Hosts are compared whole, so that `registry.local` is not taken for `registry.local.evil`.
        let stays = image.registry() == normalised_host(address);
        Self::placed(image, (address, prefix), naming, plain, stays)
    }

    /// The same, but always below `prefix`: only an image that is below it already stays what it is. An empty `address`
    /// is that of a destination without one, such as an OCI layout.
    pub fn below(
        image: &Reference,
        address: &str,
        prefix: &str,
        naming: Naming,
        plain: bool,
    ) -> Result<Self, LocationError> {
        let inside = match prefix.trim_matches('/') {
            "" => true,
            prefix => {
                let rest = image.repository().strip_prefix(prefix);
                rest.is_some_and(|rest| rest.starts_with('/'))
            }
        };
        let stays = image.registry() == normalised_host(address) && inside;
        Self::placed(image, (address, prefix), naming, plain, stays)
    }

    fn placed(
        image: &Reference,
        (address, prefix): (&str, &str),
        naming: Naming,
        plain: bool,
        stays: bool,
    ) -> Result<Self, LocationError> {
        let prefix = prefix.trim_matches('/');
        let (target, repository) = match prefix {
            prefix if stays || prefix.is_empty() => (address.to_owned(), image.repository().to_owned()),
            prefix => (
                [address, prefix].join("/").trim_start_matches('/').to_owned(),
                format!("{prefix}/{}", image.repository()),
            ),
        };
        let path = image.repository().to_owned();
        let has_address = !address.is_empty();
        if repository.len() > REPOSITORY_LIMIT {
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
            Some(suffix) if !stays => {
                let checksum = crc32fast::hash(image.name().as_bytes());
                let named = format!("{tag}-{suffix}-{checksum}");
                if plain { vec![named, tag] } else { vec![named] }
            }
            _ => vec![tag],
        };
        if let Some(tag) = tags.iter().find(|tag| tag.len() > TAG_LIMIT) {
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

    /// Every name by which it is found: the one that pods use, and the plain one that it may have besides.
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

    /// The plain tag that is not the image's own name: another image, or a package, may have it too.
    pub fn plain_tag(&self) -> Option<&str> {
        self.tags.get(1).map(String::as_str)
    }

    /// Leaves the plain tag, if there is one, to `owner`.
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
    /// The name that a pod's `image` field holds; without an address, what follows it.
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

    fn place(image: &str, naming: Naming) -> Result<Location, LocationError> {
        Location::of(&image.parse().unwrap(), "gitlab.com", "project", naming, true)
    }

    #[test]
    fn follows_the_table_of_zarf() {
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
                place(image, Naming::Zarf).unwrap().to_string(),
                format!("gitlab.com/project/{name}"),
                "{image}"
            );
        }
    }

    #[test]
    fn pushes_the_plain_tag_too() {
        let location = place("nginx:1", Naming::Jackal).unwrap();
        assert_eq!(location.repository, "project/library/nginx");
        assert_eq!(location.tags, ["1-jackal-3793515731", "1"]);
        assert_eq!(place("nginx:1", Naming::Plain).unwrap().tags, ["1"]);
        let image = "nginx:1".parse().unwrap();
        assert_eq!(
            Location::of(&image, "r:1", "", Naming::Jackal, false).unwrap().tags,
            ["1-jackal-3793515731"]
        );
    }

    #[test]
    fn what_is_there_already_stays() {
        let image: Reference = "127.0.0.1:31999/library/bb:1".parse().unwrap();
        let location = Location::of(&image, "127.0.0.1:31999", "team", Naming::Zarf, true).unwrap();
        assert_eq!(
            (location.to_string().as_str(), location.tags.len()),
            ("127.0.0.1:31999/library/bb:1", 1)
        );
        for (image, address) in [
            ("Registry.Local/bb:1", "registry.local"),
            ("registry.local/bb:1", "Registry.Local"),
            ("[::1]:5000/bb:1", "[0:0::1]:5000"),
        ] {
            let location = Location::of(&image.parse().unwrap(), address, "team", Naming::Zarf, true).unwrap();
            assert_eq!(location.to_string(), format!("{address}/bb:1"));
        }
        let other = Location::of(&image, "127.0.0.1:3199", "", Naming::Zarf, true).unwrap();
        assert!(other.to_string().starts_with("127.0.0.1:3199/library/bb:1-zarf-"));
    }

    #[test]
    fn everything_can_be_put_below_a_prefix() {
        let below = |image: &str, address: &str, prefix: &str| {
            let location = Location::below(&image.parse().unwrap(), address, prefix, Naming::Zarf, true).unwrap();
            (location.to_string(), location.repository, location.tags.len())
        };
        let (name, repository, tags) = below("r.example/app:1", "r.example", "team");
        assert!(name.starts_with("r.example/team/app:1-zarf-"), "{name}");
        assert_eq!((repository.as_str(), tags), ("team/app", 2));
        let stays = ("r.example/team/app:1".to_owned(), "team/app".to_owned(), 1);
        assert_eq!(below("r.example/team/app:1", "r.example", "team"), stays);
        assert_eq!(below("r.example/teams/app:1", "r.example", "team").1, "team/teams/app");
        assert_eq!(below("r.example/app:1", "r.example", "").1, "app");
        let (name, repository, _) = below("r.example/app:1", "", "team");
        assert!(name.starts_with("team/app:1-zarf-"), "{name}");
        assert_eq!(repository, "team/app");
        assert!(below("r.example/app:1", "", "").0.starts_with("app:1-zarf-"));
    }

    #[test]
    fn refuses_names_that_no_registry_takes() {
        let tag = "t".repeat(118);
        let error = place(&format!("nginx:{tag}"), Naming::Jackal).unwrap_err();
        assert!(error.to_string().contains("136 characters"), "{error}");
        assert!(place(&format!("nginx:{tag}"), Naming::Plain).is_ok());
        let path = format!("ghcr.io/{}/x:1", "a/".repeat(125).trim_end_matches('/'));
        assert!(matches!(
            place(&path, Naming::Plain),
            Err(LocationError::RepositoryTooLong { .. })
        ));
    }
}
