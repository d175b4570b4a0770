//! Whoever may write to a repository has content packed, and signed, in the name of another.

use std::path::{Path, PathBuf};
use std::process::Command;

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::{Descriptor, Digest, Document, Index, Manifest};
use jackal_operator::package::verify;
use jackal_operator::registry::Repository;
use jackal_operator::sbom::{self, Format};
use jackal_operator::signing::{PublicKey, Requirement};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, push, put};
use crate::support::objects::ADDRESS;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};

const TITLE: &str = "org.opencontainers.image.title";
const INPUTS: &str = "dev.jackal.inputs";
const TAR: &str = "components/web.tar";
const EVIL: &str = "this is not what the owner wrote";

fn made(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing")).join(name)
}

/// A source, a registry that the attacker may write to, and a folder in which the owner builds.
struct Ground {
    source: TestRegistry,
    registry: TestRegistry,
    folder: TempDir,
}

impl Ground {
    async fn new() -> Self {
        let [source, registry] = [Version::V31, Version::V31].map(TestRegistry::start);
        let app = source.repository("team/app");
        put(&app, &image(&app, "linux/amd64", noise(1, 1000)).await, Some("1")).await;
        Self {
            source,
            registry,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The owner's package, with what `more` adds to its spec.
    fn package(&self, more: Value) -> Value {
        let mut spec = json!({
            "version": "1.4.0", "naming": "Plain", "components": [{
                "name": "web",
                "images": [{ "image": format!("{}/team/app:1", self.source.host) }],
                "files": [{ "target": "etc/web.conf", "inline": "hello\n" }],
            }],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" }, "spec": spec })
    }

    /// Builds the package into `host`; gives the report.
    fn build(&self, host: &str, package: &Value, more: &[&str]) -> Value {
        let file = self.folder.path().join("shop.yaml");
        std::fs::write(&file, package.to_string()).unwrap();
        let output = Command::new("timeout")
            .args(["-k", "1", "60", env!("CARGO_BIN_EXE_jackal-operator"), "build"])
            .arg(&file)
            .args([
                "--to",
                host,
                "--insecure",
                "--output",
                "json",
                "--insecure-registry",
                &self.source.host,
            ])
            .args(more)
            .current_dir(self.folder.path())
            .env("DOCKER_CONFIG", self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn key(&self) -> String {
        made("plain.key").to_str().unwrap().to_owned()
    }

    fn shop(&self) -> Repository {
        self.registry.repository("shop")
    }

    fn to(&self) -> Value {
        json!({ "address": ADDRESS, "endpoint": self.registry.host, "insecure": true })
    }
}

async fn manifest(repository: &Repository, digest: &str) -> Manifest {
    let document = repository.manifest(digest).await.unwrap().unwrap();
    document.manifest().unwrap().clone()
}

/// The layer of the package's file `path`.
fn titled<'a>(manifest: &'a Manifest, path: &str) -> Option<&'a Descriptor> {
    let is = |layer: &&Descriptor| layer.annotations.get(TITLE).is_some_and(|title| title == path);
    manifest.layers.iter().find(is)
}

/// What stands under the tag of the package.
async fn index(repository: &Repository) -> Index {
    let document = repository.manifest("1.4.0").await.unwrap().unwrap();
    document.index().unwrap().clone()
}

/// The attacker lays other content below the tag, with all that the tar of `honest` says of itself. Gives its digest.
async fn lay_evil(repository: &Repository, honest: &Manifest) -> Digest {
    let evil = push(repository, "evil", EVIL.into()).await;
    let config = push(repository, &honest.config.media_type, "{}".into()).await;
    let tar = titled(honest, TAR).unwrap();
    assert!(tar.annotations.contains_key(INPUTS));
    let layer = Descriptor {
        digest: evil.digest.clone(),
        size: evil.size,
        ..tar.clone()
    };
    let forged = Document::of_manifest(Manifest::new(config, vec![layer])).unwrap();
    put(repository, &forged, None).await;
    let entry = Descriptor {
        platform: Some("multi/amd64".parse().unwrap()),
        ..forged.descriptor.clone()
    };
    let index = Document::of_index(Index::new(vec![entry])).unwrap();
    put(repository, &index, Some("1.4.0")).await;
    evil.digest
}

/// Expects the owner's package to hold what the owner wrote.
#[track_caller]
fn expect_own(manifest: &Manifest, honest: &Manifest, evil: &Digest) {
    assert!(
        manifest.layers.iter().all(|layer| layer.digest != *evil),
        "it is packed"
    );
    let tar = |manifest: &Manifest| titled(manifest, TAR).unwrap().digest.clone();
    assert_eq!(tar(manifest), tar(honest));
}

/// Whether the key of `tests/signing/plain.key` signed it.
async fn is_signed(repository: &Repository, digest: &Digest) -> bool {
    let pem = Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(made("plain.key"))
        .output()
        .unwrap();
    let requirement = Requirement {
        keys: vec![PublicKey::from_pem(&pem.stdout).unwrap()],
        ..Requirement::default()
    };
    verify(repository, digest, &[requirement], "the package").await.is_ok()
}

async fn a_tar_under_the_tag_of_a_build(signed: bool) {
    let ground = Ground::new().await;
    let key = ground.key();
    let flags = if signed { vec!["--key", &*key] } else { Vec::new() };
    let package = ground.package(json!({}));
    let first = ground.build(&ground.registry.host, &package, &flags);
    let shop = ground.shop();
    let honest = manifest(&shop, first["digest"].as_str().unwrap()).await;
    let evil = lay_evil(&shop, &honest).await;
    let again = ground.build(&ground.registry.host, &package, &flags);
    assert_eq!(again["digest"], first["digest"]);
    let packed = manifest(&shop, again["digest"].as_str().unwrap()).await;
    expect_own(&packed, &honest, &evil);
    let entry = index(&shop).await.manifests[0].digest.clone();
    assert_eq!(entry.as_str(), again["digest"].as_str().unwrap());
    assert_eq!(is_signed(&shop, &entry).await, signed);
}

/// A Secret with the key of `tests/signing/plain.key`.
fn key_secret() -> String {
    let key = std::fs::read_to_string(made("plain.key")).unwrap();
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "key" }, "stringData": { "cosign.key": key } })
        .to_string()
}

async fn a_tar_at_the_first_publication(signing: Value) {
    let ground = Ground::new().await;
    // What the attacker reckons is what a build elsewhere gives.
    let elsewhere = TestRegistry::start(Version::V28);
    let report = ground.build(&elsewhere.host, &ground.package(json!({})), &[]);
    let honest = manifest(&elsewhere.repository("shop"), report["digest"].as_str().unwrap()).await;
    let shop = ground.shop();
    let evil = lay_evil(&shop, &honest).await;
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let _operator = cluster.controller(&["--insecure-registry", &ground.source.host]);
    let mut more = json!({ "registry": ground.to() });
    more.as_object_mut()
        .unwrap()
        .extend(signing.as_object().unwrap().clone());
    cluster.apply(&ground.package(more).to_string());
    let artifact = cluster.ready("shop").await.status.unwrap().artifact.unwrap();
    expect_own(&manifest(&shop, &artifact.digest).await, &honest, &evil);
}

async fn a_tar_after_the_recorded_manifest_went() {
    let ground = Ground::new().await;
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let _operator = cluster.controller(&["--insecure-registry", &ground.source.host]);
    let more = json!({ "registry": ground.to(), "signing": { "secretRef": { "name": "key" } } });
    cluster.apply(&ground.package(more).to_string());
    let first = cluster.ready("shop").await.status.unwrap().artifact.unwrap();
    let shop = ground.shop();
    let honest = manifest(&shop, &first.digest).await;
    let standing = index(&shop).await;
    let evil = lay_evil(&shop, &honest).await;
    let old = Document::of_index(standing).unwrap();
    shop.delete_manifest(old.digest()).await.unwrap();
    shop.delete_manifest(&first.digest.parse().unwrap()).await.unwrap();
    cluster.request("shop", "again").await;
    let answered = cluster
        .package_where("shop", "looked at again", |package| {
            let status = package.status.as_ref()?;
            let ready = condition(&status.conditions, "Ready")?;
            let handled = status.last_handled_reconcile_at.as_deref() == Some("again");
            (handled && ready.status == "True").then_some(())
        })
        .await;
    let artifact = answered.status.unwrap().artifact.unwrap();
    assert_eq!(artifact.digest, first.digest);
    expect_own(&manifest(&shop, &artifact.digest).await, &honest, &evil);
}

async fn an_sbom_that_came_along(signed: bool) {
    let ground = Ground::new().await;
    let app = ground.source.repository("team/app");
    let root = app.manifest("1").await.unwrap().unwrap();
    push(&app, "application/vnd.oci.empty.v1+json", "{}".into()).await;
    for format in Format::ALL {
        let content = json!({ "artifacts": [], "says": EVIL, "format": format.media_type() }).to_string();
        let content = push(&app, format.media_type(), content.into()).await;
        let referrer = sbom::referrer(&root.descriptor, format, "syft 99.0.0", &content).unwrap();
        app.attach(&referrer).await.unwrap();
    }
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let scratch = ground.folder.path().to_str().unwrap();
    let syft = program("JACKAL_BIN_SYFT");
    let _operator = cluster.controller(&[
        "--insecure-registry",
        &ground.source.host,
        "--syft",
        syft.to_str().unwrap(),
        "--sbom-scratch",
        scratch,
    ]);
    let mut more = json!({ "registry": ground.to(), "referrers": "Copy", "sbom": { "required": true } });
    if signed {
        more["signing"] = json!({ "secretRef": { "name": "key" } });
    }
    cluster.apply(&ground.package(more).to_string());
    let artifact = cluster.ready("shop").await.status.unwrap().artifact.unwrap();
    let shop = ground.shop();
    let packed = manifest(&shop, &artifact.digest).await;
    let tar = titled(&packed, "sboms.tar").unwrap();
    let tar = shop.small_blob(&tar.digest, 1 << 24).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&tar);
    assert!(
        !text.contains(EVIL) && text.contains("syft"),
        "the SBOM of somebody else is packed"
    );
    // The operator was told that it is the one that it recorded: nothing is made anew.
    cluster.request("shop", "again").await;
    let answered = cluster
        .package_where("shop", "looked at again", |package| {
            let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
            (handled == Some("again")).then_some(())
        })
        .await;
    assert_eq!(answered.status.unwrap().artifact.unwrap().digest, artifact.digest);
}

