//! What `kubectl get` shows of packages and images, and which parts of the status programs read.

use futures::future::BoxFuture;
use jackal_operator::api::v1alpha1::{ImageState, JackalImage, JackalPackage, JackalPackageStatus};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::ResourceExt;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Case, check};
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::{self, package, registry_at};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};

/// Characters in a line of a terminal.
const WIDTH: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_get_columns() {
    check(&[
        Case {
            report: "kubernetes/kubernetes#7843",
            input: "packages with names of thirty letters in every state, images with long names, tags and messages",
            expected: "no line of `kubectl get jkpkg,jkimg` is longer than 120 characters; AGE is before STATUS",
            run: || on_own_thread(every_state),
        },
        Case {
            report: "kubernetes/kubernetes#19775",
            input: "a JackalImage with a long reference and a long failure",
            expected: "its reference, its message and other details are shown only by `-o wide`",
            run: || on_own_thread(details),
        },
        Case {
            report: "openshift/origin#4950",
            input: "a slow transfer",
            expected: "PROGRESS shows how far it is and how fast, and is empty when it has ended",
            run: || on_own_thread(progress),
        },
        Case {
            report: "Azure/azure-service-operator#4734",
            input: "a package whose name is longer than a label value may be",
            expected: "its images have a label with a shortened name; shorter names are used in full",
            run: || on_own_thread(labels),
        },
        Case {
            report: "kubernetes/kubernetes#13855",
            input: "seven images of two components, six of which fail, three for different reasons",
            expected: "each has a state, a reason in CamelCase and a message; the package names each once, within a length limit",
            run: || on_own_thread(failures),
        },
    ])
    .await;
}

/// Runs a case on its own thread, because its future is not Send.
fn on_own_thread<F: Future<Output = ()> + 'static>(case: fn() -> F) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let runtime = tokio::runtime::Handle::current();
        let ended = tokio::task::spawn_blocking(move || runtime.block_on(case())).await;
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    })
}

struct Setup {
    cluster: Cluster,
    source: TestRegistry,
    registry: TestRegistry,
    _controller: Operator,
}

impl Setup {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
        let _controller = cluster.controller(&["--insecure-registry", &source.host]);
        Self {
            cluster,
            source,
            registry,
            _controller,
        }
    }

    /// Pushes an image of `bytes` to the source, and returns its reference.
    async fn push(&self, name: &str, tag: &str, bytes: usize) -> String {
        let repository = self.source.repository(name);
        let document = image(&repository, "linux/amd64", noise(bytes as u64, bytes)).await;
        put(&repository, &document, Some(tag)).await;
        format!("{}/{name}:{tag}", self.source.host)
    }

    fn apply(&self, name: &str, version: &str, images: &[String], more: &str) {
        self.apply_to(&self.registry.host, name, version, images, more);
    }

    fn apply_to(&self, endpoint: &str, name: &str, version: &str, images: &[String], more: &str) {
        let lines: Vec<String> = images.iter().map(|image| format!("{{image: '{image}'}}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let more = format!("{}\n  {more}", registry_at(endpoint));
        self.cluster.apply(&package(name, version, &lines, &more));
    }

    /// The package once Ready has this status and reason.
    async fn wait_for_ready(&self, name: &str, status: &str, reason: &str) -> JackalPackageStatus {
        let package = self.cluster.package_where(name, reason, |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            (ready.status == status && ready.reason == reason).then_some(())
        });
        package.await.status.unwrap()
    }

    /// Two nodes with different images of the same name, as their agents would report them.
    async fn ambiguous(&self, name: &str, image: &str) {
        for node in ["worker-1.example.com", "worker-2.example.com"] {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(format!("jackal-agent-{node}")),
                    labels: Some([("jackal.dev/agent".to_owned(), "true".to_owned())].into()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(node.to_owned()),
                    ..LeaseSpec::default()
                }),
            };
            let created = self.cluster.api::<Lease>().create(&PostParams::default(), &lease).await;
            created.unwrap();
        }
        let line = format!("[{{image: '{image}', source: Docker}}]");
        let more = registry_at(&self.registry.host);
        self.cluster
            .apply(&package(name, "1.4.0", &["{image: x}"], &more).replace("[{image: x}]", &line));
        let resource = eventually(SOON, "the image has its object", async || {
            let images = self.cluster.images().await;
            let found = images.iter().find(|found| found.spec.image == image);
            found
                .map(ResourceExt::name_any)
                .ok_or_else(|| format!("{} others", images.len()))
        })
        .await;
        let held = |node: &str, digit: &str| {
            json!({
                "nodeName": node, "imageId": format!("sha256:{}", digit.repeat(64)), "observedGeneration": 1,
            })
        };
        let candidates = [held("worker-1.example.com", "a"), held("worker-2.example.com", "b")];
        let status = Patch::Merge(json!({ "status": { "candidates": candidates } }));
        let api = self.cluster.api::<JackalImage>();
        api.patch_status(&resource, &PatchParams::default(), &status)
            .await
            .unwrap();
        self.wait_for_ready(name, "False", "AmbiguousSource").await;
    }
}

