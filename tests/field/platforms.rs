//! Selecting platforms of an image.

mod indexes;

use futures::FutureExt as _;
use jackal_operator::fault::Fault;
use jackal_operator::oci::{Digest, Document, Index, Platform, media_type};
use jackal_operator::registry::{Endpoint, Registry, Repository};
use jackal_operator::source::{ImageSource as _, RegistrySource, Resolved};
use serde_json::{Value, json};

use super::workspace::{Workspace, package_of, stderr};
use super::{Case, check};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{attestation, entry, image, multi_platform, noise, push, put};
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::RecordedRequest;

/// A registry with images for some platforms in `app`.
struct Images {
    registry: TestRegistry,
    repository: Repository,
}

impl Images {
    fn start() -> Self {
        let registry = TestRegistry::start(Version::V31);
        let repository = registry.repository("app");
        Self { registry, repository }
    }

    async fn push(&self, seed: u64, platform: &str) -> Document {
        let document = image(&self.repository, platform, noise(seed, 100)).await;
        put(&self.repository, &document, None).await;
        document
    }

    async fn tag(&self, entries: Vec<Value>) {
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
        let index = Document::parse(Some(media_type::OCI_INDEX), index.to_string().into()).unwrap();
        put(&self.repository, &index, Some("1")).await;
    }

    /// Resolves `app:1` for these platforms.
    async fn resolve(&self, platforms: &[&str]) -> Result<Resolved, Fault> {
        resolve(&self.registry.host, self.registry.endpoint(), platforms).await
    }
}

async fn resolve(host: &str, endpoint: Endpoint, platforms: &[&str]) -> Result<Resolved, Fault> {
    let host_of = Endpoint {
        host: host.to_owned(),
        ..endpoint
    };
    let source = RegistrySource::new(Registry::new(host_of).unwrap());
    let platforms: Vec<Platform> = platforms.iter().map(|text| text.parse().unwrap()).collect();
    source
        .resolve(&format!("{host}/app:1").parse().unwrap(), &platforms)
        .await
}

/// An entry of an index as other tools write it.
fn listed(document: &Document, platform: Value) -> Value {
    json!({
        "mediaType": document.descriptor.media_type,
        "digest": document.digest(),
        "size": document.descriptor.size,
        "platform": platform,
    })
}

fn linux(architecture: &str, variant: &str) -> Value {
    json!({"os": "linux", "architecture": architecture, "variant": variant})
}

