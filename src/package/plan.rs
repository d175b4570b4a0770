//! From what a person wrote to the images that have to be brought. No IO: the same spec gives the same plan.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::component;
use super::verification::applicable;
use crate::api::v1alpha1::{ComponentSpec, ImageEntry, ImageSpec, JackalPackageSpec, SourceKind, VerifySpec};
use crate::fault::{Fault, Reason};
use crate::oci::{Location, LocationError, Naming, Platform, Reference};

/// The images of a package, each once, in the order in which the package names them first.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each distinct image.
    pub images: Vec<PlannedImage>,
}

/// An image that a package needs.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedImage {
    /// The normalised reference, with the digest where one pins what is read.
    pub image: Reference,
    /// As the package writes it where it names it first.
    pub spec: ImageSpec,
    /// Where it lands.
    pub location: Location,
    /// Whether it may have the plain tag beside the one with a checksum.
    pub plain_tag: bool,
    /// The components that need it, in the package's order.
    pub components: Vec<String>,
    /// Whose signatures it must have.
    pub verify: Vec<VerifySpec>,
}

impl PlannedImage {
    /// The name under which the package's documents list the image.
    pub fn listed(&self) -> Reference {
        listed(&self.image, self.spec.source)
    }
}

/// The reference that decides the place of an image and under which a package lists it.
///
/// A docker engine's image may have no manifest of its own before it is pushed, so a digest beside a tag only pins
/// what is read there: the place follows from the tag. Everywhere else the reference stays whole.
pub fn listed(image: &Reference, source: SourceKind) -> Reference {
    match source {
        SourceKind::Docker => image.without_digest(),
        SourceKind::Registry | SourceKind::Containerd => image.clone(),
    }
}

/// Everything about an image but its name: two images of one name in the cluster must agree in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wish {
    source: SourceKind,
    node_name: Option<String>,
    node_selector: Option<BTreeMap<String, String>>,
    platforms: BTreeSet<Platform>,
}

/// Finds the place of an image: [`Location::of`] or [`Location::below`].
type Placing = fn(&Reference, &str, &str, Naming, bool) -> Result<Location, LocationError>;

impl Plan {
    /// Plans `spec` for the registry that pods call `address` (host and port), below `prefix` (may be empty).
    /// Every fault is stalled and names the component, the image and what to do.
    pub fn of(spec: &JackalPackageSpec, address: &str, prefix: &str) -> Result<Self, Fault> {
        Self::placed(spec, address, prefix, Location::of)
    }

    /// The same with every image below `prefix`, also one that names `address` already; without an `address` where it is
    /// empty. See [`Location::below`].
    pub fn below(spec: &JackalPackageSpec, address: &str, prefix: &str) -> Result<Self, Fault> {
        Self::placed(spec, address, prefix, Location::below)
    }

    fn placed(spec: &JackalPackageSpec, address: &str, prefix: &str, place: Placing) -> Result<Self, Fault> {
        check_images(spec)?;
        check_components(&spec.components)?;
        let naming = spec.naming.without_cluster();
        let mut known: HashMap<(Reference, Wish), usize> = HashMap::new();
        let mut images: Vec<(PlannedImage, Wish)> = Vec::new();
        for component in &spec.components {
            for written in component.images.iter().filter_map(ImageEntry::spec) {
                let within = |fault: Fault| fault.within(format_args!("component `{}`", component.name));
                let (image, wish) = read(&written).map_err(within)?;
                if let Some(&index) = known.get(&(image.clone(), wish.clone())) {
                    let components = &mut images[index].0.components;
                    if components.last() != Some(&component.name) {
                        components.push(component.name.clone());
                    }
                    continue;
                }
                let location = place(&listed(&image, wish.source), address, prefix, naming, true)
                    .map_err(|error| within(Fault::stalled(Reason::InvalidReference, error.to_string())))?;
                known.insert((image.clone(), wish.clone()), images.len());
                let verify = applicable(&spec.verify, &image, wish.source).map_err(within)?;
                let planned = PlannedImage {
                    verify,
                    image,
                    spec: written.into_owned(),
                    location,
                    plain_tag: true,
                    components: vec![component.name.clone()],
                };
                images.push((planned, wish));
            }
        }
        let taken = names(&images, naming)?;
        let mut images: Vec<PlannedImage> = images.into_iter().map(|(image, _)| image).collect();
        settle_plain_tags(&mut images, taken, |image| {
            place(&image.listed(), address, prefix, naming, false)
                .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))
        })?;
        Ok(Self { images })
    }
}

/// The names that pods use, each of which belongs to one image.
fn names(images: &[(PlannedImage, Wish)], naming: Naming) -> Result<HashSet<String>, Fault> {
    let mut owners: HashMap<String, &(PlannedImage, Wish)> = HashMap::new();
    for owner in images {
        let Some(name) = primary_name(&owner.0.location) else {
            continue;
        };
        let Some(first) = owners.get(&name) else {
            owners.insert(name, owner);
            continue;
        };
        // One digest is one content, whatever else stands in the reference.
        if owner.0.location.digest.is_none() || first.1 != owner.1 {
            return Err(clash(first, owner, naming));
        }
    }
    Ok(owners.into_keys().collect())
}

