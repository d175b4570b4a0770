use proptest::prelude::*;

use super::*;

fn blob(content: &[u8], kind: &str) -> Descriptor {
    Descriptor::new(kind, Digest::of(content), content.len() as u64)
}

#[test]
fn generated_documents_are_parsed() {
    let manifest = Manifest::new(
        blob(b"{}", media_type::OCI_CONFIG),
        vec![blob(b"x", media_type::OCI_LAYER)],
    );
    let made = Document::of_manifest(manifest).unwrap();
    let read = Document::parse(
        Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        made.raw.clone(),
    )
    .unwrap();
    assert_eq!(read, made);
    let index = Document::of_index(Index::new(vec![made.descriptor.clone()])).unwrap();
    assert_eq!(Document::parse(None, index.raw.clone()).unwrap(), index);
}

#[test]
fn blobs_are_distinct_and_exclude_foreign_layers() {
    let layer = blob(b"x", media_type::OCI_LAYER);
    let foreign = blob(b"w", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let manifest = Manifest::new(
        blob(b"{}", media_type::OCI_CONFIG),
        vec![layer.clone(), foreign.clone(), layer.clone(), foreign.clone()],
    );
    assert_eq!(manifest.blobs(), vec![&manifest.config, &layer]);
    assert_eq!(manifest.foreign_layers(), vec![&foreign]);
}

#[test]
fn index_entries_may_be_blobs() {
    let cache = blob(b"cache", "application/vnd.buildkit.cacheconfig.v0");
    let manifest = Document::of_manifest(Manifest::new(
        blob(b"{}", media_type::OCI_CONFIG),
        vec![blob(b"x", media_type::OCI_LAYER)],
    ));
    let manifest = manifest.unwrap();
    let mut odd = manifest.descriptor.clone();
    odd.media_type = "application/vnd.example".to_owned();
    let index = Index::new(vec![
        blob(b"x", media_type::OCI_LAYER),
        odd,
        cache.clone(),
        manifest.descriptor.clone(),
    ]);
    let documents = [manifest, Document::of_index(index).unwrap()];
    let digests: Vec<_> = distinct_blobs(&documents).iter().map(|blob| &blob.digest).collect();
    assert_eq!(digests, [&Digest::of(b"{}"), &Digest::of(b"x"), &cache.digest]);
}

#[test]
fn only_generated_manifests_are_recognized() {
    let made = |layers: Vec<Descriptor>| {
        let config = Digest::of(b"{}");
        Document::of_manifest(Manifest::for_image(config, 2, layers)).unwrap()
    };
    let layer = |compression: Compression| compression.layer(Digest::of(b"x"), 1);
    let all = [Compression::None, Compression::Gzip, Compression::Zstd];
    for one in all {
        let document = made(vec![layer(one), layer(one)]);
        for other in all {
            assert_eq!(
                document.generated_manifest(other).is_some(),
                one == other,
                "{one:?} {other:?}"
            );
        }
        let left = made(vec![layer(one), one.uncompressed_layer(Digest::of(b"x"), 1)]);
        assert!(left.generated_manifest(one).is_some());
        let next = all[(one as usize + 1) % 3];
        for foreign in [layer(next), next.uncompressed_layer(Digest::of(b"x"), 1)] {
            let mixed = made(vec![layer(one), foreign]);
            assert_eq!(mixed.generated_manifest(one), None);
        }
        let spaced = [&document.raw[..], b" "].concat();
        let spaced = Document::parse(None, spaced.into()).unwrap();
        assert_eq!(spaced.generated_manifest(one), None);
    }
    // From another tool: the same bytes, but another encoder.
    let foreign = made(vec![blob(b"x", media_type::OCI_LAYER_GZIP)]);
    assert_eq!(foreign.generated_manifest(Compression::Gzip), None);
}

#[test]
fn fields_decide_without_a_declared_type() {
    let digest = Digest::of(b"");
    let raw = format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"m","digest":"{digest}","size":0}},"layers":[]}}"#);
    assert!(
        Document::parse(Some("application/json"), Bytes::from(raw))
            .unwrap()
            .manifest()
            .is_some()
    );
    let raw = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    assert!(Document::parse(None, raw).unwrap().index().is_some());
}

