//! Image requests in normalised form. No IO.

use std::collections::BTreeMap;
use std::fmt;

use crate::api::v1alpha1::{ArchivedImage, ImageSpec, JackalImageSpec, SourceKind};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Platform, PlatformError, Reference, ReferenceError};

/// A request for an image from a source. Two ways to write the same request give equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRequest {
    /// The normalised reference, with its digest if it has one.
    pub reference: Reference,
    /// The kind of source.
    pub source: SourceKind,
    /// The node whose engine is read.
    pub node_name: Option<String>,
    /// The labels of the nodes whose engines are read; never empty.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The platforms to copy: normalised, without duplicates, sorted by their text. Empty means all.
    pub platforms: Vec<Platform>,
    /// The digest of its manifest or index, if it is read from an archive. Two archives with the same image fulfil the same
    /// request.
    pub archived: Option<Digest>,
}

impl ImageRequest {
    /// The request that an image of a package makes.
    ///
    /// # Errors
    /// A stalled fault that names the image, if no source can fulfil the request.
    pub fn of(image: &ImageSpec) -> Result<Self, Fault> {
        Self::normalised(
            &image.image,
            image.source,
            (image.node_name.as_ref(), image.node_selector.as_ref()),
            &image.platforms,
            image.archive.as_ref(),
        )
    }

    /// The request that a `JackalImage` makes; the errors are those of [`ImageRequest::of`].
    pub fn of_object(spec: &JackalImageSpec) -> Result<Self, Fault> {
        Self::normalised(
            &spec.image,
            spec.source,
            (spec.node_name.as_ref(), spec.node_selector.as_ref()),
            &spec.platforms,
            spec.from.as_ref().map(|origin| &origin.archive),
        )
    }

    // The schema of the API checks most of this too, but the command line has no API server.
    fn normalised(
        image: &str,
        source: SourceKind,
        (node_name, node_selector): (Option<&String>, Option<&BTreeMap<String, String>>),
        platforms: &[String],
        archive: Option<&ArchivedImage>,
    ) -> Result<Self, Fault> {
        let reference = image
            .parse()
            .map_err(|error: ReferenceError| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
        let invalid = |message: String| {
            Fault::stalled(Reason::InvalidSpec, message).with_context(format_args!("image `{image}`"))
        };
        let node_selector = node_selector.filter(|labels| !labels.is_empty());
        if node_name.is_some() && node_selector.is_some() {
            return Err(invalid(
                "nodeName and nodeSelector both choose the node; set one of them".to_owned(),
            ));
        }
        if source == SourceKind::Registry && (node_name.is_some() || node_selector.is_some()) {
            return Err(invalid(
                "nodeName and nodeSelector choose the node whose engine is read, but source: Registry reads none; set source: Docker or source: Containerd, or remove them"
                    .to_owned(),
            ));
        }
        let mut platforms = platforms
            .iter()
            .map(|platform| Ok(platform.parse::<Platform>()?.normalised()))
            .collect::<Result<Vec<Platform>, PlatformError>>()
            .map_err(|error| invalid(error.to_string()))?;
        let archived = archive.map(|archive| archive.digest.parse()).transpose();
        let archived = archived.map_err(|error| invalid(format!("from.archive.digest: {error}")))?;
        platforms.sort_by_cached_key(Platform::to_string);
        platforms.dedup();
        Ok(Self {
            reference,
            source,
            node_name: node_name.cloned(),
            node_selector: node_selector.cloned(),
            platforms,
            archived,
        })
    }

    /// The digest from which the names of objects for this request are made.
    ///
    /// The hashed text is the one that the first versions hashed for a normalised request, so that their objects keep
    /// their names. It must not change.
    pub fn digest(&self) -> Digest {
        let source = match self.source {
            SourceKind::Registry => "Registry",
            SourceKind::Docker => "Docker",
            SourceKind::Containerd => "Containerd",
        };
        let some = |text: Option<String>| text.map_or_else(|| "None".to_owned(), |text| format!("Some({text})"));
        let node_name = some(self.node_name.as_deref().map(quoted));
        let labels = self.node_selector.as_ref().map(|labels| {
            let labels = labels
                .iter()
                .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)));
            format!("{{{}}}", labels.collect::<Vec<_>>().join(", "))
        });
        let platforms = self.platforms.iter().map(|platform| quoted(&platform.to_string()));
        let platforms = platforms.collect::<Vec<_>>().join(", ");
        let mut text = format!("{} {source} {node_name} {} [{platforms}]", self.reference, some(labels));
        if let Some(digest) = &self.archived {
            text += &format!(" {digest}");
        }
        Digest::of(text.as_bytes())
    }
}

/// What distinguishes two requests for one image, for messages: `source Docker, node worker-1, platforms linux/amd64`.
impl fmt::Display for ImageRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "source {:?}", self.source)?;
        if let Some(node) = &self.node_name {
            write!(formatter, ", node {node}")?;
        }
        if let Some(selector) = &self.node_selector {
            let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            write!(formatter, ", nodes {}", labels.join(","))?;
        }
        if !self.platforms.is_empty() {
            let platforms: Vec<String> = self.platforms.iter().map(Platform::to_string).collect();
            write!(formatter, ", platforms {}", platforms.join(","))?;
        }
        if let Some(digest) = &self.archived {
            write!(formatter, ", {} of an archive", digest.short_form())?;
        }
        Ok(())
    }
}

