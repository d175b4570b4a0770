//! Determines what a failed request was about, to choose fitting advice. Pure.

/// The purpose of a request, derived from its method and path (distribution specification, "Endpoints").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Listing repositories.
    Catalog,
    /// Listing tags.
    Tags,
    /// Listing referrers.
    Referrers,
    /// Reading a manifest.
    Manifest,
    /// Reading a blob.
    Blob,
    /// Deleting.
    Deletion,
    /// Pushing.
    Push,
}

impl Operation {
    /// Parses the label of a request: method and URL.
    pub fn of(label: &str) -> Self {
        let (method, url) = label.split_once(' ').unwrap_or((label, ""));
        match method {
            "DELETE" => Self::Deletion,
            "PUT" | "POST" | "PATCH" => Self::Push,
            _ if url.ends_with("/v2/_catalog") => Self::Catalog,
            _ if url.ends_with("/tags/list") => Self::Tags,
            _ if url.contains("/referrers/") => Self::Referrers,
            _ if url.contains("/blobs/sha") => Self::Blob,
            _ => Self::Manifest,
        }
    }

    /// What to do if it does not exist, unless the name of the image is the problem.
    pub fn not_found(self) -> Option<&'static str> {
        match self {
            Self::Tags => Some("check the name of the repository, which does not exist or has no tags, or push to it"),
            Self::Blob => Some("the registry has the manifest but not this blob; push the image again"),
            Self::Catalog => Some("this registry does not list its repositories; name each by --repository"),
            Self::Referrers | Self::Manifest | Self::Deletion | Self::Push => None,
        }
    }

    /// The missing permission.
    pub fn denied(self) -> &'static str {
        match self {
            Self::Catalog => "the permission to list repositories is missing; name each by --repository",
            Self::Tags => "the permission to list tags is missing",
            Self::Referrers | Self::Manifest | Self::Blob => {
                "the permission to pull is missing, or the content does not exist"
            }
            Self::Deletion => "the permission to delete is missing",
            Self::Push => "the permission to push is missing",
        }
    }

    /// What to do if the registry does not support it.
    pub fn unsupported(self) -> &'static str {
        match self {
            Self::Tags => "this registry cannot list tags; use a version instead of a range",
            Self::Catalog => "this registry does not list its repositories; name each by --repository",
            Self::Referrers => "this registry cannot list referrers",
            Self::Manifest | Self::Blob => "check that this is a registry of OCI images, and its proxy if it has one",
            Self::Deletion => "allow deletion in the registry (distribution: storage.delete.enabled)",
            Self::Push => "check that the registry accepts OCI images and is not read-only",
        }
    }
}
