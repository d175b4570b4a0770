//! The names that the objects of one file have in its destination, each of which belongs to one of them. No IO.

use std::collections::HashMap;

use super::plan::{Plan, PlannedImage};
use super::request::ImageRequest;
use crate::api::v1alpha1::{JackalPackageSpec, SourceKind};
use crate::fault::{Disposition, Fault};
use crate::oci::Compression;

/// Who has which name, written `repository:tag`.
#[derive(Debug, Default)]
pub struct NameOwners(HashMap<String, Vec<Holder>>);

#[derive(Debug)]
struct Holder {
    /// The object, for people.
    owner: String,
    content: Content,
}

/// What an object has under a name.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// The artifact of a package, which shares its name with those of other architectures.
    Artifact { architecture: String },
    /// An image; only what a docker engine keeps unpacked is compressed on its way.
    Image(ImageRequest, Option<Compression>),
}

impl Content {
    fn of_artifact(spec: &JackalPackageSpec) -> Self {
        let architecture = spec.architecture.clone().unwrap_or_else(|| "amd64".to_owned());
        Self::Artifact { architecture }
    }

    fn of_image(image: &PlannedImage, compression: Compression) -> Self {
        let compressed = image.request.source == SourceKind::Docker;
        Self::Image(image.request.clone(), compressed.then_some(compression))
    }

    /// Whether the two cannot have one name.
    fn contends(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Image(..), Self::Image(..)) => self != other,
            (Self::Artifact { .. }, Self::Artifact { .. }) => self == other,
            _ => true,
        }
    }
}

impl NameOwners {
    /// Gives `owner`, a package whose artifact is to be in `repository`, the name of that, unless it has it: before all
    /// images of the file, for a package has no other name.
    pub fn add_artifact(&mut self, owner: &str, repository: &str, spec: &JackalPackageSpec) {
        if let Some(version) = &spec.version {
            self.add(format!("{repository}:{version}"), owner, Content::of_artifact(spec));
        }
    }

    /// That no earlier object has the name of the artifact of `owner`.
    ///
    /// # Errors
    /// [`Fault::conflict`], stalled, that names the object that has it.
    pub fn check_artifact(&self, owner: &str, repository: &str, spec: &JackalPackageSpec) -> Result<(), Fault> {
        let name = format!("{repository}:{}", spec.version());
        match self.holder(&name, owner, &Content::of_artifact(spec)) {
            None => Ok(()),
            Some(holder) => Err(conflict(format!(
                "the artifact {name} belongs to {holder} of the same file; give {owner} another name or version"
            ))),
        }
    }

    /// Gives `owner` the names of the images of its `plan`. Plain tags that others have are left out of it.
    ///
    /// # Errors
    /// [`Fault::conflict`], stalled, that names the object that has the name of one of them.
    pub fn add_images(&mut self, owner: &str, plan: &mut Plan, compression: Compression) -> Result<(), Fault> {
        let name = |image: &PlannedImage, tag: &str| format!("{}:{tag}", image.location.repository);
        for image in &plan.images {
            let Some(first) = image.location.tags.first().map(|tag| name(image, tag)) else {
                continue;
            };
            if let Some(holder) = self.holder(&first, owner, &Content::of_image(image, compression)) {
                return Err(conflict(format!(
                    "`{}` of {owner} would be {first}, which belongs to {holder} of the same file; give it another tag or naming, or remove one of them",
                    image.spec.image
                )));
            }
        }
        for image in &mut plan.images {
            let plain = image.location.plain_tag().map(|tag| name(image, tag));
            let holder = plain.and_then(|plain| self.holder(&plain, owner, &Content::of_image(image, compression)));
            if let Some(holder) = holder.map(|holder| format!("{holder} of the same file")) {
                image.location.omit_plain_tag(&holder);
                image.plain_tag = false;
            }
            for tag in &image.location.tags {
                self.add(name(image, tag), owner, Content::of_image(image, compression));
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, owner: &str, content: Content) {
        let holders = self.0.entry(name).or_default();
        if !holders
            .iter()
            .any(|known| known.owner == owner && known.content == content)
        {
            let owner = owner.to_owned();
            holders.push(Holder { owner, content });
        }
    }

    /// Who had `name` before `owner`, which has other content for it.
    fn holder(&self, name: &str, owner: &str, content: &Content) -> Option<&str> {
        let holders = self.0.get(name)?.iter();
        // What one object has is up to its plan.
        let mut before = holders.take_while(|holder| holder.owner != owner);
        let holder = before.find(|holder| holder.content.contends(content))?;
        Some(&holder.owner)
    }
}

/// No other try of the same file succeeds.
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
    fn the_first_of_two_images_has_the_name() {
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
    fn an_artifact_goes_before_images_and_its_like() {
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
