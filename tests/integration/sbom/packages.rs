//! SBOMs of packages in a cluster: after Ready, before it where they are demanded, once for each image.

use std::path::{Path, PathBuf};

use jackal_operator::api::v1alpha1::{JackalPackage, JackalPackageStatus};
use jackal_operator::oci::{Digest, Index, Manifest};
use serde_json::json;

use super::bad::script;
use super::put_alpine;
use crate::support::cluster::{Cluster, condition};
use crate::support::front::{Act, Front};
use crate::support::objects::{package, registry_at};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

const TITLE: &str = "org.opencontainers.image.title";

/// A registry with images to take, another to bring them to, and a folder for syft.
struct Ground {
    cluster: Cluster,
    source: TestRegistry,
    registry: TestRegistry,
    folder: tempfile::TempDir,
}

impl Ground {
    async fn new(images: &[&str]) -> Self {
        Self::with(Version::V31, images).await
    }

    /// The same, where the images go to a registry of that version.
    async fn with(version: Version, images: &[&str]) -> Self {
        let ground = Self {
            cluster: Cluster::noting_requests().await,
            source: TestRegistry::start(Version::V31),
            registry: TestRegistry::start(version),
            folder: tempfile::tempdir().unwrap(),
        };
        for name in images {
            put_alpine(&ground.source.repository(name), "1", &[(name, "1.0-r0")]).await;
        }
        ground
    }

    /// A syft that notes each of its runs.
    fn counting(&self) -> PathBuf {
        let (runs, syft) = (self.folder.path().join("runs"), program("JACKAL_BIN_SYFT"));
        script(
            self.folder.path(),
            &format!("echo run >>'{}'\nexec '{}' \"$@\"", runs.display(), syft.display()),
        )
    }

