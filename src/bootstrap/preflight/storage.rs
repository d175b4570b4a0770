//! The storage of the registry. No IO.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;

use super::archive::ArchiveSummary;
use super::facts::{Facts, Wanted};
use super::quantity::{bytes, shown};
use super::report::{Check, Findings};
use super::runtime::not_read;
use crate::bootstrap::text::{clean, names};

/// The length of the chart's claim in bytes (`registry.deploy.persistence.size`).
const DEFAULT_SIZE: u64 = 20 << 30;
/// Annotations of the default class.
const DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// The provisioner of classes whose volumes an administrator makes.
const NONE: &str = "kubernetes.io/no-provisioner";
/// Provisioners that were part of Kubernetes, and the drivers that replace them.
const MOVED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];
/// Provisioners whose volumes are folders of one node.
const LOCAL: [&str; 5] = [
    "rancher.io/local-path",
    "k8s.io/minikube-hostpath",
    "docker.io/hostpath",
    "microk8s.io/hostpath",
    "openebs.io/local",
];

/// Whether the registry's claim gets a volume.
pub(super) fn classes(facts: &Facts, wanted: &Wanted) -> Check {
    const NAME: &str = "storage-class";
    if wanted.ephemeral {
        return Check::warning(
            NAME,
            "none is used: the registry keeps its content in an emptyDir",
            "use a storage class where there is one: the content is lost with the registry's pod",
        );
    }
    let classes = match &facts.storage_classes {
        Ok(classes) => classes,
        Err(unread) => return not_read(NAME, "storageclasses", unread),
    };
    let class = match &wanted.storage_class {
        Some(name) => match classes
            .iter()
            .find(|class| class.metadata.name.as_deref() == Some(name))
        {
            Some(class) => class,
            None if pre_made(facts, name, wanted).is_some() => {
                return Check::ok(NAME, format!("no class {name}, but a volume that names it"));
            }
            None => {
                return Check::failure(
                    NAME,
                    format!("there is no storage class {name}; there are: {}", known(classes)),
                    "name one of these with --storage-class",
                );
            }
        },
        None => match default_class(classes) {
            Some(class) => class,
            None => {
                return Check::failure(
                    NAME,
                    format!("there is no default storage class; there are: {}", known(classes)),
                    "name one with --storage-class, or install a provisioner of volumes first",
                );
            }
        },
    };
    let mut findings = Findings::default();
    judge_class(class, facts, wanted, &mut findings);
    findings.check(NAME, "none")
}

fn known(classes: &[StorageClass]) -> String {
    let found: Vec<&str> = classes
        .iter()
        .filter_map(|class| class.metadata.name.as_deref())
        .collect();
    match found.as_slice() {
        [] => "none".to_owned(),
        found => names(found),
    }
}

/// The default class; of several the newest, as the API server chooses.
fn default_class(classes: &[StorageClass]) -> Option<&StorageClass> {
    let is_default = |class: &&StorageClass| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.is_some_and(|all| {
            DEFAULT
                .iter()
                .any(|key| all.get(*key).is_some_and(|value| value == "true"))
        })
    };
    let created = |class: &&StorageClass| {
        let time = class.metadata.creation_timestamp.as_ref();
        (time.map(|time| time.0), std::cmp::Reverse(class.metadata.name.clone()))
    };
    classes.iter().filter(is_default).max_by_key(created)
}

fn judge_class(class: &StorageClass, facts: &Facts, wanted: &Wanted, findings: &mut Findings) {
    let name = clean(class.metadata.name.as_deref().unwrap_or_default(), 80);
    let provisioner = class.provisioner.as_str();
    let found = format!("{name}, provisioner {}", clean(provisioner, 80));
    let has_driver = |driver: &str| {
        let drivers = facts.drivers.as_deref().ok()?;
        Some(
            drivers
                .iter()
                .any(|known| known.metadata.name.as_deref() == Some(driver)),
        )
    };
    let moved = MOVED
        .iter()
        .find(|(old, _)| *old == provisioner)
        .map(|(_, driver)| *driver);
    match (provisioner, moved) {
        (NONE, _) => match pre_made(facts, &name, wanted) {
            Some(volume) => findings.ok(format!("{found}; the volume {volume} is available")),
            None => findings.failure(
                format!("{found}: no volume of it is available"),
                "make a PersistentVolume of this class, or name another class with --storage-class",
            ),
        },
        (_, Some(driver)) if has_driver(driver) == Some(false) => findings.failure(
            format!("{found}, which needs the CSI driver {driver}: it is not installed"),
            format!("install {driver}, or name another class with --storage-class"),
        ),
        _ => findings.ok(found),
    }
    if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") {
        findings.ok("the volume is made when the registry's pod is scheduled");
    }
    if LOCAL.contains(&provisioner) {
        findings.warning(
            "its volumes are folders of one node",
            "the registry cannot move to another node, and its claim takes space of the node; see docs/install.md for sizes",
        );
    }
}

/// The name of a volume that is available for the claim, which names the class `class`.
fn pre_made(facts: &Facts, class: &str, wanted: &Wanted) -> Option<String> {
    let fits = |volume: &&PersistentVolume| {
        let spec = volume.spec.as_ref();
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let capacity = spec
            .and_then(|spec| spec.capacity.as_ref()?.get("storage"))
            .and_then(bytes);
        spec.is_some_and(|spec| spec.storage_class_name.as_deref() == Some(class))
            && phase == Some("Available")
            && capacity.is_some_and(|capacity| capacity >= size(wanted))
    };
    let volume = facts.volumes.as_deref().ok()?.iter().find(fits)?;
    volume.metadata.name.as_deref().map(|name| clean(name, 80))
}

fn size(wanted: &Wanted) -> u64 {
    wanted.storage_size.unwrap_or(DEFAULT_SIZE)
}

/// Whether the archive fits into the registry.
pub(super) fn claim(archive: &ArchiveSummary, wanted: &Wanted) -> Check {
    const NAME: &str = "claim-size";
    let size = size(wanted);
    let found = format!("{} of content for {} of storage", shown(archive.size), shown(size));
    // A registry needs space for uploads that are not complete, too.
    match archive.size.saturating_add(archive.size / 10) {
        _ if archive.size > size => Check::failure(NAME, found, "set a larger --storage-size"),
        needed if needed > size => Check::warning(
            NAME,
            found,
            "set a larger --storage-size: an upgrade needs space for both versions",
        ),
        _ => Check::ok(NAME, found),
    }
}
