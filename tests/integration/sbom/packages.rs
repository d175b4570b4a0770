//! SBOMs of packages in a cluster: after Ready, or before it if required, once for each image.

use std::path::{Path, PathBuf};

use jackal_operator::api::v1alpha1::{JackalPackage, JackalPackageStatus};
use jackal_operator::oci::{Digest, Index, Manifest};
use serde_json::json;

use super::failures::script;
use super::put_alpine;
use crate::support::cluster::{Cluster, condition};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::objects::{package, registry_at};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::{Workspace, stderr};

const TITLE: &str = "org.opencontainers.image.title";

/// A source registry with images, a destination registry, and a folder for syft.
struct Setup {
    cluster: Cluster,
    source: TestRegistry,
    registry: TestRegistry,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn new(images: &[&str]) -> Self {
        Self::with(Version::V31, images).await
    }

    /// The same with a destination registry of this version.
    async fn with(version: Version, images: &[&str]) -> Self {
        let setup = Self {
            cluster: Cluster::recording_requests().await,
            source: TestRegistry::start(Version::V31),
            registry: TestRegistry::start(version),
            folder: tempfile::tempdir().unwrap(),
        };
        for name in images {
            put_alpine(&setup.source.repository(name), "1", &[(name, "1.0-r0")]).await;
        }
        setup
    }

    /// A syft that records each run.
    fn counting_syft(&self) -> PathBuf {
        let (runs, syft) = (self.folder.path().join("runs"), program("JACKAL_BIN_SYFT"));
        script(
            self.folder.path(),
            &format!("echo run >>'{}'\nexec '{}' \"$@\"", runs.display(), syft.display()),
        )
    }

    fn runs(&self) -> usize {
        let runs = std::fs::read_to_string(self.folder.path().join("runs"));
        runs.unwrap_or_default().lines().count()
    }

    fn flags<'a>(&'a self, syft: &'a Path) -> Vec<&'a str> {
        vec![
            "--insecure-registry",
            &self.source.host,
            "--syft",
            syft.to_str().unwrap(),
            "--sbom-scratch",
            self.folder.path().to_str().unwrap(),
        ]
    }

    /// The same for a script that writes where syft must not.
    fn flags_for_script<'a>(&'a self, syft: &'a Path) -> Vec<&'a str> {
        [self.flags(syft), vec!["--sbom-isolation", "none"]].concat()
    }

    /// A package of these images, which goes to `to`.
    fn package(&self, name: &str, images: &[&str], to: &str, more: &str) -> String {
        let lines: Vec<String> = images
            .iter()
            .map(|image| format!("{{image: '{}/{image}:1'}}", self.source.host))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        package(name, "1.0.0", &lines, &format!("{}\n  {more}", registry_at(to)))
    }

    /// The package once its SBOMs are `status` for its spec.
    async fn sboms(&self, name: &str, status: &str) -> JackalPackageStatus {
        let what = format!("SBOMsComplete {status}");
        let package = self
            .cluster
            .package_where(name, &what, |package| says(package, status).then_some(()));
        package.await.status.unwrap()
    }

    /// The files of the package's artifact.
    fn files(&self, repository: &str) -> Vec<(String, Digest)> {
        let index: Index = serde_json::from_str(&self.registry.crane("manifest", repository)).unwrap();
        let (name, _) = repository.split_once(':').unwrap();
        let manifest = format!("{name}@{}", index.manifests[0].digest);
        let manifest: Manifest = serde_json::from_str(&self.registry.crane("manifest", &manifest)).unwrap();
        let file = |layer: &jackal_operator::oci::Descriptor| (layer.annotations[TITLE].clone(), layer.digest.clone());
        manifest.layers.iter().map(file).collect()
    }

    fn has_sboms(&self, repository: &str) -> bool {
        self.files(repository).iter().any(|(path, _)| path == "sboms.tar")
    }
}

