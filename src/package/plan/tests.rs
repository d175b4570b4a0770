use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::oci::Digest;

const ADDRESS: &str = "127.0.0.1:31999";

fn request(image: &str) -> ImageSpec {
    ImageSpec::named(image)
}

fn docker(image: &str) -> ImageSpec {
    ImageSpec {
        source: SourceKind::Docker,
        ..request(image)
    }
}

fn component(name: &str, images: &[ImageSpec]) -> ComponentSpec {
    ComponentSpec {
        name: name.to_owned(),
        description: None,
        required: false,
        images: images.iter().cloned().map(ImageEntry::from).collect(),
        manifests: Vec::new(),
        charts: Vec::new(),
        files: Vec::new(),
    }
}

fn spec(naming: Naming, components: Vec<ComponentSpec>) -> JackalPackageSpec {
    let text = r#"{"version":"1.0.0","components":[]}"#;
    JackalPackageSpec {
        naming: naming.into(),
        components,
        ..serde_json::from_str(text).unwrap()
    }
}

fn plan(naming: Naming, images: &[ImageSpec]) -> Result<Plan, Fault> {
    Plan::of(&spec(naming, vec![component("a", images)]), ADDRESS, "")
}

#[track_caller]
fn assert_refused(result: Result<Plan, Fault>, reason: Reason, parts: &[&str]) {
    let fault = result.unwrap_err();
    assert_eq!(
        (fault.reason, fault.disposition),
        (reason, crate::fault::Disposition::Stalled)
    );
    for part in parts {
        assert!(
            fault.message.contains(part),
            "`{part}` is missing in: {}",
            fault.message
        );
    }
}

#[test]
fn each_image_once_in_the_order_of_the_package() {
    let spec = spec(
        Naming::Jackal,
        vec![
            component(
                "web",
                &[
                    request("nginx:1"),
                    request("alpine"),
                    request("docker.io/library/nginx:1"),
                ],
            ),
            component(
                "db",
                &[request("oci://docker.io/library/alpine:latest"), docker("me/app:dev")],
            ),
        ],
    );
    let plan = Plan::of(&spec, ADDRESS, "team").unwrap();
    let found: Vec<_> = plan
        .images
        .iter()
        .map(|image| {
            (
                image.location.to_string(),
                image.spec.image.as_str(),
                image.components.join("+"),
            )
        })
        .collect();
    let tag = |name: &str| crc32fast::hash(name.as_bytes());
    assert_eq!(
        found,
        [
            (
                format!("{ADDRESS}/team/library/nginx:1-jackal-3793515731"),
                "nginx:1",
                "web".to_owned()
            ),
            (
                format!("{ADDRESS}/team/library/alpine:latest-jackal-1117969859"),
                "alpine",
                "web+db".to_owned()
            ),
            (
                format!("{ADDRESS}/team/me/app:dev-jackal-{}", tag("docker.io/me/app")),
                "me/app:dev",
                "db".to_owned()
            ),
        ]
    );
    assert!(
        plan.images
            .iter()
            .all(|image| image.plain_tag && image.location.tags.len() == 2)
    );
    assert_eq!(
        plan.images[0].request.reference.to_string(),
        "docker.io/library/nginx:1"
    );
}

#[test]
fn order_and_repetition_of_platforms_do_not_matter() {
    let with = |platforms: &[&str]| ImageSpec {
        platforms: platforms.iter().map(|&text| text.to_owned()).collect(),
        ..request("nginx:1")
    };
    let both = [
        with(&["linux/amd64", "linux/arm64"]),
        with(&["linux/arm64", "linux/amd64", "linux/arm64"]),
    ];
    assert_eq!(plan(Naming::Zarf, &both).unwrap().images.len(), 1);
    let empty = ImageSpec {
        node_selector: Some(BTreeMap::new()),
        ..docker("x:1")
    };
    assert_eq!(plan(Naming::Zarf, &[docker("x:1"), empty]).unwrap().images.len(), 1);
}

