//! A user who may push to a repository has content packaged and signed in the name of another.

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

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, push, put};
use crate::support::objects::ADDRESS;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::Workspace;

const TITLE: &str = "org.opencontainers.image.title";
const INPUTS: &str = "dev.jackal.inputs";
const TAR: &str = "components/web.tar";
const FORGED_CONTENT: &str = "this is not what the owner wrote";

fn signing_file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing")).join(name)
}

/// A source, a registry that the attacker may push to, and a folder in which the owner builds.
struct Setup {
    source: TestRegistry,
    registry: TestRegistry,
    folder: Workspace,
}

impl Setup {
    async fn new() -> Self {
        let [source, registry] = [Version::V31, Version::V31].map(TestRegistry::start);
        let app = source.repository("team/app");
        put(&app, &image(&app, "linux/amd64", noise(1, 1000)).await, Some("1")).await;
        Self {
            source,
            registry,
            folder: Workspace::new(),
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

    /// Builds the package and pushes it to `host`; returns the report.
    fn build(&self, host: &str, package: &Value, more: &[&str]) -> Value {
        let insecure = [self.source.host.as_str()];
        self.folder.text_report(&package.to_string(), host, &insecure, more)
    }

    fn key(&self) -> String {
        signing_file("plain.key").to_str().unwrap().to_owned()
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
fn layer_titled<'a>(manifest: &'a Manifest, path: &str) -> Option<&'a Descriptor> {
    let is = |layer: &&Descriptor| layer.annotations.get(TITLE).is_some_and(|title| title == path);
    manifest.layers.iter().find(is)
}

/// The index under the tag of the package.
async fn index(repository: &Repository) -> Index {
    let document = repository.manifest("1.4.0").await.unwrap().unwrap();
    document.index().unwrap().clone()
}

/// Pushes forged content under the tag, with all annotations of the tar in `original`. Returns its digest.
async fn push_forged_tar(repository: &Repository, original: &Manifest) -> Digest {
    let forged_digest = push(repository, "evil", FORGED_CONTENT.into()).await;
    let config = push(repository, &original.config.media_type, "{}".into()).await;
    let tar = layer_titled(original, TAR).unwrap();
    assert!(tar.annotations.contains_key(INPUTS));
    let layer = Descriptor {
        digest: forged_digest.digest.clone(),
        size: forged_digest.size,
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
    forged_digest.digest
}

/// Expects the owner's package to contain what the owner wrote.
#[track_caller]
fn assert_unforged(manifest: &Manifest, original: &Manifest, forged_digest: &Digest) {
    assert!(
        manifest.layers.iter().all(|layer| layer.digest != *forged_digest),
        "it is packed"
    );
    let tar = |manifest: &Manifest| layer_titled(manifest, TAR).unwrap().digest.clone();
    assert_eq!(tar(manifest), tar(original));
}

/// Whether the manifest is signed by the key of `tests/signing/plain.key`.
async fn is_signed(repository: &Repository, digest: &Digest) -> bool {
    let pem = Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(signing_file("plain.key"))
        .output()
        .unwrap();
    let requirement = Requirement {
        keys: vec![PublicKey::from_pem(&pem.stdout).unwrap()],
        ..Requirement::default()
    };
    verify(repository, digest, &[requirement], "the package").await.is_ok()
}

async fn a_forged_tar_under_the_tag_of_a_build(signed: bool) {
    let setup = Setup::new().await;
    let key = setup.key();
    let flags = if signed { vec!["--key", &*key] } else { Vec::new() };
    let package = setup.package(json!({}));
    let first = setup.build(&setup.registry.host, &package, &flags);
    let shop = setup.shop();
    let original = manifest(&shop, first["digest"].as_str().unwrap()).await;
    let forged_digest = push_forged_tar(&shop, &original).await;
    let again = setup.build(&setup.registry.host, &package, &flags);
    assert_eq!(again["digest"], first["digest"]);
    let packed = manifest(&shop, again["digest"].as_str().unwrap()).await;
    assert_unforged(&packed, &original, &forged_digest);
    let entry = index(&shop).await.manifests[0].digest.clone();
    assert_eq!(entry.as_str(), again["digest"].as_str().unwrap());
    assert_eq!(is_signed(&shop, &entry).await, signed);
}

/// A Secret with the key of `tests/signing/plain.key`.
fn key_secret() -> String {
    let key = std::fs::read_to_string(signing_file("plain.key")).unwrap();
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "key" }, "stringData": { "cosign.key": key } })
        .to_string()
}