#[test]
fn fields_override_an_impossible_type() {
    let digest = Digest::of(b"");
    let config = format!(r#""config":{{"digest":"{digest}","size":0}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,{config},"layers":null}}"#);
    let index = r#"{"schemaVersion":2,"manifests":[]}"#.to_owned();
    let own = format!(r#"{{"mediaType":"{}","manifests":null}}"#, media_type::DOCKER_LIST);
    for (raw, declared, kind) in [
        (&manifest, Some(media_type::OCI_INDEX), media_type::OCI_MANIFEST),
        (
            &manifest,
            Some("APPLICATION/VND.OCI.image.manifest.v1+json"),
            media_type::OCI_MANIFEST,
        ),
        (&index, Some(media_type::DOCKER_MANIFEST), media_type::OCI_INDEX),
        (&own, Some(media_type::DOCKER_MANIFEST), media_type::DOCKER_LIST),
        (&own, None, media_type::DOCKER_LIST),
        (
            &r#"{"schemaVersion":2,"manifests":null}"#.to_owned(),
            None,
            media_type::OCI_INDEX,
        ),
    ] {
        let read = Document::parse(declared, Bytes::from(raw.clone())).unwrap();
        assert_eq!(read.descriptor.media_type, kind, "{raw} {declared:?}");
    }
}

#[test]
fn an_impossible_type_does_not_lose_content() {
    let digest = Digest::of(b"");
    let config = format!(r#""config":{{"digest":"{digest}","size":0}}"#);
    // Its type is an index, but it has a configuration and layers.
    let raw = format!(r#"{{"mediaType":"{}",{config},"layers":[]}}"#, media_type::OCI_INDEX);
    for declared in [None, Some("application/json"), Some(media_type::OCI_INDEX)] {
        let read = Document::parse(declared, Bytes::from(raw.clone())).unwrap();
        assert!(read.manifest().is_some(), "{declared:?}");
    }
    let raw = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","Manifests":[{{"Digest":"{digest}","SIZE":1,"mediatype":"{}"}}]}}"#,
        media_type::OCI_INDEX.to_uppercase(),
        media_type::OCI_MANIFEST.to_uppercase()
    );
    let read = Document::parse(None, Bytes::from(raw)).unwrap();
    assert_eq!(read.descriptor.media_type, media_type::OCI_INDEX);
    let entries = &read.index().unwrap().manifests;
    assert!(entries.len() == 1 && entries[0].may_be_image() && entries[0].size == 1);
}

#[test]
fn unknown_fields_are_preserved_byte_by_byte() {
    let digest = Digest::of(b"");
    let odd =
        r#"{"n":123456789012345678901234567890,"f":1.50,"e":1E3,"s":"\u00e9\/","a":[null, {"b":null}],"d":1,"d":2}"#;
    let raw = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,"platform":{{"architecture":"a","os":"b","x":{odd}}},"data":"e30=","x":{odd}}}],"annotations":null,"none":null,"x":{odd}}}"#
    );
    let read = Document::parse(None, Bytes::from(raw.clone())).unwrap();
    let written = Document::of_index(read.index().unwrap().clone()).unwrap();
    assert_eq!(written.raw, raw.replace(r#""annotations":null,"#, ""));
    assert_eq!(read.index(), written.index());
}

#[test]
fn null_fields_and_other_case_are_accepted() {
    let digest = Digest::of(b"");
    let upper = digest.as_str().to_uppercase().replace("SHA256", "sha256");
    let raw = format!(
        "\u{feff}{{\"schemaVersion\":2,\"config\":{{\"digest\":\"{upper}\",\"size\":0,\"urls\":null}},\"layers\":null,\"annotations\":null,\"subject\":null}}\n"
    );
    let read = Document::parse(None, raw.clone().into()).unwrap();
    assert_eq!(read.digest(), &Digest::of(raw.as_bytes()));
    let manifest = read.manifest().unwrap();
    assert_eq!(
        (&manifest.config.digest, manifest.config.media_type.as_str()),
        (&digest, "")
    );
    let raw = format!(
        r#"{{"manifests":[null,{{"digest":"{digest}","size":1e3,"platform":{{}},"annotations":null,"data":"e30="}}]}}"#
    );
    let read = Document::parse(None, raw.into()).unwrap();
    let entry = &read.index().unwrap().manifests[0];
    assert_eq!(entry.size, 1000);
    assert!(!entry.platform.as_ref().unwrap().is_specified());
    let written = Document::of_index(read.index().unwrap().clone()).unwrap();
    let expected = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1000,"platform":{{}},"data":"e30="}}]}}"#
    );
    assert_eq!(written.raw, expected);
}