#[test]
fn invalid_image_requests_are_refused() {
    let at = |node: Option<&str>, labels: Option<(&str, &str)>, spec: ImageSpec| ImageSpec {
        node_name: node.map(str::to_owned),
        node_selector: labels.map(|(key, value)| BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..spec
    };
    let odd = ImageSpec {
        platforms: vec!["linux".to_owned()],
        ..request("nginx:1")
    };
    let long = format!("nginx:{}", "t".repeat(118));
    for (image, reason, parts) in [
        (
            request("not a ref"),
            Reason::InvalidReference,
            &["component `a`", "`not a ref`"][..],
        ),
        (
            request(&long),
            Reason::InvalidReference,
            &["component `a`", "136 characters", "shorter tag"],
        ),
        (
            odd,
            Reason::InvalidSpec,
            &["component `a`", "image `nginx:1`", "`linux` is not a platform"],
        ),
        (
            at(Some("n"), None, request("nginx:1")),
            Reason::InvalidSpec,
            &["`nginx:1`", "source: Registry reads none"],
        ),
        (
            at(None, Some(("k", "v")), request("nginx:1")),
            Reason::InvalidSpec,
            &["source: Registry reads none"],
        ),
        (
            at(Some("n"), Some(("k", "v")), docker("nginx:1")),
            Reason::InvalidSpec,
            &["set one of them"],
        ),
    ] {
        assert_refused(plan(Naming::Jackal, &[image]), reason, parts);
    }
}

#[test]
fn invalid_and_repeated_component_names_are_refused() {
    let twice = spec(Naming::Jackal, vec![component("a", &[]), component("a", &[])]);
    assert_refused(
        Plan::of(&twice, ADDRESS, ""),
        Reason::InvalidSpec,
        &["two components are called `a`"],
    );
    assert_refused(
        Plan::of(&spec(Naming::Jackal, Vec::new()), ADDRESS, ""),
        Reason::InvalidSpec,
        &["at least one"],
    );
    for name in ["", "../x", "A", "-a", "a-", &"a".repeat(64)] {
        let bad = spec(Naming::Jackal, vec![component(name, &[])]);
        assert_refused(
            Plan::of(&bad, ADDRESS, ""),
            Reason::InvalidSpec,
            &["not a component's name"],
        );
    }
}

#[test]
fn one_name_with_two_requests_is_refused() {
    let node = |name: &str| ImageSpec {
        node_name: Some(name.to_owned()),
        ..docker("nginx:1")
    };
    let amd64 = ImageSpec {
        platforms: vec!["linux/amd64".to_owned()],
        ..request("nginx:1")
    };
    for naming in [Naming::Jackal, Naming::Zarf, Naming::Plain] {
        for (first, second, parts) in [
            (
                request("nginx:1"),
                docker("nginx:1"),
                ["source Registry", "source Docker"],
            ),
            (
                request("nginx:1"),
                amd64.clone(),
                ["source Registry)", "platforms linux/amd64"],
            ),
            (node("n1"), node("n2"), ["node n1", "node n2"]),
        ] {
            let spec = spec(naming, vec![component("a", &[first]), component("b", &[second])]);
            let result = Plan::of(&spec, ADDRESS, "");
            assert_refused(
                result,
                Reason::InvalidSpec,
                &[
                    "component `a`",
                    "component `b`",
                    "`nginx:1`",
                    parts[0],
                    parts[1],
                    "the same way",
                ],
            );
        }
    }
}

#[test]
fn plain_naming_refuses_images_that_only_checksums_distinguish() {
    let both = [request("ghcr.io/x/app:1"), request("quay.io/x/app:1")];
    assert_refused(
        plan(Naming::Plain, &both),
        Reason::InvalidSpec,
        &[
            "`ghcr.io/x/app:1`",
            "`quay.io/x/app:1`",
            "127.0.0.1:31999/x/app:1",
            "naming: Jackal",
        ],
    );
    let plan = plan(Naming::Zarf, &both).unwrap();
    let tags: Vec<(bool, usize)> = plan
        .images
        .iter()
        .map(|image| (image.plain_tag, image.location.tags.len()))
        .collect();
    assert_eq!(tags, [(true, 2), (false, 1)]);
    assert!(plan.images[1].location.tags[0].starts_with("1-zarf-"));
}

#[test]
fn a_primary_name_takes_precedence_over_a_plain_tag() {
    // The second image is already in the registry, under the name that the first one's plain tag would have.
    let both = [request("ghcr.io/x/app:1"), request("127.0.0.1:31999/x/app:1")];
    let plan = plan(Naming::Jackal, &both).unwrap();
    assert!(!plan.images[0].plain_tag);
    assert_eq!(plan.images[0].location.tags.len(), 1);
    assert_eq!(plan.images[1].location.tags, ["1"]);
}

#[test]
fn no_image_gets_the_name_of_its_package() {
    let plan = |naming: Naming, name: &str, prefix: &str, image: &str| {
        Plan::of_package(
            name,
            &spec(naming, vec![component("a", &[request(image)])]),
            ADDRESS,
            prefix,
        )
    };
    // Its version is 1.0.0.
    for (name, prefix, image) in [
        ("app", "", "ghcr.io/app:1.0.0"),
        ("app", "team", "ghcr.io/app:1.0.0"),
        ("app", "x", "ghcr.io/app:1.0.0"),
    ] {
        let planned = plan(Naming::Jackal, name, prefix, image).unwrap().images.remove(0);
        assert!(!planned.plain_tag && planned.location.tags.len() == 1, "{planned:?}");
        let omitted = planned.location.omitted_tag.unwrap();
        assert_eq!(
            (omitted.tag.as_str(), omitted.owner.as_str()),
            ("1.0.0", "the package itself")
        );
    }
    for (naming, prefix, image) in [
        (Naming::Plain, "", "ghcr.io/app:1.0.0"),
        (Naming::Plain, "team", "ghcr.io/app:1.0.0"),
        (Naming::Jackal, "", "127.0.0.1:31999/app:1.0.0"),
        // An image that names the registry already gets no prefix.
        (Naming::Zarf, "team", "127.0.0.1:31999/team/app:1.0.0"),
    ] {
        let fault = plan(naming, "app", prefix, image).unwrap_err();
        assert_eq!(
            (fault.reason, fault.disposition),
            (Reason::RepositoryConflict, Disposition::Stalled)
        );
        let both = format!("`{image}` of component `a` and the package itself would both be `{ADDRESS}/");
        assert!(fault.message.starts_with(&both), "{fault}");
    }
    for image in ["ghcr.io/app:1.0.1", "ghcr.io/x/app:1.0.0", "ghcr.io/app2:1.0.0"] {
        let planned = plan(Naming::Plain, "app", "", image).unwrap().images.remove(0);
        assert_eq!(planned.location.omitted_tag, None, "{image}");
    }
}

#[test]
fn a_digest_pins_what_docker_reads_but_not_the_location() {
    let digest = Digest::of(b"");
    let pinned = format!("nginx:1@{digest}");
    let planned = plan(Naming::Jackal, &[docker(&pinned)]).unwrap().images.remove(0);
    assert_eq!(planned.location.tags, ["1-jackal-3793515731", "1"]);
    assert_eq!(planned.location.digest, None);
    assert_eq!(planned.request.reference.digest(), Some(&digest));
    assert_eq!(planned.package_reference().to_string(), "docker.io/library/nginx:1");
    // A containerd keeps the manifest, so its digest remains the name.
    let kept = ImageSpec {
        source: SourceKind::Containerd,
        ..request(&pinned)
    };
    let kept = plan(Naming::Jackal, &[kept]).unwrap().images.remove(0);
    assert_eq!(
        (kept.location.digest.as_ref(), kept.package_reference()),
        (Some(&digest), kept.request.reference)
    );
    let planned = plan(Naming::Jackal, &[request(&pinned)]).unwrap().images.remove(0);
    assert_eq!(
        (planned.location.tags.len(), planned.location.digest.as_ref()),
        (0, Some(&digest))
    );
    // Both would be nginx:1-jackal-... in the cluster.
    assert_refused(
        plan(Naming::Jackal, &[docker(&pinned), docker("nginx:1")]),
        Reason::InvalidSpec,
        &["remove one"],
    );
}

#[test]
fn one_digest_may_have_two_names() {
    let digest = Digest::of(b"");
    let both = [format!("nginx:1@{digest}"), format!("nginx:2@{digest}")];
    let images = plan(Naming::Plain, &both.clone().map(|text| request(&text)))
        .unwrap()
        .images;
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].location, images[1].location);
    let platforms = ImageSpec {
        platforms: vec!["linux/arm64".to_owned()],
        ..request(&both[1])
    };
    assert_refused(
        plan(Naming::Plain, &[request(&both[0]), platforms]),
        Reason::InvalidSpec,
        &["linux/arm64"],
    );
}

