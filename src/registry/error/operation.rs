//! What a request that failed was about, so that the advice fits it. Pure.

/// What a request is about, told by its method and path (distribution specification, "Endpoints").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// The tags of a repository.
    Tags,
    /// The referrers of a manifest.
    Referrers,
    /// A manifest or blob is read.
    Content,
    /// The content of a manifest is read.
    Blob,
    /// Something is deleted.
    Deletion,
    /// Something is stored.
    Storing,
}

impl Operation {
    /// That of a request that is written so for people.
    pub fn of(call: &str) -> Self {
        let (method, url) = call.split_once(' ').unwrap_or((call, ""));
        match method {
            "DELETE" => Self::Deletion,
            "PUT" | "POST" | "PATCH" => Self::Storing,
            _ if url.ends_with("/tags/list") => Self::Tags,
            _ if url.contains("/referrers/") => Self::Referrers,
            _ if url.contains("/blobs/sha") => Self::Blob,
            _ => Self::Content,
        }
    }

    /// What to do where it does not exist, if that is no matter of the image's name.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Tags => Some("check the name of the repository, which does not exist or has no tags, or push to it"),
            Self::Blob => Some("the registry has the manifest without its content; push the image there again"),
            Self::Referrers | Self::Content | Self::Deletion | Self::Storing => None,
        }
    }

    /// What the account lacks.
    pub fn denied(self) -> &'static str {
        match self {
            Self::Tags => "the right to list tags is missing",
            Self::Referrers | Self::Content | Self::Blob => {
                "the right to pull is missing, or what is asked for does not exist"
            }
            Self::Deletion => "the right to delete is missing",
            Self::Storing => "the right to push is missing",
        }
    }

    /// What to do where the registry cannot do it.
    pub fn unsupported(self) -> &'static str {
        match self {
            Self::Tags => "this registry does not list tags; name the version instead of a range",
            Self::Referrers => "this registry does not list referrers",
            Self::Content | Self::Blob => {
                "check that this is a registry of OCI images, and the proxy before it if there is one"
            }
            Self::Deletion => "allow deletion there, for distribution by storage.delete.enabled",
            Self::Storing => "check that the registry takes OCI images and is not read-only",
        }
    }
}