async fn a_forged_tar_before_the_first_publication(signing: Value) {
    let setup = Setup::new().await;
    // The attacker can compute what a build elsewhere produces.
    let elsewhere = TestRegistry::start(Version::V28);
    let report = setup.build(&elsewhere.host, &setup.package(json!({})), &[]);
    let original = manifest(&elsewhere.repository("shop"), report["digest"].as_str().unwrap()).await;
    let shop = setup.shop();
    let forged_digest = push_forged_tar(&shop, &original).await;
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let _operator = cluster.controller(&["--insecure-registry", &setup.source.host]);
    let mut more = json!({ "registry": setup.to() });
    more.as_object_mut()
        .unwrap()
        .extend(signing.as_object().unwrap().clone());
    cluster.apply(&setup.package(more).to_string());
    let artifact = cluster.ready("shop").await.status.unwrap().artifact.unwrap();
    assert_unforged(&manifest(&shop, &artifact.digest).await, &original, &forged_digest);
}

async fn a_forged_tar_after_the_recorded_manifest_is_deleted() {
    let setup = Setup::new().await;
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let _operator = cluster.controller(&["--insecure-registry", &setup.source.host]);
    let more = json!({ "registry": setup.to(), "signing": { "secretRef": { "name": "key" } } });
    cluster.apply(&setup.package(more).to_string());
    let first = cluster.ready("shop").await.status.unwrap().artifact.unwrap();
    let shop = setup.shop();
    let original = manifest(&shop, &first.digest).await;
    let existing = index(&shop).await;
    let forged_digest = push_forged_tar(&shop, &original).await;
    let old = Document::of_index(existing).unwrap();
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
    assert_unforged(&manifest(&shop, &artifact.digest).await, &original, &forged_digest);
}

async fn a_forged_sbom_of_the_source(signed: bool) {
    let setup = Setup::new().await;
    let app = setup.source.repository("team/app");
    let root = app.manifest("1").await.unwrap().unwrap();
    push(&app, "application/vnd.oci.empty.v1+json", "{}".into()).await;
    for format in Format::ALL {
        let content = json!({ "artifacts": [], "says": FORGED_CONTENT, "format": format.media_type() }).to_string();
        let content = push(&app, format.media_type(), content.into()).await;
        let referrer = sbom::referrer(&root.descriptor, format, "syft 99.0.0", &content).unwrap();
        app.attach(&referrer).await.unwrap();
    }
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let scratch = setup.folder.path("");
    let scratch = scratch.to_str().unwrap();
    let syft = program("JACKAL_BIN_SYFT");
    let _operator = cluster.controller(&[
        "--insecure-registry",
        &setup.source.host,
        "--syft",
        syft.to_str().unwrap(),
        "--sbom-scratch",
        scratch,
    ]);
    let mut more = json!({ "registry": setup.to(), "referrers": "Copy", "sbom": { "required": true } });
    if signed {
        more["signing"] = json!({ "secretRef": { "name": "key" } });
    }
    cluster.apply(&setup.package(more).to_string());
    let artifact = cluster.ready("shop").await.status.unwrap().artifact.unwrap();
    let shop = setup.shop();
    let packed = manifest(&shop, &artifact.digest).await;
    let tar = layer_titled(&packed, "sboms.tar").unwrap();
    let tar = shop.small_blob(&tar.digest, 1 << 24).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&tar);
    assert!(
        !text.contains(FORGED_CONTENT) && text.contains("syft"),
        "the SBOM of somebody else is packed"
    );
    // The operator recognises the SBOM that it recorded: nothing is made again.
    cluster.request("shop", "again").await;
    let answered = cluster
        .package_where("shop", "looked at again", |package| {
            let handled = package.status.as_ref()?.last_handled_reconcile_at.as_deref();
            (handled == Some("again")).then_some(())
        })
        .await;
    assert_eq!(answered.status.unwrap().artifact.unwrap().digest, artifact.digest);
}

async fn a_forged_package_of_another_architecture() {
    let setup = Setup::new().await;
    let key = setup.key();
    let package = setup.package(json!({}));
    let first = setup.build(&setup.registry.host, &package, &["--key", &key]);
    let shop = setup.shop();
    let existing = index(&shop).await;
    let whole = Document::of_index(existing.clone()).unwrap();
    assert!(is_signed(&shop, whole.digest()).await);
    // The attacker adds a package that an owner's node of another architecture would use.
    let mut forged = manifest(&shop, first["digest"].as_str().unwrap()).await;
    forged.annotations.insert("says".to_owned(), FORGED_CONTENT.to_owned());
    let forged = Document::of_manifest(forged).unwrap();
    put(&shop, &forged, None).await;
    let entry = Descriptor {
        platform: Some("multi/arm64".parse().unwrap()),
        ..forged.descriptor.clone()
    };
    let both = Index::new([existing.manifests.clone(), vec![entry]].concat());
    let both = Document::of_index(both).unwrap();
    put(&shop, &both, Some("1.4.0")).await;
    let again = setup.build(&setup.registry.host, &package, &["--key", &key]);
    assert_eq!(again["digest"], first["digest"]);
    assert!(is_signed(&shop, &again["digest"].as_str().unwrap().parse().unwrap()).await);
    let under_tag = shop.manifest("1.4.0").await.unwrap().unwrap();
    assert_eq!(under_tag.digest(), both.digest());
    assert!(
        !is_signed(&shop, under_tag.digest()).await,
        "the index vouches for what somebody else wrote"
    );
}

