//! Which images a package needs, and where each is stored. No IO: the same spec gives the same plan.

use std::collections::{HashMap, HashSet};

use super::component;
use super::request::ImageRequest;
use super::verification::applicable;
use crate::api::v1alpha1::{ComponentSpec, ImageEntry, ImageSpec, JackalPackageSpec, SourceKind, VerifySpec};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Location, LocationError, Naming, Reference};

/// The most images of a package. Each takes up to 2 KB of its status, and etcd takes 1.5 MB of an object.
pub const IMAGES: usize = 500;

/// The images of a package, each once, in the order in which the package names them first.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each distinct image.
    pub images: Vec<PlannedImage>,
}

/// An image that a package needs.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedImage {
    /// The request that is sent to its source.
    pub request: ImageRequest,
    /// The entry of the package that names it first.
    pub spec: ImageSpec,
    /// Where it is stored.
    pub location: Location,
    /// Whether it may have the plain tag besides the one with a checksum.
    pub plain_tag: bool,
    /// The components that need it, in the package's order.
    pub components: Vec<String>,
    /// The signatures that it must have.
    pub verify: Vec<VerifySpec>,
}

impl PlannedImage {
    /// The name under which the package's documents list the image.
    pub fn package_reference(&self) -> Reference {
        package_reference(&self.request)
    }
}

/// The reference that determines an image's location and under which a package lists it.
///
/// An image of a docker engine may have no manifest before it is pushed. So a digest beside a tag only pins what is read
/// there, and the location follows from the tag. For all other sources the reference is used unchanged.
pub fn package_reference(request: &ImageRequest) -> Reference {
    match request.source {
        SourceKind::Docker => request.reference.without_digest(),
        SourceKind::Registry | SourceKind::Containerd => request.reference.clone(),
    }
}

/// Computes the location of an image: [`Location::new`] or [`Location::under_prefix`].
type LocateImage = fn(&Reference, &str, &str, Naming, bool) -> Result<Location, LocationError>;

impl Plan {
    /// Plans `spec` for the registry that pods call `address` (host and port), below `prefix` (may be empty).
    /// Every fault is stalled and names the component, the image and what to do.
    pub fn of(spec: &JackalPackageSpec, address: &str, prefix: &str) -> Result<Self, Fault> {
        Self::with_locations(None, spec, (address, prefix), Location::new)
    }

    /// The same for the package `name`: no image gets the name of the package's own artifact.
    pub fn of_package(name: &str, spec: &JackalPackageSpec, address: &str, prefix: &str) -> Result<Self, Fault> {
        let artifact = artifact(name, spec, prefix);
        Self::with_locations(Some(&artifact), spec, (address, prefix), Location::new)
    }

    /// As [`Plan::of`], but every image is stored below `prefix`, also one that names `address` already. An empty `address`
    /// means none. See [`Location::under_prefix`].
    pub fn below(spec: &JackalPackageSpec, address: &str, prefix: &str) -> Result<Self, Fault> {
        Self::with_locations(None, spec, (address, prefix), Location::under_prefix)
    }

    /// As [`Plan::below`] for the package `name`; see [`Plan::of_package`].
    pub fn package_below(name: &str, spec: &JackalPackageSpec, address: &str, prefix: &str) -> Result<Self, Fault> {
        let artifact = artifact(name, spec, prefix);
        Self::with_locations(Some(&artifact), spec, (address, prefix), Location::under_prefix)
    }

