//! Selects the manifest of a docker engine's image that is exported.

use super::engine::StorageKind;
use super::inspected_image::{InspectedImage, StoredManifest};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Index, Platform, Reference, Selection, media_type, select};

/// What is exported of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Configuration and layers; a manifest is made for them.
    Layers,
    /// A manifest or an index, unchanged.
    Manifest {
        /// The manifest or index. Its media type is empty if the engine does not give it.
        root: Box<Descriptor>,
        /// The platform that is exported; `None` for all.
        platform: Option<Platform>,
        /// Whether only some entries of the index are taken, so that a new index is made of them.
        narrowed: bool,
    },
}

/// Selects what is exported of `image`.
///
/// Without platforms an index is taken whole when the engine holds all of it. After `docker pull` an engine holds one
/// platform of those that the index lists; then that one image is taken, as `docker push` does. If it holds several but not
/// all, the user must choose.
///
/// # Errors
/// [`Reason::SourceNotFound`] when a platform that was asked for is not held.
pub(super) fn target(
    image: &InspectedImage,
    storage: StorageKind,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<Target, Fault> {
    let name = reference.familiar();
    if storage == StorageKind::Classic {
        check_platform(image, &name, platforms)?;
        return Ok(Target::Layers);
    }
    let whole = |descriptor: Descriptor| Target::Manifest {
        root: Box::new(descriptor),
        platform: None,
        narrowed: false,
    };
    let Some(root) = image.descriptor.clone() else {
        // An API before 1.48 gives only the digest; the export shows its type.
        return Ok(whole(Descriptor::new("", image.image_id.clone(), 0)));
    };
    if !media_type::is_index(&root.media_type) {
        check_platform(image, &name, platforms)?;
        return Ok(whole(root));
    }
    let Some(held) = &image.manifests else {
        return Ok(whole(root));
    };
    // A digest may be that of one image of the index.
    let pinned = reference.digest().filter(|digest| **digest != root.digest);
    if let Some(pinned) = held.iter().find(|held| Some(&held.descriptor.digest) == pinned) {
        return one_image(pinned, &name);
    }
    let index = Index::new(held.iter().map(|held| held.descriptor.clone()).collect());
    let selection = select(&index, platforms).map_err(|absent| platform_not_found(&name, &absent.to_string()))?;
    match selection {
        Selection::Image(descriptor) => match held.iter().find(|held| held.descriptor == descriptor) {
            Some(held) => one_image(held, &name),
            None => Ok(whole(root)),
        },
        Selection::Unchanged if platforms.is_empty() => match only_available(held, &name)? {
            Some(only) => one_image(only, &name),
            None => Ok(whole(root)),
        },
        Selection::Unchanged if held.iter().all(|held| held.available) => Ok(whole(root)),
        Selection::Unchanged => available_images(held, &index, &name, platforms, root),
        Selection::Index(kept) => available_images(held, &kept, &name, platforms, root),
    }
}

/// The one image that an engine holds of an index, or `None` when it holds all of the index.
///
/// # Errors
/// [`Reason::SourceNotFound`] when it holds none; [`Reason::SourceFailed`] when it holds several, but not all.
pub(super) fn only_available<'a>(held: &'a [StoredManifest], name: &str) -> Result<Option<&'a StoredManifest>, Fault> {
    if held.iter().all(|held| held.available) {
        return Ok(None);
    }
    let images: Vec<&StoredManifest> = held
        .iter()
        .filter(|held| held.available && held.descriptor.may_be_image())
        .collect();
    match images.as_slice() {
        [only] => Ok(Some(only)),
        [] => Err(platform_not_found(name, "any platform")),
        several => {
            let labels: Vec<String> = several.iter().map(|held| label(&held.descriptor)).collect();
            let message = format!(
                "the docker engine of this machine holds {} of `{name}`, but not all that its index lists; \
                 set platforms to those that are wanted",
                labels.join(", ")
            );
            Err(Fault::retryable(Reason::SourceFailed, message))
        }
    }
}

fn one_image(manifest: &StoredManifest, name: &str) -> Result<Target, Fault> {
    if !manifest.available {
        return Err(platform_not_found(name, &label(&manifest.descriptor)));
    }
    Ok(Target::Manifest {
        root: Box::new(manifest.descriptor.clone()),
        platform: manifest.descriptor.platform.clone(),
        narrowed: false,
    })
}

// The selected images of `kept` that the engine holds. Attestations may be missing, and so may an image if another one for
// the same platform is held.
fn available_images(
    held: &[StoredManifest],
    kept: &Index,
    name: &str,
    platforms: &[Platform],
    root: Descriptor,
) -> Result<Target, Fault> {
    let of = |entry: &Descriptor| held.iter().find(|held| held.descriptor == *entry);
    let images = || kept.manifests.iter().filter(|entry| entry.may_be_image());
    let available: Vec<&StoredManifest> = images().filter_map(of).filter(|held| held.available).collect();
    let has = |asked: &Platform| {
        let mut offered = available.iter().filter_map(|held| held.descriptor.platform.as_ref());
        offered.any(|offered| asked.admits(offered))
    };
    if !platforms.iter().all(has)
        && let Some(missing) = images().find(|entry| of(entry).is_none_or(|held| !held.available))
    {
        return Err(platform_not_found(name, &label(missing)));
    }
    match available.as_slice() {
        [only] => one_image(only, name),
        _ => Ok(Target::Manifest {
            root: Box::new(root),
            platform: None,
            narrowed: true,
        }),
    }
}

/// The entries of `kept` that are available. The caller checked that the required ones are.
pub(super) fn retain_available(mut kept: Index, is_available: impl Fn(&Descriptor) -> bool) -> Index {
    kept.manifests.retain(is_available);
    kept
}

fn check_platform(image: &InspectedImage, name: &str, platforms: &[Platform]) -> Result<(), Fault> {
    let Some(offered) = &image.platform else {
        return Ok(());
    };
    match platforms.iter().find(|asked| !asked.admits(offered)) {
        Some(asked) => Err(platform_not_found(name, &asked.to_string())),
        None => Ok(()),
    }
}

fn label(descriptor: &Descriptor) -> String {
    match descriptor.platform.as_ref().filter(|platform| platform.is_specified()) {
        Some(platform) => platform.to_string(),
        None => descriptor.digest.to_string(),
    }
}

/// The engine has the image, but not for `platform`.
pub(super) fn platform_not_found(name: &str, platform: &str) -> Fault {
    let message = format!(
        "the docker engine of this machine does not hold {platform} of `{name}`; \
         pull or build it there for that platform, or change platforms"
    );
    Fault::retryable(Reason::SourceNotFound, message)
}
