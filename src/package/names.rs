//! Which object of a file owns which name in the file's destination. Each name belongs to one object. No IO.

use std::collections::HashMap;

use super::plan::{Plan, PlannedImage};
use super::request::ImageRequest;
use crate::api::v1alpha1::{JackalPackageSpec, SourceKind};
use crate::fault::{Disposition, Fault};
use crate::oci::Compression;

/// The owners of each name, written `repository:tag`.
#[derive(Debug, Default)]
pub struct NameOwners(HashMap<String, Vec<NameOwner>>);

#[derive(Debug)]
struct NameOwner {
    /// The object, as messages name it.
    object: String,
    content: OwnedContent,
}

/// What an object publishes under a name.
#[derive(Debug, PartialEq, Eq)]
enum OwnedContent {
    /// The artifact of a package, which shares its name with those of other architectures.
    Artifact { architecture: String },
    /// An image, and how its layers are compressed: only layers that a docker engine keeps unpacked are.
    Image(ImageRequest, Option<Compression>),
}

impl OwnedContent {
    fn of_artifact(spec: &JackalPackageSpec) -> Self {
        let architecture = spec.architecture.clone().unwrap_or_else(|| "amd64".to_owned());
        Self::Artifact { architecture }
    }

    fn of_image(image: &PlannedImage, compression: Compression) -> Self {
        let compressed = image.request.source == SourceKind::Docker;
        Self::Image(image.request.clone(), compressed.then_some(compression))
    }

    /// Whether the two cannot share a name.
    fn conflicts_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Image(..), Self::Image(..)) => self != other,
            (Self::Artifact { .. }, Self::Artifact { .. }) => self == other,
            _ => true,
        }
    }
}

impl NameOwners {
    /// Assigns the name of an artifact in `repository` to the package `owner`. It is called for all packages of the file
    /// before [`NameOwners::add_images`], because an image can do without its plain tag and a package has only one name.
    pub fn add_artifact(&mut self, owner: &str, repository: &str, spec: &JackalPackageSpec) {
        if let Some(version) = &spec.version {
            self.add(
                format!("{repository}:{version}"),
                owner,
                OwnedContent::of_artifact(spec),
            );
        }
    }

    /// Checks that no earlier object owns the name of the artifact of `owner`.
    ///
    /// # Errors
    /// A stalled [`Fault::conflict`] that names the object that owns it.
    pub fn check_artifact(&self, owner: &str, repository: &str, spec: &JackalPackageSpec) -> Result<(), Fault> {
        let name = format!("{repository}:{}", spec.version());
        match self.earlier_owner(&name, owner, &OwnedContent::of_artifact(spec)) {
            None => Ok(()),
            Some(other) => Err(conflict(format!(
                "the artifact {name} belongs to {other} of the same file; give {owner} another name or version"
            ))),
        }
    }

