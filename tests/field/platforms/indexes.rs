//! Indexes that are rewritten, and those that registries reject.

use jackal_operator::oci::{Content, Descriptor};
use jackal_operator::transfer::{Destination as _, LayoutDestination};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_keep_unknown_fields_and_report_refusals() {
    check(&[
        Case {
            report: "OCI image specification, Image Index",
            input: "os.version, os.features, features, data, annotations and unknown fields of an index of which some platforms are selected",
            expected: "all of them are kept, in order",
            run: || async { a_selected_index_keeps_its_fields().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Image Layout",
            input: "an index.json with unknown fields to which an image is added",
            expected: "they are kept",
            run: || async { a_layout_keeps_its_fields().await }.boxed(),
        },
        Case {
            report: "OCI image specification, Image Index",
            input: "another architecture's package with annotations and unknown fields in the index of a package",
            expected: "they are kept",
            run: || async { the_index_of_a_package_keeps_its_fields().await }.boxed(),
        },
        Case {
            report: "regclient/regclient#73",
            input: "an index of BuildKit's cache, which lists layers and a configuration as blobs",
            expected: "copied unchanged with its blobs",
            run: || async { the_cache_of_buildkit().await }.boxed(),
        },
        Case {
            report: "moby/buildkit#2479",
            input: "the same for a registry that rejects an index of blobs",
            expected: "the message says which option of BuildKit helps",
            run: || async { the_cache_of_buildkit_is_refused().await }.boxed(),
        },
        Case {
            report: "google/go-containerregistry#709",
            input: "an image whose layers have urls, for registries that reject them",
            expected: "the message says how to allow them",
            run: || async { urls_are_refused().await }.boxed(),
        },
        Case {
            report: "RFC 8259, section 6",
            input: "large numbers, floats and escapes in unknown fields of an index of which some platforms are selected",
            expected: "they are kept unchanged",
            run: || async { unknown_fields_to_the_byte().await }.boxed(),
        },
    ])
    .await;
}

async fn a_selected_index_keeps_its_fields() {
    let images = Images::start();
    let (old, new, amd) = (
        images.push(1, "windows/amd64").await,
        images.push(2, "windows/amd64").await,
        images.push(3, "linux/amd64").await,
    );
    let mut entries = Vec::new();
    for (document, version) in [(&new, "10.0.20348"), (&old, "10.0.17763")] {
        let mut entry = listed(
            document,
            json!({"os": "windows", "architecture": "amd64", "os.version": version, "os.features": ["win32k"], "features": ["sse4"]}),
        );
        entry["annotations"] = json!({"a": "b"});
        entry["data"] = json!("e30=");
        entry["x-example"] = json!({"y": [null, 1.5]});
        entries.push(entry);
    }
    entries.insert(1, listed(&amd, json!({"os": "linux", "architecture": "amd64"})));
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
        "annotations": {"c": "d"}, "x-other": [1],
    });
    let index = Document::parse(None, index.to_string().into()).unwrap();
    put(&images.repository, &index, Some("1")).await;
    let chosen = images.resolve(&["windows/amd64"]).await.unwrap();
    let written: Value = serde_json::from_slice(&root(&chosen).raw).unwrap();
    assert_eq!(written["manifests"], json!([entries[0], entries[2]]));
    assert_eq!(
        (&written["annotations"], &written["x-other"]),
        (&json!({"c": "d"}), &json!([1]))
    );
    // An unchanged index keeps its digest.
    let plain = Index::new(vec![entry(&amd, "linux/amd64")]);
    let expected = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        amd.digest(),
        amd.descriptor.size
    );
    assert_eq!(Document::of_index(plain).unwrap().raw, expected);
}

async fn a_layout_keeps_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let entry = json!({
        "digest": Digest::of(b"x").as_str().to_uppercase(), "size": 1, "mediaType": media_type::OCI_MANIFEST,
        "platform": {"os": "windows", "architecture": "amd64", "os.features": ["win32k"]}, "data": "eA==",
        "annotations": {"org.opencontainers.image.ref.name": "other:1"},
    });
    let index = json!({"schemaVersion": 2, "manifests": [null, entry], "x": {"y": 1}, "annotations": null});
    std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
    let layout = LayoutDestination::new(folder.path(), "app");
    let manifest = jackal_operator::oci::Manifest::new(Descriptor::empty(), Vec::new());
    layout
        .publish(&Document::of_manifest(manifest).unwrap(), Some("1"))
        .await
        .unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(folder.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(written["x"], json!({"y": 1}));
    let kept = &written["manifests"][0];
    assert_eq!((&kept["data"], &kept["platform"]), (&entry["data"], &entry["platform"]));
    assert_eq!(kept["annotations"], entry["annotations"]);
    assert_eq!(written["manifests"].as_array().unwrap().len(), 2);
}

