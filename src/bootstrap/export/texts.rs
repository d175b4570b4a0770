//! Texts beside the images.

use super::Distribution;
use crate::bootstrap::install::ADDRESS;

/// The part of `/etc/rancher/*/registries.yaml` for the registry of the cluster.
pub(super) fn registries() -> String {
    format!(
        "# The registry of the cluster serves HTTPS on the loopback of each node, with a certificate of its own.\n\
         configs:\n  \"{ADDRESS}\":\n    tls:\n      insecure_skip_verify: true\n"
    )
}

/// The `hosts.toml` of containerd for the registry of the cluster.
pub(super) fn hosts() -> String {
    format!(
        "# The registry of the cluster serves HTTPS on the loopback of each node, with a certificate of its own.\n\
         server = \"https://{ADDRESS}\"\n\n[host.\"https://{ADDRESS}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  skip_verify = true\n"
    )
}

/// How the files get on nodes.
pub(super) fn readme(of: Distribution, has_manifests: bool) -> String {
    let mut text = match of {
        Distribution::K3s => rancher("k3s"),
        Distribution::Rke2 => rancher("rke2"),
        Distribution::K0s => k0s(),
        Distribution::Containerd => containerd(),
        Distribution::Docker => docker(),
    };
    match of.manifests_folder().filter(|_| has_manifests) {
        Some(folder) => {
            text += &format!(
                "\nOn one server, after all nodes have the images:\n\n  \
                 sudo install -D --mode 600 manifests/jackal-operator.yaml {folder}/jackal-operator.yaml\n\n\
                 The file has passwords and a private key. The server applies it, and again when it changes.\n"
            );
        }
        None => {
            text += "\nThen, from a machine with a kubeconfig and the archive:\n\n  jackal-operator bootstrap FILE\n";
        }
    }
    text
}

fn rancher(name: &str) -> String {
    format!(
        "Images for {name}. On each node, before or after {name} starts:\n\n  \
         sudo install -D --mode 644 images/jackal-operator.tar.zst /var/lib/rancher/{name}/agent/images/jackal-operator.tar.zst\n\n\
         {name} imports the file when it starts; versions since January 2025 also while they run. See that the images are there:\n\n  \
         sudo {ctr} --namespace k8s.io images list | grep {ADDRESS}\n\n\
         {name} makes names with digests itself, and says \"can't cast … to NamedTagged\" in its log about those in the file. All\n\
         images are imported nevertheless.\n\n\
         registries.yaml is needed only if pulls from {ADDRESS} fail because of its certificate. Add its content to\n\
         /etc/rancher/{name}/registries.yaml on each node, and restart {name}.\n",
        ctr = match name {
            "k3s" => "k3s ctr",
            _ => "/var/lib/rancher/rke2/bin/ctr --address /run/k3s/containerd/containerd.sock",
        }
    )
}

fn k0s() -> String {
    format!(
        "Images for k0s. On each worker, before or after k0s starts:\n\n  \
         sudo install -D --mode 644 images/jackal-operator.tar /var/lib/k0s/images/jackal-operator.tar\n\n\
         k0s imports the file when it starts, and while it runs. See that the images are there:\n\n  \
         sudo k0s ctr --namespace k8s.io images list | grep {ADDRESS}\n\n\
         hosts.toml is needed only if pulls from {ADDRESS} fail because of its certificate. On each worker, with config_path set\n\
         to /etc/k0s/certs.d in a file of /etc/k0s/containerd.d:\n\n  \
         sudo install -D --mode 644 hosts.toml /etc/k0s/certs.d/{ADDRESS}/hosts.toml\n"
    )
}

fn containerd() -> String {
    format!(
        "Images for containerd. On each node:\n\n  \
         sudo ctr --namespace k8s.io images import --label io.cri-containerd.pinned=pinned images/jackal-operator.tar\n\n\
         Only the node's platform is imported. The label keeps the kubelet from deleting the images. A ctr without --label imports\n\
         without it, and labels afterwards:\n\n  \
         sudo ctr --namespace k8s.io images import images/jackal-operator.tar\n  \
         xargs -I NAME sudo ctr --namespace k8s.io images label NAME io.cri-containerd.pinned=pinned <names.txt\n\n\
         hosts.toml is needed only if pulls from {ADDRESS} fail because of its certificate. On each node, if config_path is\n\
         /etc/containerd/certs.d:\n\n  \
         sudo install -D --mode 644 hosts.toml /etc/containerd/certs.d/{ADDRESS}/hosts.toml\n"
    )
}

fn docker() -> String {
    format!(
        "Images for docker. On each node:\n\n  \
         docker load --input images/jackal-operator.tar\n\n\
         The file has the images by their tags: docker pulls an image that a pod names by its digest. docker needs no setting for\n\
         {ADDRESS}, since it accepts any certificate on 127.0.0.0/8 (docker info: Insecure Registries).\n"
    )
}
