//! Images whose tag a policy selects: the leader writes the tag into the status, and a worker transfers the image as if the
//! spec named that tag. No IO.

use std::borrow::Cow;

use kube::ResourceExt as _;

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, SelectedTag, requested_at};
use crate::oci::Reference;

/// The tag that was selected for the present spec of `image` and its last requested reconciliation.
pub fn current_selection(image: &JackalImage) -> Option<&SelectedTag> {
    let selected = image.status.as_ref()?.selected.as_ref()?;
    let of_spec = selected.observed_generation.is_some() && selected.observed_generation == image.metadata.generation;
    let of_request = selected.last_handled_reconcile_at.as_deref() == requested_at(image.annotations());
    (of_spec && of_request).then_some(selected)
}

/// `spec` with the tag of `selected`, or unchanged if it has no policy. None if no tag is selected or the tag is invalid.
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

/// `image` with the tag that its policy selected, or unchanged if it has no policy. None while no tag is selected.
pub fn image_with_tag(image: &JackalImage) -> Option<Cow<'_, JackalImage>> {
    if image.spec.policy.is_none() {
        return Some(Cow::Borrowed(image));
    }
    let spec = spec_with_tag(&image.spec, current_selection(image))?.into_owned();
    Some(Cow::Owned(JackalImage { spec, ..image.clone() }))
}

/// Whether `current` still selects the tag that `image` was transferred with.
pub fn same_selection(current: &JackalImage, image: &JackalImage) -> bool {
    let tag = |image: &JackalImage| {
        let selected = image.status.as_ref()?.selected.as_ref()?;
        Some(selected.tag.clone())
    };
    current.spec.policy.is_none() || current_selection(current).is_some() && tag(current) == tag(image)
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
    fn the_tag_selected_for_the_present_spec_is_used() {
        let now = json!({ "observedGeneration": 2 });
        assert_eq!(
            moved(&image(chosen("1.2", now.clone()))).as_deref(),
            Some("r:5000/x/app:1.2")
        );
        assert_eq!(moved(&image(chosen("1.2", json!({ "observedGeneration": 1 })))), None);
        assert_eq!(
            moved(&image(chosen("1.2", json!({})))),
            None,
            "a later selection failed"
        );
        for no_tag in ["", "a b", "a/b", "1@sha256:0", ":1", "-x", &"x".repeat(129)] {
            assert_eq!(moved(&image(chosen(no_tag, now.clone()))), None, "{no_tag}");
        }
        let mut none = image(chosen("1.2", now));
        none.spec.policy = None;
        assert_eq!(moved(&none).as_deref(), Some("r:5000/x/app"));
    }

    #[test]
    fn a_requested_reconciliation_needs_a_new_selection() {
        let mut asked = image(chosen("1.2", json!({ "observedGeneration": 2 })));
        asked.metadata.annotations = Some([("jackal.dev/requestedAt".to_owned(), "5".to_owned())].into());
        assert_eq!(moved(&asked), None);
        let answered = json!({ "observedGeneration": 2, "lastHandledReconcileAt": "5" });
        asked.status = image(chosen("1.2", answered.clone())).status;
        assert_eq!(moved(&asked).as_deref(), Some("r:5000/x/app:1.2"));
        // Another tag was selected meanwhile.
        let mut newer = asked.clone();
        newer.status = image(chosen("1.3", answered)).status;
        assert!(same_selection(&asked, &asked) && !same_selection(&newer, &asked));
    }
}
