//! Signatures: how packages are signed, and which signatures images must have.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ImagePatterns, LocalReference, null_as_default};

/// How a package is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningSpec {
    /// A Secret with the private key in `cosign.key` and its password in `cosign.password`, as written by
    /// `cosign generate-key-pair k8s://<namespace>/<name>`; or with an unencrypted ECDSA P-256 key (PKCS#8 PEM) in
    /// `cosign.key`. The signatures are cosign 3 bundles that refer to the package, and a file in it for
    /// `zarf package verify`. They are not written to a transparency log.
    pub secret_ref: LocalReference,
    /// The images of the package to sign too, in the registry inside the cluster. Default: none.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "ImagePatterns::is_empty"
    )]
    #[schemars(transform = ImagePatterns::describe)]
    pub images: ImagePatterns,
}

/// The signatures that images must have before they are copied: one by at least one of these keys or identities. Nothing
/// of an image without such a signature is pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.publicKeys) || has(self.identities)").message("set publicKeys or identities, with at least one entry"),
    validation = Rule::new("!has(self.identities) || has(self.trustRootRef)").message("identities are verified against a trusted root: set trustRootRef"),
    validation = Rule::new("!has(self.trustRootRef) || has(self.identities)").message("trustRootRef is used only to verify identities: set identities, or remove trustRootRef")
)]
pub struct VerifySpec {
    /// The images that must be signed. They must come from registries, because engines store no signatures. Default: all
    /// images with `source: Registry`.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "ImagePatterns::is_empty"
    )]
    #[schemars(transform = ImagePatterns::describe)]
    pub images: ImagePatterns,
    /// Public keys. A signature by any of them is sufficient.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub public_keys: Vec<PublicKeySource>,
    /// Identities for keyless signatures. A signature by any of them is sufficient.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub identities: Vec<IdentitySpec>,
    /// A ConfigMap with the Sigstore trusted root (certificate authorities and logs) that identities are verified against,
    /// offline. Its default key is `trusted_root.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_root_ref: Option<EntryReference>,
}

/// The source of a public key in PEM: ECDSA P-256 or P-384, Ed25519, or RSA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.secretRef), has(self.configMapRef)].filter(set, set).size() == 1").message("set exactly one of inline, secretRef and configMapRef")
)]
pub struct PublicKeySource {
    /// The PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub inline: Option<String>,
    /// A Secret with the PEM. Its default key is `cosign.pub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<EntryReference>,
    /// A ConfigMap with the PEM. Its default key is `cosign.pub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<EntryReference>,
}

/// An entry of a Secret or ConfigMap in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntryReference {
    /// The name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the entry in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// The identity of a signer, such as a workflow or a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.subject) != has(self.subjectPattern)").message("set exactly one of subject and subjectPattern")
)]
pub struct IdentitySpec {
    /// The exact issuer, such as `https://token.actions.githubusercontent.com`.
    #[schemars(length(min = 1, max = 1024))]
    pub issuer: String,
    /// The exact subject: an email address, or the URI of a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub subject: Option<String>,
    /// A regular expression (RE2 syntax) that must match the whole subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub subject_pattern: Option<String>,
}