/// The cells of a line, by the columns of the header.
fn cells<'t>(table: &'t str, name: &str) -> Vec<(&'t str, &'t str)> {
    let header = table
        .lines()
        .rfind(|line| line.starts_with("NAME") && table.find(line) < table.find(name));
    let header = header.unwrap_or_else(|| panic!("no header before {name}:\n{table}"));
    let line = table.lines().find(|line| line.contains(name)).unwrap();
    let mut starts: Vec<usize> = header
        .match_indices(|letter: char| !letter.is_whitespace())
        .map(|(at, _)| at)
        .filter(|at| *at == 0 || header[..*at].ends_with("  "))
        .collect();
    starts.push(usize::MAX);
    let cell = |pair: &[usize]| {
        let cut = |text: &'t str| text.get(pair[0]..pair[1].min(text.len())).unwrap_or_default().trim();
        (cut(header), cut(line))
    };
    starts.windows(2).map(cell).collect()
}

/// The cell of this column.
fn cell<'t>(table: &'t str, name: &str, column: &str) -> &'t str {
    let cells = cells(table, name);
    let found = cells.iter().find(|(header, _)| *header == column);
    found.unwrap_or_else(|| panic!("no {column} in {cells:?}")).1
}

async fn every_state() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    let gateway = setup
        .push("payments/payment-gateway-service", "v1.27.3", 14_000_000)
        .await;
    let ledger = setup
        .push(
            "payments/ledger/double-entry-bookkeeping",
            "2026.11.27-build.12345",
            9_000,
        )
        .await;
    let large = setup
        .push("platform/observability/collector", "0.115.1-contrib", 20_000_000)
        .await;

    setup.apply(
        "payments-platform-production-1",
        "1.4.0",
        &[gateway.clone(), ledger.clone()],
        "",
    );
    setup.cluster.ready("payments-platform-production-1").await;

    let missing: Vec<String> = (0..3)
        .map(|number| {
            format!(
                "{}/payments/reconciliation/nightly-batch-{number}:2026.11.27",
                setup.source.host
            )
        })
        .collect();
    setup.apply(
        "payments-platform-production-2",
        "1.4.1",
        &[&missing[..], std::slice::from_ref(&ledger)].concat(),
        "",
    );
    setup
        .wait_for_ready("payments-platform-production-2", "False", "SourceNotFound")
        .await;

    let slow = Throttle::to(&setup.registry.host, 1_500_000);
    setup.apply_to(
        &slow.host,
        "payments-platform-production-3",
        "1.4.2",
        &[large, ledger.clone()],
        "",
    );

    setup.apply(
        "payments-platform-production-4",
        "1.4.0",
        std::slice::from_ref(&gateway),
        "suspend: true",
    );
    setup
        .wait_for_ready("payments-platform-production-4", "False", "Suspended")
        .await;

    let follows = format!(
        "{{image: '{}/payments/payment-gateway-service', policy: {{pattern: '^v(.*)$'}}}}",
        setup.source.host
    );
    let version = format!(
        "versionFrom: {{image: '{}/payments/payment-gateway-service'}}",
        setup.source.host
    );
    let more = registry_at(&setup.registry.host);
    let followed = package("payments-platform-production-5", "x", &[&follows], &more);
    cluster.apply(&followed.replace("version: 'x'", &version));
    cluster.ready("payments-platform-production-5").await;

    setup
        .ambiguous(
            "payments-platform-production-6",
            "registry.example.com/payments/fraud-detection:dev",
        )
        .await;

    setup.apply(
        "payments-platform-production-7",
        "1.4.0",
        &["Payments/Gateway:1".to_owned()],
        "",
    );
    setup
        .wait_for_ready("payments-platform-production-7", "False", "InvalidReference")
        .await;

    let moves = |image: &JackalImage| {
        let progress = image.status.as_ref()?.progress.as_ref()?;
        progress.bytes_per_second.filter(|rate| *rate > 0).map(drop)
    };
    let moving = images_of(cluster, "payments-platform-production-3", "collector").await;
    cluster.image_where(&moving, "on its way, at a rate", moves).await;
    let table = cluster.kubectl(&["get", "jkpkg,jkimg"]);
    slow.set_rate(0);
    for line in table.lines() {
        let width = line.trim_end().chars().count();
        assert!(width <= WIDTH, "{width} characters: {line}\n{table}");
    }
    let columns = |name: &str| -> Vec<String> {
        let cells = cells(&table, name);
        cells.iter().map(|(header, _)| (*header).to_owned()).collect()
    };
    let ready = "payments-platform-production-1";
    assert_eq!(
        columns(ready),
        ["NAME", "VERSION", "IMAGES", "READY", "SIZE", "AGE", "STATUS"]
    );
    assert_eq!(columns(&moving), ["NAME", "READY", "SIZE", "PROGRESS", "AGE", "STATUS"]);
    for (package, version, images, ready, status) in [
        ("payments-platform-production-1", "1.4.0", "2/2", "True", "Succeeded"),
        (
            "payments-platform-production-2",
            "1.4.1",
            "1/4",
            "False",
            "SourceNotFound",
        ),
        (
            "payments-platform-production-3",
            "1.4.2",
            "1/2",
            "Unknown",
            "Transferring",
        ),
        ("payments-platform-production-4", "1.4.0", "0/1", "False", "Suspended"),
        ("payments-platform-production-5", "v1.27.3", "1/1", "True", "Succeeded"),
        (
            "payments-platform-production-6",
            "1.4.0",
            "0/1",
            "False",
            "AmbiguousSource",
        ),
        (
            "payments-platform-production-7",
            "1.4.0",
            "",
            "False",
            "InvalidReference",
        ),
    ] {
        let found = ["VERSION", "IMAGES", "READY", "STATUS"].map(|column| cell(&table, package, column));
        assert_eq!(found, [version, images, ready, status], "{package}\n{table}");
    }
    assert!(cell(&table, ready, "SIZE").ends_with(" MiB"), "{table}");
}

