use serde_json::json;

use super::*;

fn manifests(text: &str) -> Vec<String> {
    images_of_manifests(&manifests_of(text).unwrap())
}

fn chart(files: &[(&str, &str)]) -> ChartTexts {
    let read = files.iter().filter(|(path, _)| ChartTexts::reads(path));
    ChartTexts::of(
        read.map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect(),
    )
    .unwrap()
}

fn of_chart(files: &[(&str, &str)], values: Value) -> Vec<String> {
    images_of_chart(&chart(files), &[values.as_object().unwrap().clone()])
}

const META: (&str, &str) = (
    "Chart.yaml",
    "apiVersion: v2\nname: a\nversion: 1.0.0\nappVersion: 9.9\n",
);

#[test]
fn images_of_pod_templates_are_found_anywhere() {
    let text = "
apiVersion: batch/v1
kind: CronJob
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: i, image: busybox}]
          containers: [{name: c, image: 'ghcr.io/x/app:1'}, {name: d, image: '###ZARF_REGISTRY###/x:1'}]
          volumes: [{name: v, image: {reference: 'ghcr.io/x/data:2'}}]
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  spec: {ephemeralContainers: [{image: 'e:3'}], containers: []}
- {apiVersion: v1, kind: ConfigMap, data: {image: 'not/one:1'}}
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
spec: {image: 'quay.io/prometheus/prometheus:v3', title: {image: word}, sidecar: {image: {repository: r/s, tag: 4}}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
spec: {url: 'oci://ghcr.io/x/manifests', ref: {tag: latest}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
spec: {url: 'oci://ghcr.io/x/ranged', ref: {semver: '>=1'}}
---
apiVersion: v1
kind: Pod
metadata: {annotations: {helm.sh/hook: test-success}}
spec: {containers: [{image: 'curl:1'}]}
";
    assert_eq!(
        manifests(text),
        [
            "busybox",
            "e:3",
            "ghcr.io/x/app:1",
            "ghcr.io/x/data:2",
            "ghcr.io/x/manifests:latest",
            "quay.io/prometheus/prometheus:v3",
            "r/s:4"
        ]
    );
}

#[test]
fn values_in_the_usual_notations_are_read() {
    let values = "
image: {registry: docker.io, repository: bitnami/redis, tag: 7.2, digest: ''}
sidecar: {image: {repository: x/side}, enabled: false}
other: {image: {repository: x/other}}
git: {repository: 'https://example.com/x.git', tag: v1}
proxyImage: ghcr.io/x/proxy:3
tool: {image: x/tool, tag: 5}
pinned: {repository: x/pinned, sha: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, tag: 6}
icon: {image: logo}
";
    let files = [META, ("values.yaml", values)];
    assert_eq!(
        of_chart(&files, json!({})),
        [
            "docker.io/bitnami/redis:7.2",
            "ghcr.io/x/proxy:3",
            "x/other:9.9",
            "x/pinned:6@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "x/tool:5",
        ]
    );
    let over = json!({
        "image": {"tag": "8"}, "sidecar": {"enabled": true}, "other": null, "pinned": null, "tool": null,
        "global": {"imageRegistry": "mirror:5000"}, "proxyImage": "ghcr.io/x/proxy:4",
    });
    assert_eq!(
        of_chart(&files, over),
        [
            "ghcr.io/x/proxy:4",
            "mirror:5000/bitnami/redis:8",
            "mirror:5000/x/side:9.9"
        ]
    );
}

#[test]
fn templates_and_annotations_are_read() {
    let meta = "apiVersion: v2
name: a
version: 1.0.0
annotations:
  helm.sh/images: |
    - {name: h, image: 'x/helm:1'}
    - {name: i, image: 'x/off:1', condition: extra.enabled}
  artifacthub.io/images: |
    - {name: j, image: 'other.example/x/app:1'}
    - {name: k, image: 'x/hub:1'}
";
    let files = [
        ("Chart.yaml", meta),
        (
            "values.yaml",
            "image: {repository: mirror.example/x/app, tag: 2}\nextra: {enabled: false}\n",
        ),
        (
            "templates/d.yaml",
            "  - image: \"x/written:1\" # always\n  image: {{ .Values.image }}\n  image: word\n",
        ),
        ("templates/tests/t.yaml", "image: x/test:1\n"),
        ("README.md", "image: x/readme:1\n"),
    ];
    assert_eq!(
        of_chart(&files, json!({})),
        ["mirror.example/x/app:2", "x/helm:1", "x/hub:1", "x/written:1"]
    );
    assert!(of_chart(&files, json!({"extra": {"enabled": true}})).contains(&"x/off:1".to_owned()));
}

#[test]
fn dependencies_are_read_by_alias_and_condition() {
    let meta = "apiVersion: v2
name: a
version: 1.0.0
dependencies:
- {name: redis, alias: cache, version: 1, repository: '', condition: cache.enabled}
- {name: redis, alias: queue, version: 1, repository: '', condition: 'queue.on,cache.enabled'}
";
    let files = [
        ("Chart.yaml", meta),
        (
            "values.yaml",
            "cache: {enabled: false, image: {tag: 1}}\nqueue: {on: true, image: {tag: 2}}\nglobal: {imageRegistry: m}\n",
        ),
        ("charts/redis/Chart.yaml", "name: redis\nversion: 1.0.0\n"),
        ("charts/redis/values.yaml", "image: {repository: x/redis, tag: 0}\n"),
        ("charts/lib/Chart.yaml", "name: lib\nversion: 1.0.0\n"),
        ("charts/lib/templates/x.yaml", "image: x/lib:1\n"),
        ("charts/OWNERS/x", "image: x/no:1\n"),
    ];
    assert_eq!(of_chart(&files, json!({})), ["m/x/redis:2", "x/lib:1"]);
    assert_eq!(
        of_chart(&files, json!({"cache": {"enabled": true}})),
        ["m/x/redis:1", "m/x/redis:2", "x/lib:1"]
    );
}

#[test]
fn an_invalid_chart_is_an_error() {
    let why = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        ChartTexts::of(files.collect()).unwrap_err()
    };
    assert_eq!(why(&[("values.yaml", "")]), "it has no Chart.yaml");
    assert!(why(&[("Chart.yaml", "a: [")]).starts_with("its Chart.yaml is not YAML"));
    assert_eq!(why(&[("Chart.yaml", "name: a")]), "its Chart.yaml has no version");
    assert_eq!(
        why(&[("Chart.yaml", "name: a\nversion: ~")]),
        "its Chart.yaml has no version"
    );
    assert!(why(&[META, ("values.yaml", "a: [")]).starts_with("its values.yaml is not YAML"));
    assert!(why(&[META, ("charts/b/Chart.yaml", "{}")]).starts_with("the chart b in it"));
}

