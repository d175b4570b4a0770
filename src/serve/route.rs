//! What a request asks for (OCI distribution specification, "Endpoints"). No IO.

use url::form_urlencoded;

/// The endpoint of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Whether this is a registry.
    Base,
    /// The names of the repositories.
    Catalog,
    /// The tags of a repository.
    Tags(String),
    /// A manifest, by tag or digest.
    Manifest(String, String),
    /// A blob, by digest.
    Blob(String, String),
    /// The referrers of a digest.
    Referrers(String, String),
}

impl Endpoint {
    /// The endpoint with the path `path`, which may encode the colon of a digest.
    pub fn of(path: &str) -> Option<Self> {
        let path = path.replace("%3A", ":").replace("%3a", ":");
        let rest = path.strip_prefix("/v2")?;
        match rest {
            "" | "/" => return Some(Self::Base),
            "/_catalog" => return Some(Self::Catalog),
            _ => {}
        }
        let rest = rest.strip_prefix('/')?;
        // A repository may have the names of endpoints in its path.
        let (rest, last) = rest.rsplit_once('/')?;
        let (name, kind) = rest.rsplit_once('/')?;
        if name.is_empty() || last.is_empty() {
            return None;
        }
        let (name, last) = (name.to_owned(), last.to_owned());
        match kind {
            "tags" if last == "list" => Some(Self::Tags(name)),
            "manifests" => Some(Self::Manifest(name, last)),
            "blobs" => Some(Self::Blob(name, last)),
            "referrers" => Some(Self::Referrers(name, last)),
            _ => None,
        }
    }
}

/// The first value of the parameter `name` in `query`.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let found = parameters.find(|(known, _)| known == name);
    found
        .map(|(_, value)| value.into_owned())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found() {
        let pair = |name: &str, last: &str| (name.to_owned(), last.to_owned());
        let manifest = |name, last| {
            let (name, last) = pair(name, last);
            Some(Endpoint::Manifest(name, last))
        };
        assert_eq!(Endpoint::of("/v2/"), Some(Endpoint::Base));
        assert_eq!(Endpoint::of("/v2"), Some(Endpoint::Base));
        assert_eq!(Endpoint::of("/v2/_catalog"), Some(Endpoint::Catalog));
        assert_eq!(Endpoint::of("/v2/a/tags/list"), Some(Endpoint::Tags("a".to_owned())));
        assert_eq!(Endpoint::of("/v2/a/b/manifests/1"), manifest("a/b", "1"));
        assert_eq!(
            Endpoint::of("/v2/a/manifests/blobs/manifests/1"),
            manifest("a/manifests/blobs", "1")
        );
        assert_eq!(Endpoint::of("/v2/a/manifests/sha256%3Aab"), manifest("a", "sha256:ab"));
        let (name, digest) = pair("a", "sha256:ab");
        assert_eq!(
            Endpoint::of("/v2/a/blobs/sha256:ab"),
            Some(Endpoint::Blob(name.clone(), digest.clone()))
        );
        assert_eq!(
            Endpoint::of("/v2/a/referrers/sha256:ab"),
            Some(Endpoint::Referrers(name, digest))
        );
        for path in [
            "",
            "/",
            "/v1/",
            "/v2x/a/tags/list",
            "/v2//",
            "/v2/a",
            "/v2/tags/list",
            "/v2/manifests/1",
            "/v2//manifests/1",
            "/v2/a/manifests/",
            "/v2/a/tags/other",
            "/v2/a/blobs/uploads/",
            "/v2/a/blobs/uploads/1",
        ] {
            assert_eq!(Endpoint::of(path), None, "{path}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(
            parameter("a=b&ns=docker.io%3A443", "ns").as_deref(),
            Some("docker.io:443")
        );
        assert_eq!(parameter("ns=&ns=b", "ns"), None);
        assert_eq!(parameter("", "ns"), None);
    }
}
