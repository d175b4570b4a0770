//! Files that distributions of Kubernetes read from the disks of nodes, so that a node has the images of an archive before it pulls
//! anything. No IO.
//!
//! | distribution | images | what its sources do with the file |
//! |---|---|---|
//! | k3s, RKE2 | `agent/images/*.tar.zst` | decompress it with a window of at most 32 MiB, and give the tar to containerd's importer; all platforms; pinned |
//! | k0s | `images/*.tar` | give the tar to containerd's importer, uncompressed; the node's platform; pinned |
//! | containerd | any file | `ctr images import` |
//! | docker | any file | `docker load` |
//!
//! Images have their names in the archive, and the names that pods use after an installation: at `127.0.0.1:31999`, by tag and by
//! digest. A tar for docker has tags alone.

mod names;
mod texts;

use crate::archive::unpack::Chosen;
use crate::fault::Fault;

/// What reads the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// k3s.
    K3s,
    /// RKE2.
    Rke2,
    /// k0s.
    K0s,
    /// containerd, by `ctr`.
    Containerd,
    /// A docker engine.
    Docker,
}

/// The form of the images in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A tar of an OCI layout.
    OciArchive,
    /// The same in Zstandard.
    CompressedOciArchive,
    /// A tar for `docker load`.
    DockerArchive,
}

/// What a file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The images.
    Images(Form),
    /// This text.
    Text(String),
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// Its path below the directory of the export, with slashes.
    pub path: String,
    /// Its content.
    pub content: Content,
}

/// The names that images get: those of the archive, and those that pods use after an installation.
///
/// # Errors
/// A stalled fault that names the image whose name cannot be one in the registry.
pub fn with_final_names(images: Vec<Chosen>) -> Result<Vec<Chosen>, Fault> {
    images.into_iter().map(names::with_final).collect()
}

/// The files of the distribution `of` with `images`, which have all their names. `manifests` are the objects of the installation (YAML),
/// which servers of k3s, RKE2 and k0s apply by themselves; without them, `bootstrap` applies them.
pub fn files(of: Distribution, images: &[Chosen], manifests: Option<&str>) -> Vec<NodeFile> {
    let text = |path: &str, text: String| NodeFile {
        path: path.to_owned(),
        content: Content::Text(text),
    };
    let mut files = vec![NodeFile {
        path: of.images_path().to_owned(),
        content: Content::Images(of.form()),
    }];
    match of {
        Distribution::K3s | Distribution::Rke2 => files.push(text("registries.yaml", texts::registries())),
        Distribution::K0s => files.push(text("hosts.toml", texts::hosts())),
        Distribution::Containerd => {
            files.push(text("hosts.toml", texts::hosts()));
            files.push(text("names.txt", names::listed(images)));
        }
        Distribution::Docker => {}
    }
    let manifests = manifests.filter(|_| of.manifests_folder().is_some());
    if let Some(manifests) = manifests {
        files.push(text("manifests/jackal-operator.yaml", manifests.to_owned()));
    }
    files.push(text("README.txt", texts::readme(of, manifests.is_some())));
    files
}

impl Distribution {
    fn form(self) -> Form {
        match self {
            Self::K3s | Self::Rke2 => Form::CompressedOciArchive,
            Self::K0s | Self::Containerd => Form::OciArchive,
            Self::Docker => Form::DockerArchive,
        }
    }

    fn images_path(self) -> &'static str {
        match self {
            Self::K3s | Self::Rke2 => "images/jackal-operator.tar.zst",
            Self::K0s | Self::Containerd | Self::Docker => "images/jackal-operator.tar",
        }
    }

    /// The folder of a server whose manifests it applies.
    fn manifests_folder(self) -> Option<&'static str> {
        match self {
            Self::K3s => Some("/var/lib/rancher/k3s/server/manifests"),
            Self::Rke2 => Some("/var/lib/rancher/rke2/server/manifests"),
            Self::K0s => Some("/var/lib/k0s/manifests/jackal-operator"),
            Self::Containerd | Self::Docker => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::unpack::Chosen;

    fn paths(of: Distribution, manifests: Option<&str>) -> Vec<String> {
        let image = Chosen {
            names: vec!["registry.example.com/team/web:1".parse().unwrap()],
            listed: crate::oci::Digest::of(b"web"),
            documents: Vec::new(),
        };
        let files = files(of, &[image], manifests);
        files.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn each_distribution_gets_what_it_reads() {
        let k3s = ["images/jackal-operator.tar.zst", "registries.yaml", "README.txt"];
        assert_eq!(paths(Distribution::K3s, None), k3s);
        let with = paths(Distribution::Rke2, Some("kind: Namespace"));
        assert!(with.contains(&"manifests/jackal-operator.yaml".to_owned()), "{with:?}");
        let containerd = ["images/jackal-operator.tar", "hosts.toml", "names.txt", "README.txt"];
        assert_eq!(paths(Distribution::Containerd, Some("kind: Namespace")), containerd);
        assert_eq!(
            paths(Distribution::Docker, None),
            ["images/jackal-operator.tar", "README.txt"]
        );
    }

    #[test]
    fn the_readme_names_every_file() {
        for of in [
            Distribution::K3s,
            Distribution::Rke2,
            Distribution::K0s,
            Distribution::Containerd,
            Distribution::Docker,
        ] {
            for manifests in [None, Some("kind: Namespace")] {
                let files = files(of, &[], manifests);
                let Some(Content::Text(readme)) = files.last().map(|file| &file.content) else {
                    panic!("{of:?}");
                };
                for file in &files {
                    assert!(
                        file.path == "README.txt" || readme.contains(&file.path),
                        "{of:?}: {} {readme}",
                        file.path
                    );
                }
                let places = of.manifests_folder().is_some_and(|folder| readme.contains(folder));
                assert_eq!(
                    places,
                    manifests.is_some() && of.manifests_folder().is_some(),
                    "{readme}"
                );
                assert_eq!(readme.contains("jackal-operator bootstrap FILE"), !places, "{readme}");
            }
        }
    }
}