#[test]
fn missing_images_are_reported_by_component() {
    let pod = |image: &str| format!("apiVersion: v1\nkind: Pod\nspec: {{containers: [{{image: '{image}'}}]}}\n");
    let digest = format!("sha256:{}", "a".repeat(64));
    let spec: JackalPackageSpec = serde_json::from_value(json!({
        "version": "1",
        "components": [
            {"name": "base", "required": true, "images": [{"image": "nginx:1"}]},
            {"name": "extra", "images": [{"image": "redis"}, {"image": format!("x/y:5@{digest}")}]},
            {"name": "app", "images": [{"image": "ghcr.io/x/app:1"}],
             "manifests": [{"name": "m", "inline": pod("x:1")}, {"name": "n", "inline": pod("x:1")}]},
        ],
    }))
    .unwrap();
    let plan = Plan::of(&spec, "127.0.0.1:31999", "").unwrap();
    let texts = [
        "docker.io/library/nginx:1",        // a required component's
        "redis:latest",                     // of a component that may be left out
        "ghcr.io/x/app:1",                  // its own
        "127.0.0.1:31999/x/app:1-jackal-0", // not one of its names in the cluster
        "x/app:1",                          // another registry's image of the same path
        &plan.images[0].location.to_string(),
    ];
    let texts: Vec<bytes::Bytes> = texts.iter().map(|image| pod(image).into()).collect();
    let extra = ComponentContent {
        manifests: vec![],
        ..ComponentContent::default()
    };
    let found = [
        ComponentContent::default(),
        extra,
        ComponentContent {
            manifests: vec![texts, vec![pod(&format!("x/y@{digest}")).into()]],
            ..ComponentContent::default()
        },
    ];
    let missing = missing_images(&spec, &plan, &found);
    let reported: Vec<(&str, &str, &str)> = missing
        .iter()
        .map(|one| (one.component.as_str(), one.image.as_str(), one.found_in.as_str()))
        .collect();
    let pinned = format!("docker.io/x/y@{digest}");
    assert_eq!(
        reported,
        [
            ("app", "127.0.0.1:31999/x/app:1-jackal-0", "manifest m"),
            ("app", "docker.io/library/redis:latest", "manifest m"),
            ("app", "docker.io/x/app:1", "manifest m"),
            ("app", pinned.as_str(), "manifest n"),
        ]
    );
}