    fn runs(&self) -> usize {
        let said = std::fs::read_to_string(self.folder.path().join("runs"));
        said.unwrap_or_default().lines().count()
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

    /// The same for one that writes where syft may not.
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
async fn sboms_follow_a_package_that_is_ready_and_are_made_once() {
    follow(Version::V31).await;
}

#[tokio::test]
async fn the_same_in_a_registry_that_lists_referrers_by_itself() {
    follow(Version::Olareg).await;
}

async fn follow(version: Version) {
    let ground = Ground::with(version, &["web", "tool"]).await;
    let front = Front::to(&ground.registry.host, |_| Act::Pass);
    let syft = ground.counting();
    let controller = ground.cluster.controller(&ground.flags_for_script(&syft));
    let yaml = ground.package("shop", &["web", "tool"], &front.host, "interval: 10s");
    ground.cluster.apply(&yaml);
    let status = ground.sboms("shop", "True").await;
    assert!(is_ready(&status));
    assert_eq!(reasons(&status), ["SBOMsAdded", "FirstBuild"]);
    assert_eq!(ground.runs(), 2);
    let message = &condition(&status.conditions, "SBOMsComplete").unwrap().message;
    assert_eq!(message, "SBOMs of 2 images are beside them and in the package");
    let artifact = status.artifact.clone().unwrap();
    assert_eq!(status.history[0].digest, artifact.digest);
    let archive = ground
        .files("shop:1.0.0")
        .into_iter()
        .find(|(path, _)| path == "sboms.tar");
    let archive = archive.expect("the tar").1;
    let bytes = ground
        .registry
        .repository("shop")
        .small_blob(&archive, 1 << 24)
        .await
        .unwrap()
        .unwrap();
    let host = ground.source.host.replace(':', "_");
    let names = tar_names(ground.folder.path(), &bytes);
    let expected = ["tool", "web"].map(|image| format!("{host}_{image}_1.json"));
    let pages = ["tool", "web"].map(|image| format!("sbom-viewer-{host}_{image}_1.html"));
    assert_eq!(names, [expected, pages].concat());

    // A repeat asks once for each image, and writes nothing.
    eventually(SOON, "the events are written", async || {
        let events = ground
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
    let written = ground.cluster.writes();
    let lists = || referrer_lists(&front);
    let (asked, looked) = (lists(), front.count("HEAD", "/shop/manifests/"));
    eventually(SOON, "the package is looked at again", async || {
        let now = front.count("HEAD", "/shop/manifests/");
        if now > looked {
            Ok(())
        } else {
            Err(format!("{now} looks"))
        }
    })
    .await;
    assert_eq!(lists() - asked, 2);
    assert_eq!(ground.cluster.writes()[written.len()..], [] as [String; 0]);

    // Another package has them at once, also after a restart, once the artifact that the status records has proven them.
    drop(controller);
    let _controller = ground.cluster.controller(&ground.flags_for_script(&syft));
    ground.cluster.request("shop", "restarted").await;
    let looked = ground
        .cluster
        .package_where("shop", "looked at by the new process", |package| {
            let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
            (handled == Some("restarted")).then_some(())
        });
    looked.await;
    ground
        .cluster
        .apply(&ground.package("other", &["web"], &front.host, ""));
    let status = ground.sboms("other", "True").await;
    assert_eq!(reasons(&status), ["FirstBuild"]);
    assert!(ground.has_sboms("other:1.0.0"));
    assert_eq!(ground.runs(), 2);
    assert_eq!(
        ground.cluster.package("shop").await.status.unwrap().artifact,
        Some(artifact)
    );

    // Nobody wants them any more.
    let off = json!({"spec": {"sbom": {"enabled": false}}});
    ground.cluster.patch::<JackalPackage>("other", off).await;
    let without = ground.cluster.package_where("other", "without SBOMs", |package| {
        let conditions = &package.status.as_ref()?.conditions;
        condition(conditions, "SBOMsComplete").is_none().then_some(())
    });
    without.await;
    assert!(!ground.has_sboms("other:1.0.0"));
}

/// How often lists of referrers were asked for: by the API, or by the tag that stands for it.
fn referrer_lists(front: &Front) -> usize {
    front.count("GET", "/referrers/") + front.count("GET", "/manifests/sha256-")
}

/// The names in a tar, as tar itself lists them.
fn tar_names(folder: &Path, content: &[u8]) -> Vec<String> {
    let file = folder.join("sboms.tar");
    std::fs::write(&file, content).unwrap();
    let listed = crate::support::process::run("tar", &["-tf", file.to_str().unwrap()]);
    listed.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_package_is_ready_whatever_becomes_of_its_sboms() {
    let ground = Ground::new(&["web"]).await;
    let noted = ground.folder.path().join("runs");
    let lines = format!("echo run >>'{}'; echo 'it is broken' >&2; exit 3", noted.display());
    let crashes = script(ground.folder.path(), &lines);
    let runs = || ground.runs();
    let _controller = ground.cluster.controller(&ground.flags_for_script(&crashes));
    ground
        .cluster
        .apply(&ground.package("shop", &["web"], &ground.registry.host, "interval: 10s"));
    let status = ground.sboms("shop", "False").await;
    assert!(is_ready(&status));
    let failed = condition(&status.conditions, "SBOMsComplete").unwrap();
    assert_eq!(failed.reason, "SbomFailed");
    for text in ["no SBOM of image `", "/web:1`", "ended with code 3: it is broken"] {
        assert!(failed.message.contains(text), "{}", failed.message);
    }
    assert!(!ground.has_sboms("shop:1.0.0"));
    let events = || async { ground.cluster.events("shop").await };
    let told_once = async || {
        let told = events()
            .await
            .iter()
            .filter(|event| event.starts_with("SbomFailed"))
            .count();
        if told == 1 {
            Ok(())
        } else {
            Err(format!("{told} events"))
        }
    };
    eventually(SOON, "it is told", told_once).await;
    // Another try is no news.
    let written = ground.cluster.writes();
    ground.cluster.request("shop", "again").await;
    let again = ground.cluster.package_where("shop", "tried again", |package| {
        let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
        (handled == Some("again") && runs() == 2).then_some(())
    });
    let again = again.await.status.unwrap();
    assert_eq!(again.conditions, status.conditions);
    eventually(SOON, "it is told no second time", told_once).await;
    let news = ground.cluster.writes()[written.len()..].to_vec();
    assert!(!news.iter().any(|request| request.contains("/events")), "{news:?}");
}

#[tokio::test]
async fn a_package_that_demands_sboms_is_not_there_without() {
    let ground = Ground::new(&["web"]).await;
    let missing = ground.folder.path().join("syft");
    let controller = ground.cluster.controller(&ground.flags(&missing));
    let yaml = ground.package("shop", &["web"], &ground.registry.host, "sbom: {required: true}");
    ground.cluster.apply(&yaml);
    let status = ground.sboms("shop", "False").await;
    assert!(!is_ready(&status));
    let failed = ground.cluster.package_where("shop", "failing", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.status == "False" && ready.reason == "SbomFailed" && ready.message.contains("does not exist"))
            .then_some(())
    });
    let status = failed.await.status.unwrap();
    assert_eq!(status.artifact, None);
    let standing = ground.registry.repository("shop").head_manifest("1.0.0").await.unwrap();
    assert_eq!(standing, None, "nothing is published");

    // Whoever installs it sees it come about.
    drop(controller);
    let syft = program("JACKAL_BIN_SYFT");
    let _controller = ground.cluster.controller(&ground.flags(&syft));
    let status = ground.sboms("shop", "True").await;
    assert!(is_ready(&status));
    assert_eq!(reasons(&status), ["FirstBuild"]);
    assert!(ground.has_sboms("shop:1.0.0"));
}

#[tokio::test]
async fn an_installation_without_syft_makes_none_and_says_so_where_they_are_wanted() {
    let ground = Ground::new(&["web"]).await;
    let _controller = ground.cluster.controller(&["--insecure-registry", &ground.source.host]);
    let to = &ground.registry.host;
    ground.cluster.apply(&ground.package("silent", &["web"], to, ""));
    let silent = ground.cluster.ready("silent").await.status.unwrap();
    assert!(condition(&silent.conditions, "SBOMsComplete").is_none());
    ground
        .cluster
        .apply(&ground.package("wants", &["web"], to, "sbom: {enabled: true}"));
    let wants = ground.sboms("wants", "False").await;
    let message = &condition(&wants.conditions, "SBOMsComplete").unwrap().message;
    assert!(
        is_ready(&wants) && message.contains("start it with --syft"),
        "{message}"
    );
    let both = ground.package("both", &["web"], to, "sbom: {enabled: false, required: true}");
    let refused = ground.cluster.try_apply(&both).unwrap_err();
    assert!(refused.contains("sbom.required demands SBOMs"), "{refused}");
}

#[tokio::test]
async fn a_build_has_the_sboms_that_a_cluster_makes() {
    let ground = Ground::new(&["web"]).await;
    let syft = program("JACKAL_BIN_SYFT");
    let file = ground.folder.path().join("shop.yaml");
    std::fs::write(&file, ground.package("shop", &["web"], &ground.registry.host, "")).unwrap();
    let build = |to: &str, syft: &Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_jackal-operator"))
            .args([
                "build",
                file.to_str().unwrap(),
                "--to",
                to,
                "--insecure",
                "--output",
                "json",
            ])
            .args(ground.flags(syft))
            .env("DOCKER_CONFIG", ground.folder.path())
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output, report)
    };
    let layout = format!("oci:{}", ground.folder.path().join("layout").display());
    let (_, in_layout) = build(&layout, &syft);
    let (_, in_registry) = build(&ground.registry.host, &syft);
    assert_eq!(
        in_registry["sboms"],
        json!({"complete": true, "images": 1}),
        "{in_registry}"
    );
    assert_eq!(in_registry["digest"], in_layout["digest"]);
    assert!(in_registry["digest"].is_string() && ground.has_sboms("shop:1.0.0"));
    let (_, again) = build(&ground.registry.host, &syft);
    assert_eq!(
        (&again["changed"], &again["digest"]),
        (&json!(false), &in_registry["digest"])
    );

    // Without its SBOMs a package stands all the same, unless it demands them.
    let other = TestRegistry::start(Version::V31);
    let (output, report) = build(&other.host, Path::new("/nowhere/syft"));
    assert!(output.status.success(), "{report}");
    assert_eq!(report["sboms"]["complete"], false);
    assert!(String::from_utf8_lossy(&output.stderr).contains("built without SBOMs"));
    std::fs::write(
        &file,
        ground.package("shop", &["web"], &other.host, "sbom: {required: true}"),
    )
    .unwrap();
    let (output, report) = build(&other.host, Path::new("/nowhere/syft"));
    assert!(!output.status.success());
    assert_eq!(report["failures"][0]["reason"], "SbomFailed");
}
