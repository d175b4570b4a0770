//! The objects of the seed in the cluster. No IO.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath,
    Namespace, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext, TCPSocketAction, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::SEED_PORT;
use super::image::ARCHITECTURE_LABEL;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;

/// The namespace of the seed.
pub const NAMESPACE: &str = "jackal-seed";
/// The name of the ConfigMap, and of the DaemonSets before the architecture.
const NAME: &str = "jackal-seed";
/// The label of all objects and pods.
const NAME_LABEL: &str = "app.kubernetes.io/name";
/// The directory of the files in the container.
pub const FILES: &str = "/seed";
/// The directory of the program in the container.
const PROGRAM: &str = "/seed-program";
/// The most bytes that the API server accepts in a ConfigMap.
const MAX_CONFIG_MAP: usize = 1 << 20;
/// Space for the list and the file system beside the files, in bytes.
const FILES_RESERVE: u64 = 64 << 20;
/// The account of the seed, that of the operator's image.
const USER: i64 = 65532;
const MEMORY_REQUEST: &str = "64Mi";
const MEMORY_LIMIT: &str = "512Mi";
const CPU_REQUEST: &str = "20m";
/// How long a pod may take to end, in seconds. The registry on the node only reads.
const GRACE_PERIOD: i64 = 5;

/// What the seed's command does on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedRole {
    /// It serves a registry on this port of 127.0.0.1, without any privilege but the network of the node.
    Serve {
        /// The port. The pod is Ready when it is open.
        port: u16,
    },
    /// It imports images into the containerd of the node, as root in a privileged container.
    Import {
        /// The path of containerd's socket on the node, which is the same in the container.
        socket: String,
        /// The port of 127.0.0.1 that is open when the images are imported. Then the pod is Ready.
        port: u16,
    },
}

/// The seed on the nodes of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedSpec {
    /// The architecture as OCI and Kubernetes name it, such as `amd64`.
    pub architecture: String,
    /// An image that all of these nodes have. It is never pulled.
    pub image: String,
    /// The digest of the list of the files ([`super::file_list`]).
    pub list: Digest,
    /// The bytes of all files.
    pub size: u64,
    /// The command that is executed when all files are there, and its arguments. The files are in [`FILES`].
    pub command: Vec<String>,
    /// What the command does.
    pub role: SeedRole,
}

/// The labels of all objects of the seed, which also select its pods.
pub fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(NAME_LABEL.to_owned(), NAME.to_owned())])
}

