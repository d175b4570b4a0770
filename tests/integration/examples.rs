//! Every example becomes ready: applied to a real API server as its first lines say, with real registries and a docker engine.

use std::collections::BTreeSet;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jackal_operator::api::v1alpha1::{JackalPackage, JackalPackageStatus};
use serde_json::json;

use crate::docker::engines::{DockerEngine, Image, tar};
use crate::signing::{SigningWorkspace, signing_file};
use crate::support::charts;
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::ADDRESS;
use crate::support::operator::Operator;
use crate::support::registry::{Options, TestRegistry, Version};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// A cluster with the operator, a registry inside it, and the registries that the examples name.
struct Site {
    cluster: Cluster,
    inside: TestRegistry,
    public: TestRegistry,
    private: TestRegistry,
    own_authority: TestRegistry,
    _controller: Operator,
}

impl Site {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        let [inside, public] = [Version::V31; 2].map(TestRegistry::start);
        let login = Some(("reader", "change-me"));
        let private = TestRegistry::start_with(Version::V31, Options { login, tls: false });
        let own_authority = TestRegistry::start_with(Version::V31, Options { login: None, tls: true });
        let controller = cluster.controller(&[
            "--insecure-registry",
            &public.host,
            "--insecure-registry",
            &private.host,
            "--registry-address",
            ADDRESS,
            "--registry-endpoint",
            &inside.host,
            "--registry-insecure",
        ]);
        Self {
            cluster,
            inside,
            public,
            private,
            own_authority,
            _controller: controller,
        }
    }

    /// Pushes an image of its own content to one of the registries.
    async fn push(&self, registry: &TestRegistry, path: &str, tag: &str) {
        let repository = registry.repository(path);
        let seed = path
            .bytes()
            .fold(1, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
        let content = image(&repository, "linux/amd64", noise(seed, 2_000)).await;
        put(&repository, &content, Some(tag)).await;
    }

    /// The example with the test's registries in place of those that the user replaces.
    fn example(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("{FOLDER}/{name}.yaml")).unwrap();
        text.replace("registry.example.com", &self.public.host)
            .replace("private.example.com", &self.private.host)
            .replace("ca.example.com", &self.own_authority.host)
    }

    /// Applies the example `name`, whose package has the same name, and waits until it is ready.
    async fn ready(&self, name: &str) -> JackalPackageStatus {
        self.cluster.apply(&self.example(name));
        let status = self.cluster.ready(name).await.status.unwrap();
        for image in &status.images {
            let path = image.name.strip_prefix(&format!("{ADDRESS}/")).unwrap();
            assert_eq!(
                Some(self.inside.crane("digest", path).trim()),
                image.digest.as_deref(),
                "{name}: {}",
                image.name
            );
        }
        status
    }
}

/// The examples that this file applies; other tests apply the rest.
const HERE: [&str; 9] = [
    "chart",
    "delete",
    "docker-loop",
    "fifty-images",
    "private-ca",
    "private-registry",
    "semver",
    "sign",
    "verify",
];
/// `make demo` applies these two; `gitops::examples` the Deployment; an image and its platforms are those of the reference.
const ELSEWHERE: [&str; 4] = ["choices", "deployment", "image", "package"];

#[test]
fn every_example_is_applied_and_listed() {
    let page = std::fs::read_to_string(format!("{FOLDER}/README.md")).unwrap();
    let files = std::fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let files: BTreeSet<String> = files.map(|name| name.into_string().unwrap()).collect();
    let examples: BTreeSet<&str> = files.iter().filter_map(|name| name.strip_suffix(".yaml")).collect();
    let applied: BTreeSet<&str> = HERE.into_iter().chain(ELSEWHERE).collect();
    assert_eq!(examples, applied);
    for name in examples {
        assert!(
            page.contains(&format!("]({name}.yaml)")),
            "examples/README.md lacks {name}"
        );
    }
}

