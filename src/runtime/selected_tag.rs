//! Images whose tag a policy chooses: the leader writes it into the status, and a worker moves the image as though
//! somebody had written the tag into the spec. No IO.

use std::borrow::Cow;

use kube::ResourceExt as _;

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, SelectedTag, requested_at};
use crate::oci::Reference;

/// The tag that was chosen for the present spec of `image` and for the last request to look at it again.
pub fn current_selection(image: &JackalImage) -> Option<&SelectedTag> {
    let selected = image.status.as_ref()?.selected.as_ref()?;
    let of_spec = selected.observed_generation.is_some() && selected.observed_generation == image.metadata.generation;
    let of_request = selected.last_handled_reconcile_at.as_deref() == requested_at(image.annotations());
    (of_spec && of_request).then_some(selected)
}

/// `spec` with the tag of `selected`, where its policy chooses one. None where no tag is chosen, or what stands there is no
/// tag.
pub fn spec_with_tag<'s>(
    spec: &'s JackalImageSpec,
    selected: Option<&SelectedTag>,
) -> Option<Cow<'s, JackalImageSpec>> {
    if spec.policy.is_none() {
        return Some(Cow::Borrowed(spec));
    }
    let tag = &selected?.tag;
    let image = format!("{}:{tag}", spec.image);
    let reference: Reference = image.parse().ok()?;
    let is_tag = reference.tag() == Some(tag) && reference.digest().is_none();
    is_tag.then(|| Cow::Owned(JackalImageSpec { image, ..spec.clone() }))
}

/// `image` as it is moved now, with the tag that its policy chose; none while there is no such tag.
pub fn image_with_tag(image: &JackalImage) -> Option<Cow<'_, JackalImage>> {
    if image.spec.policy.is_none() {
        return Some(Cow::Borrowed(image));
    }
    let spec = spec_with_tag(&image.spec, current_selection(image))?.into_owned();
    Some(Cow::Owned(JackalImage { spec, ..image.clone() }))
}

/// Whether `standing` still asks for the tag with which `image` was moved.
pub fn same_selection(standing: &JackalImage, image: &JackalImage) -> bool {
    let tag = |image: &JackalImage| {
        let selected = image.status.as_ref()?.selected.as_ref()?;
        Some(selected.tag.clone())
    };
    standing.spec.policy.is_none() || current_selection(standing).is_some() && tag(standing) == tag(image)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(selected: serde_json::Value) -> JackalImage {
        serde_json::from_value(json!({
            "apiVersion": "jackal.dev/v1alpha1",
            "kind": "JackalImage",
            "metadata": { "name": "app", "generation": 2 },
            "spec": { "image": "r:5000/x/app", "policy": { "pattern": ".*" } },
            "status": { "selected": selected },
        }))
        .unwrap()
    }

    fn chosen(tag: &str, more: serde_json::Value) -> serde_json::Value {
        let mut selected = json!({ "tag": tag, "reason": "LastAlphabetical", "message": "the last" });
        selected
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        selected
    }

    fn moved(image: &JackalImage) -> Option<String> {
        image_with_tag(image).map(|image| image.spec.image.clone())
    }

    #[test]
    fn an_image_is_moved_under_the_tag_that_was_chosen_for_its_spec() {
        let now = json!({ "observedGeneration": 2 });
        assert_eq!(
            moved(&image(chosen("1.2", now.clone()))).as_deref(),
            Some("r:5000/x/app:1.2")
        );
        assert_eq!(moved(&image(chosen("1.2", json!({ "observedGeneration": 1 })))), None);
        assert_eq!(moved(&image(chosen("1.2", json!({})))), None, "choosing failed since");
        for no_tag in ["", "a b", "a/b", "1@sha256:0", ":1", "-x", &"x".repeat(129)] {
            assert_eq!(moved(&image(chosen(no_tag, now.clone()))), None, "{no_tag}");
        }
        let mut none = image(chosen("1.2", now));
        none.spec.policy = None;
        assert_eq!(moved(&none).as_deref(), Some("r:5000/x/app"));
    }

    #[test]
    fn a_request_to_look_again_is_answered_with_the_tag_of_then() {
        let mut asked = image(chosen("1.2", json!({ "observedGeneration": 2 })));
        asked.metadata.annotations = Some([("jackal.dev/requestedAt".to_owned(), "5".to_owned())].into());
        assert_eq!(moved(&asked), None);
        let answered = json!({ "observedGeneration": 2, "lastHandledReconcileAt": "5" });
        asked.status = image(chosen("1.2", answered.clone())).status;
        assert_eq!(moved(&asked).as_deref(), Some("r:5000/x/app:1.2"));
        // What was moved meanwhile under another tag is no answer.
        let mut newer = asked.clone();
        newer.status = image(chosen("1.3", answered)).status;
        assert!(same_selection(&asked, &asked) && !same_selection(&newer, &asked));
    }
}
