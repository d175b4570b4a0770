//! Types that both resources use.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::oci::{Naming, Reference, matches_pattern, same_host};

/// Where an image is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum SourceKind {
    /// The registry in the image's name.
    #[default]
    Registry,
    /// The docker engine of a node that runs the agent. A registry is never used instead.
    Docker,
    /// The containerd of a node that runs the agent, such as the one that its kubelet uses. A registry is never used
    /// instead.
    Containerd,
}

impl SourceKind {
    /// Whether images are read from the engine of a node.
    pub fn is_engine(self) -> bool {
        matches!(self, Self::Docker | Self::Containerd)
    }
}

/// What happens to pushed content when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is kept in the registry.
    #[default]
    Retain,
    /// Manifests that this object wrote, that are unchanged, and that no other object of this kind names, are deleted. Blobs
    /// are left to the garbage collection of the registry.
    Delete,
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct LocalReference {
    /// The name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Appended to the description of every field of the type [`ImagePatterns`].
const PATTERNS_SYNTAX: &str = "Images are matched by their full names in the package, without tag and digest, such as `ghcr.io/acme/*` or `docker.io/library/nginx`; `*` matches any characters, including `/`.";

/// How the names of images in the cluster are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NamingPolicy {
    /// As Jackal's or Zarf's webhook expects them, if the registry is named in the `jackal-state` or `zarf-state` Secret that
    /// the operator is configured with; else Plain. `status.naming` shows which.
    #[default]
    Auto,
    /// `path:tag-jackal-<crc>` and the plain `path:tag`, as Jackal's webhook expects.
    Jackal,
    /// `path:tag-zarf-<crc>` and the plain `path:tag`, as Zarf's webhook expects.
    Zarf,
    /// Only `path:tag`.
    Plain,
}

impl NamingPolicy {
    /// The naming, unless it is Auto.
    pub fn explicit(self) -> Option<Naming> {
        match self {
            Self::Auto => None,
            Self::Jackal => Some(Naming::Jackal),
            Self::Zarf => Some(Naming::Zarf),
            Self::Plain => Some(Naming::Plain),
        }
    }

    /// The naming without a cluster: Auto is Plain.
    pub fn without_cluster(self) -> Naming {
        self.explicit().unwrap_or(Naming::Plain)
    }
}

impl From<Naming> for NamingPolicy {
    fn from(naming: Naming) -> Self {
        match naming {
            Naming::Jackal => Self::Jackal,
            Naming::Zarf => Self::Zarf,
            Naming::Plain => Self::Plain,
        }
    }
}

/// Decodes a field whose `null`, as templates may render it, means absent.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Patterns of image names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-kubernetes-list-type" = "set"))]
pub struct ImagePatterns(
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 255),
            regex(pattern = r"^[A-Za-z0-9*\[][A-Za-z0-9*._:/\[\]-]*$")
        )
    )]
    pub Vec<String>,
);

impl ImagePatterns {
    /// Appends the syntax of the patterns to the description of a field.
    pub(super) fn describe(schema: &mut Schema) {
        let own = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let whole = format!("{own} {PATTERNS_SYNTAX}");
        schema.insert("description".to_owned(), Value::String(whole));
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the patterns matches `image`.
    pub fn matches(&self, image: &Reference) -> bool {
        let name = image.name();
        self.0.iter().any(|pattern| matches_pattern(pattern, &name))
    }
}

/// The registry inside the cluster. Every field defaults to the flags of the controller, or to the `jackal-state` or
/// `zarf-state` Secret that they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.address) || !self.address.contains('/')").message("registry.address is host[:port] without a scheme or path, such as 127.0.0.1:31999; set a path in repositoryPrefix"),
    validation = Rule::new("!has(self.endpoint) || !self.endpoint.contains('/')").message("registry.endpoint is host[:port] without a scheme or path, such as registry.jackal.svc:5000; for plain HTTP set insecure: true"),
    validation = Rule::new("!has(self.endpoint) || has(self.address)").message("registry.endpoint is another address of the registry in registry.address: set address too"),
    validation = Rule::new("!has(self.insecure) || !self.insecure || !has(self.certSecretRef)").message("insecure means plain HTTP, which does not use certificates: set either insecure or certSecretRef")
)]
pub struct RegistrySpec {
    /// Host and port of the registry in the image names of pods. The containerd of every node must reach it, such as the
    /// NodePort `127.0.0.1:31999`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 260))]
    pub address: Option<String>,
    /// Host and port at which the operator reaches the same registry, such as its Service. Default: `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 260))]
    pub endpoint: Option<String>,
    /// The path prefix of all repositories, such as `team-a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 128),
        regex(pattern = r"^[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*$")
    )]
    pub repository_prefix: Option<String>,
    /// A Secret of type `kubernetes.io/dockerconfigjson` with the credentials for pushing. It needs an entry for the host
    /// that receives them: `endpoint`, or `address` if that is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// A Secret with `ca.crt` (the authority of the registry's certificate, or that certificate itself), and `tls.crt` with
    /// `tls.key` if the registry requires a client certificate. Not allowed with the credentials of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<LocalReference>,
    /// Use plain HTTP for the registry. The administrator must allow it for the host (`--insecure-registry`). With HTTPS,
    /// certificates are always verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
}

/// The repository that an object wrote to. Content elsewhere does not belong to the object, whatever its spec says later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WrittenRepository {
    /// Host and port of the registry in the image names of pods.
    pub address: String,
    /// Host and port that received the content, if the object's spec named another one than `address` and the operator's
    /// configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The path in the registry.
    pub repository: String,
}

impl WrittenRepository {
    /// Whether `other` is the same path in the same registry, reached at the same endpoint.
    pub fn is(&self, other: &Self) -> bool {
        let endpoints = match (&self.endpoint, &other.endpoint) {
            (Some(own), Some(other)) => same_host(own, other),
            (own, other) => own == other,
        };
        endpoints && self.repository == other.repository && same_host(&self.address, &other.address)
    }

    /// Its name in a message that also names `other`: with the endpoint if both have the same address and path.
    pub fn apart_from(&self, other: &Self) -> String {
        let alike = same_host(&self.address, &other.address) && self.repository == other.repository;
        let host = self.endpoint.as_ref().filter(|_| alike).unwrap_or(&self.address);
        format!("{host}/{}", self.repository)
    }

    /// The address and the endpoint of the registry.
    pub fn hosts(&self) -> impl Iterator<Item = &String> {
        [&self.address].into_iter().chain(&self.endpoint)
    }
}

/// The certificates of a source host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.host.contains('/')").message("sourceRegistries[].host is host[:port] without a scheme or path, such as registry.example.com:5000")
)]
pub struct SourceRegistrySpec {
    /// The host (host[:port]) in the names of images and the URLs of charts and files.
    #[schemars(length(min = 1, max = 260))]
    pub host: String,
    /// A Secret with `ca.crt` (the authority of the host's certificate, or that certificate itself), and `tls.crt` with
    /// `tls.key` if the host requires a client certificate. It is used only for this host and this object.
    pub cert_secret_ref: LocalReference,
}
