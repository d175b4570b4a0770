//! Whose the tags are that several objects of one file would write: those of the first of them. Without a cluster nobody
//! else says so, and the last one would silently replace the others.

use std::collections::HashMap;

use crate::api::v1alpha1::SourceKind;
use crate::fault::Fault;
use crate::oci::Compression;
use crate::package::{ImageRequest, Plan};

/// What decides the content that is written under a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// An image. Only what a docker engine keeps unpacked is compressed here.
    Image(Box<ImageRequest>, Option<Compression>),
    /// The artifact of a package, by its architecture: several stand in one index.
    Artifact(String),
}

/// Tags, as `REPOSITORY:TAG`, that objects of the file have.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<String, (String, Vec<Content>)>);

impl Claims {
    /// Claims the tags of the images of `object`, and leaves out a plain tag that another object has.
    ///
    /// # Errors
    /// [`Fault::conflict`] when another object has the tag that names an image.
    pub fn images(&mut self, object: &str, plan: &mut Plan, compression: Compression) -> Result<(), Fault> {
        for image in &mut plan.images {
            let compression = (image.request.source == SourceKind::Docker).then_some(compression);
            let content = Content::Image(Box::new(image.request.clone()), compression);
            let name = |tag: &str| format!("{}:{tag}", image.location.repository);
            let Some(tag) = image.location.tags.first() else {
                // Its digest names it, which is the same whoever writes it.
                continue;
            };
            if let Some(owner) = self.claim(object, name(tag), content.clone()) {
                return Err(Fault::conflict(format!(
                    "`{}` would be `{}` in the registry, which {owner} of this file writes; give one of them another tag, or set naming: Jackal or naming: Zarf",
                    image.spec.image, image.location
                )));
            }
            let plain = image.location.plain_tag().map(name);
            if let Some(owner) = plain.and_then(|plain| self.claim(object, plain, content)) {
                image.location.omit_plain_tag(&owner);
                image.plain_tag = false;
            }
        }
        Ok(())
    }

    /// Claims the tag of the artifact of the package `object`.
    ///
    /// # Errors
    /// [`Fault::conflict`] when another object has it.
    pub fn artifact(&mut self, object: &str, name: String, architecture: &str) -> Result<(), Fault> {
        match self.claim(object, name.clone(), Content::Artifact(architecture.to_owned())) {
            None => Ok(()),
            Some(owner) => Err(Fault::conflict(format!(
                "the package would be `{name}` in the registry, which {owner} of this file writes; give one of them another name or version"
            ))),
        }
    }

    /// Who has `name` already with other content; `object` where nobody has.
    fn claim(&mut self, object: &str, name: String, content: Content) -> Option<String> {
        let (owner, contents) = self.0.entry(name).or_insert_with(|| (object.to_owned(), Vec::new()));
        let fits = match &content {
            Content::Image(..) => contents.is_empty() || contents.contains(&content),
            Content::Artifact(_) => {
                let artifacts = contents.iter().all(|known| matches!(known, Content::Artifact(_)));
                artifacts && !contents.contains(&content)
            }
        };
        if !fits {
            return Some(owner.clone());
        }
        contents.push(content);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::{JackalPackageSpec, NamingPolicy};

    fn plan(image: &str, naming: NamingPolicy) -> Plan {
        let spec: JackalPackageSpec = serde_json::from_value(serde_json::json!({
            "version": "1", "naming": naming, "components": [{ "name": "web", "images": [image] }],
        }))
        .unwrap();
        Plan::below(&spec, "r", "team").unwrap()
    }

    fn claim(claims: &mut Claims, object: &str, image: &str, naming: NamingPolicy) -> Result<Plan, String> {
        let mut plan = plan(image, naming);
        let result = claims.images(object, &mut plan, Compression::None);
        result.map(|()| plan).map_err(|fault| fault.message)
    }

    #[test]
    fn the_first_object_has_a_tag() {
        let mut claims = Claims::default();
        let plain = NamingPolicy::Plain;
        claim(&mut claims, "JackalImage/one", "a.example/app:1", plain).unwrap();
        claim(&mut claims, "JackalImage/same", "a.example/app:1", plain).unwrap();
        let error = claim(&mut claims, "JackalImage/two", "b.example/app:1", plain).unwrap_err();
        assert!(
            error.starts_with("`b.example/app:1` would be `r/team/app:1` in the registry, which JackalImage/one "),
            "{error}"
        );
        let other = claim(&mut claims, "JackalImage/two", "b.example/app:1", NamingPolicy::Zarf).unwrap();
        let omitted = other.images[0].location.omitted_tag.as_ref().unwrap();
        assert_eq!((omitted.tag.as_str(), omitted.owner.as_str()), ("1", "JackalImage/one"));
        let digest = format!("b.example/app@sha256:{}", "0".repeat(64));
        claim(&mut claims, "JackalImage/three", &digest, plain).unwrap();
    }

    #[test]
    fn artifacts_of_several_architectures_have_one_tag() {
        let mut claims = Claims::default();
        let mut artifact = |object: &str, architecture: &str| {
            let result = claims.artifact(object, "team/app:1".to_owned(), architecture);
            result.map_err(|fault| fault.message)
        };
        artifact("JackalPackage/app", "amd64").unwrap();
        artifact("JackalPackage/app", "arm64").unwrap();
        let error = artifact("JackalPackage/app", "amd64").unwrap_err();
        assert!(
            error.contains("`team/app:1`") && error.contains("another name or version"),
            "{error}"
        );
        let error = claim(&mut claims, "JackalImage/one", "a.example/app:1", NamingPolicy::Plain).unwrap_err();
        assert!(error.contains("JackalPackage/app"), "{error}");
    }
}
