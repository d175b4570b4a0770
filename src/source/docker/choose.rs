//! Which manifest of a docker engine's image is meant.

use super::engine::StorageKind;
use super::inspected::{Held, InspectedImage};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Index, Platform, Reference, Selection, media_type, select};

/// What is taken of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Configuration and layers; a manifest is made for them.
    Layers,
    /// A manifest or an index, unchanged.
    Manifest {
        /// What is carried. Without a media type where the engine does not tell.
        root: Box<Descriptor>,
        /// What the export is narrowed to; `None` where it is not.
        platform: Option<Platform>,
        /// Whether only some entries of the index are taken, so that another index is made of them.
        narrowed: bool,
    },
}

/// Decides what is taken of `image`.
///
/// Without a choice of platforms an index is taken whole when the engine holds all of it. An engine that was
/// told `docker pull` holds one platform of what the index lists; then that one image is taken, as `docker push`
/// does, and where the engine holds several but not all of them the choice is left to the user.
///
/// # Errors
/// [`Reason::SourceNotFound`] when a platform that was asked for is not held.
pub(super) fn target(
    image: &InspectedImage,
    shape: StorageKind,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<Target, Fault> {
    let name = reference.familiar();
    if shape == StorageKind::Classic {
        admit(image, &name, platforms)?;
        return Ok(Target::Layers);
    }
    let whole = |descriptor: Descriptor| Target::Manifest {
        root: Box::new(descriptor),
        platform: None,
        narrowed: false,
    };
    let Some(root) = image.descriptor.clone() else {
        // An elder API tells only the digest; what it is shows in the export.
        return Ok(whole(Descriptor::new("", image.image_id.clone(), 0)));
    };
    if !media_type::is_index(&root.media_type) {
        admit(image, &name, platforms)?;
        return Ok(whole(root));
    }
    let Some(held) = &image.manifests else {
        return Ok(whole(root));
    };
    // A digest may name one image of the index.
    let pinned = reference.digest().filter(|digest| **digest != root.digest);
    if let Some(pinned) = held.iter().find(|held| Some(&held.descriptor.digest) == pinned) {
        return one(pinned, &name);
    }
    let index = Index::new(held.iter().map(|held| held.descriptor.clone()).collect());
    let selection = select(&index, platforms).map_err(|absent| lacking(&name, &absent.to_string()))?;
    match selection {
        Selection::Image(descriptor) => match held.iter().find(|held| held.descriptor == descriptor) {
            Some(held) => one(held, &name),
            None => Ok(whole(root)),
        },
        Selection::Unchanged if platforms.is_empty() => match sparse(held, &name)? {
            Some(only) => one(only, &name),
            None => Ok(whole(root)),
        },
        Selection::Unchanged if held.iter().all(|held| held.available) => Ok(whole(root)),
        Selection::Unchanged => several(held, &index, &name, platforms, root),
        Selection::Index(kept) => several(held, &kept, &name, platforms, root),
    }
}

/// The one image that an engine holds of an index, or `None` when it holds all of the index.
///
/// # Errors
/// [`Reason::SourceNotFound`] when it holds none; [`Reason::SourceFailed`] when it holds several, but not all.
pub(super) fn sparse<'a>(held: &'a [Held], name: &str) -> Result<Option<&'a Held>, Fault> {
    if held.iter().all(|held| held.available) {
        return Ok(None);
    }
    let images: Vec<&Held> = held
        .iter()
        .filter(|held| held.available && held.descriptor.may_be_image())
        .collect();
    match images.as_slice() {
        [only] => Ok(Some(only)),
        [] => Err(lacking(name, "any platform")),
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

fn one(held: &Held, name: &str) -> Result<Target, Fault> {
    if !held.available {
        return Err(lacking(name, &label(&held.descriptor)));
    }
    Ok(Target::Manifest {
        root: Box::new(held.descriptor.clone()),
        platform: held.descriptor.platform.clone(),
        narrowed: false,
    })
}

// The chosen images of `kept` that the engine holds. Attestations may lack, and an image that another one stands beside
// for the same platform.
fn several(held: &[Held], kept: &Index, name: &str, platforms: &[Platform], root: Descriptor) -> Result<Target, Fault> {
    let of = |entry: &Descriptor| held.iter().find(|held| held.descriptor == *entry);
    let images = || kept.manifests.iter().filter(|entry| entry.may_be_image());
    let there: Vec<&Held> = images().filter_map(of).filter(|held| held.available).collect();
    let has = |asked: &Platform| {
        let mut offered = there.iter().filter_map(|held| held.descriptor.platform.as_ref());
        offered.any(|offered| asked.admits(offered))
    };
    if !platforms.iter().all(has)
        && let Some(missing) = images().find(|entry| of(entry).is_none_or(|held| !held.available))
    {
        return Err(lacking(name, &label(missing)));
    }
    match there.as_slice() {
        [only] => one(only, name),
        _ => Ok(Target::Manifest {
            root: Box::new(root),
            platform: None,
            narrowed: true,
        }),
    }
}

/// The entries of `kept` that are held. That all that must be is held was decided before.
pub(super) fn only_held(mut kept: Index, is_held: impl Fn(&Descriptor) -> bool) -> Index {
    kept.manifests.retain(is_held);
    kept
}

fn admit(image: &InspectedImage, name: &str, platforms: &[Platform]) -> Result<(), Fault> {
    let Some(offered) = &image.platform else {
        return Ok(());
    };
    match platforms.iter().find(|asked| !asked.admits(offered)) {
        Some(asked) => Err(lacking(name, &asked.to_string())),
        None => Ok(()),
    }
}

fn label(descriptor: &Descriptor) -> String {
    match descriptor.platform.as_ref().filter(|platform| platform.is_specified()) {
        Some(platform) => platform.to_string(),
        None => descriptor.digest.to_string(),
    }
}

/// That the engine has the image, but not for a platform.
pub(super) fn lacking(name: &str, platform: &str) -> Fault {
    let message = format!(
        "the docker engine of this machine does not hold {platform} of `{name}`; \
         pull or build it there for that platform, or change platforms"
    );
    Fault::retryable(Reason::SourceNotFound, message)
}