#[tokio::test]
async fn images_from_registries() {
    let site = Site::new().await;
    site.push(&site.public, "shop/trial", "1.4.0").await;
    site.push(&site.private, "finance/billing", "1.4.0").await;
    site.push(&site.own_authority, "factory/ledger", "1.4.0").await;
    for tag in ["5.9.0", "6.0.1", "6.1.0", "7.0.0"] {
        site.push(&site.public, "shop/api", tag).await;
    }
    for number in 1..=50 {
        site.push(&site.public, &format!("shop/service-{number:02}"), "1.4.0")
            .await;
    }
    site.ready("private-registry").await;
    let authority = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "example-ca" },
        "stringData": { "ca.crt": site.own_authority.authority() },
    });
    site.cluster.apply(&authority.to_string());
    site.ready("private-ca").await;
    let semver = site.ready("semver").await;
    assert_eq!(semver.version.as_deref(), Some("6.1.0"));
    let fifty = site.ready("fifty-images").await;
    assert_eq!(fifty.images.len(), 50);

    let deleted = site.ready("delete").await;
    let name = deleted.images[0]
        .name
        .strip_prefix(&format!("{ADDRESS}/"))
        .unwrap()
        .to_owned();
    site.cluster.kubectl(&["delete", "jkpkg/delete", "--timeout=60s"]);
    let (path, tag) = name.rsplit_once(':').unwrap();
    assert_eq!(
        site.inside
            .repository(path)
            .manifest(tag)
            .await
            .unwrap()
            .map(|found| found.digest().clone()),
        None
    );
}

#[tokio::test]
async fn charts_signatures_and_engines() {
    let site = Site::new().await;
    site.push(&site.public, "shop/web", "1.4.0").await;
    site.push(&site.public, "shop/podinfo", "6.4.0").await;
    site.push(&site.public, "shop/signed", "1.4.0").await;
    let folder = tempfile::tempdir().unwrap();
    let runs = format!("{}/shop/podinfo:6.4.0", site.public.host);
    charts::push(
        &charts::package(folder.path(), "podinfo", "6.4.0", &runs, ""),
        &site.public.host,
    );
    let chart = site.ready("chart").await;
    assert!(chart.missing_images.is_empty(), "{:?}", chart.missing_images);

    let keys = SigningWorkspace::new();
    let key = std::fs::read(signing_file("cosign.key")).unwrap();
    let pair = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "cosign-key" },
        "data": { "cosign.key": BASE64_STANDARD.encode(key), "cosign.password": BASE64_STANDARD.encode("secret") },
    });
    site.cluster.apply(&pair.to_string());
    let signed = site.ready("sign").await;
    assert_eq!(condition(&signed.conditions, "Signed").unwrap().status, "True");
    let path = signed.images[0].name.strip_prefix(&format!("{ADDRESS}/")).unwrap();
    let reference = format!("{}/{path}", site.inside.host);
    let verify = ["verify", &reference, "--key", "cosign.pub", "--insecure"];
    keys.run_operator(&verify).unwrap();

    // Before it is signed, nothing of it is copied.
    site.cluster.apply(&site.example("verify"));
    let is_refused = |package: &JackalPackage| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "VerificationError").then_some(())
    };
    site.cluster.package_where("verify", "refused", is_refused).await;
    let source = format!("{}/shop/signed:1.4.0", site.public.host);
    keys.run_operator(&["sign", &source, "--key", "cosign.key", "--insecure"])
        .unwrap();
    site.cluster.request("verify", "1").await;
    site.ready("verify").await;

    let [_, engine, _] = DockerEngine::all();
    let content = Image::new("jackal-demo/worker:dev", vec![tar(&[("worker", "an example")])]);
    engine.load(&content.archive());
    let _agent = site.cluster.agent(
        "n1",
        &engine.host,
        &[
            "--registry-address",
            ADDRESS,
            "--registry-endpoint",
            &site.inside.host,
            "--registry-insecure",
        ],
    );
    let first = site.ready("docker-loop").await;
    let rebuilt = Image::new("jackal-demo/worker:dev", vec![tar(&[("worker", "rebuilt")])]);
    engine.load(&rebuilt.archive());
    let before = first.images[0].digest.clone();
    let is_changed = |package: &JackalPackage| {
        let status = package.status.as_ref()?;
        let image = status.images.first()?;
        (image.digest.is_some() && image.digest != before).then_some(())
    };
    site.cluster.package_where("docker-loop", "rebuilt", is_changed).await;
    engine.run(&["rmi", "jackal-demo/worker:dev"]);
}