#[test]
fn an_image_is_found_by_its_names_in_the_cluster() {
    let pod = |image: &str| format!("apiVersion: v1\nkind: Pod\nspec: {{containers: [{{image: '{image}'}}]}}\n");
    for naming in ["Plain", "Jackal", "Zarf"] {
        let spec: JackalPackageSpec = serde_json::from_value(json!({
            "version": "1",
            "naming": naming,
            "components": [{"name": "app", "images": ["ghcr.io/x/app:1"], "manifests": [{"name": "m", "inline": pod("x:1")}]}],
        }))
        .unwrap();
        let plan = Plan::of(&spec, "127.0.0.1:31999", "team").unwrap();
        let lacks = |image: &str| {
            let texts = vec![pod(image).into()];
            let found = ComponentContent {
                manifests: vec![texts],
                ..ComponentContent::default()
            };
            !missing_images(&spec, &plan, &[found]).is_empty()
        };
        let own = plan.images[0].location.to_string();
        for there in ["ghcr.io/x/app:1", "127.0.0.1:31999/team/x/app:1", &own] {
            assert!(!lacks(there), "{naming} {there}");
        }
        for other in ["x/app:1", "team/x/app:1", "127.0.0.1:31999/x/app:1"] {
            assert!(lacks(other), "{naming} {other}");
        }
    }
}

#[test]
fn the_values_of_a_chart_are_limited() {
    let files = |values: String| {
        let texts = [
            ("Chart.yaml", "name: a\nversion: 1".to_owned()),
            ("values.yaml", values),
        ];
        let named = texts.map(|(path, text)| (path.to_owned(), text));
        ChartTexts::of(named.into()).map(|_| ())
    };
    let json = |count: usize| format!("{{\"a\": [{}0]}}", "0,".repeat(count));
    assert_eq!(files(json(40_000)), Ok(()));
    let too_many = Err("its values.yaml has more than 50000 values".to_owned());
    assert_eq!(files(json(60_000)), too_many);
    assert_eq!(files(json(2_000_000)), too_many);
    assert_eq!(files(format!("a:\n{}", "- 0\n".repeat(60_000))), too_many);
}

#[test]
fn values_for_many_names_of_a_dependency_are_copied_for_some_of_them() {
    let mut text = "name: a\nversion: 1\ndependencies:\n".to_owned();
    for alias in 0..400 {
        text += &format!("- {{name: b, alias: b{alias}}}\n");
    }
    let over: String = (0..400)
        .map(|alias| format!("\"b{alias}\": {{\"image\": \"x/b{alias}:1\"}}, "))
        .collect();
    let global = format!("{{\"image\": \"x/a:1\", {over}\"global\": [{}0]}}", "0,".repeat(40_000));
    let own = "image: x/b:1".to_owned();
    let files = [
        ("Chart.yaml", text),
        ("values.yaml", global),
        ("charts/b/Chart.yaml", "name: b\nversion: 1".to_owned()),
        ("charts/b/values.yaml", own),
    ];
    let texts = ChartTexts::of(files.map(|(path, text)| (path.to_owned(), text)).into()).unwrap();
    let begin = std::time::Instant::now();
    let images = images_of_chart(&texts, &[]);
    // Each name has an image of its own, so the images say how many names were evaluated: of 41,000 values each.
    assert!(images.contains(&"x/a:1".to_owned()) && images.contains(&"x/b0:1".to_owned()));
    assert!((10..30).contains(&images.len()), "{}", images.len());
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}