async fn the_index_of_a_package_keeps_its_fields() {
    let registry = TestRegistry::start(Version::V31);
    let web = image(&registry.repository("web"), "linux/amd64", noise(1, 100)).await;
    put(&registry.repository("web"), &web, Some("1")).await;
    let shop = registry.repository("shop");
    let other = image(&shop, "linux/arm64", noise(2, 100)).await;
    put(&shop, &other, None).await;
    let mut listed = listed(
        &other,
        json!({"os": "multi", "architecture": "s390x", "os.features": ["f"]}),
    );
    listed["annotations"] = json!({"a": "b"});
    listed["x-example"] = json!(1);
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [listed],
        "annotations": {"c": "d"}, "x-other": {"e": 1},
    });
    let index = Document::parse(None, index.to_string().into()).unwrap();
    put(&shop, &index, Some("1.4.0")).await;
    let yaml = package_of(&[format!("{{image: '{}/web:1'}}", registry.host)]);
    Workspace::new().text_report(&yaml, &registry.host, &[], &[]);
    let written = shop.manifest("1.4.0").await.unwrap().unwrap();
    let Content::Index(index) = &written.content else {
        panic!("no index")
    };
    assert_eq!(index.manifests.len(), 2);
    let written: Value = serde_json::from_slice(&written.raw).unwrap();
    assert!(written["manifests"].as_array().unwrap().contains(&listed), "{written}");
    assert_eq!(
        (&written["annotations"], &written["x-other"]),
        (&json!({"c": "d"}), &json!({"e": 1}))
    );
}

async fn unknown_fields_to_the_byte() {
    let images = Images::start();
    let (amd, arm, s390) = (
        images.push(1, "linux/amd64").await,
        images.push(2, "linux/arm64").await,
        images.push(3, "linux/s390x").await,
    );
    let odd = r#"{"n":123456789012345678901234567890,"f":1.50,"e":1E3,"s":"\u00e9\/","a":[null,{"b":null}]}"#;
    let entry = |document: &Document, architecture: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"architecture":"{architecture}","os":"linux","x":{odd}}},"x":{odd}}}"#,
            media_type::OCI_MANIFEST,
            document.digest(),
            document.descriptor.size
        )
    };
    let (amd, arm, s390) = (entry(&amd, "amd64"), entry(&arm, "arm64"), entry(&s390, "s390x"));
    let index = |entries: &[&str]| {
        let entries = entries.join(",");
        let kind = media_type::OCI_INDEX;
        format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entries}],"none":null,"x":{odd}}}"#)
    };
    let whole = Document::parse(None, index(&[&amd, &arm, &s390]).into()).unwrap();
    put(&images.repository, &whole, Some("1")).await;
    let chosen = images.resolve(&["linux/amd64", "linux/s390x"]).await.unwrap();
    assert_eq!(root(&chosen).raw, index(&[&amd, &s390]));
}

/// The output of `build` for `app:TAG` if `to` rejects it.
fn refused_by(to: &TestRegistry, from: &TestRegistry, tag: &str) -> String {
    let yaml = package_of(&[format!("{{image: '{}/app:{tag}'}}", from.host)]);
    let output = Workspace::new().build_text(&yaml, &to.host, &[&from.host], &[]);
    assert!(!output.status.success());
    stderr(&output)
}

async fn the_cache_of_buildkit_is_refused() {
    let (from, to) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
    let repository = from.repository("app");
    let kind = "application/vnd.buildkit.cacheconfig.v0";
    let mut entries = vec![push(&repository, media_type::OCI_LAYER_GZIP, noise(1, 5000)).await];
    entries.push(push(&repository, kind, r#"{"layers":[],"records":[]}"#.into()).await);
    put(
        &repository,
        &Document::of_index(Index::new(entries)).unwrap(),
        Some("cache"),
    )
    .await;
    let message = refused_by(&to, &from, "cache");
    assert!(
        message.contains("image-manifest=true") && message.contains("BuildKit"),
        "{message}"
    );
}

async fn urls_are_refused() {
    let from = TestRegistry::start(Version::Olareg);
    let repository = from.repository("app");
    let own = image(&repository, "linux/amd64", noise(1, 1000)).await;
    let mut manifest = own.manifest().unwrap().clone();
    let mut foreign = push(
        &repository,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        noise(2, 1000),
    )
    .await;
    foreign.urls = vec!["https://127.0.0.1:1/layer".to_owned()];
    manifest.layers.insert(0, foreign);
    manifest.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
    put(&repository, &Document::of_manifest(manifest).unwrap(), Some("1")).await;
    for version in [Version::V28, Version::V31] {
        let message = refused_by(&TestRegistry::start(version), &from, "1");
        assert!(message.contains("validation.manifests.urls.allow"), "{message}");
    }
}

async fn the_cache_of_buildkit() {
    // distribution 3 rejects an index of blobs from any client.
    let (from, to) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V28));
    {
        let repository = from.repository("app");
        let kind = "application/vnd.buildkit.cacheconfig.v0";
        let mut entries = vec![push(&repository, media_type::OCI_LAYER_GZIP, noise(1, 5000)).await];
        entries.push(push(&repository, kind, r#"{"layers":[],"records":[]}"#.into()).await);
        let index = Document::of_index(Index::new(entries.clone())).unwrap();
        put(&repository, &index, Some("cache")).await;
        let yaml = package_of(&[format!("{{image: '{}/app:cache'}}", from.host)]);
        Workspace::new().text_report(&yaml, &to.host, &[&from.host], &[]);
        assert_eq!(to.crane("digest", "app:cache").trim(), index.digest().as_str());
        for blob in &entries {
            let held = to.repository("app").head_blob(&blob.digest).await.unwrap();
            assert_eq!(held, Some(blob.size));
        }
    }
}