/// `text` in quotation marks, escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0' => quoted.push_str("\\0"),
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(spec: serde_json::Value) -> Result<ImageRequest, Fault> {
        ImageRequest::of(&serde_json::from_value(spec).unwrap())
    }

    /// The text that the first versions hashed.
    fn as_first_written(spec: serde_json::Value) -> Digest {
        let spec: ImageSpec = serde_json::from_value(spec).unwrap();
        let reference: Reference = spec.image.parse().unwrap();
        let text = format!(
            "{reference} {:?} {:?} {:?} {:?}",
            spec.source, spec.node_name, spec.node_selector, spec.platforms
        );
        Digest::of(text.as_bytes())
    }

    #[test]
    fn order_and_notation_do_not_matter() {
        for (one, other) in [
            (
                json!({ "image": "nginx:1", "platforms": ["linux/arm64", "linux/amd64"] }),
                json!({ "image": "docker.io/library/nginx:1", "platforms": ["linux/amd64", "linux/arm64", "linux/amd64"] }),
            ),
            (
                json!({ "image": "app", "source": "Docker", "nodeSelector": {} }),
                json!({ "image": "docker.io/library/app:latest", "source": "Docker" }),
            ),
            (
                json!({ "image": "app:1", "platforms": ["linux/arm64/v8", "linux/arm"] }),
                json!({ "image": "app:1", "platforms": ["linux/arm/v7", "linux/aarch64", "linux/arm64"] }),
            ),
            (
                json!({ "image": "app:1", "nodeSelector": {} }),
                json!({ "image": "app:1", "source": "Registry", "platforms": [] }),
            ),
        ] {
            let (one, other) = (request(one).unwrap(), request(other).unwrap());
            assert_eq!(one, other);
            assert_eq!(one.digest(), other.digest());
        }
        let all = [
            json!({ "image": "app:1" }),
            json!({ "image": "app:2" }),
            json!({ "image": "app:1", "source": "Docker" }),
            json!({ "image": "app:1", "source": "Containerd" }),
            json!({ "image": "app:1", "source": "Docker", "nodeName": "a" }),
            json!({ "image": "app:1", "source": "Docker", "nodeSelector": { "a": "" } }),
            json!({ "image": "app:1", "platforms": ["linux/amd64"] }),
            json!({ "image": "app:1", "platforms": ["linux/amd64", "linux/s390x"] }),
        ]
        .map(|spec| request(spec).unwrap());
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(one, other);
                assert_ne!(one.digest(), other.digest());
            }
        }
    }

    #[test]
    fn objects_of_the_first_versions_keep_their_names() {
        for spec in [
            json!({ "image": "nginx" }),
            json!({ "image": "ghcr.io/acme/app:1.4.0", "platforms": ["linux/amd64", "linux/arm64"] }),
            json!({ "image": "app:dev", "source": "Docker", "nodeName": "worker-1" }),
            json!({ "image": "app:dev", "source": "Docker", "nodeName": "a \"b\" \\ \t" }),
            json!({ "image": "app:dev", "source": "Containerd", "nodeSelector": { "disk": "ssd", "zone": "" } }),
            json!({ "image": format!("busybox@{}", Digest::of(b"")) }),
        ] {
            assert_eq!(
                request(spec.clone()).unwrap().digest(),
                as_first_written(spec.clone()),
                "{spec}"
            );
        }
    }

    #[test]
    fn invalid_requests_are_refused() {
        for (spec, reason) in [
            (json!({ "image": "App:1" }), Reason::InvalidReference),
            (json!({ "image": "app:1", "platforms": ["linux"] }), Reason::InvalidSpec),
            (json!({ "image": "app:1", "nodeName": "a" }), Reason::InvalidSpec),
            (
                json!({ "image": "app:1", "source": "Docker", "nodeName": "a", "nodeSelector": { "b": "c" } }),
                Reason::InvalidSpec,
            ),
        ] {
            assert_eq!(request(spec.clone()).unwrap_err().reason, reason, "{spec}");
        }
    }

    #[test]
    fn an_archived_image_is_requested_by_its_digest() {
        let object = |archive: &str, digest: &Digest| {
            let spec = json!({ "image": "app:1", "from": { "archive": { "oci": archive, "digest": digest } } });
            ImageRequest::of_object(&serde_json::from_value(spec).unwrap())
        };
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let first = object("r.example/a@sha256:0", &one).unwrap();
        assert_eq!(first, object("r.example/b@sha256:1", &one).unwrap());
        let other = object("r.example/a@sha256:0", &two).unwrap();
        assert_ne!(first, other);
        assert_ne!(first.digest(), other.digest());
        assert_ne!(first, request(json!({ "image": "app:1" })).unwrap());
        let invalid = json!({ "image": "app:1", "from": { "archive": { "oci": "a", "digest": "x" } } });
        let invalid = ImageRequest::of_object(&serde_json::from_value(invalid).unwrap());
        assert_eq!(invalid.unwrap_err().reason, Reason::InvalidSpec);
    }
}
