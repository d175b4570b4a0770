//! What to do about a failure, in the words of whoever reads it: fields of objects in a cluster, flags and files on the
//! command line. Pure.

use crate::fault::Frontend;
use crate::oci::{Content, Document};

/// What to do where a registry refuses `document` and takes others; none where nothing is odd about it.
pub(super) fn of_refused(document: &Document) -> Option<&'static str> {
    match &document.content {
        Content::Index(index) if !index.blobs().is_empty() => Some(
            "its index lists blobs, as BuildKit writes its cache, and this registry takes indexes of manifests only: have BuildKit write the cache as an image (image-manifest=true, the default since BuildKit 0.21), or leave it out",
        ),
        Content::Manifest(manifest) if manifest.layers.iter().any(|layer| !layer.urls.is_empty()) => Some(
            "some of its layers have urls, which not every registry takes: allow them there (distribution: validation.manifests.urls.allow), or leave the image out",
        ),
        Content::Index(_) | Content::Manifest(_) => None,
    }
}

/// What a registry is to the work that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegistryUse {
    /// Something is read from it.
    Source,
    /// Something is pushed to it.
    Destination,
}

/// What ends a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Other credentials.
    Credentials,
    /// Credentials of an account that has the right.
    Right,
    /// The authority of its certificate.
    Authority,
    /// The certificate that it shows, given as an authority.
    OwnCertificate,
    /// A certificate of ours.
    ClientCertificate,
    /// Plain HTTP.
    PlainHttp,
}

impl Remedy {
    /// The advice, as the rest of a sentence.
    pub fn words(self, front: Frontend, role: RegistryUse) -> String {
        match self {
            Self::Credentials => match front {
                Frontend::Cluster => format!(
                    "correct the credentials in the Secret that {} names, and check that the repository exists",
                    secret(role)
                ),
                Frontend::CommandLine => "log in to it as docker does (`docker login` writes config.json in DOCKER_CONFIG or ~/.docker), and check that the repository exists".to_owned(),
            },
            Self::Right => match front {
                Frontend::Cluster => format!(
                    "give the account of the credentials this right, or give others by {}",
                    secret(role)
                ),
                Frontend::CommandLine => {
                    "give the account of the credentials this right, or log in as another (`docker login`)".to_owned()
                }
            },
            Self::Authority => format!("give the CA by {}", certificates(front, role)),
            Self::OwnCertificate => format!(
                "give this certificate itself as the CA by {}, or issue the registry a server certificate (basicConstraints CA:FALSE)",
                certificates(front, role)
            ),
            Self::ClientCertificate => match front {
                Frontend::Cluster => format!(
                    "if it wants a client certificate, give tls.crt and tls.key by {}",
                    certificate_field(role)
                ),
                Frontend::CommandLine => {
                    "if it wants a client certificate, use the operator in a cluster: this command shows none".to_owned()
                }
            },
            Self::PlainHttp => format!("if the registry serves plain HTTP, {}", plain_http(front, role)),
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

fn certificates(front: Frontend, role: RegistryUse) -> String {
    match front {
        Frontend::Cluster => format!(
            "{}, or have the administrator give it to the whole operator (caBundle of its chart)",
            certificate_field(role)
        ),
        Frontend::CommandLine => "--ca-file".to_owned(),
    }
}

fn plain_http(front: Frontend, role: RegistryUse) -> &'static str {
    match (front, role) {
        (Frontend::Cluster, RegistryUse::Source) => {
            "have the administrator add it to insecureRegistries, or set insecure: true where it is the destination"
        }
        (Frontend::Cluster, RegistryUse::Destination) => {
            "set insecure: true, and have the administrator add it to insecureRegistries"
        }
        (Frontend::CommandLine, RegistryUse::Source) => "name it by --insecure-registry",
        (Frontend::CommandLine, RegistryUse::Destination) => "set --insecure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Digest, Index, Manifest, media_type};

    const ALL: [Remedy; 6] = [
        Remedy::Credentials,
        Remedy::Right,
        Remedy::Authority,
        Remedy::OwnCertificate,
        Remedy::ClientCertificate,
        Remedy::PlainHttp,
    ];

    #[test]
    fn a_document_that_registries_refuse_is_explained() {
        let blob = |kind: &str| Descriptor::new(kind, Digest::of(kind.as_bytes()), 1);
        let index = |kind: &str| Document::of_index(Index::new(vec![blob(kind)])).unwrap();
        assert!(
            of_refused(&index(media_type::OCI_LAYER))
                .unwrap()
                .contains("image-manifest=true")
        );
        assert_eq!(of_refused(&index(media_type::OCI_MANIFEST)), None);
        let mut layer = blob(media_type::OCI_LAYER);
        let image = |layer: &Descriptor| {
            let manifest = Manifest::new(blob(media_type::OCI_CONFIG), vec![layer.clone()]);
            Document::of_manifest(manifest).unwrap()
        };
        assert_eq!(of_refused(&image(&layer)), None);
        layer.urls.push("https://publisher.example/layer".to_owned());
        assert!(
            of_refused(&image(&layer))
                .unwrap()
                .contains("validation.manifests.urls.allow")
        );
    }

    #[test]
    fn each_front_is_told_of_its_own_means() {
        for remedy in ALL {
            for role in [RegistryUse::Source, RegistryUse::Destination] {
                let command = remedy.words(Frontend::CommandLine, role);
                for field in ["Secret", "imagePullSecrets", "secretRef", "certSecretRef", "chart"] {
                    assert!(!command.contains(field), "{command}");
                }
                let cluster = remedy.words(Frontend::Cluster, role);
                for means in ["docker login", "config.json", "--"] {
                    assert!(!cluster.contains(means), "{cluster}");
                }
            }
        }
        let words = Remedy::Authority.words(Frontend::CommandLine, RegistryUse::Source);
        assert_eq!(words, "give the CA by --ca-file");
    }
}