fn says(package: &JackalPackage, status: &str) -> bool {
    let conditions = package
        .status
        .as_ref()
        .map(|status| &status.conditions[..])
        .unwrap_or_default();
    condition(conditions, "SBOMsComplete")
        .is_some_and(|found| found.status == status && found.observed_generation == package.metadata.generation)
}

fn is_ready(status: &JackalPackageStatus) -> bool {
    condition(&status.conditions, "Ready").is_some_and(|ready| ready.status == "True")
}

fn reasons(status: &JackalPackageStatus) -> Vec<&str> {
    status.history.iter().map(|entry| entry.reason.as_str()).collect()
}

#[tokio::test]
async fn sboms_are_made_once_after_a_package_is_ready() {
    sboms_are_made_once_in(Version::V31).await;
}

#[tokio::test]
async fn sboms_are_made_once_in_a_registry_with_the_referrers_api() {
    sboms_are_made_once_in(Version::Olareg).await;
}

async fn sboms_are_made_once_in(version: Version) {
    let setup = Setup::with(version, &["web", "tool"]).await;
    let proxy = FaultProxy::to(&setup.registry.host, |_| Action::Pass);
    let syft = setup.counting_syft();
    let controller = setup.cluster.controller(&setup.flags_for_script(&syft));
    let yaml = setup.package("shop", &["web", "tool"], &proxy.host, "interval: 10s");
    setup.cluster.apply(&yaml);
    let status = setup.sboms("shop", "True").await;
    assert!(is_ready(&status));
    assert_eq!(reasons(&status), ["SBOMsAdded", "FirstBuild"]);
    assert_eq!(setup.runs(), 2);
    let message = &condition(&status.conditions, "SBOMsComplete").unwrap().message;
    assert_eq!(message, "SBOMs of 2 images are beside them and in the package");
    let artifact = status.artifact.clone().unwrap();
    assert_eq!(status.history[0].digest, artifact.digest);
    let archive = setup
        .files("shop:1.0.0")
        .into_iter()
        .find(|(path, _)| path == "sboms.tar");
    let archive = archive.expect("the tar").1;
    let bytes = setup
        .registry
        .repository("shop")
        .small_blob(&archive, 1 << 24)
        .await
        .unwrap()
        .unwrap();
    let host = setup.source.host.replace(':', "_");
    let names = tar_names(setup.folder.path(), &bytes);
    let expected = ["tool", "web"].map(|image| format!("{host}_{image}_1.json"));
    let pages = ["tool", "web"].map(|image| format!("sbom-viewer-{host}_{image}_1.html"));
    assert_eq!(names, [expected, pages].concat());

    // A repeat sends one request for each image, and writes nothing.
    eventually(SOON, "the events are written", async || {
        let events = setup
            .cluster
            .writes()
            .iter()
            .filter(|line| line.contains("/events"))
            .count();
        if events >= 4 {
            Ok(())
        } else {
            Err(format!("{events} events"))
        }
    })
    .await;
    let written = setup.cluster.writes();
    let lists = || referrer_lists(&proxy);
    let (asked, looked) = (lists(), proxy.count("HEAD", "/shop/manifests/"));
    eventually(SOON, "the package is looked at again", async || {
        let now = proxy.count("HEAD", "/shop/manifests/");
        if now > looked {
            Ok(())
        } else {
            Err(format!("{now} looks"))
        }
    })
    .await;
    assert_eq!(lists() - asked, 2);
    assert_eq!(setup.cluster.writes()[written.len()..], [] as [String; 0]);

    // Another package gets them immediately, also after a restart, because the artifact in the status proves them.
    drop(controller);
    let _controller = setup.cluster.controller(&setup.flags_for_script(&syft));
    setup.cluster.request("shop", "restarted").await;
    let looked = setup
        .cluster
        .package_where("shop", "looked at by the new process", |package| {
            let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
            (handled == Some("restarted")).then_some(())
        });
    looked.await;
    setup.cluster.apply(&setup.package("other", &["web"], &proxy.host, ""));
    let status = setup.sboms("other", "True").await;
    assert_eq!(reasons(&status), ["FirstBuild"]);
    assert!(setup.has_sboms("other:1.0.0"));
    assert_eq!(setup.runs(), 2);
    assert_eq!(
        setup.cluster.package("shop").await.status.unwrap().artifact,
        Some(artifact)
    );

    // No object requests them any more.
    let off = json!({"spec": {"sbom": {"enabled": false}}});
    setup.cluster.patch::<JackalPackage>("other", off).await;
    let without = setup.cluster.package_where("other", "without SBOMs", |package| {
        let conditions = &package.status.as_ref()?.conditions;
        condition(conditions, "SBOMsComplete").is_none().then_some(())
    });
    without.await;
    assert!(!setup.has_sboms("other:1.0.0"));
}

