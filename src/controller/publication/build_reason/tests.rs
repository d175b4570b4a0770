use super::*;

fn chart(name: &str, version: &str, digest: char) -> PinnedChart {
    PinnedChart {
        component: "app".to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        digest: format!("sha256:{}", digest.to_string().repeat(64)),
    }
}

#[test]
fn changed_chart_content_under_one_version_is_named_by_digest() {
    let known = [
        chart("a", "1", 'a'),
        chart("b", "1", 'a'),
        chart("c", "1", 'a'),
        chart("d", "1", 'a'),
    ];
    let now = [
        chart("a", "1", 'b'),
        chart("b", "2", 'b'),
        chart("c", "1", 'a'),
        chart("e", "1", 'a'),
    ];
    assert_eq!(
        chart_changes(&known, &now),
        [
            "chart a 1 was sha256:aaaaaaaaaaaa and is sha256:bbbbbbbbbbbb now, under the same version",
            "chart b 1 became 2",
            "chart e 1 was added",
            "chart d was removed",
        ]
    );
    assert!(chart_changes(&known, &known).is_empty());
}

#[test]
fn missing_images_are_one_line() {
    assert_eq!(missing_message(&[]), None);
    let one = |image: &str, found_in: &str| MissingImage {
        component: "app".to_owned(),
        image: image.to_owned(),
        found_in: found_in.to_owned(),
    };
    let message = missing_message(&[one("x:1", "chart a"), one("x:1", "manifest b"), one("y:1", "chart a")]).unwrap();
    assert!(
        message.starts_with("2 images") && message.contains("x:1 of chart a first"),
        "{message}"
    );
}

fn image(name: &str, digest: &str) -> PackagedImage {
    serde_json::from_value(serde_json::json!({
        "image": name, "name": name, "digest": digest, "resource": name, "state": "Ready", "reason": "Succeeded",
    }))
    .unwrap()
}

fn artifact(revision: &str) -> Artifact {
    serde_json::from_value(serde_json::json!({
        "digest": "", "revision": revision, "url": "", "size": 0, "displaySize": "",
        "lastUpdateTime": "1970-01-01T00:00:00Z",
    }))
    .unwrap()
}

#[test]
fn the_reason_is_the_first_change_and_the_message_lists_all() {
    let before = artifact("1@sha256:a");
    let images = ([image("a", "x"), image("b", "x")], [image("a", "y"), image("c", "x")]);
    let charts = ([chart("a", "1", 'a')], [chart("a", "2", 'a')]);
    let change = |version| Change {
        before: Some(&before),
        version,
        history: &[],
        images: (&images.0, &images.1),
        charts: (&charts.0, &charts.1),
        sboms_added: true,
    };
    let message = "a changed, c was added, b was removed, chart a 1 became 2";
    let expected = |reason, message: &str| BuildReason {
        reason,
        message: message.to_owned(),
    };
    assert_eq!(why(change("1")), expected("ImagesChanged", message));
    let message = format!("version 1 became 2, {message}");
    assert_eq!(why(change("2")), expected("VersionChanged", &message));
    let same = (&images.0[..], &images.0[..]);
    let only_charts = Change {
        images: same,
        ..change("1")
    };
    assert_eq!(why(only_charts), expected("ChartsChanged", "chart a 1 became 2"));
    let only_sboms = || Change {
        images: same,
        charts: (&charts.0, &charts.0),
        ..change("1")
    };
    assert_eq!(why(only_sboms()), expected(SBOMS_ADDED, "SBOMs were added"));
    let nothing = Change {
        sboms_added: false,
        ..only_sboms()
    };
    assert_eq!(why(nothing), expected("ContentChanged", "the content differs from "));
    let first = Change {
        before: None,
        ..change("1")
    };
    assert_eq!(why(first), expected("FirstBuild", "first build"));
}