#[test]
fn errors_name_the_path_of_a_missing_field() {
    let missing = |raw: &str| {
        Document::parse(None, Bytes::from(raw.to_owned()))
            .unwrap_err()
            .to_string()
    };
    assert!(missing(r#"{"config":{"size":1}}"#).ends_with("config: missing field `digest`"));
    assert!(missing(r#"{"manifests":[{"digest":"sha256:0"}]}"#).contains("manifests[0].digest: `sha256:0`"));
    let layer = format!(
        r#"{{"config":{{"digest":"{0}","size":1}},"layers":[{{"digest":"{0}"}}]}}"#,
        Digest::of(b"x")
    );
    assert!(missing(&layer).ends_with("layers[0]: missing field `size`"));
}

#[test]
fn unsupported_documents_are_rejected() {
    const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for raw in [
        r#"{"schemaVersion":1,"name":"x"}"#,
        r#"{"schemaVersion":1,"name":"x","fsLayers":[],"history":[],"signatures":[]}"#,
        r#"{"schemaVersion":2,"fsLayers":[{"blobSum":"x"}]}"#,
    ] {
        for declared in [None, Some(SCHEMA1), Some(media_type::DOCKER_MANIFEST)] {
            let refused = Document::parse(declared, Bytes::from(raw));
            let expected = declared == Some(media_type::DOCKER_MANIFEST) && !raw.contains("fsLayers");
            assert_eq!(
                refused == Err(DocumentError::Schema1),
                !expected,
                "{raw} {declared:?} {refused:?}"
            );
        }
    }
    let other = |text: &str| {
        let raw = format!(r#"{{"schemaVersion":2,"mediaType":"{text}","layers":[],"blobs":[]}}"#);
        Document::parse(None, Bytes::from(raw))
    };
    let artifact = "application/vnd.oci.artifact.manifest.v1+json";
    assert_eq!(other(artifact), Err(DocumentError::MediaType(artifact.to_owned())));
    assert!(matches!(
        Document::parse(None, Bytes::from_static(b"<html>")),
        Err(DocumentError::Malformed { .. })
    ));
    assert!(matches!(
        Document::parse(None, vec![b' '; MANIFEST_LIMIT + 1].into()),
        Err(DocumentError::TooLarge(_))
    ));
    let negative =
        Bytes::from_static(br#"{"schemaVersion":2,"config":{"mediaType":"m","digest":"sha256:0","size":-1}}"#);
    assert!(Document::parse(Some(media_type::OCI_MANIFEST), negative).is_err());
}

#[test]
fn sizes_of_any_length_are_added() {
    let sizes = [3, u64::MAX, u64::MAX - 1].map(|size| Descriptor::new("m", Digest::of(b"x"), size));
    assert_eq!(total_size(&sizes[..1]), 3);
    assert_eq!(total_size(&sizes), u64::MAX);
    assert_eq!(total_size([]), 0);
}

proptest! {
    #[test]
    fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(None, raw.into());
    }
}