/// The object of the package's image whose reference contains `part`.
async fn images_of(cluster: &Cluster, package: &str, part: &str) -> String {
    eventually(SOON, &format!("{package} has an object for {part}"), async || {
        let images = cluster.images().await;
        let found = images.iter().find(|image| {
            let owners = image.owner_references();
            owners.iter().any(|owner| owner.name == package) && image.spec.image.contains(part)
        });
        found
            .map(ResourceExt::name_any)
            .ok_or_else(|| format!("{} others", images.len()))
    })
    .await
}

async fn details() {
    let setup = Setup::new().await;
    let reference = format!("{}/team/nobody-pushed-this:2026.11.27", setup.source.host);
    let more = registry_at(&setup.registry.host);
    setup
        .cluster
        .apply(&objects::standalone_image("mirror", &reference, &more));
    let failed = |image: &JackalImage| {
        let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "SourceNotFound").then(|| ready.message.clone())
    };
    let image = setup.cluster.image_where("mirror", "failed", failed).await;
    let message = failed(&image).unwrap();
    let narrow = setup.cluster.kubectl(&["get", "jkimg"]);
    assert!(!narrow.contains(&reference) && !narrow.contains(&message), "{narrow}");
    assert_eq!(cell(&narrow, "mirror", "STATUS"), "SourceNotFound");
    let wide = setup.cluster.kubectl(&["get", "jkimg", "-o", "wide"]);
    assert!(wide.contains(&reference) && wide.contains(&message), "{wide}");
    for column in [
        "IMAGE",
        "SOURCE",
        "NODE",
        "METHOD",
        "IN CLUSTER",
        "DIGEST",
        "HOLDER",
        "MESSAGE",
    ] {
        assert!(wide.contains(column), "{column}: {wide}");
    }
}