    fn with_locations(
        artifact: Option<&str>,
        spec: &JackalPackageSpec,
        (address, prefix): (&str, &str),
        locate: LocateImage,
    ) -> Result<Self, Fault> {
        check_images(spec)?;
        check_components(&spec.components)?;
        let naming = spec.naming.without_cluster();
        let mut known: HashMap<ImageRequest, usize> = HashMap::new();
        let mut images: Vec<PlannedImage> = Vec::new();
        for component in &spec.components {
            for written in component.images.iter().filter_map(ImageEntry::spec) {
                let within = |fault: Fault| fault.with_context(format_args!("component `{}`", component.name));
                let request = ImageRequest::of(&written).map_err(within)?;
                if let Some(&index) = known.get(&request) {
                    let components = &mut images[index].components;
                    if components.last() != Some(&component.name) {
                        components.push(component.name.clone());
                    }
                    continue;
                }
                if images.len() >= IMAGES {
                    return Err(Fault::stalled(
                        Reason::InvalidSpec,
                        format!(
                            "the package has more than {IMAGES} images, which its status cannot list; split it into several packages"
                        ),
                    ));
                }
                let location = locate(&package_reference(&request), address, prefix, naming, true)
                    .map_err(|error| within(Fault::stalled(Reason::InvalidReference, error.to_string())))?;
                known.insert(request.clone(), images.len());
                // The whole archive was verified.
                let verify = match request.archived {
                    Some(_) => Vec::new(),
                    None => applicable(&spec.verify, &request.reference, request.source).map_err(within)?,
                };
                let planned = PlannedImage {
                    verify,
                    request,
                    spec: written.into_owned(),
                    location,
                    plain_tag: true,
                    components: vec![component.name.clone()],
                };
                images.push(planned);
            }
        }
        let taken = primary_names(&images, naming)?;
        if let Some(artifact) = artifact {
            check_artifact(&images, artifact)?;
        }
        assign_plain_tags(&mut images, taken, artifact);
        Ok(Self { images })
    }
}

/// The name of the artifact of the package `name`.
fn artifact(name: &str, spec: &JackalPackageSpec, prefix: &str) -> String {
    format!("{}:{}", super::repository(prefix, name), spec.version())
}

/// Checks that no image has the name of the package's own `artifact`.
fn check_artifact(images: &[PlannedImage], artifact: &str) -> Result<(), Fault> {
    let same = |image: &&PlannedImage| primary_name(&image.location).as_deref() == Some(artifact);
    let Some(image) = images.iter().find(same) else {
        return Ok(());
    };
    Err(Fault {
        disposition: Disposition::Stalled,
        ..Fault::conflict(format!(
            "`{}` of component `{}` and the package itself would both be `{}` in the cluster; give the package another name or version, or the image another tag",
            image.spec.image, image.components[0], image.location
        ))
    })
}

/// The names that pods use. Each belongs to one image.
fn primary_names(images: &[PlannedImage], naming: Naming) -> Result<HashSet<String>, Fault> {
    let mut owners: HashMap<String, &PlannedImage> = HashMap::new();
    for owner in images {
        let Some(name) = primary_name(&owner.location) else {
            continue;
        };
        let Some(first) = owners.get(&name) else {
            owners.insert(name, owner);
            continue;
        };
        // The same digest is the same content, whatever else the reference says.
        if owner.location.digest.is_none() || !same_but_name(&first.request, &owner.request) {
            return Err(name_conflict(first, owner, naming));
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

/// Whether two requests differ in nothing but the image's name.
fn same_but_name(one: &ImageRequest, other: &ImageRequest) -> bool {
    let named = ImageRequest {
        reference: other.reference.clone(),
        ..one.clone()
    };
    named == *other
}

fn name_conflict(first: &PlannedImage, second: &PlannedImage, naming: Naming) -> Fault {
    let describe = |image: &PlannedImage| {
        format!(
            "`{}` of component `{}` ({})",
            image.spec.image, image.components[0], image.request
        )
    };
    let advice = if first.request.reference == second.request.reference {
        "write it the same way in both components"
    } else if naming == Naming::Plain && first.request.reference.name() != second.request.reference.name() {
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
            first.location
        ),
    )
}

/// Assigns each plain tag to the first image that requests it, unless it is another image's primary name in the cluster
/// or the name of the package's `artifact`.
fn assign_plain_tags(images: &mut [PlannedImage], mut taken: HashSet<String>, artifact: Option<&str>) {
    for image in images {
        let Some(tag) = image.location.plain_tag() else {
            continue;
        };
        let name = format!("{}:{tag}", image.location.repository);
        if artifact == Some(name.as_str()) {
            image.location.omit_plain_tag("the package itself");
        } else if !taken.insert(name) {
            image.location.omit_plain_tag("another image of the package");
        }
        image.plain_tag = image.location.omitted_tag.is_none();
    }
}

/// Checks every image entry of `spec`. The schema of the API cannot, because an entry is a string or an object.
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

#[cfg(test)]
mod tests;