/// The number of requests for referrer lists: by the API, or by the tag.
fn referrer_lists(proxy: &FaultProxy) -> usize {
    proxy.count("GET", "/referrers/") + proxy.count("GET", "/manifests/sha256-")
}

/// The names in a tar, as tar itself lists them.
fn tar_names(folder: &Path, content: &[u8]) -> Vec<String> {
    let file = folder.join("sboms.tar");
    std::fs::write(&file, content).unwrap();
    let listed = crate::support::process::run("tar", &["-tf", file.to_str().unwrap()]);
    listed.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn optional_sboms_do_not_affect_readiness() {
    let setup = Setup::new(&["web"]).await;
    let noted = setup.folder.path().join("runs");
    let lines = format!("echo run >>'{}'; echo 'it is broken' >&2; exit 3", noted.display());
    let crashes = script(setup.folder.path(), &lines);
    let runs = || setup.runs();
    let _controller = setup.cluster.controller(&setup.flags_for_script(&crashes));
    setup
        .cluster
        .apply(&setup.package("shop", &["web"], &setup.registry.host, "interval: 10s"));
    let status = setup.sboms("shop", "False").await;
    assert!(is_ready(&status));
    let failed = condition(&status.conditions, "SBOMsComplete").unwrap();
    assert_eq!(failed.reason, "SbomFailed");
    for text in ["no SBOM of image `", "/web:1`", "ended with code 3: it is broken"] {
        assert!(failed.message.contains(text), "{}", failed.message);
    }
    assert!(!setup.has_sboms("shop:1.0.0"));
    let events = || async { setup.cluster.events("shop").await };
    let reported_once = async || {
        let reported = events()
            .await
            .iter()
            .filter(|event| event.starts_with("SbomFailed"))
            .count();
        if reported == 1 {
            Ok(())
        } else {
            Err(format!("{reported} events"))
        }
    };
    eventually(SOON, "it is told", reported_once).await;
    // A retry causes no event.
    let written = setup.cluster.writes();
    setup.cluster.request("shop", "again").await;
    let again = setup.cluster.package_where("shop", "tried again", |package| {
        let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
        (handled == Some("again") && runs() == 2).then_some(())
    });
    let again = again.await.status.unwrap();
    assert_eq!(again.conditions, status.conditions);
    eventually(SOON, "it is told no second time", reported_once).await;
    let news = setup.cluster.writes()[written.len()..].to_vec();
    assert!(!news.iter().any(|request| request.contains("/events")), "{news:?}");
}

#[tokio::test]
async fn a_package_with_required_sboms_is_not_published_without_them() {
    let setup = Setup::new(&["web"]).await;
    let missing = setup.folder.path().join("syft");
    let controller = setup.cluster.controller(&setup.flags(&missing));
    let yaml = setup.package("shop", &["web"], &setup.registry.host, "sbom: {required: true}");
    setup.cluster.apply(&yaml);
    let status = setup.sboms("shop", "False").await;
    assert!(!is_ready(&status));
    let failed = setup.cluster.package_where("shop", "failing", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.status == "False" && ready.reason == "SbomFailed" && ready.message.contains("does not exist"))
            .then_some(())
    });
    let status = failed.await.status.unwrap();
    assert_eq!(status.artifact, None);
    let existing = setup.registry.repository("shop").head_manifest("1.0.0").await.unwrap();
    assert_eq!(existing, None, "nothing is published");

    // Its progress is visible to users.
    drop(controller);
    let syft = program("JACKAL_BIN_SYFT");
    let _controller = setup.cluster.controller(&setup.flags(&syft));
    let status = setup.sboms("shop", "True").await;
    assert!(is_ready(&status));
    assert_eq!(reasons(&status), ["FirstBuild"]);
    assert!(setup.has_sboms("shop:1.0.0"));
}