fn primary_name(location: &Location) -> Option<String> {
    match (&location.digest, location.tags.first()) {
        (Some(digest), _) => Some(format!("{}@{digest}", location.repository)),
        (None, Some(tag)) => Some(format!("{}:{tag}", location.repository)),
        (None, None) => None,
    }
}

fn clash(first: &(PlannedImage, Wish), second: &(PlannedImage, Wish), naming: Naming) -> Fault {
    let describe = |(image, wish): &(PlannedImage, Wish)| {
        let mut text = format!(
            "`{}` of component `{}` (source {:?}",
            image.spec.image, image.components[0], wish.source
        );
        if let Some(node) = &wish.node_name {
            text += &format!(", node {node}");
        }
        if let Some(selector) = &wish.node_selector {
            let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            text += &format!(", nodes {}", labels.join(","));
        }
        if !wish.platforms.is_empty() {
            let platforms: Vec<String> = wish.platforms.iter().map(Platform::to_string).collect();
            text += &format!(", platforms {}", platforms.join(","));
        }
        text + ")"
    };
    let advice = if first.0.image == second.0.image {
        "ask for it the same way in both components"
    } else if naming == Naming::Plain && first.0.image.name() != second.0.image.name() {
        "set naming: Jackal or naming: Zarf, which tell them apart, or remove one of them"
    } else {
        "remove one of them"
    };
    Fault::stalled(
        Reason::InvalidSpec,
        format!(
            "{} and {} would both be `{}` in the cluster; {advice}",
            describe(first),
            describe(second),
            first.0.location
        ),
    )
}

/// Gives each plain tag to the first image that asks for it and whose name in the cluster it is not anyway.
fn settle_plain_tags(
    images: &mut [PlannedImage],
    mut taken: HashSet<String>,
    without: impl Fn(&PlannedImage) -> Result<Location, Fault>,
) -> Result<(), Fault> {
    for image in images {
        // Only a location with two tags has a plain one beside its name.
        let Some(plain) = image.location.plain_name().filter(|_| image.location.tags.len() > 1) else {
            continue;
        };
        if !taken.insert(plain) {
            image.location = without(image)?;
            image.plain_tag = false;
        }
    }
    Ok(())
}

/// That every image of `spec` is one. The schema of the API cannot say so of what is a string or an object.
pub fn check_images(spec: &JackalPackageSpec) -> Result<(), Fault> {
    match spec.invalid_images() {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(Fault::stalled(Reason::InvalidSpec, wrong.join("; "))),
    }
}

fn check_components(components: &[ComponentSpec]) -> Result<(), Fault> {
    let invalid = |message: String| Err(Fault::stalled(Reason::InvalidSpec, message));
    if components.is_empty() {
        return invalid("the package has no components; write at least one".to_owned());
    }
    let mut seen = HashSet::new();
    for ComponentSpec { name, .. } in components {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty()
            || name.len() > 63
            || !name.bytes().all(inner)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return invalid(format!(
                "`{}` is not a component's name: write at most 63 lower-case letters, digits and '-', with no '-' at either end",
                name.chars().take(80).collect::<String>()
            ));
        }
        if !seen.insert(name) {
            return invalid(format!("two components are called `{name}`; rename one of them"));
        }
    }
    components.iter().try_for_each(component::check)
}

/// Reads one image; the schema of the API says most of this too, but the command line has no API server.
fn read(written: &ImageSpec) -> Result<(Reference, Wish), Fault> {
    let image: Reference = written
        .image
        .parse()
        .map_err(|error: crate::oci::ReferenceError| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
    let invalid = |message: String| {
        Fault::stalled(Reason::InvalidSpec, message).within(format_args!("image `{}`", written.image))
    };
    let node_selector = written.node_selector.clone().filter(|labels| !labels.is_empty());
    if written.node_name.is_some() && node_selector.is_some() {
        return Err(invalid(
            "nodeName and nodeSelector both choose the node; set one of them".to_owned(),
        ));
    }
    if written.source == SourceKind::Registry && (written.node_name.is_some() || node_selector.is_some()) {
        return Err(invalid(
            "nodeName and nodeSelector choose the node whose engine is read, and source: Registry reads none; set source: Docker or source: Containerd, or remove them"
                .to_owned(),
        ));
    }
    let platforms = written
        .platforms
        .iter()
        .map(|platform| platform.parse())
        .collect::<Result<_, crate::oci::PlatformError>>()
        .map_err(|error| invalid(error.to_string()))?;
    let wish = Wish {
        source: written.source,
        node_name: written.node_name.clone(),
        node_selector,
        platforms,
    };
    Ok((image, wish))
}

#[cfg(test)]
mod tests;