async fn a_package_of_another_architecture() {
    let ground = Ground::new().await;
    let key = ground.key();
    let package = ground.package(json!({}));
    let first = ground.build(&ground.registry.host, &package, &["--key", &key]);
    let shop = ground.shop();
    let standing = index(&shop).await;
    let whole = Document::of_index(standing.clone()).unwrap();
    assert!(is_signed(&shop, whole.digest()).await);
    // The attacker adds what an owner's node of another architecture would take.
    let mut forged = manifest(&shop, first["digest"].as_str().unwrap()).await;
    forged.annotations.insert("says".to_owned(), EVIL.to_owned());
    let forged = Document::of_manifest(forged).unwrap();
    put(&shop, &forged, None).await;
    let entry = Descriptor {
        platform: Some("multi/arm64".parse().unwrap()),
        ..forged.descriptor.clone()
    };
    let both = Index::new([standing.manifests.clone(), vec![entry]].concat());
    let both = Document::of_index(both).unwrap();
    put(&shop, &both, Some("1.4.0")).await;
    let again = ground.build(&ground.registry.host, &package, &["--key", &key]);
    assert_eq!(again["digest"], first["digest"]);
    assert!(is_signed(&shop, &again["digest"].as_str().unwrap().parse().unwrap()).await);
    let under_tag = shop.manifest("1.4.0").await.unwrap().unwrap();
    assert_eq!(under_tag.digest(), both.digest());
    assert!(
        !is_signed(&shop, under_tag.digest()).await,
        "the index vouches for what somebody else wrote"
    );
}

