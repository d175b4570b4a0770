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
fn a_charts_content_that_changed_under_its_version_is_told() {
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
        why_of_charts(&known, &now),
        [
            "chart a 1 was sha256:aaaaaaaaaaaa and is sha256:bbbbbbbbbbbb now, under the same version",
            "chart b 1 became 2",
            "chart e 1 was added",
            "chart d was removed",
        ]
    );
    assert!(why_of_charts(&known, &known).is_empty());
}

#[test]
fn what_a_package_lacks_is_one_line() {
    assert_eq!(lack(&[]), None);
    let one = |image: &str, found_in: &str| MissingImage {
        component: "app".to_owned(),
        image: image.to_owned(),
        found_in: found_in.to_owned(),
    };
    let told = lack(&[one("x:1", "chart a"), one("x:1", "manifest b"), one("y:1", "chart a")]).unwrap();
    assert!(
        told.starts_with("2 images") && told.contains("x:1 of chart a first"),
        "{told}"
    );
}
