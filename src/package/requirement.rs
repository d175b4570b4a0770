//! The requirements of `verify`, with the keys and trusted roots that it names.

use async_trait::async_trait;

use crate::api::v1alpha1::{EntryReference, IdentitySpec, PublicKeySource, VerifySpec};
use crate::fault::{Fault, Reason};
use crate::signing::{Identity, PublicKey, Requirement, SubjectMatch, TrustedRoot};

/// The key under which `cosign generate-key-pair` writes a public key into a Secret.
const PUBLIC_KEY: &str = "cosign.pub";
/// The name that Sigstore gives the file.
const TRUSTED_ROOT: &str = "trusted_root.json";

/// Reads Secrets and ConfigMaps: those of one namespace, or those in the same file as a package.
#[async_trait]
pub trait EntryReader: Send + Sync {
    /// An entry of a Secret. A missing one is a fault.
    async fn of_secret(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault>;

    /// An entry of a ConfigMap. A missing one is a fault.
    async fn of_config_map(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault>;
}

/// One requirement for each of `verify`, in its order.
pub async fn requirements(verify: &[VerifySpec], entries: &dyn EntryReader) -> Result<Vec<Requirement>, Fault> {
    let mut found = Vec::with_capacity(verify.len());
    for entry in verify {
        let mut requirement = Requirement {
            identities: entry.identities.iter().map(identity).collect::<Result<_, Fault>>()?,
            ..Requirement::default()
        };
        for source in &entry.public_keys {
            requirement.keys.push(key(source, entries).await?);
        }
        if let Some(reference) = &entry.trust_root_ref {
            requirement.trust = Some(trusted_root(reference, entries).await?);
        }
        found.push(requirement);
    }
    Ok(found)
}

async fn key(source: &PublicKeySource, entries: &dyn EntryReader) -> Result<PublicKey, Fault> {
    let named = |reference: &EntryReference| reference.key.clone().unwrap_or_else(|| PUBLIC_KEY.to_owned());
    let (pem, origin, reason) = match source {
        PublicKeySource {
            inline: Some(pem),
            secret_ref: None,
            config_map_ref: None,
        } => {
            return PublicKey::from_pem(pem.as_bytes())
                .map_err(|error| invalid(format!("verify[].publicKeys[].inline: {error}")));
        }
        PublicKeySource {
            inline: None,
            secret_ref: Some(reference),
            config_map_ref: None,
        } => {
            let key = named(reference);
            let pem = entries.of_secret(&reference.name, &key).await?;
            (
                pem,
                format!("the Secret {}, entry {key}", reference.name),
                Reason::SecretUnavailable,
            )
        }
        PublicKeySource {
            inline: None,
            secret_ref: None,
            config_map_ref: Some(reference),
        } => {
            let key = named(reference);
            let pem = entries.of_config_map(&reference.name, &key).await?;
            (
                pem,
                format!("the ConfigMap {}, entry {key}", reference.name),
                Reason::ConfigMapUnavailable,
            )
        }
        _ => {
            return Err(invalid(
                "verify[].publicKeys[]: set exactly one of inline, secretRef and configMapRef".to_owned(),
            ));
        }
    };
    PublicKey::from_pem(&pem).map_err(|error| Fault::retryable(reason, format!("{origin}: {error}")))
}

async fn trusted_root(reference: &EntryReference, entries: &dyn EntryReader) -> Result<TrustedRoot, Fault> {
    let key = reference.key.as_deref().unwrap_or(TRUSTED_ROOT);
    let json = entries.of_config_map(&reference.name, key).await?;
    TrustedRoot::parse(&json).map_err(|error| {
        Fault::retryable(
            Reason::ConfigMapUnavailable,
            format!("the ConfigMap {}, entry {key}: {error}", reference.name),
        )
    })
}

fn identity(spec: &IdentitySpec) -> Result<Identity, Fault> {
    let subject = match (&spec.subject, &spec.subject_pattern) {
        (Some(subject), None) => SubjectMatch::Exact(subject.clone()),
        (None, Some(pattern)) => SubjectMatch::pattern(pattern)
            .map_err(|error| invalid(format!("verify[].identities[].subjectPattern: {error}")))?,
        _ => {
            return Err(invalid(
                "verify[].identities[]: set exactly one of subject and subjectPattern".to_owned(),
            ));
        }
    };
    Ok(Identity {
        issuer: spec.issuer.clone(),
        subject,
    })
}

fn invalid(message: String) -> Fault {
    Fault::stalled(Reason::InvalidSpec, message)
}