#[test]
fn an_image_entry_is_a_string_or_an_object() {
    let spec = |images: serde_json::Value| -> JackalPackageSpec {
        let component = serde_json::json!({ "name": "a", "images": images });
        serde_json::from_value(serde_json::json!({ "version": "1", "components": [component] })).unwrap()
    };
    let written =
        serde_json::json!(["nginx:1.25", { "image": "app:dev", "source": "Docker" }, { "image": "nginx:1.25" }]);
    let planned = Plan::of(&spec(written), ADDRESS, "").unwrap().images;
    let planned: Vec<_> = planned
        .iter()
        .map(|image| (image.request.reference.to_string(), image.spec.source))
        .collect();
    assert_eq!(
        planned,
        [
            ("docker.io/library/nginx:1.25".to_owned(), SourceKind::Registry),
            ("docker.io/library/app:dev".to_owned(), SourceKind::Docker)
        ]
    );
    for (wrong, parts) in [
        (
            serde_json::json!(["a", { "image": "b", "platfroms": ["linux/amd64"] }]),
            &["spec.components[0].images[1].platfroms", "did you mean platforms?"][..],
        ),
        (
            serde_json::json!([{ "image": "b", "source": "docker" }]),
            &["images[0].source", "Docker"],
        ),
        (serde_json::json!([5]), &["spec.components[0].images[0]", "a string"]),
        (serde_json::json!([null]), &["spec.components[0].images[0] is empty"]),
        (
            serde_json::json!([{ "source": "Docker" }]),
            &["images[0]", "image is missing"],
        ),
    ] {
        assert_refused(Plan::of(&spec(wrong), ADDRESS, ""), Reason::InvalidSpec, parts);
    }
    let nulls =
        serde_json::json!([{ "image": "b", "platforms": null, "source": null, "nodeName": null, "policy": null }]);
    assert_eq!(Plan::of(&spec(nulls), ADDRESS, "").unwrap().images.len(), 1);
    assert_eq!(
        Plan::of(&spec(serde_json::Value::Null), ADDRESS, "")
            .unwrap()
            .images
            .len(),
        0
    );
}