#[tokio::test]
async fn without_syft_missing_sboms_are_reported_only_where_requested() {
    let setup = Setup::new(&["web"]).await;
    let _controller = setup.cluster.controller(&["--insecure-registry", &setup.source.host]);
    let to = &setup.registry.host;
    setup.cluster.apply(&setup.package("silent", &["web"], to, ""));
    let silent = setup.cluster.ready("silent").await.status.unwrap();
    assert!(condition(&silent.conditions, "SBOMsComplete").is_none());
    setup
        .cluster
        .apply(&setup.package("wants", &["web"], to, "sbom: {enabled: true}"));
    let wants = setup.sboms("wants", "False").await;
    let message = &condition(&wants.conditions, "SBOMsComplete").unwrap().message;
    assert!(
        is_ready(&wants) && message.contains("start it with --syft"),
        "{message}"
    );
    let both = setup.package("both", &["web"], to, "sbom: {enabled: false, required: true}");
    let refused = setup.cluster.try_apply(&both).unwrap_err();
    assert!(refused.contains("sbom.required needs SBOMs"), "{refused}");
}

#[tokio::test]
async fn build_and_cluster_make_the_same_sboms() {
    let setup = Setup::new(&["web"]).await;
    let syft = program("JACKAL_BIN_SYFT");
    let file = setup.folder.path().join("shop.yaml");
    std::fs::write(&file, setup.package("shop", &["web"], &setup.registry.host, "")).unwrap();
    let build = |to: &str, syft: &Path| {
        let flags = ["--to", to, "--insecure", "--output", "json"];
        let flags = [&[file.to_str().unwrap()], &flags[..], &setup.flags(syft)].concat();
        let output = Workspace::new().build(&flags);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output, report)
    };
    let layout = format!("oci:{}", setup.folder.path().join("layout").display());
    let (_, in_layout) = build(&layout, &syft);
    let (_, in_registry) = build(&setup.registry.host, &syft);
    assert_eq!(
        in_registry["sboms"],
        json!({"complete": true, "images": 1}),
        "{in_registry}"
    );
    assert_eq!(in_registry["digest"], in_layout["digest"]);
    assert!(in_registry["digest"].is_string() && setup.has_sboms("shop:1.0.0"));
    let (_, again) = build(&setup.registry.host, &syft);
    assert_eq!(
        (&again["changed"], &again["digest"]),
        (&json!(false), &in_registry["digest"])
    );

    // Without SBOMs a package is published nevertheless, unless it requires them.
    let other = TestRegistry::start(Version::V31);
    let (output, report) = build(&other.host, Path::new("/nowhere/syft"));
    assert!(output.status.success(), "{report}");
    assert_eq!(report["sboms"]["complete"], false);
    assert!(stderr(&output).contains("built without SBOMs"));
    std::fs::write(
        &file,
        setup.package("shop", &["web"], &other.host, "sbom: {required: true}"),
    )
    .unwrap();
    let (output, report) = build(&other.host, Path::new("/nowhere/syft"));
    assert!(!output.status.success());
    assert_eq!(report["failures"][0]["reason"], "SbomFailed");
}
