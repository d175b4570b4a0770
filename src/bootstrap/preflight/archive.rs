//! What an archive says about the installation that it is for, and the disk space that it needs. No IO but reading the archive.

use k8s_openapi::api::core::v1::Node;

use super::facts::{Disk, Facts, Read, Unread};
use super::quantity::{bytes, shown};
use super::report::{Check, Findings};
use super::runtime::{is_linux, name_of, not_read};
use crate::archive::{self, Archive, ImageSummary};
use crate::bootstrap::text::names;
use crate::fault::Fault;
use crate::oci::Reference;

/// The last part of the repository of the operator's image.
const OPERATOR: &str = "jackal-operator";
/// The last part of the repository of the registry's image.
const REGISTRY: &str = "registry";
/// How often the two images are on a node while they are installed: what the temporary registry receives, the container runtime's
/// copy, and its unpacked form, which is about three times as long.
const COPIES: u64 = 5;
/// The part of a file system, in percent, below which the kubelet evicts pods (`evictionHard`, `nodefs.available`).
const EVICTION: u64 = 10;

/// An image that runs on every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorImage {
    /// Its name in the archive.
    pub name: String,
    /// Its architectures, as Go names them; empty where it says none.
    pub architectures: Vec<String>,
    /// Bytes of it in the archive.
    pub size: u64,
}

/// What the checks need to know of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveSummary {
    /// Bytes of its content.
    pub size: u64,
    /// The operator's image.
    pub operator: Option<OperatorImage>,
    /// The image of the registry.
    pub registry: Option<OperatorImage>,
}

/// Reads what the checks need of `archive`.
///
/// # Errors
/// A fault that names what is damaged.
pub async fn summarise(archive: &Archive) -> Result<ArchiveSummary, Fault> {
    let found = archive::inspect(archive).await?;
    Ok(ArchiveSummary {
        size: found.content.size,
        operator: image(&found.images, OPERATOR),
        registry: image(&found.images, REGISTRY),
    })
}

/// The first image whose repository ends with the part `last`.
fn image(images: &[ImageSummary], last: &str) -> Option<OperatorImage> {
    let is_it = |name: &&String| {
        let reference: Option<Reference> = name.parse().ok();
        reference.is_some_and(|reference| reference.repository().rsplit('/').next() == Some(last))
    };
    images.iter().find_map(|image| {
        let name = image.names.iter().find(is_it)?;
        let architectures = image.platforms.iter();
        // OS, architecture and variant.
        let architectures = architectures.filter_map(|platform| Some(platform.split('/').nth(1)?.to_owned()));
        Some(OperatorImage {
            name: name.clone(),
            architectures: architectures.collect(),
            size: image.size,
        })
    })
}

/// Whether the archive has what is installed.
pub(super) fn content(archive: &ArchiveSummary) -> Check {
    const NAME: &str = "archive";
    let missing = [(&archive.operator, OPERATOR), (&archive.registry, REGISTRY)];
    let missing = missing.into_iter().filter(|(image, _)| image.is_none());
    let missing: Vec<&str> = missing.map(|(_, name)| name).collect();
    match (missing.as_slice(), &archive.operator, &archive.registry) {
        ([], Some(operator), Some(registry)) => Check::ok(
            NAME,
            format!(
                "{}; operator {}, registry {}",
                shown(archive.size),
                operator.name,
                registry.name
            ),
        ),
        (missing, ..) => Check::failure(
            NAME,
            format!("the archive has no image {}", missing.join(" and no image ")),
            "pack a package whose images include the operator's image and that of the registry",
        ),
    }
}

/// Whether the nodes have space for the images that run on each of them.
pub(super) fn disk(facts: &Facts, archive: &ArchiveSummary) -> Check {
    const NAME: &str = "disk-space";
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return not_read(NAME, "nodes", unread),
    };
    let images = [&archive.operator, &archive.registry];
    let size = images
        .into_iter()
        .flatten()
        .fold(0_u64, |sum, image| sum.saturating_add(image.size));
    let needed = size.saturating_mul(COPIES);
    let mut findings = Findings::default();
    let (mut small, mut tight, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut fine = 0_usize;
    for node in nodes.iter().filter(|node| is_linux(node)) {
        let name = name_of(node);
        match space(facts.disks.get(&name), node) {
            Space::Free(disk) => {
                let usable = disk.available.saturating_sub(disk.capacity / 100 * EVICTION);
                match (disk.available >= needed, usable >= needed) {
                    (false, _) => small.push(format!("{name} ({} free)", shown(disk.available))),
                    (true, false) => tight.push(format!("{name} ({} free)", shown(disk.available))),
                    (true, true) => fine += 1,
                }
            }
            Space::AtMost(total) if total < needed => small.push(format!("{name} ({} in all)", shown(total))),
            Space::AtMost(_) | Space::Unknown => unknown.push(name),
        }
    }
    let each = format!("{} needed on each node", shown(needed));
    if !small.is_empty() {
        findings.failure(
            format!("{each}, too little on {}", names(&small)),
            "free space on these nodes",
        );
    }
    if !tight.is_empty() {
        findings.warning(
            format!("{each}, then less than {EVICTION}% is left on {}", names(&tight)),
            "free space on these nodes, else the kubelet evicts pods there",
        );
    }
    if !unknown.is_empty() {
        findings.warning(
            format!("{each}, the free space is unknown on {}", names(&unknown)),
            "let the user get nodes/proxy, or compare the free space yourself",
        );
    }
    if fine > 0 {
        findings.ok(format!("{each}, enough on {fine} of them"));
    }
    findings.check(NAME, "no node")
}

/// What is known of the space on a node, in bytes.
enum Space {
    Free(Disk),
    /// Only how much there is in all.
    AtMost(u64),
    Unknown,
}

fn space(disk: Option<&Read<Disk>>, node: &Node) -> Space {
    match disk {
        Some(Ok(disk)) => Space::Free(*disk),
        Some(Err(Unread::Forbidden | Unread::Absent | Unread::Failed(_))) | None => {
            let status = node.status.as_ref();
            let allocatable = status.and_then(|status| status.allocatable.as_ref());
            let storage = allocatable.and_then(|resources| resources.get("ephemeral-storage"));
            storage.and_then(bytes).map_or(Space::Unknown, Space::AtMost)
        }
    }
}