fn root(image: &Resolved) -> &Document {
    image.documents.last().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn platforms_are_selected() {
    check(&[
        Case {
            report: "docker/buildx#304",
            input: "one digest that is listed for arm/v6 and for arm/v7",
            expected: "either platform selects it, and both together select one image",
            run: || async { one_digest_for_two_platforms().await }.boxed(),
        },
        Case {
            report: "containerd/containerd#2133",
            input: "linux/arm requested where arm/v5, arm/v6 and arm/v7 exist, and arm/v7 where arm without a variant exists",
            expected: "arm/v7",
            run: || async { arm_is_arm_v7().await }.boxed(),
        },
        Case {
            report: "containers/image#898",
            input: "arm64/v8 and arm64, x86_64 and amd64, arm/v7 where only v6 exists",
            expected: "the image that containerd would select",
            run: || async { other_names_of_platforms().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Image Index (unknown media types)",
            input: "entries of an unknown type, with an empty platform, and with a missing manifest, next to the requested one",
            expected: "the requested one is selected",
            run: || async { odd_entries_beside_the_image().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Image Index",
            input: "two platforms are requested, and the attestations of one of them are missing",
            expected: "an index of both and of the existing attestations",
            run: || async { missing_attestations().await }.boxed(),
        },
        Case {
            report: "containerd/containerd#2133",
            input: "a platform that does not exist, and an index with more manifests than allowed",
            expected: "selecting as the messages advise succeeds",
            run: || async { following_the_advice_succeeds().await }.boxed(),
        },
        Case {
            report: "concourse/registry-image-resource#381",
            input: "an index that lists one index, as BuildKit writes its layouts, and an image",
            expected: "the images of both are selected by their platforms, and without platforms it is copied completely",
            run: || async { an_index_in_an_index().await }.boxed(),
        },
        Case {
            report: "pelagos-containers/pelagos#533",
            input: "an index with an index for each platform, of the image and its attestations",
            expected: "the index of the platform is selected",
            run: || async { an_index_for_each_platform().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Image Index",
            input: "platforms of an index without entries, and of one with only attestations",
            expected: "the message says that it has none",
            run: || async { an_index_of_no_image().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Descriptors",
            input: "an index whose entries have no sizes",
            expected: "it is copied unchanged, and selected entries get sizes",
            run: || async { entries_without_size().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Image Configuration",
            input: "a single image without a platform",
            expected: "it is accepted for the requested platform",
            run: || async { an_image_without_platform().await }.boxed(),
        },
        Case {
            report: "OCI distribution specification, Pulling manifests",
            input: "an index referenced by its digest, with platforms",
            expected: "the digest exists in the cluster, and the report says why all platforms are copied",
            run: || async { a_pinned_index_with_platforms().await }.boxed(),
        },
    ])
    .await;
}

async fn one_digest_for_two_platforms() {
    let images = Images::start();
    let (arm, amd) = (images.push(1, "linux/arm").await, images.push(2, "linux/amd64").await);
    images
        .tag(vec![
            listed(&arm, linux("arm", "v6")),
            listed(&arm, linux("arm", "v7")),
            listed(&amd, json!({"os": "linux", "architecture": "amd64"})),
        ])
        .await;
    for platforms in [
        &["linux/arm/v6"][..],
        &["linux/arm/v7"],
        &["linux/arm/v6", "linux/arm/v7"],
    ] {
        let chosen = images.resolve(platforms).await.unwrap();
        assert_eq!(root(&chosen).digest(), arm.digest(), "{platforms:?}");
    }
    let chosen = images.resolve(&["linux/amd64", "linux/arm/v6"]).await.unwrap();
    let digests: Vec<&Digest> = chosen.documents.iter().map(Document::digest).collect();
    assert!(digests.contains(&arm.digest()) && digests.contains(&amd.digest()));
    assert_eq!(root(&chosen).index().unwrap().manifests.len(), 2);
}

async fn arm_is_arm_v7() {
    let images = Images::start();
    let mut entries = Vec::new();
    let mut documents = Vec::new();
    for (seed, variant) in [(1, "v5"), (2, "v6"), (3, "v7")] {
        let document = images.push(seed, "linux/arm").await;
        entries.push(listed(&document, linux("arm", variant)));
        documents.push(document);
    }
    images.tag(entries.clone()).await;
    for (platform, at) in [
        ("linux/arm", 2),
        ("linux/armhf", 2),
        ("linux/armel", 1),
        ("linux/arm/v5", 0),
    ] {
        let chosen = images.resolve(&[platform]).await.unwrap();
        assert_eq!(root(&chosen).digest(), documents[at].digest(), "{platform}");
    }
    entries[2]["platform"] = json!({"os": "linux", "architecture": "arm"});
    images.tag(entries).await;
    let chosen = images.resolve(&["linux/arm/v7"]).await.unwrap();
    assert_eq!(root(&chosen).digest(), documents[2].digest());
}

async fn other_names_of_platforms() {
    let images = Images::start();
    let (arm, amd, old) = (
        images.push(1, "linux/arm64").await,
        images.push(2, "linux/amd64").await,
        images.push(3, "linux/arm").await,
    );
    images
        .tag(vec![
            listed(&arm, linux("arm64", "v8")),
            listed(&amd, json!({"os": "linux", "architecture": "amd64"})),
            listed(&old, linux("arm", "v6")),
        ])
        .await;
    for (platform, document) in [
        ("linux/arm64", &arm),
        ("linux/aarch64", &arm),
        ("linux/x86_64", &amd),
        ("linux/amd64/v1", &amd),
        ("linux/amd64/v3", &amd),
        ("linux/arm/v7", &old),
    ] {
        let chosen = images.resolve(&[platform]).await.unwrap();
        assert_eq!(root(&chosen).digest(), document.digest(), "{platform}");
    }
    assert!(images.resolve(&["linux/arm/v5"]).await.is_err());
}

/// A proxy before `images` that answers 404 for these manifests, and returns `index` for `app:1`.
fn without_manifests(images: &Images, index: &Value, lost: Vec<Digest>) -> FaultProxy {
    let index = index.to_string();
    FaultProxy::to(&images.registry.host, move |request: &RecordedRequest| {
        match request.path.as_str() {
            "/v2/app/manifests/1" => {
                let kind = ("Content-Type", media_type::OCI_INDEX.to_owned());
                Action::Answer(200, vec![kind], index.clone())
            }
            path if lost.iter().any(|lost| path.ends_with(lost.as_str())) => {
                Action::Answer(404, Vec::new(), String::new())
            }
            _ => Action::Pass,
        }
    })
}

async fn odd_entries_beside_the_image() {
    let images = Images::start();
    let (amd, zstd, gone) = (
        images.push(1, "linux/amd64").await,
        images.push(2, "linux/arm64").await,
        Digest::of(b"gone"),
    );
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.example.thing", "digest": Digest::of(b"thing"), "size": 5},
        {"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws", "digest": Digest::of(b"old"), "size": 3},
        {"mediaType": media_type::OCI_MANIFEST, "digest": gone, "size": 4, "platform": {}},
        {"mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(b"gzip"), "size": 4, "platform": {"os": "linux", "architecture": "arm64"}},
        listed(&zstd, json!({"os": "linux", "architecture": "arm64"})),
        {"mediaType": media_type::OCI_MANIFEST, "digest": amd.digest(), "size": amd.descriptor.size, "platform": {}},
    ]});
    let proxy = without_manifests(&images, &index, vec![gone, Digest::of(b"gzip")]);
    for (platform, document) in [("linux/amd64", &amd), ("linux/arm64", &zstd)] {
        let chosen = resolve(&proxy.host, images.registry.endpoint(), &[platform])
            .await
            .unwrap();
        assert_eq!(root(&chosen).digest(), document.digest(), "{platform}");
    }
}

async fn missing_attestations() {
    let images = Images::start();
    let (amd, arm) = (images.push(1, "linux/amd64").await, images.push(2, "linux/arm64").await);
    let (there, of_amd) = attestation(&images.repository, &amd).await;
    put(&images.repository, &there, None).await;
    let (lost, of_arm) = attestation(&images.repository, &arm).await;
    let entries = vec![entry(&amd, "linux/amd64"), entry(&arm, "linux/arm64"), of_amd, of_arm];
    let index = serde_json::to_value(Index::new(entries.clone())).unwrap();
    let proxy = without_manifests(&images, &index, vec![lost.digest().clone()]);
    let chosen = resolve(&proxy.host, images.registry.endpoint(), &["linux/amd64", "linux/arm64"]).await;
    assert_eq!(root(&chosen.unwrap()).index().unwrap().manifests, entries[..3]);
    let fault = resolve(&proxy.host, images.registry.endpoint(), &[]).await.unwrap_err();
    assert!(
        fault.message.contains(&format!("attestations ({})", lost.digest())),
        "{fault}"
    );
}

async fn following_the_advice_succeeds() {
    let images = Images::start();
    let (arm, amd) = (images.push(1, "linux/arm64").await, images.push(2, "linux/amd64").await);
    let (about, of_amd) = attestation(&images.repository, &amd).await;
    put(&images.repository, &about, None).await;
    images
        .tag(vec![
            listed(&arm, linux("arm64", "v8")),
            listed(&amd, json!({"os": "linux", "architecture": "amd64"})),
            serde_json::to_value(of_amd).unwrap(),
        ])
        .await;
    let fault = images.resolve(&["linux/s390x"]).await.unwrap_err();
    let (_, advice) = fault.message.split_once("it is for ").unwrap();
    let (named, _) = advice.split_once("; choose among these by platforms").unwrap();
    let platforms: Vec<&str> = named.split(", ").collect();
    assert_eq!(platforms, ["linux/arm64/v8", "linux/amd64"]);
    for platform in platforms {
        assert_eq!(images.resolve(&[platform]).await.unwrap().documents.len(), 1);
    }
    let other = |number: u32| {
        json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(&number.to_be_bytes()), "size": 4,
            "platform": {"os": "linux", "architecture": format!("other{number}")},
        })
    };
    let mut entries: Vec<Value> = (0..300).map(other).collect();
    entries.push(listed(&amd, json!({"os": "linux", "architecture": "amd64"})));
    let index = json!({"schemaVersion": 2, "manifests": entries});
    let proxy = without_manifests(&images, &index, Vec::new());
    let fault = resolve(&proxy.host, images.registry.endpoint(), &[]).await.unwrap_err();
    assert!(fault.message.contains("choose some by platforms"), "{fault}");
    let chosen = resolve(&proxy.host, images.registry.endpoint(), &["linux/amd64"])
        .await
        .unwrap();
    assert_eq!(root(&chosen).digest(), amd.digest());
}

async fn an_index_in_an_index() {
    let images = Images::start();
    let (amd, arm, s390) = (
        images.push(1, "linux/amd64").await,
        images.push(2, "linux/arm64").await,
        images.push(3, "linux/s390x").await,
    );
    let inner = Document::of_index(Index::new(vec![entry(&amd, "linux/amd64"), entry(&arm, "linux/arm64")])).unwrap();
    put(&images.repository, &inner, None).await;
    let nested = json!({"mediaType": media_type::OCI_INDEX, "digest": inner.digest(), "size": inner.descriptor.size});
    let other = listed(&s390, json!({"os": "linux", "architecture": "s390x"}));
    images.tag(vec![nested, other.clone()]).await;
    for (platform, document) in [("linux/amd64", &amd), ("linux/arm64", &arm), ("linux/s390x", &s390)] {
        let chosen = images.resolve(&[platform]).await.unwrap();
        assert_eq!(root(&chosen).digest(), document.digest(), "{platform}");
    }
    let chosen = images.resolve(&["linux/s390x", "linux/arm64"]).await.unwrap();
    let entries = &root(&chosen).index().unwrap().manifests;
    assert_eq!(
        entries,
        &[entry(&arm, "linux/arm64"), serde_json::from_value(other).unwrap()]
    );
    assert_eq!(chosen.documents.len(), 3);
    let all = images
        .resolve(&["linux/s390x", "linux/arm64", "linux/amd64"])
        .await
        .unwrap();
    let whole = images.resolve(&[]).await.unwrap();
    assert_eq!(root(&all), root(&whole));
    assert_eq!((all.documents.len(), whole.documents.len()), (5, 5));
    let fault = images.resolve(&["linux/ppc64le"]).await.unwrap_err();
    assert!(
        fault
            .message
            .contains("it is for linux/amd64, linux/arm64, linux/s390x"),
        "{fault}"
    );
}

async fn entries_without_size() {
    let images = Images::start();
    let mut entries = Vec::new();
    for (seed, architecture) in [(1, "amd64"), (2, "arm64"), (3, "s390x")] {
        let image = images.push(seed, &format!("linux/{architecture}")).await;
        let mut entry = listed(&image, json!({"os": "linux", "architecture": architecture}));
        entry.as_object_mut().unwrap().remove("size");
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    let proxy = without_manifests(&images, &index, Vec::new());
    let resolve = async |platforms: &[&str]| {
        resolve(&proxy.host, images.registry.endpoint(), platforms)
            .await
            .unwrap()
    };
    assert_eq!(root(&resolve(&[]).await).raw, index.to_string());
    let two = resolve(&["linux/amd64", "linux/s390x"]).await;
    let sizes: Vec<u64> = root(&two)
        .index()
        .unwrap()
        .manifests
        .iter()
        .map(|entry| entry.size)
        .collect();
    let found: Vec<u64> = two.documents[..2]
        .iter()
        .map(|document| document.descriptor.size)
        .collect();
    assert_eq!(sizes, found);
    assert_eq!(resolve(&["linux/arm64"]).await.documents.len(), 1);
}

async fn an_index_for_each_platform() {
    let images = Images::start();
    let mut entries = Vec::new();
    let mut inner = Vec::new();
    for (seed, architecture) in [(1, "amd64"), (2, "arm64")] {
        let platform = format!("linux/{architecture}");
        let image = images.push(seed, &platform).await;
        let (about, of_image) = attestation(&images.repository, &image).await;
        put(&images.repository, &about, None).await;
        let index = Document::of_index(Index::new(vec![entry(&image, &platform), of_image])).unwrap();
        put(&images.repository, &index, None).await;
        entries.push(listed(&index, json!({"os": "linux", "architecture": architecture})));
        inner.push(index);
    }
    images.tag(entries).await;
    let chosen = images.resolve(&["linux/arm64/v8"]).await.unwrap();
    assert_eq!((root(&chosen), chosen.documents.len()), (&inner[1], 3));
    assert_eq!(images.resolve(&[]).await.unwrap().documents.len(), 7);
}

async fn an_index_of_no_image() {
    let images = Images::start();
    let amd = images.push(1, "linux/amd64").await;
    let (about, of_amd) = attestation(&images.repository, &amd).await;
    put(&images.repository, &about, None).await;
    for entries in [Vec::new(), vec![serde_json::to_value(of_amd).unwrap()]] {
        images.tag(entries).await;
        let fault = images.resolve(&["linux/amd64"]).await.unwrap_err();
        let says = fault
            .message
            .contains("has no image for linux/amd64: it names no platform");
        assert!(says, "{fault}");
        images.resolve(&[]).await.unwrap();
    }
}

async fn an_image_without_platform() {
    let images = Images::start();
    let config = push(
        &images.repository,
        media_type::OCI_CONFIG,
        r#"{"os":"linux","architecture":""}"#.into(),
    )
    .await;
    let manifest = jackal_operator::oci::Manifest::new(config, Vec::new());
    let document = Document::of_manifest(manifest).unwrap();
    put(&images.repository, &document, Some("1")).await;
    let chosen = images.resolve(&["linux/amd64"]).await.unwrap();
    assert_eq!(root(&chosen), &document);
}

async fn a_pinned_index_with_platforms() {
    let (from, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    let (index, images) = multi_platform(&from.repository("lib/app"), "1").await;
    let name = format!("{}/lib/app@{}", from.host, index.digest());
    let yaml = package_of(&[format!("{{image: '{name}', platforms: [linux/amd64]}}")]);
    let report = Workspace::new().text_report(&yaml, &to.host, &[&from.host], &[]);
    let found = to.crane("digest", &format!("lib/app@{}", index.digest()));
    assert_eq!(found.trim(), index.digest().as_str());
    to.crane("manifest", &format!("lib/app@{}", images[0].digest()));
    assert!(
        report.to_string().contains("named by the digest of its index"),
        "{report}"
    );
    let yaml = package_of(&[format!("{{image: '{name}', platforms: [linux/riscv64]}}")]);
    let output = Workspace::new().build_text(&yaml, &to.host, &[&from.host], &[]);
    let message = stderr(&output);
    assert!(
        !output.status.success() && message.contains("no image for linux/riscv64"),
        "{message}"
    );
}
