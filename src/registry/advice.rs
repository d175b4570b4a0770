//! Suggests how to fix a failure, in terms of the frontend: fields of objects in a cluster, flags and files on the
//! command line. Pure.

use crate::fault::Frontend;
use crate::oci::{Content, Document};

/// Why a registry may refuse `document` although it accepts others; `None` for an ordinary document.
pub(super) fn for_refused_document(document: &Document) -> Option<&'static str> {
    match &document.content {
        Content::Index(index) if !index.blobs().is_empty() => Some(
            "the index lists blobs, as in a BuildKit cache, and this registry accepts only indexes of manifests: let BuildKit write the cache as an image (image-manifest=true, the default since BuildKit 0.21), or leave it out",
        ),
        Content::Manifest(manifest) if manifest.layers.iter().any(|layer| !layer.urls.is_empty()) => Some(
            "some layers have urls, which not every registry accepts: allow them in the registry (distribution: validation.manifests.urls.allow), or leave the image out",
        ),
        Content::Index(_) | Content::Manifest(_) => None,
    }
}

/// The role of a registry in a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegistryUse {
    /// It is read from.
    Source,
    /// It is pushed to.
    Destination,
}

/// How to fix a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Use other credentials.
    Credentials,
    /// Grant the account the missing permission.
    Permission,
    /// Trust the CA of the registry.
    TrustCa,
    /// Trust the certificate of the registry itself.
    TrustCertificate,
    /// Configure a client certificate.
    ClientCertificate,
    /// Use plain HTTP.
    PlainHttp,
}

impl Advice {
    /// The advice, as the end of a sentence.
    pub fn text(self, frontend: Frontend, role: RegistryUse) -> String {
        match self {
            Self::Credentials => match frontend {
                Frontend::Cluster => format!(
                    "correct the credentials in the Secret of {}, and check that the repository exists",
                    secret(role)
                ),
                Frontend::CommandLine => "log in with `docker login` (credentials are read from config.json in DOCKER_CONFIG or ~/.docker), and check that the repository exists".to_owned(),
            },
            Self::Permission => match frontend {
                Frontend::Cluster => format!(
                    "grant the account this permission, or set other credentials in {}",
                    secret(role)
                ),
                Frontend::CommandLine => {
                    "grant the account this permission, or log in with another account (`docker login`)".to_owned()
                }
            },
            Self::TrustCa => format!("set the CA certificate in {}", certificates(frontend, role)),
            Self::TrustCertificate => format!(
                "set this certificate as the CA certificate in {}, or issue a server certificate for the registry (basicConstraints CA:FALSE)",
                certificates(frontend, role)
            ),
            Self::ClientCertificate => match frontend {
                Frontend::Cluster => format!(
                    "if the registry requires a client certificate, set tls.crt and tls.key in {}",
                    certificate_field(role)
                ),
                Frontend::CommandLine => {
                    "if the registry requires a client certificate, use the operator in a cluster: this command does not support one".to_owned()
                }
            },
            Self::PlainHttp => format!("if the registry serves plain HTTP, {}", plain_http(frontend, role)),
        }
    }
}

/// The field that names a Secret with credentials.
fn secret(role: RegistryUse) -> &'static str {
    match role {
        RegistryUse::Source => "imagePullSecrets",
        RegistryUse::Destination => "secretRef",
    }
}

fn certificate_field(role: RegistryUse) -> &'static str {
    match role {
        RegistryUse::Source => "sourceRegistries[].certSecretRef",
        RegistryUse::Destination => "registry.certSecretRef",
    }
}

fn certificates(frontend: Frontend, role: RegistryUse) -> String {
    match frontend {
        Frontend::Cluster => format!(
            "{}, or ask the administrator to set it for the whole operator (caBundle of the chart)",
            certificate_field(role)
        ),
        Frontend::CommandLine => "--ca-file".to_owned(),
    }
}

fn plain_http(frontend: Frontend, role: RegistryUse) -> &'static str {
    match (frontend, role) {
        (Frontend::Cluster, RegistryUse::Source) => {
            "ask the administrator to add it to insecureRegistries, or set insecure: true if it is the destination"
        }
        (Frontend::Cluster, RegistryUse::Destination) => {
            "set insecure: true, and ask the administrator to add it to insecureRegistries"
        }
        (Frontend::CommandLine, RegistryUse::Source) => "list it in --insecure-registry",
        (Frontend::CommandLine, RegistryUse::Destination) => "set --insecure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Digest, Index, Manifest, media_type};

    const ALL: [Advice; 6] = [
        Advice::Credentials,
        Advice::Permission,
        Advice::TrustCa,
        Advice::TrustCertificate,
        Advice::ClientCertificate,
        Advice::PlainHttp,
    ];

    #[test]
    fn unusual_documents_get_advice() {
        let blob = |kind: &str| Descriptor::new(kind, Digest::of(kind.as_bytes()), 1);
        let index = |kind: &str| Document::of_index(Index::new(vec![blob(kind)])).unwrap();
        assert!(
            for_refused_document(&index(media_type::OCI_LAYER))
                .unwrap()
                .contains("image-manifest=true")
        );
        assert_eq!(for_refused_document(&index(media_type::OCI_MANIFEST)), None);
        let mut layer = blob(media_type::OCI_LAYER);
        let image = |layer: &Descriptor| {
            let manifest = Manifest::new(blob(media_type::OCI_CONFIG), vec![layer.clone()]);
            Document::of_manifest(manifest).unwrap()
        };
        assert_eq!(for_refused_document(&image(&layer)), None);
        layer.urls.push("https://publisher.example/layer".to_owned());
        assert!(
            for_refused_document(&image(&layer))
                .unwrap()
                .contains("validation.manifests.urls.allow")
        );
    }

    #[test]
    fn advice_uses_the_terms_of_the_frontend() {
        for advice in ALL {
            for role in [RegistryUse::Source, RegistryUse::Destination] {
                let command = advice.text(Frontend::CommandLine, role);
                for field in ["Secret", "imagePullSecrets", "secretRef", "certSecretRef", "chart"] {
                    assert!(!command.contains(field), "{command}");
                }
                let cluster = advice.text(Frontend::Cluster, role);
                for term in ["docker login", "config.json", "--"] {
                    assert!(!cluster.contains(term), "{cluster}");
                }
            }
        }
        let text = Advice::TrustCa.text(Frontend::CommandLine, RegistryUse::Source);
        assert_eq!(text, "set the CA certificate in --ca-file");
    }
}