async fn progress() {
    let setup = Setup::new().await;
    let large = setup.push("team/large", "1", 12_000_000).await;
    let slow = Throttle::to(&setup.registry.host, 1_200_000);
    let more = registry_at(&slow.host);
    setup.cluster.apply(&objects::standalone_image("large", &large, &more));
    let moves = |image: &JackalImage| {
        let progress = image.status.as_ref()?.progress.as_ref()?;
        progress.bytes_per_second.filter(|rate| *rate > 0).map(drop)
    };
    setup.cluster.image_where("large", "on its way, at a rate", moves).await;
    let table = setup.cluster.kubectl(&["get", "jkimg"]);
    let shown = cell(&table, "large", "PROGRESS");
    let (part, rate) = shown.split_once(' ').unwrap_or_else(|| panic!("{table}"));
    let part: u32 = part.strip_suffix('%').unwrap().parse().unwrap();
    assert!((1..100).contains(&part) && rate.ends_with(" MiB/s"), "{shown}");
    slow.set_rate(0);
    let image = setup.cluster.image_ready("large").await;
    let status = image.status.unwrap();
    assert_eq!(status.progress, None);
    let table = setup.cluster.kubectl(&["get", "jkimg"]);
    assert_eq!(cell(&table, "large", "PROGRESS"), "", "{table}");
    let size = cell(&table, "large", "SIZE");
    assert!(
        size.ends_with(" MiB") && Some(size) == status.display_size.as_deref(),
        "{table}"
    );
}

async fn labels() {
    let setup = Setup::new().await;
    let app = setup.push("team/app", "1", 1_000).await;
    let long = format!("shop-{}.europe", "x".repeat(70));
    for name in ["shop", &long] {
        setup.apply(name, "1", std::slice::from_ref(&app), "");
        setup.cluster.ready(name).await;
    }
    let label = |image: &JackalImage| image.labels()["jackal.dev/package-name"].clone();
    let images = setup.cluster.images().await;
    let of = |package: &str| {
        let owned = |image: &&JackalImage| image.owner_references()[0].name == package;
        label(images.iter().find(owned).unwrap())
    };
    assert_eq!(of("shop"), "shop");
    let short = of(&long);
    assert!(short.len() <= 63 && short.starts_with("shop-xxxx"), "{short}");
    let listed = setup
        .cluster
        .kubectl(&["get", "jkimg", "-o", "name", "-l", "jackal.dev/package-name=shop"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

async fn failures() {
    let setup = Setup::new().await;
    let there = setup.push("team/app", "1", 1_000).await;
    let missing: Vec<String> = (0..6)
        .map(|number| format!("{}/team/no-such-image-{number}:1", setup.source.host))
        .collect();
    let images = [&missing[..], std::slice::from_ref(&there)].concat();
    let lines: Vec<String> = images.iter().map(|image| format!("{{image: '{image}'}}")).collect();
    let lines = lines.join(", ");
    setup.cluster.apply(&format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {{name: shop}}
spec:
  version: '1'
  components:
  - {{name: one, images: [{lines}]}}
  - {{name: two, images: [{lines}]}}
  {}
",
        registry_at(&setup.registry.host)
    ));
    let package = setup
        .cluster
        .package_where("shop", "failed for all", |package: &JackalPackage| {
            let counts = package.status.as_ref()?.counts.clone()?;
            (counts.failed == 6 && counts.ready == 1).then_some(())
        });
    let status = package.await.status.unwrap();
    assert_eq!(status.images.len(), 7);
    for row in &status.images {
        let expected = match row.image == there {
            true => (ImageState::Ready, "Succeeded", false),
            false => (ImageState::Failed, "SourceNotFound", true),
        };
        assert_eq!(
            (row.state, row.reason.as_str(), row.message.is_some()),
            expected,
            "{row:?}"
        );
    }
    let message = &condition(&status.conditions, "Ready").unwrap().message;
    assert!(message.starts_with("6 of 7 images failed: "), "{message}");
    assert!(message.ends_with("; and 1 more"), "{message}");
    for image in &missing[..5] {
        let named = message.matches(&format!("{image} does not exist")).count();
        assert_eq!(named, 1, "{image}: {message}");
    }
}