/// `platforms`: the field of the image, as JSON.
async fn a_forged_verified_status(platforms: Value) {
    let setup = Setup::new().await;
    // It is not signed.
    let theirs = setup.registry.repository("team/app");
    let forged_digest = image(&theirs, "linux/amd64", noise(66, 1000)).await;
    put(&theirs, &forged_digest, Some("1")).await;
    let cluster = Cluster::new().await;
    cluster.apply(&key_secret());
    let _operator = cluster.controller(&["--insecure-registry", &setup.source.host]);
    let key = std::fs::read_to_string(signing_file("cosign.pub")).unwrap();
    let mut package = setup.package(json!({
        "registry": setup.to(), "verify": [{ "publicKeys": [{ "inline": key }] }],
        "signing": { "secretRef": { "name": "key" } },
    }));
    package["spec"]["components"][0]["images"][0]["platforms"] = platforms;
    cluster.apply(&package.to_string());
    let image = cluster.image().await;
    let api = cluster.api::<JackalImage>();
    let shop = setup.shop();
    let name = image.name_any();
    // The attacker writes the status faster than the operator, which finds the image unsigned in each attempt.
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
            "name": format!("{ADDRESS}/team/app:1"), "digest": forged_digest.digest(), "sourceDigest": forged_digest.digest(), "naming": "Plain",
            "registry": { "address": ADDRESS, "endpoint": &setup.registry.host, "repository": "team/app" },
        } });
        let patch = Patch::Merge(status);
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        patched.map_err(|error| error.to_string())?;
        let published = shop.head_manifest("1.4.0").await.unwrap();
        assert_eq!(published, None, "the unsigned image is packed and signed");
        let package = cluster.package("shop").await;
        let ready = package.status.and_then(|status| condition(&status.conditions, "Ready").cloned());
        let message = ready.map(|ready| ready.message).unwrap_or_default();
        match message.contains("the package cannot include") {
            true => Ok(message),
            false => Err(message),
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
async fn only_verified_content_is_packaged_and_signed() {
    let attack = |attempt, run| Attack {
        attacker: "a user who may push to the package's repository",
        capabilities: "pushes blobs, manifests and tags; can compute the contents of a package",
        attempt,
        expected: "the package contains what its owner wrote",
        final_state: "neither the artifact nor its signature covers the attacker's content",
        run,
    };
    check(&[
        attack(
            "pushes a tar under the tag of a signed build, annotated with the same inputs",
            || on_one_thread(|| a_forged_tar_under_the_tag_of_a_build(true)),
        ),
        attack("the same for an unsigned build", || {
            on_one_thread(|| a_forged_tar_under_the_tag_of_a_build(false))
        }),
        attack(
            "pushes such a tar under the tag before a signed package is first published",
            || {
                on_one_thread(|| {
                    a_forged_tar_before_the_first_publication(json!({ "signing": { "secretRef": { "name": "key" } } }))
                })
            },
        ),
        attack("the same before an unsigned package is published", || {
            on_one_thread(|| a_forged_tar_before_the_first_publication(json!({})))
        }),
        attack(
            "deletes the recorded manifest of a signed package and pushes such a tar under the tag",
            || on_one_thread(a_forged_tar_after_the_recorded_manifest_is_deleted),
        ),
        Attack {
            attacker: "a user who may push to the image's source",
            capabilities: "pushes referrers of the image",
            ..attack("attaches a forged SBOM to an image of a signed package", || {
                on_one_thread(|| a_forged_sbom_of_the_source(true))
            })
        },
        Attack {
            attacker: "a user who may push to the image's source",
            capabilities: "pushes referrers of the image",
            ..attack("the same for an unsigned package", || {
                on_one_thread(|| a_forged_sbom_of_the_source(false))
            })
        },
        Attack {
            expected: "the package is signed, and the index under its tag is not",
            ..attack(
                "adds a package of another architecture to the index under the tag",
                || on_one_thread(a_forged_package_of_another_architecture),
            )
        },
        Attack {
            attacker: "a tenant or a node",
            capabilities: "writes statuses of JackalImages, and pushes to the image's repository",
            expected: "VerificationError when the image is packaged",
            final_state: "nothing is published",
            ..attack(
                "writes Ready and Verified for an image without the signatures that verify requires",
                || on_one_thread(|| a_forged_verified_status(json!([]))),
            )
        },
        Attack {
            attacker: "a tenant or a node",
            capabilities: "writes statuses of JackalImages, and pushes to the image's repository",
            expected: "VerificationError when the image is packaged",
            final_state: "nothing is published",
            ..attack("the same for an image with selected platforms", || {
                on_one_thread(|| a_forged_verified_status(json!(["linux/amd64"])))
            })
        },
    ])
    .await;
}