#[test]
fn the_number_of_images_is_limited() {
    let images = |count: usize| {
        let images: Vec<ImageSpec> = (0..count).map(|number| request(&format!("a/i{number}:1"))).collect();
        plan(Naming::Plain, &images).map(|plan| plan.images.len())
    };
    assert_eq!(images(IMAGES).unwrap(), IMAGES);
    let refused = images(IMAGES + 1).unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidSpec);
    assert!(
        refused.message.contains("split it into several packages"),
        "{}",
        refused.message
    );
}

fn any_image() -> impl Strategy<Value = ImageSpec> {
    let name = prop_oneof![
        "\\PC{0,40}",
        "(nginx|ghcr.io/x/app|quay.io/x/app|127.0.0.1:31999/x/app)(:[a-z0-9.]{1,130})?(@sha256:[0-9a-f]{64})?"
    ];
    let source = prop_oneof![
        4 => Just(SourceKind::Registry),
        4 => Just(SourceKind::Docker),
        4 => Just(SourceKind::Containerd)
    ];
    let platforms = proptest::collection::vec(prop_oneof!["linux/(amd64|arm64)", "\\PC{0,9}"], 0..3);
    (name, source, proptest::option::of("n[12]"), platforms).prop_map(|(image, source, node_name, platforms)| {
        ImageSpec {
            image,
            source,
            node_name,
            node_selector: None,
            platforms,
            policy: None,
            archive: None,
        }
    })
}

proptest! {
    #[test]
    fn never_panics_and_never_assigns_a_name_twice(
        images in proptest::collection::vec(any_image(), 0..6),
        name in "\\PC{0,6}|[a-z]{1,6}",
        prefix in "(/?[a-z]{0,5}){0,2}",
        naming in prop_oneof![Just(Naming::Jackal), Just(Naming::Zarf), Just(Naming::Plain)],
    ) {
        let spec = spec(naming, vec![component(&name, &images), component("z", &images)]);
        if let Ok(plan) = Plan::of(&spec, ADDRESS, &prefix) {
            let mut seen = HashSet::new();
            for image in plan.images {
                for tag in &image.location.tags {
                    prop_assert!(tag.len() <= 128);
                    let name = format!("{}:{tag}", image.location.repository);
                    prop_assert!(seen.insert(name));
                }
            }
        }
    }
}
