use serde_json::{Value, json};

use super::*;

fn image(name: &str, status: Value) -> JackalImage {
    serde_json::from_value(json!({
        "apiVersion": "jackal.dev/v1alpha1",
        "kind": "JackalImage",
        "metadata": { "name": name.replace([':', '/'], "-"), "generation": 1 },
        "spec": { "image": name },
        "status": status,
    }))
    .unwrap()
}

fn with(conditions: &[(&str, &str, &str, &str)], more: Value) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, reason, message)| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        })
        .collect();
    let mut status = json!({ "conditions": conditions });
    status
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    status
}

fn failed(name: &str, reason: &str, message: &str, stalled: bool) -> JackalImage {
    let second = if stalled { "Stalled" } else { "Reconciling" };
    let conditions = [("Ready", "False", reason, message), (second, "True", reason, message)];
    image(name, with(&conditions, json!({})))
}

#[test]
fn an_image_has_a_state_and_a_reason() {
    let claim = json!({ "claim": { "holder": "pod", "renewTime": "2026-01-01T00:00:00.000000Z" } });
    let moving = [("Ready", "Unknown", "Transferring", "the image is on its way")];
    let succeeded = [("Ready", "True", "Succeeded", "it is there")];
    for (status, expected) in [
        (json!({}), (ImageState::Waiting, "Pending", None)),
        (
            with(&[], claim.clone()),
            (ImageState::Transferring, "Transferring", None),
        ),
        (
            with(&moving, claim.clone()),
            (ImageState::Transferring, "Transferring", None),
        ),
        (with(&succeeded, json!({})), (ImageState::Ready, "Succeeded", None)),
    ] {
        assert_eq!(state(&image("a:1", status.clone())), expected, "{status}");
    }
    let not_found = failed("a:1", "SourceNotFound", "it is not there", false);
    let expected = (ImageState::Failed, "SourceNotFound", Some("it is not there"));
    assert_eq!(state(&not_found), expected);
    let mut suspended = not_found.clone();
    suspended.spec.suspend = true;
    assert_eq!(state(&suspended), (ImageState::Waiting, "Suspended", None));
    // What the status says of an earlier spec says nothing of this one.
    let mut edited = not_found;
    edited.metadata.generation = Some(2);
    assert_eq!(state(&edited), (ImageState::Waiting, "Pending", None));
}

#[test]
fn each_failed_image_is_named_once() {
    let images = [
        image("a:1", json!({})),
        failed("b:1", "SourceNotFound", "it is not there", false),
        failed("b:1", "SourceNotFound", "it is not there", false),
        failed("c:1", "InvalidReference", "c:1: no registry takes it", true),
    ];
    let counts = count(&images);
    assert_eq!((counts.display.as_str(), counts.failed), ("0/4", 3));
    let fault = failures(&images, &counts).unwrap();
    assert_eq!(
        (fault.reason, fault.disposition),
        (Reason::InvalidReference, Disposition::Stalled)
    );
    assert_eq!(
        fault.message,
        "2 of 4 images failed: c:1: no registry takes it; b:1: it is not there"
    );
    let one = failures(&images[..2], &count(&images[..2])).unwrap();
    assert_eq!(one.message, "b:1: it is not there");
    assert_eq!(failures(&images[..1], &count(&images[..1])), None);
}

#[test]
fn many_failed_images_are_counted() {
    let long = "x".repeat(900);
    let name = |number: usize| format!("registry.example.com/team/service-{number}:1.0.{number}");
    let images: Vec<JackalImage> = (0..12)
        .map(|number| failed(&name(number), "PushFailed", &long, false))
        .collect();
    let message = failures(&images, &count(&images)).unwrap().message;
    assert!(message.starts_with("12 of 12 images failed: registry"), "{message}");
    assert!(message.ends_with("; and 7 more"), "{message}");
    assert!(message.len() <= 1000, "{}", message.len());
    for number in 0..5 {
        assert_eq!(message.matches(&format!("{}:", name(number))).count(), 1, "{message}");
    }
}

#[test]
fn a_package_is_verified_when_each_required_image_is() {
    let demanding = |name: &str, verified: &[(&str, &str, &str, &str)]| {
        let mut image = image(name, with(verified, json!({})));
        image.spec.verify = serde_json::from_value(json!([{ "publicKeys": [{ "inline": "key" }] }])).unwrap();
        image
    };
    let yes = [("Verified", "True", "Succeeded", "it has them")];
    let no = [("Verified", "False", "VerificationError", "it has no signature")];
    let plain = || image("plain:1", json!({}));
    assert_eq!(Verification::of(&[plain()]), Verification::NotRequired);
    let some = [plain(), demanding("a:1", &yes), demanding("b:1", &[])];
    assert_eq!(Verification::of(&some), Verification::Unknown);
    let all = [plain(), demanding("a:1", &yes), demanding("b:1", &yes)];
    assert_eq!(Verification::of(&all), Verification::Satisfied(2));
    let failed = [demanding("a:1", &yes), demanding("b:1", &no), demanding("c:1", &[])];
    let said = Verification::Failed("b:1: it has no signature".to_owned());
    assert_eq!(Verification::of(&failed), said);
    // What was said of an earlier spec says nothing of this one.
    let mut edited = demanding("a:1", &yes);
    edited.metadata.generation = Some(2);
    assert_eq!(Verification::of(&[edited]), Verification::Unknown);

    let now = || Time(jiff::Timestamp::UNIX_EPOCH);
    let mut conditions = Conditions::default();
    for (verification, status) in [
        (Verification::Unknown, None),
        (Verification::Satisfied(2), Some("True")),
        (Verification::Unknown, Some("True")),
        (said, Some("False")),
        (Verification::NotRequired, None),
    ] {
        verification.set(&mut conditions, Some(1), now());
        let known = conditions.get(VERIFIED).map(|known| known.status.as_str());
        assert_eq!(known, status, "{verification:?}");
    }
}

#[test]
fn messages_name_the_number_of_images() {
    assert_eq!(
        transfer_message(&Counts::new(0, 0, 0)),
        "the package has no images; its artifact is being built"
    );
    assert_eq!(
        transfer_message(&Counts::new(2, 1, 0)),
        "1 of 2 images are in the registry"
    );
    for (images, said) in [
        (0, "the package oci://r/a:1 is in the registry"),
        (1, "1 image and the package oci://r/a:1 are in the registry"),
        (2, "2 images and the package oci://r/a:1 are in the registry"),
    ] {
        assert_eq!(ready_message(images, "oci://r/a:1"), said);
    }
}
