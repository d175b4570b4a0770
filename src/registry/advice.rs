//! What to do about a failure, in the words of whoever reads it: fields of objects in a cluster, flags and files on the
//! command line. Pure.

use crate::fault::Front;

/// What a registry is to the work that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
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
    pub fn words(self, front: Front, role: Role) -> String {
        match self {
            Self::Credentials => match front {
                Front::Cluster => format!(
                    "correct the credentials in the Secret that {} names, and check that the repository exists",
                    secret(role)
                ),
                Front::CommandLine => "log in to it as docker does (`docker login` writes config.json in DOCKER_CONFIG or ~/.docker), and check that the repository exists".to_owned(),
            },
            Self::Right => match front {
                Front::Cluster => format!(
                    "give the account of the credentials this right, or give others by {}",
                    secret(role)
                ),
                Front::CommandLine => {
                    "give the account of the credentials this right, or log in as another (`docker login`)".to_owned()
                }
            },
            Self::Authority => format!("give the CA by {}", certificates(front, role)),
            Self::OwnCertificate => format!(
                "give this certificate itself as the CA by {}, or issue the registry a server certificate (basicConstraints CA:FALSE)",
                certificates(front, role)
            ),
            Self::ClientCertificate => match front {
                Front::Cluster => format!(
                    "if it wants a client certificate, give tls.crt and tls.key by {}",
                    certificate_field(role)
                ),
                Front::CommandLine => {
                    "if it wants a client certificate, use the operator in a cluster: this command shows none".to_owned()
                }
            },
            Self::PlainHttp => format!("if the registry serves plain HTTP, {}", plain_http(front, role)),
        }
    }
}

/// The field that names a Secret with credentials.
fn secret(role: Role) -> &'static str {
    match role {
        Role::Source => "imagePullSecrets",
        Role::Destination => "secretRef",
    }
}

fn certificate_field(role: Role) -> &'static str {
    match role {
        Role::Source => "sourceRegistries[].certSecretRef",
        Role::Destination => "registry.certSecretRef",
    }
}

fn certificates(front: Front, role: Role) -> String {
    match front {
        Front::Cluster => format!(
            "{}, or have the administrator give it to the whole operator (caBundle of its chart)",
            certificate_field(role)
        ),
        Front::CommandLine => "--ca-file".to_owned(),
    }
}

fn plain_http(front: Front, role: Role) -> &'static str {
    match (front, role) {
        (Front::Cluster, Role::Source) => {
            "have the administrator add it to insecureRegistries, or set insecure: true where it is the destination"
        }
        (Front::Cluster, Role::Destination) => {
            "set insecure: true, and have the administrator add it to insecureRegistries"
        }
        (Front::CommandLine, Role::Source) => "name it by --insecure-registry",
        (Front::CommandLine, Role::Destination) => "set --insecure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Remedy; 6] = [
        Remedy::Credentials,
        Remedy::Right,
        Remedy::Authority,
        Remedy::OwnCertificate,
        Remedy::ClientCertificate,
        Remedy::PlainHttp,
    ];

    #[test]
    fn each_front_is_told_of_its_own_means() {
        for remedy in ALL {
            for role in [Role::Source, Role::Destination] {
                let command = remedy.words(Front::CommandLine, role);
                for field in ["Secret", "imagePullSecrets", "secretRef", "certSecretRef", "chart"] {
                    assert!(!command.contains(field), "{command}");
                }
                let cluster = remedy.words(Front::Cluster, role);
                for means in ["docker login", "config.json", "--"] {
                    assert!(!cluster.contains(means), "{cluster}");
                }
            }
        }
        let words = Remedy::Authority.words(Front::CommandLine, Role::Source);
        assert_eq!(words, "give the CA by --ca-file");
    }
}