/// `platforms`: of the image, as JSON.
async fn a_status_that_says_verified(platforms: Value) {
    let ground = Ground::new().await;
    // Nobody signed it.
    let theirs = ground.registry.repository("team/app");
    let evil = image(&theirs, "linux/amd64", noise(66, 1000)).await;
    put(&theirs, &evil, Some("1")).await;
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let _operator = cluster.controller(&["--insecure-registry", &ground.source.host]);
    let key = std::fs::read_to_string(made("cosign.pub")).unwrap();
    let mut package = ground.package(json!({
        "registry": ground.to(), "verify": [{ "publicKeys": [{ "inline": key }] }],
        "signing": { "secretRef": { "name": "key" } },
    }));
    package["spec"]["components"][0]["images"][0]["platforms"] = platforms;
    cluster.apply(&package.to_string());
    let image = cluster.image().await;
    let api = cluster.api::<JackalImage>();
    let shop = ground.shop();
    let name = image.name_any();
    // Whoever may write statuses is faster than the operator, which finds the image unsigned at each try.
    let refused = eventually(SOON, "the package is refused when it is to be packed", async || {
        let image = api.get(&name).await.map_err(|error| error.to_string())?;
        let generation = image.metadata.generation;
        let condition_of = |kind: &str| {
            json!({
                "type": kind, "status": "True", "reason": "Succeeded", "message": "", "observedGeneration": generation,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let status = json!({ "status": {
            "conditions": [condition_of("Ready"), condition_of("Verified")], "observedGeneration": generation,
            "name": format!("{ADDRESS}/team/app:1"), "digest": evil.digest(), "sourceDigest": evil.digest(), "naming": "Plain",
            "registry": { "address": ADDRESS, "endpoint": &ground.registry.host, "repository": "team/app" },
        } });
        let patch = Patch::Merge(status);
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        patched.map_err(|error| error.to_string())?;
        let published = shop.head_manifest("1.4.0").await.unwrap();
        assert_eq!(published, None, "the unsigned image is packed and signed");
        let package = cluster.package("shop").await;
        let ready = package.status.and_then(|status| condition(&status.conditions, "Ready").cloned());
        let said = ready.map(|ready| ready.message).unwrap_or_default();
        match said.contains("the package cannot include") {
            true => Ok(said),
            false => Err(said),
        }
    })
    .await;
    assert!(
        refused.contains("signature") || refused.contains("is not signed"),
        "{refused}"
    );
    let package = cluster.api::<JackalPackage>().get("shop").await.unwrap();
    assert_eq!(package.status.unwrap().artifact, None);
    assert!(shop.head_manifest("1.4.0").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_verified_content_is_packed_and_signed() {
    let attack = |attempt, run| Attack {
        attacker: "somebody who may push to the package's repository",
        capabilities: "pushes blobs, manifests and tags; reckons what a package is made of",
        attempt,
        expected: "the package is built of what its owner wrote",
        final_state: "neither the artifact nor its signature holds the attacker's content",
        run,
    };
    check(&[
        attack(
            "lays a tar below the tag of a signed build, annotated as made of the same",
            || on_one_thread(|| a_tar_under_the_tag_of_a_build(true)),
        ),
        attack("the same of a build that is not signed", || {
            on_one_thread(|| a_tar_under_the_tag_of_a_build(false))
        }),
        attack(
            "lays such a tar below the tag before a signed package is first published",
            || {
                on_one_thread(|| {
                    a_tar_at_the_first_publication(json!({ "signing": { "secretRef": { "name": "key" } } }))
                })
            },
        ),
        attack("the same before a package is published that is not signed", || {
            on_one_thread(|| a_tar_at_the_first_publication(json!({})))
        }),
        attack(
            "deletes the recorded manifest of a signed package and lays such a tar below the tag",
            || on_one_thread(a_tar_after_the_recorded_manifest_went),
        ),
        Attack {
            attacker: "somebody who may push to the image's source",
            capabilities: "pushes what refers to the image",
            ..attack(
                "has an SBOM of its own travel along with an image of a signed package",
                || on_one_thread(|| an_sbom_that_came_along(true)),
            )
        },
        Attack {
            attacker: "somebody who may push to the image's source",
            capabilities: "pushes what refers to the image",
            ..attack("the same of a package that is not signed", || {
                on_one_thread(|| an_sbom_that_came_along(false))
            })
        },
        Attack {
            expected: "the package is signed, and the index under its tag is not",
            ..attack(
                "enters a package of another architecture into the index under the tag",
                || on_one_thread(a_package_of_another_architecture),
            )
        },
        Attack {
            attacker: "a tenant or a node",
            capabilities: "writes statuses of JackalImages, and pushes to the image's repository",
            expected: "VerificationError when the image is to be packed",
            final_state: "nothing is published",
            ..attack(
                "has an image without the signatures that verify asks for be Ready and Verified",
                || on_one_thread(|| a_status_that_says_verified(json!([]))),
            )
        },
        Attack {
            attacker: "a tenant or a node",
            capabilities: "writes statuses of JackalImages, and pushes to the image's repository",
            expected: "VerificationError when the image is to be packed",
            final_state: "nothing is published",
            ..attack("the same of an image of chosen platforms", || {
                on_one_thread(|| a_status_that_says_verified(json!(["linux/amd64"])))
            })
        },
    ])
    .await;
}
