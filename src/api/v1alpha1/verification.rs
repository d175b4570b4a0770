//! Signatures: who signs what is brought, and whose signatures what is brought must have.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ImagePatterns, LocalReference, null_as_default};

/// How a package is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningSpec {
    /// A Secret with the private key in `cosign.key` and its password in `cosign.password`, as
    /// `cosign generate-key-pair k8s://<namespace>/<name>` writes it; or with an ECDSA key over P-256 as a plain PKCS#8
    /// PEM in `cosign.key`. The signatures are bundles of cosign 3 beside the package, and a file in it for
    /// `zarf package verify`. They are in no transparency log.
    pub secret_ref: LocalReference,
    /// The images of the package that are signed too, in the registry inside the cluster. Default: none.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "ImagePatterns::is_empty"
    )]
    #[schemars(transform = ImagePatterns::describe)]
    pub images: ImagePatterns,
}

/// Whose signature images must have before they are brought: of at least one of the keys or identities here. An image
/// that has none is not brought, and nothing of it is pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.publicKeys) || has(self.identities)").message("name at least one key in publicKeys or one identity in identities"),
    validation = Rule::new("!has(self.identities) || has(self.trustRootRef)").message("identities are verified against a trusted root: set trustRootRef"),
    validation = Rule::new("!has(self.trustRootRef) || has(self.identities)").message("trustRootRef is what identities are verified against: set identities, or remove it")
)]
pub struct VerifySpec {
    /// The images that it is about. They must come from registries: an engine keeps no signatures. Default: all images
    /// with `source: Registry`.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "ImagePatterns::is_empty"
    )]
    #[schemars(transform = ImagePatterns::describe)]
    pub images: ImagePatterns,
    /// Keys, any of which may have signed.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub public_keys: Vec<PublicKeySource>,
    /// Identities, any of which may have signed without a key.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub identities: Vec<IdentitySpec>,
    /// A ConfigMap with the authorities and logs that identities are verified against, without asking anybody: the
    /// `trusted_root.json` of Sigstore, in the key `trusted_root.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_root_ref: Option<EntryReference>,
}

/// Where a public key is: a PEM of ECDSA over P-256 or P-384, of Ed25519, or of RSA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.secretRef), has(self.configMapRef)].filter(set, set).size() == 1").message("set exactly one of inline, secretRef and configMapRef")
)]
pub struct PublicKeySource {
    /// The PEM itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub inline: Option<String>,
    /// A Secret that has it, in the key `cosign.pub` where no other is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<EntryReference>,
    /// A ConfigMap that has it, in the key `cosign.pub` where no other is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<EntryReference>,
}

/// An entry of a Secret or ConfigMap in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntryReference {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the entry in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// Somebody whom an issuer of identities knows, such as a workflow or a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.subject) != has(self.subjectPattern)").message("set exactly one of subject and subjectPattern")
)]
pub struct IdentitySpec {
    /// The issuer, to the letter, such as `https://token.actions.githubusercontent.com`.
    #[schemars(length(min = 1, max = 1024))]
    pub issuer: String,
    /// Whom it vouches for, to the letter: an address, or the URI of a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub subject: Option<String>,
    /// A regular expression (RE2 syntax) that fits the whole of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub subject_pattern: Option<String>,
}