    /// Assigns the names of the images of `plan` to `owner`. Plain tags that other objects own are removed from the plan.
    ///
    /// # Errors
    /// A stalled [`Fault::conflict`] that names the object that owns the name of one of them.
    pub fn add_images(&mut self, owner: &str, plan: &mut Plan, compression: Compression) -> Result<(), Fault> {
        let name = |image: &PlannedImage, tag: &str| format!("{}:{tag}", image.location.repository);
        for image in &plan.images {
            let Some(first) = image.location.tags.first().map(|tag| name(image, tag)) else {
                continue;
            };
            if let Some(other) = self.earlier_owner(&first, owner, &OwnedContent::of_image(image, compression)) {
                return Err(conflict(format!(
                    "`{}` of {owner} would be {first}, which belongs to {other} of the same file; give it another tag or naming, or remove one of them",
                    image.spec.image
                )));
            }
        }
        for image in &mut plan.images {
            let plain = image.location.plain_tag().map(|tag| name(image, tag));
            let other =
                plain.and_then(|plain| self.earlier_owner(&plain, owner, &OwnedContent::of_image(image, compression)));
            if let Some(other) = other.map(|other| format!("{other} of the same file")) {
                image.location.omit_plain_tag(&other);
                image.plain_tag = false;
            }
            for tag in &image.location.tags {
                self.add(name(image, tag), owner, OwnedContent::of_image(image, compression));
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, owner: &str, content: OwnedContent) {
        let owners = self.0.entry(name).or_default();
        if !owners
            .iter()
            .any(|known| known.object == owner && known.content == content)
        {
            let object = owner.to_owned();
            owners.push(NameOwner { object, content });
        }
    }

    /// The object that owned `name` before `owner` and has other content for it.
    fn earlier_owner(&self, name: &str, owner: &str, content: &OwnedContent) -> Option<&str> {
        let owners = self.0.get(name)?.iter();
        // Conflicts within one object are its plan's to report.
        let mut before = owners.take_while(|earlier| earlier.object != owner);
        let other = before.find(|earlier| earlier.content.conflicts_with(content))?;
        Some(&other.object)
    }
}

/// Stalled, because a retry of the same file cannot succeed.
fn conflict(message: String) -> Fault {
    Fault {
        disposition: Disposition::Stalled,
        ..Fault::conflict(message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(naming: &str, images: &[&str]) -> JackalPackageSpec {
        let whole = json!({ "version": "1", "naming": naming, "components": [{ "name": "a", "images": images }] });
        serde_json::from_value(whole).unwrap()
    }

    fn plan(naming: &str, images: &[&str]) -> Plan {
        Plan::below(&spec(naming, images), "r:1", "").unwrap()
    }

    #[test]
    fn the_first_of_two_images_owns_the_name() {
        let mut names = NameOwners::default();
        let mut first = plan("Plain", &["ghcr.io/x/app:1", "ghcr.io/x/other:1"]);
        names.add_images("one", &mut first, Compression::Zstd).unwrap();
        names.add_images("same", &mut first.clone(), Compression::Gzip).unwrap();
        let mut second = plan("Plain", &["quay.io/x/app:1"]);
        let fault = names.add_images("two", &mut second, Compression::Zstd).unwrap_err();
        assert_eq!(fault.disposition, Disposition::Stalled);
        assert!(
            fault.message.contains("x/app:1, which belongs to one of the same file"),
            "{fault}"
        );
        let mut third = plan("Jackal", &["quay.io/x/app:1", "quay.io/x/app:2"]);
        names.add_images("three", &mut third, Compression::Zstd).unwrap();
        let omitted = third.images.iter().map(|image| image.location.omitted_tag.clone());
        let omitted: Vec<_> = omitted.map(|omitted| omitted.map(|omitted| omitted.owner)).collect();
        assert_eq!(omitted, [Some("one of the same file".to_owned()), None]);
        assert!(!third.images[0].plain_tag && third.images[1].plain_tag);
        let mut pinned = plan("Plain", &[&format!("quay.io/x/app:1@sha256:{}", "a".repeat(64))]);
        names.add_images("pinned", &mut pinned, Compression::Zstd).unwrap();
    }

    #[test]
    fn an_artifact_takes_precedence_over_images_and_later_artifacts() {
        let mut names = NameOwners::default();
        let package = spec("Plain", &[]);
        names.add_artifact("package", "x/app", &package);
        names.add_artifact("twin", "x/app", &package);
        let other = JackalPackageSpec {
            architecture: Some("arm64".to_owned()),
            ..package.clone()
        };
        names.add_artifact("other", "x/app", &other);
        assert_eq!(names.check_artifact("package", "x/app", &package), Ok(()));
        assert_eq!(names.check_artifact("other", "x/app", &other), Ok(()));
        let fault = names.check_artifact("twin", "x/app", &package).unwrap_err();
        assert!(fault.message.contains("belongs to package of the same file"), "{fault}");
        let mut image = plan("Plain", &["ghcr.io/x/app:1"]);
        assert!(names.add_images("image", &mut image, Compression::Zstd).is_err());
        let mut image = plan("Zarf", &["ghcr.io/x/app:1"]);
        names.add_images("image", &mut image, Compression::Zstd).unwrap();
        assert_eq!(
            image.images[0].location.omitted_tag.as_ref().unwrap().owner,
            "package of the same file"
        );
    }
}