/// The namespace. The network of the node needs the privileged level of Pod Security.
pub fn namespace() -> Namespace {
    let mut labels = labels();
    for mode in ["enforce", "audit", "warn"] {
        labels.insert(format!("pod-security.kubernetes.io/{mode}"), "privileged".to_owned());
    }
    Namespace {
        metadata: ObjectMeta {
            name: Some(NAMESPACE.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// The ConfigMap with the programs, by architecture.
///
/// # Errors
/// A stalled fault, if they are larger than the API server accepts.
pub fn config_map(programs: &BTreeMap<String, Vec<u8>>) -> Result<ConfigMap, Fault> {
    let size: usize = programs.values().map(Vec::len).sum();
    if size > MAX_CONFIG_MAP {
        return Err(Fault::stalled(
            Reason::InvalidSpec,
            format!(
                "the seed programs have {size} bytes, and a ConfigMap at most {MAX_CONFIG_MAP}: the archive is not one of this operator"
            ),
        ));
    }
    let entries = programs
        .iter()
        .map(|(architecture, program)| (program_key(architecture), ByteString(program.clone())));
    Ok(ConfigMap {
        metadata: metadata(NAME.to_owned()),
        binary_data: Some(entries.collect()),
        ..ConfigMap::default()
    })
}

/// The DaemonSet of one architecture.
pub fn daemon_set(spec: &SeedSpec) -> DaemonSet {
    let name = format!("{NAME}-{}", spec.architecture);
    let mut labels = labels();
    // The DaemonSets of several architectures must not select each other's pods.
    labels.insert("app.kubernetes.io/instance".to_owned(), name.clone());
    DaemonSet {
        metadata: metadata(name),
        spec: Some(DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(labels.clone()),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(spec)),
            },
            // Another image is tried on all nodes at once.
            update_strategy: Some(DaemonSetUpdateStrategy {
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::String("100%".to_owned())),
                    ..RollingUpdateDaemonSet::default()
                }),
                type_: Some("RollingUpdate".to_owned()),
            }),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

fn metadata(name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

fn program_key(architecture: &str) -> String {
    format!("jackal-seed-{architecture}")
}

fn pod(spec: &SeedSpec) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        containers: vec![container(spec)],
        dns_policy: Some("Default".to_owned()),
        enable_service_links: Some(false),
        host_network: Some(true),
        node_selector: Some(BTreeMap::from([
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            (ARCHITECTURE_LABEL.to_owned(), spec.architecture.clone()),
        ])),
        security_context: Some(PodSecurityContext {
            seccomp_profile: matches!(spec.role, SeedRole::Serve { .. }).then(|| SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(GRACE_PERIOD),
        // Every node pulls images, also one that is not Ready yet.
        tolerations: Some(vec![Toleration {
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        }]),
        volumes: Some(volumes(spec)),
        ..PodSpec::default()
    }
}

fn container(spec: &SeedSpec) -> Container {
    let mut command = vec![
        format!("{PROGRAM}/jackal-seed"),
        "--listen".to_owned(),
        format!("127.0.0.1:{SEED_PORT}"),
        "--directory".to_owned(),
        FILES.to_owned(),
        "--list".to_owned(),
        spec.list.to_string(),
        "--".to_owned(),
    ];
    command.extend(spec.command.iter().cloned());
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("program", PROGRAM, true), mount("files", FILES, false)];
    let (SeedRole::Serve { port } | SeedRole::Import { port, .. }) = &spec.role;
    let readiness = Probe {
        period_seconds: Some(2),
        tcp_socket: Some(TCPSocketAction {
            // The kubelet asks in the network of the node.
            host: Some("127.0.0.1".to_owned()),
            port: IntOrString::Int(i32::from(*port)),
        }),
        ..Probe::default()
    };
    if let SeedRole::Import { socket, .. } = &spec.role {
        mounts.push(mount("containerd", socket, false));
    }
    let quantities = |entries: &[(&str, &str)]| {
        let entries = entries
            .iter()
            .map(|(name, quantity)| ((*name).to_owned(), Quantity((*quantity).to_owned())));
        Some(entries.collect::<BTreeMap<_, _>>())
    };
    Container {
        name: "seed".to_owned(),
        image: Some(spec.image.clone()),
        image_pull_policy: Some("Never".to_owned()),
        command: Some(command),
        readiness_probe: Some(readiness),
        resources: Some(ResourceRequirements {
            requests: quantities(&[("cpu", CPU_REQUEST), ("memory", MEMORY_REQUEST)]),
            limits: quantities(&[("memory", MEMORY_LIMIT)]),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security_context(&spec.role)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn security_context(role: &SeedRole) -> SecurityContext {
    let strict = SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        read_only_root_filesystem: Some(true),
        run_as_group: Some(USER),
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        ..SecurityContext::default()
    };
    match role {
        SeedRole::Serve { .. } => strict,
        // The socket belongs to root, and SELinux lets only privileged containers use it.
        SeedRole::Import { .. } => SecurityContext {
            privileged: Some(true),
            read_only_root_filesystem: Some(true),
            run_as_group: Some(0),
            run_as_user: Some(0),
            ..SecurityContext::default()
        },
    }
}

fn volumes(spec: &SeedSpec) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: "program".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: NAME.to_owned(),
                default_mode: Some(0o555),
                items: Some(vec![KeyToPath {
                    key: program_key(&spec.architecture),
                    path: "jackal-seed".to_owned(),
                    ..KeyToPath::default()
                }]),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "files".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(spec.size.saturating_add(FILES_RESERVE).to_string())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if let SeedRole::Import { socket, .. } = &spec.role {
        volumes.push(Volume {
            name: "containerd".to_owned(),
            host_path: Some(HostPathVolumeSource {
                path: socket.clone(),
                type_: Some("Socket".to_owned()),
            }),
            ..Volume::default()
        });
    }
    volumes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(role: SeedRole) -> SeedSpec {
        SeedSpec {
            architecture: "arm64".to_owned(),
            image: "registry.k8s.io/pause:3.10".to_owned(),
            list: Digest::of(b""),
            size: 100_000_000,
            command: vec![
                "/seed/jackal-operator".to_owned(),
                "serve".to_owned(),
                "/seed/layout".to_owned(),
            ],
            role,
        }
    }

    fn parts(role: SeedRole) -> (PodSpec, Container) {
        let set = daemon_set(&spec(role));
        let mut pod = set.spec.unwrap().template.spec.unwrap();
        let container = pod.containers.remove(0);
        (pod, container)
    }

    #[test]
    fn the_seed_runs_on_all_nodes_without_a_pull() {
        let (pod, container) = parts(SeedRole::Serve { port: 31999 });
        assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
        assert_eq!(pod.host_network, Some(true));
        let tolerations = pod.tolerations.unwrap();
        assert!(tolerations.len() == 1 && tolerations[0].operator.as_deref() == Some("Exists"));
        assert!(tolerations[0].key.is_none() && tolerations[0].effect.is_none());
        let selector = pod.node_selector.unwrap();
        assert_eq!(selector["kubernetes.io/os"], "linux");
        assert_eq!(selector["kubernetes.io/arch"], "arm64");
        let volumes = pod.volumes.unwrap();
        let items = volumes[0].config_map.as_ref().unwrap().items.as_ref().unwrap();
        assert_eq!(items[0].key, "jackal-seed-arm64");
        let limit = volumes[1].empty_dir.as_ref().unwrap().size_limit.as_ref().unwrap();
        assert_eq!(limit.0, "167108864");
    }

    #[test]
    fn the_arguments_are_those_of_the_program() {
        let (_, container) = parts(SeedRole::Serve { port: 31999 });
        let command = container.command.unwrap();
        assert_eq!(command[0], "/seed-program/jackal-seed");
        let arguments = command.into_iter().skip(1).map(std::ffi::OsString::from);
        let arguments = jackal_seed::arguments::parse(arguments).unwrap();
        assert_eq!(arguments.listen, "127.0.0.1:31998".parse().unwrap());
        assert_eq!(arguments.command, ["/seed/jackal-operator", "serve", "/seed/layout"]);
    }

    #[test]
    fn serving_needs_no_privilege_but_the_network() {
        let (pod, container) = parts(SeedRole::Serve { port: 31999 });
        let security = container.security_context.unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        assert_eq!(security.privileged, None);
        let profile = pod.security_context.unwrap().seccomp_profile.unwrap();
        assert_eq!(profile.type_, "RuntimeDefault");
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert!(pod.volumes.unwrap().iter().all(|volume| volume.host_path.is_none()));
    }

    #[test]
    fn importing_mounts_the_socket() {
        let socket = "/run/containerd/containerd.sock";
        let (pod, container) = parts(SeedRole::Import {
            socket: socket.to_owned(),
            port: 31997,
        });
        assert_eq!(container.security_context.unwrap().privileged, Some(true));
        let mounted = container.volume_mounts.unwrap();
        assert!(mounted.iter().any(|mount| mount.mount_path == socket));
        let path = pod.volumes.unwrap().remove(2).host_path.unwrap();
        assert_eq!((path.path.as_str(), path.type_.as_deref()), (socket, Some("Socket")));
    }

    #[test]
    fn daemon_sets_of_two_architectures_do_not_select_the_same_pods() {
        let one = daemon_set(&spec(SeedRole::Serve { port: 1 })).spec.unwrap();
        let mut other = spec(SeedRole::Serve { port: 1 });
        other.architecture = "amd64".to_owned();
        let other = daemon_set(&other).spec.unwrap();
        assert_ne!(one.selector, other.selector);
        assert_eq!(one.selector.match_labels, one.template.metadata.unwrap().labels);
        for (name, value) in labels() {
            assert_eq!(other.selector.match_labels.as_ref().unwrap()[&name], value);
        }
    }

    #[test]
    fn programs_fit_into_the_config_map() {
        let half = vec![0; MAX_CONFIG_MAP / 2];
        let programs = |arm: Vec<u8>| BTreeMap::from([("amd64".to_owned(), half.clone()), ("arm64".to_owned(), arm)]);
        let data = config_map(&programs(half.clone())).unwrap().binary_data.unwrap();
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            ["jackal-seed-amd64", "jackal-seed-arm64"]
        );
        let large = [half.clone(), vec![0]].concat();
        assert!(config_map(&programs(large)).unwrap_err().is_stalled());
    }

    #[test]
    fn pod_security_permits_the_network_of_the_node() {
        let labels = namespace().metadata.labels.unwrap();
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
    }
}
