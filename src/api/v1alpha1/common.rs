//! What both resources share.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::oci::{Naming, Reference, matches_pattern, same_host};

/// Where an image is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum SourceKind {
    /// The registry that the image's name says.
    #[default]
    Registry,
    /// The docker engine of a node that runs the agent. It is never taken from a registry instead.
    Docker,
    /// The containerd of a node that runs the agent, such as the one whose images its kubelet pulls. It is never
    /// taken from a registry instead.
    Containerd,
}

impl SourceKind {
    /// Whether images are read from the engine of a node.
    pub fn is_engine(self) -> bool {
        matches!(self, Self::Docker | Self::Containerd)
    }
}

/// What happens to what was pushed when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays in the registry.
    #[default]
    Retain,
    /// Manifests that this object wrote, that still are what it wrote and that no other object of this
    /// kind names, are deleted. Blobs are left to the registry's own collection.
    Delete,
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct LocalReference {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What the description of every field says that holds [`ImagePatterns`].
const PATTERNS_SYNTAX: &str = "Images are named as the package names them, by their whole names without tag and digest, such as `ghcr.io/acme/*` or `docker.io/library/nginx`; `*` stands for any characters, `/` among them.";

/// How the names of images in the cluster are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NamingPolicy {
    /// As Jackal's or Zarf's webhook expects them, where the `jackal-state` or `zarf-state` Secret that the operator is told
    /// of names the registry; Plain elsewhere. `status.naming` says which it is.
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
    /// The naming that is asked for, unless it is the cluster that says.
    pub fn explicit(self) -> Option<Naming> {
        match self {
            Self::Auto => None,
            Self::Jackal => Some(Naming::Jackal),
            Self::Zarf => Some(Naming::Zarf),
            Self::Plain => Some(Naming::Plain),
        }
    }

    /// The naming where there is no cluster that could say.
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

/// Reads a field that counts as absent where it is `null`, as templates leave it behind.
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
    /// Adds to the description of a field how the patterns are written.
    pub(super) fn describe(schema: &mut Schema) {
        let own = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let whole = format!("{own} {PATTERNS_SYNTAX}");
        schema.insert("description".to_owned(), Value::String(whole));
    }

    /// Whether no name is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is that of `image`.
    pub fn matches(&self, image: &Reference) -> bool {
        let name = image.name();
        self.0.iter().any(|pattern| matches_pattern(pattern, &name))
    }
}

/// The registry inside the cluster. Every field has a default: the controller's flags, or what the `jackal-state` or
/// `zarf-state` Secret says that they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.address) || !self.address.contains('/')").message("registry.address is host[:port] without a scheme or path, such as 127.0.0.1:31999; a path goes to repositoryPrefix"),
    validation = Rule::new("!has(self.endpoint) || !self.endpoint.contains('/')").message("registry.endpoint is host[:port] without a scheme or path, such as registry.jackal.svc:5000; plain HTTP is asked for with insecure: true"),
    validation = Rule::new("!has(self.endpoint) || has(self.address)").message("registry.endpoint is another way to the registry that address names: set address too"),
    validation = Rule::new("!has(self.insecure) || !self.insecure || !has(self.certSecretRef)").message("insecure means plain HTTP, where certificates have no use: set insecure or certSecretRef, not both")
)]
pub struct RegistrySpec {
    /// Host and port as a pod's image name says them: a name that the containerd of every node reaches, such
    /// as the NodePort `127.0.0.1:31999`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 260))]
    pub address: Option<String>,
    /// Host and port where the operator reaches the same registry, such as its Service. Default: `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 260))]
    pub endpoint: Option<String>,
    /// A path that everything is put under, such as `team-a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 128),
        regex(pattern = r"^[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*$")
    )]
    pub repository_prefix: Option<String>,
    /// A Secret of type `kubernetes.io/dockerconfigjson` with the credentials for pushing. Its entry is that of the host
    /// that receives them: of `endpoint`, and of `address` where that is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// A Secret with `ca.crt` (the authority of the registry's certificate, or that certificate itself), and `tls.crt` with `tls.key`
    /// where the registry asks for a client certificate. Not for the operator's own registry with the operator's
    /// credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<LocalReference>,
    /// Speak plain HTTP to the registry, which the administrator has to allow for its host (`--insecure-registry`).
    /// Certificates are always verified; there is no way to skip that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
}

/// The repository that an object wrote to. What stands anywhere else is none of its own, whatever its spec says later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WrittenRepository {
    /// Host and port of the registry as pods say them.
    pub address: String,
    /// Host and port that received the content, where the object's spec named another one than `address` and than the
    /// operator's own configuration does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The path in the registry.
    pub repository: String,
}

impl WrittenRepository {
    /// Whether `other` is the same path of the same registry, and the object led to the same host.
    pub fn is(&self, other: &Self) -> bool {
        let endpoints = match (&self.endpoint, &other.endpoint) {
            (Some(own), Some(other)) => same_host(own, other),
            (own, other) => own == other,
        };
        endpoints && self.repository == other.repository && same_host(&self.address, &other.address)
    }

    /// Its name for people who know `other`: by the host that received the content where pods call both the same.
    pub fn apart_from(&self, other: &Self) -> String {
        let alike = same_host(&self.address, &other.address) && self.repository == other.repository;
        let host = self.endpoint.as_ref().filter(|_| alike).unwrap_or(&self.address);
        format!("{host}/{}", self.repository)
    }

    /// The hosts by which the registry is known.
    pub fn hosts(&self) -> impl Iterator<Item = &String> {
        [&self.address].into_iter().chain(&self.endpoint)
    }
}

/// How a source registry is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.host.contains('/')").message("sourceRegistries[].host is host[:port] without a scheme or path, such as registry.example.com:5000")
)]
pub struct SourceRegistrySpec {
    /// The host as image names, chart addresses and file addresses say it: host[:port].
    #[schemars(length(min = 1, max = 260))]
    pub host: String,
    /// A Secret with `ca.crt` (the authority of the host's certificate, or that certificate itself), and `tls.crt` with
    /// `tls.key` where the host asks for a client certificate. It is used for this host and this object only.
    pub cert_secret_ref: LocalReference,
}
